"""Files appear whole or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gwapctl.errors import DataError, UsageError
from gwapctl.files import atomic_path, prepare_output_folder, read_json, write_json, write_text


def fail_halfway(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError):
        fail_halfway(path)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(DataError, match="No space left"), atomic_path(path):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_errors_about_other_files_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        (tmp_path / "elsewhere" / "b.txt").read_text()


def test_files_get_the_usual_rights_also_from_threads(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_text(tmp_path / f"{i}.txt", "x"), range(60)))
    assert {(tmp_path / f"{i}.txt").stat().st_mode for i in range(60)} == {plain.stat().st_mode}


def test_links_are_followed_and_devices_refused(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    with pytest.raises(DataError, match="not a regular file"):
        write_text(Path(os.devnull), "x")


def test_json_round_trip_and_broken_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"ü": [1, 2.5, None]})
    assert read_json(path) == {"ü": [1, 2.5, None]}
    for text in ('{"a": ', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(DataError, match="not valid JSON"):
            read_json(path)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})


def test_output_folders_in_use_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    prepare_output_folder(folder, overwrite=False)
    (folder / "x").touch()
    with pytest.raises(UsageError, match="resume=True"):
        prepare_output_folder(folder, overwrite=False)
    prepare_output_folder(folder, overwrite=True)
    with pytest.raises(UsageError, match="is a file"):
        prepare_output_folder(folder / "x", overwrite=True)
