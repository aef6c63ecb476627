"""What is overwritten: exactly what gwapctl wrote there, by its lists. Files of others stay, also behind links."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwapctl.files import Written, atomic_path, remove_below
from gwapctl.formats.review import PAGE
from gwapctl.networks.classifier import save_model
from gwapctl.runs import remove_folds
from tests.factories import make_classifier, save_image, write

Cli = Callable[..., Any]
MINE = ("maps/mine.npy", "maps/deep/mine.npy", "overlays/mine.jpg", "masks/mine.png", "maps/notes.txt")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, a model, and what it found in them; no test writes into it."""
    folder = tmp_path_factory.mktemp("overwrite")
    for name in ("a.jpg", "deep/b.jpg", "c.jpg"):
        save_image(folder / "photos" / name, 40, 30)
    save_model(make_classifier(), folder / "model")
    return folder


@pytest.fixture
def found(place: Path, tmp_path: Path, run_cli: Cli) -> Path:
    out = tmp_path / "found"
    assert localize(run_cli, place, out).code == 0
    return out


def localize(run_cli: Cli, place: Path, out: Path, *more: object, inputs: Path | None = None) -> Any:
    model = ("--model", place / "model", "--device", "cpu", "--workers", 0)
    return run_cli("localize", inputs or place / "photos", *model, "--out", out, *more)


def test_localize_leaves_the_files_of_others(run_cli: Cli, place: Path, found: Path) -> None:
    for name in MINE:
        write(found / name, "mine")
    result = localize(run_cli, place, found, "--overwrite", "--save", "map", inputs=place / "photos" / "deep")
    assert result.code == 0, result.stderr
    assert files(found) == {*MINE, "maps/b.jpg.npy", "maps/maps.json", "predictions.jsonl"}
    assert {(found / name).read_text() for name in MINE} == {"mine"}


def test_localize_removes_nothing_behind_a_link(run_cli: Cli, place: Path, found: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(found / "overlays", elsewhere)
    (found / "overlays").symlink_to(elsewhere)
    before = files(elsewhere)
    assert localize(run_cli, place, found, "--overwrite", "--save", "map").code == 0
    assert files(elsewhere) == before == {"a.jpg.jpg", "c.jpg.jpg", "deep/b.jpg.jpg"}


def test_localize_takes_back_what_a_killed_one_had_begun(run_cli: Cli, place: Path, found: Path) -> None:
    for name in ("maps/gone.jpg.npy", "overlays/gone.jpg.jpg"):
        write(found / name, "of an image that no line tells of")
    Written(found, "localize").note("gone.jpg")
    with (found / ".gwapctl-localize-begun").open("a") as file:
        file.write('"to')  # torn
    shutil.copytree(found, found.with_name("second"))
    assert localize(run_cli, place, found, "--resume").code == 0
    assert localize(run_cli, place, found.with_name("second"), "--overwrite").code == 0
    for folder in (found, found.with_name("second")):
        assert not [name for name in files(folder) if "gone" in name or name.startswith(".gwapctl")]


def test_a_map_that_a_loss_of_power_emptied_is_made_again(run_cli: Cli, place: Path, found: Path) -> None:
    file, log = found / "maps" / "c.jpg.npy", found / "predictions.jsonl"
    whole, lines = file.read_bytes(), log.read_bytes()
    file.write_bytes(b"")
    log.write_bytes(lines[: lines.index(b"\n") + 1] + b"\0" * 4096)
    assert localize(run_cli, place, found, "--resume").code == 0
    assert file.read_bytes() == whole
    assert log.read_bytes() == lines


@pytest.mark.parametrize("below", [".", "found"])
def test_localize_does_not_read_its_own_output(run_cli: Cli, place: Path, tmp_path: Path, below: str) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(place / "photos", photos)
    for _ in range(2):
        result = localize(run_cli, place, photos / below, "--overwrite", inputs=photos)
        assert result.code == 0, result.stderr
        assert len((photos / below / "predictions.jsonl").read_text().splitlines()) == 3
    alone = localize(run_cli, place, photos / below, "--overwrite", inputs=photos / below / "overlays")
    assert alone.code == 4
    assert "such as localize wrote" in alone.stderr


def test_an_export_knows_what_a_killed_one_wrote(run_cli: Cli, found: Path, tmp_path: Path) -> None:
    out = tmp_path / "yolo"
    write(out / "labels" / "mine.txt", "mine")
    write(out / "labels" / "gone.txt", "0 0.5 0.5 1 1")
    Written(out, "export").note("labels/gone.txt", "../outside.txt")
    write(tmp_path / "outside.txt", "mine")
    assert run_cli("boxes", found, "--format", "yolo", "--out", out, "--overwrite").code == 0
    assert "labels/gone.txt" not in files(out)
    assert {"labels/mine.txt", "labels/a.txt", ".gwapctl-export"} <= files(out)
    assert not (out / ".gwapctl-export-begun").exists()
    assert (tmp_path / "outside.txt").exists()


def test_a_page_leaves_pictures_of_others(run_cli: Cli, found: Path, tmp_path: Path) -> None:
    review = tmp_path / "review"
    mine = {"images/1.jpg", "images/000002.png", "thumbs/000009.jpg", "heat/7.png"}
    for name in mine:
        write(review / name, "mine")
    assert run_cli("boxes", found, "--review", review, "--overwrite").code == 0
    (review / ".gwapctl-review").unlink()  # as an older version leaves it
    assert len(files(review) - mine) == 3 * 4 + 1
    one = found.with_name("one.jsonl")
    one.write_text((found / "predictions.jsonl").read_text().splitlines()[0] + "\n")
    assert run_cli("boxes", one, "--review", review, "--overwrite").code == 0
    assert files(review) == {*mine, PAGE, ".gwapctl-review", "images/000001.jpg", "thumbs/000001.jpg"}


def test_a_synthetic_set_replaces_itself_and_no_real_one(run_cli: Cli, tmp_path: Path) -> None:
    scenes, real = tmp_path / "scenes", tmp_path / "real"
    made = ("data", "synth", "--images", 5, "--image-size", 64, "--overwrite", "--out")
    assert run_cli("data", "synth", "--images", 6, "--image-size", 64, "--out", scenes).code == 0
    before = files(scenes)
    mine = {"JPEGImages/mine.jpg", "Annotations/mine.xml", "notes.txt", "ImageSets/Main/mine.txt"}
    for name in mine:
        write(scenes / name, "mine")
    assert run_cli(*made, scenes).code == 0
    assert files(scenes) == {name for name in before if "000005" not in name} | mine
    write(real / "Annotations" / "000001.xml", "<annotation/>")
    assert run_cli(*made, real).code == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_folds_of_an_earlier_training_go(tmp_path: Path) -> None:
    for name in ("folds.json", "folds/1/run.json", "folds/2/weights.safetensors", "folds/2/notes.txt"):
        write(tmp_path / "run" / name, "{}")
    write(tmp_path / "elsewhere" / "run.json", "{}")
    (tmp_path / "run" / "folds" / "3").symlink_to(tmp_path / "elsewhere")
    remove_folds(tmp_path / "run")
    assert files(tmp_path / "run") == {"folds/2/notes.txt"}
    assert files(tmp_path / "elsewhere") == {"run.json"}


def test_removing_empties_folders_but_never_climbs(tmp_path: Path) -> None:
    write(tmp_path / "outside", "x")
    write(tmp_path / "top" / "a" / "b" / "c", "x")
    remove_below(tmp_path / "top", ["a/b/c", "a/none", "../outside", str(tmp_path / "outside")])
    assert (tmp_path / "outside").exists()
    assert list((tmp_path / "top").iterdir()) == []


def test_what_a_killed_writer_left_is_used_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with atomic_path(path) as temporary:
        name = temporary
        temporary.write_text("one")
        with atomic_path(path) as other:  # somebody writes the same file meanwhile
            assert other != temporary
            other.write_text("two")
        assert path.read_text() == "two"
    assert path.read_text() == "one"
    name.write_text("torn by a kill")
    with atomic_path(path) as temporary:
        assert (temporary, temporary.read_text()) == (name, "")
        temporary.write_text(json.dumps(3))
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
