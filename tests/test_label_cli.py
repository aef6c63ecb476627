"""``gwapctl label`` as it is typed: help, plan, refusals, exit codes, and what it says at its end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gwapctl.label import plan, run
from gwapctl.label.steps import Find
from tests.factories import SMALL_DETECTOR, save_image, write

Cli = Callable[..., Any]
SETS = {"classifier.batch_size": "4", "classifier.epochs": "1", "classifier.val_fraction": "0.2"}
SETS |= {f"detector.{key}": str(value) for key, value in SMALL_DETECTOR.items() if key.islower() and key != "detector"}
SMALL = {"backbone": "resnet-s", "weights": "none", "image_size": (40, 32), "precision": "fp32"}
HOW = ["--device", "cpu", "--workers", "0", *(word for pair in SETS.items() for word in ("--set", "=".join(pair)))]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make twelve photos of two classes, in the working directory; no ImageNet weights are at hand."""
    monkeypatch.setattr(plan, "packaged_weights", dict)
    monkeypatch.setattr(plan, "SMALL", SMALL)
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name, colour in (("apple", (40, 40, 220)), ("pear", (40, 220, 160))):
        for number in range(6):
            image = generator.integers(0, 90, (48, 64, 3), dtype=np.uint8)
            image[10:34, 10 + number : 40 + number] = colour
            write(Path("my photos", name, f"{number}.png"), cv2.imencode(".png", image)[1].tobytes())
    return Path("my photos")


def test_help_says_what_it_does(run_cli: Cli) -> None:
    result = run_cli("label", "--help")
    assert result.code == 0
    assert "gwapctl label photos --dry-run" in result.stdout
    for word in ("--format", "--resume", "--overwrite", "--set", "Ctrl-C"):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_dry_run_says_times_and_commands_and_writes_nothing(run_cli: Cli, photos: Path) -> None:
    before = sorted(Path().rglob("*"))
    result = run_cli("label", photos, *HOW, "--dry-run")
    assert result.code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "my photos: 12 images of 2 classes"
    assert "not installed" in " ".join(lines[1:3])
    assert sum("about" in line for line in lines) == 7
    assert [line for line in lines if line.startswith("$ ")][1].startswith("$ gwapctl train 'my photos' --backbone")
    assert max(len(line) for line in lines if not line.startswith("$ ")) <= 80
    assert "few images of apple and pear" in result.stderr
    assert sorted(Path().rglob("*")) == before
    document = json.loads(run_cli("label", photos, *HOW, "--dry-run", "--json").stdout)
    assert [step["command"][:2] for step in document["steps"]][:2] == [["gwapctl", "data"], ["gwapctl", "train"]]
    assert len(document["seconds"]) == len(document["steps"])


def test_from_photos_to_a_page_and_what_comes_next(run_cli: Cli, photos: Path) -> None:
    write(photos / "apple" / "torn.png", b"not an image")
    result = run_cli("label", photos, *HOW, "--format", "label-studio", "-v")
    assert result.code == 3, result.stderr
    assert "1 of 13 images could not be read" in result.stderr
    assert "boxes in 12 images" in result.stdout
    assert "review page: labelled/review/index.html" in result.stdout
    assert Path("labelled/review/index.html").is_file()
    assert len(json.loads(Path("labelled/tasks.json").read_text())) == 12
    printed = [line.removeprefix("$ ") for line in result.stderr.splitlines() if line.startswith("$ ")]
    assert [shlex.split(line)[1] for line in printed] == [
        "data",
        "train",
        "boxes",
        "train",
        "localize",
        "boxes",
        "boxes",
    ]
    refused = run_cli("label", photos, *HOW)
    assert (refused.code, "Continue with --resume" in refused.stderr) == (2, True)
    again = run_cli("label", photos, *HOW, "--format", "label-studio", "--resume", "--json")
    assert again.code == 3
    assert again.stderr.count("done before") == 7
    assert json.loads(again.stdout)["failed"] == 1
    other = run_cli("label", photos, *HOW, "--seed", "1", "--resume")
    assert (other.code, "was started with seed 0" in other.stderr) == (2, True)


def test_the_next_lines_work_as_printed(run_cli: Cli, photos: Path) -> None:
    result = run_cli("label", photos, *HOW)
    assert result.code == 0, result.stderr
    lines = [line.partition("next: ")[2] for line in result.stderr.splitlines() if line.startswith("next: ")]
    assert lines[0].startswith("open labelled/review/index.html in a browser")
    found = [json.loads(line) for line in Path("labelled/found/predictions.jsonl").read_text().splitlines()]
    decided = [{**one, "decision": "accepted", "proposed": one["predictions"]} for one in found[::2]]
    write(Path("decisions.json"), {"schema_version": 1, "review": "1", "images": decided})
    apply, train = (shlex.split(line) for line in lines[1:])
    assert run_cli(*apply[1:]).code == 0
    assert len(json.loads(Path("labelled/checked.json").read_text())["images"]) == 12
    small = [word for key, value in SMALL_DETECTOR.items() if key != "detector" for word in ("--set", f"{key}={value}")]
    trained = run_cli(*train[1:], *small, "--device", "cpu", "--workers", "0")
    assert trained.code == 0, trained.stderr
    assert Path("labelled/detector-2/boxes-1.jsonl").read_text().count('"box"') >= 6


def test_ctrl_c_says_how_to_go_on(run_cli: Cli, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Find, "carry_out", interrupted)
        result = run_cli("label", photos, *HOW, "--out", "a folder")
    assert result.code == 130
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("go on with: ")]
    words = shlex.split(line.removeprefix("go on with: "))
    assert words[:5] == ["gwapctl", "label", "my photos", "--out", "a folder"]
    done = run_cli(*words[1:])
    assert done.code == 0, done.stderr
    assert done.stderr.count("done before") == 4


def test_folders_of_others_are_left_alone(run_cli: Cli, photos: Path) -> None:
    write(Path("labelled/review/notes.txt"), "mine")
    for how in ([], ["--overwrite"], ["--resume"]):
        result = run_cli("label", photos, *HOW, *how)
        assert result.code == 2
        assert "labelled holds other files" in result.stderr
    assert Path("labelled/review/notes.txt").read_text() == "mine"
    assert not (Path("labelled") / run.DOCUMENT).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "epochs=3"], "does not say whose"),
        (["--set", "classifier.epoch=3"], "epoch"),
        (["--format", "jpeg"], "unknown format 'jpeg'"),
        (["--format", "png"], "a detector finds boxes"),
        (["--resume", "--overwrite"], "Give one of them"),
        (["--resume"], "nothing in labelled to resume"),
        (["--out", "my photos/out"], "my photos/out lies in my photos"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(run_cli: Cli, photos: Path, words: list[str], message: str) -> None:
    result = run_cli("label", photos, *words)
    assert result.code in (2, 5)
    assert message in result.stderr
    assert result.stderr.count("error:") == 1
    assert not Path("labelled").exists()


@pytest.mark.parametrize(("name", "message"), [("empty", "has no image"), ("flat", "has 1 image and does not say")])
def test_a_folder_without_labels_is_one_clear_line(run_cli: Cli, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    save_image(tmp_path / "flat" / "a.jpg")
    result = run_cli("label", tmp_path / name, "--out", tmp_path / "out")
    assert result.code == 4
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
