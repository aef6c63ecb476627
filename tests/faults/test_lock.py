"""A folder has one writer at a time; one that is gone stands in nobody's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gwapctl import lock
from gwapctl.errors import UsageError
from gwapctl.lock import LOCK, STALE, locked
from gwapctl.runs import new_run_folder

HOLDER = """
import sys, time
from pathlib import Path
from gwapctl.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Have another process hold the lock until the end, or until it is killed."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    try:
        yield process
    finally:
        process.communicate()


def take(folder: Path) -> list[str]:
    """Lock and free the folder; return the notes."""
    notes: list[str] = []
    with locked(folder, notes.append):
        assert (folder / LOCK).is_file()
    return notes


def test_a_second_process_is_refused_by_name_and_time(tmp_path: Path) -> None:
    with held_by_another(tmp_path / "out") as process:
        with pytest.raises(UsageError) as refused:
            take(tmp_path / "out")
        said = json.loads((tmp_path / "out" / LOCK).read_text())
        for part in (f"process {process.pid}", said["host"], said["since"]):
            assert part in str(refused.value)
        assert "\n" not in str(refused.value)
    assert take(tmp_path / "out") == []


def test_what_a_killed_process_held_is_taken_over_with_a_note(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as process:
        process.kill()
        process.wait()
    assert (tmp_path / LOCK).is_file()
    notes = take(tmp_path)
    assert len(notes) == 1
    assert f"process {process.pid}" in notes[0]
    assert not (tmp_path / LOCK).exists()


def test_a_new_run_goes_where_nothing_is_and_nobody_writes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "a-2"
    assert new_run_folder(tmp_path, "a") == first
    with held_by_another(first) as process:
        assert new_run_folder(tmp_path, "a") == second  # that run is about to begin
        process.kill()
        process.wait()
    (first / ".gwapctl-run-1.json").touch()
    assert new_run_folder(tmp_path, "a") == first  # that one never began
    (first / "run.json").touch()
    assert new_run_folder(tmp_path, "a") == second


def test_a_number_that_another_process_has_by_now_is_no_sign_of_life(tmp_path: Path) -> None:
    with locked(tmp_path):
        stored = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps({**stored, "pid": os.getppid(), "process": "1"}))
    assert len(take(tmp_path)) == 1


@pytest.mark.parametrize(("silent", "gone"), [(0, False), (STALE - 30, False), (STALE + 30, True), (-9e6, True)])
def test_a_process_elsewhere_is_gone_when_it_is_silent(tmp_path: Path, silent: float, gone: bool) -> None:
    """Also where the clock was set back since, so that its last sign of life seems to lie far ahead."""
    with locked(tmp_path):
        stored = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps({**stored, "machine": "another", "host": "far"}))
    when = time.time() - silent
    os.utime(tmp_path / LOCK, (when, when))
    if gone:
        assert "on far" in take(tmp_path)[0]
    else:
        with pytest.raises(UsageError, match=f"on far.*at most {STALE:.0f} seconds"):
            take(tmp_path)


def test_a_lock_that_a_loss_of_power_emptied_ends_by_itself(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    with pytest.raises(UsageError, match="somebody unknown"):
        take(tmp_path)
    os.utime(tmp_path / LOCK, (0, 0))
    assert len(take(tmp_path)) == 1


def test_it_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with locked(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        until = time.monotonic() + 20
        while (tmp_path / LOCK).stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert (tmp_path / LOCK).stat().st_mtime > 0


def test_a_thread_may_lock_again_and_another_may_not(tmp_path: Path) -> None:
    refused = list[BaseException]()

    def other() -> None:
        try:
            take(tmp_path)
        except UsageError as error:
            refused.append(error)

    with locked(tmp_path):
        with locked(tmp_path):
            pass
        assert (tmp_path / LOCK).is_file()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert take(tmp_path) == []


def test_folders_that_stay_empty_are_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "a" / "b"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "x").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x"]


@pytest.mark.parametrize(
    "words",
    [
        (
            "train",
            "{voc}",
            "--backbone",
            "resnet-s",
            "--weights",
            "none",
            "--epochs",
            1,
            "--overwrite",
            "--out",
            "{out}",
        ),
        ("localize", "{voc}/JPEGImages", "--overwrite", "--out", "{out}"),
        ("localize", "{voc}/JPEGImages", "--resume", "--out", "{out}"),
        ("boxes", "{voc}/JPEGImages", "--format", "yolo", "--out", "{out}"),
        ("boxes", "{voc}/JPEGImages", "--review", "{out}"),
        ("label", "{voc}", "--out", "{out}"),
    ],
)
def test_every_verb_that_writes_a_folder_is_refused(
    run_cli: Callable[..., Any], voc: Path, tmp_path: Path, words: tuple[object, ...]
) -> None:
    out = tmp_path / "out"
    with held_by_another(out) as process:
        result = run_cli(*(str(word).format(voc=voc, out=out) for word in words), "--device", "cpu")
        assert result.code == 2, result.stderr
        line = result.stderr.splitlines()[-1]
        assert line.startswith(f"error: {out} is being written by process {process.pid} on ")
        assert [path.name for path in out.iterdir()] == [LOCK]
