"""Runs and data sets that moved, other working folders, and terminals that are not UTF-8."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from gwapctl import cli
from gwapctl.datasets.folders import recorded_path
from gwapctl.datasets.synthetic import make_synthetic_voc
from gwapctl.evaluate.subject import find_dataset, find_subject
from gwapctl.runs import Run

TRAINING = (
    *("--backbone", "resnet-s", "--weights", "none", "--image-size", "48", "--iterations", "2"),
    *("--val-fraction", "0.2", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``scenes`` and the run ``runs/r``, trained there on the relative path."""
    place = tmp_path_factory.mktemp("project")
    make_synthetic_voc(place / "scenes", images=40, seed=0, size=(64, 64))
    before = Path.cwd()
    os.chdir(place)
    try:
        assert cli.run(["train", "scenes", *TRAINING, "--out", "runs/r", "-q"]) == 0
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def copy(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project whose run was trained in it; the working folder is another one."""
    shutil.copytree(project, tmp_path / "project")
    run = Run.open(tmp_path / "project" / "runs" / "r")
    run.document["dataset"]["root"] = str(tmp_path / "project" / "scenes")
    run.update()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project"


def test_a_run_is_evaluated_from_anywhere(copy: Path, run_cli: Callable) -> None:
    result = run_cli("evaluate", copy / "runs" / "r", "--json", "--limit", "4")
    assert result.code == 0, result.stderr
    assert json.loads(result.stdout)["dataset"] == "scenes"
    assert run_cli("evaluate", copy / "runs" / "r", "--json", "--split", "held-out").code == 0
    assert run_cli("evaluate", copy / "runs" / "r", "--dataset", "scenes", "--limit", "4").code == 0


def test_its_own_data_set_is_not_mistaken_for_one_of_that_name_here(copy: Path) -> None:
    make_synthetic_voc(Path("scenes"), images=20, seed=1, size=(64, 64))
    target = find_subject(str(copy / "runs" / "r"))
    assert find_dataset(target, None, None, None).root == copy / "scenes"
    assert find_dataset(target, "scenes", None, None).root == Path("scenes")  # asked for, and here


def test_a_project_moves_as_a_whole(copy: Path, tmp_path: Path) -> None:
    copy.rename(tmp_path / "moved")
    target = find_subject(str(tmp_path / "moved" / "runs" / "r"))
    assert find_dataset(target, None, None, None).root == tmp_path / "moved" / "scenes"


def test_a_data_set_that_moved_is_asked_for(copy: Path, tmp_path: Path, run_cli: Callable) -> None:
    (tmp_path / "disk").mkdir()
    (copy / "scenes").rename(tmp_path / "disk" / "scenes")
    run = copy / "runs" / "r"
    result = run_cli("evaluate", run)
    assert result.code == 4
    assert f"was trained on scenes, which was at {copy / 'scenes'} and is not there any more" in result.stderr
    assert "--dataset" in result.stderr
    assert "--root" in result.stderr
    for options in (
        ("--dataset", tmp_path / "disk" / "scenes"),
        ("--root", tmp_path / "disk"),
        ("--root", tmp_path / "disk" / "scenes"),
    ):
        assert run_cli("evaluate", run, *options, "--limit", "4").code == 0, options


def test_a_run_is_resumed_from_anywhere(copy: Path, run_cli: Callable) -> None:
    run = Run.open(copy / "runs" / "r")
    shutil.rmtree(run.folder / "evaluations", ignore_errors=True)
    run.update(status="interrupted")  # stopped before its state was saved: it begins again
    result = run_cli("train", "scenes", "--out", run.folder, "--resume", "--device", "cpu")
    assert result.code == 0, result.stderr
    assert Run.open(run.folder).finished


@pytest.mark.parametrize(
    ("name", "root", "found"),
    [
        ("scenes", "a/scenes", "a/scenes"),
        ("./scenes/", "a/scenes", "a/scenes"),
        ("a/scenes", "a/scenes", "a/scenes"),
        ("lists/train.csv", "a/lists", "a/lists/train.csv"),
        ("train.json", "a/lists/train.json", "a/lists/train.json"),
        ("imagenet", "a/imagenet/ILSVRC", "a/imagenet"),
        (".", "a/scenes", "a/scenes"),
        ("..", "a/scenes", "a/scenes"),
        ("other", "a/scenes", "a/scenes"),
        ("scenes", "b/scenes", None),
    ],
)
def test_where_a_data_set_was(tmp_path: Path, name: str, root: str, found: str | None) -> None:
    for folder in ("a/scenes", "a/lists", "a/imagenet/ILSVRC"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("a/lists/train.csv", "a/lists/train.json"):
        (tmp_path / file).touch()
    assert recorded_path(name, tmp_path / root) == (None if found is None else tmp_path / found)


# ---------------------------------------------------------------------------------------------------------- terminals


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with predictions whose image and class have names outside of ASCII."""
    place = tmp_path_factory.mktemp("named")
    (place / "set" / "café").mkdir(parents=True)
    (place / "set" / "日本").mkdir()
    for name in ("café/é😀.png", "日本/b.png"):
        (place / "set" / name).write_bytes(cv2.imencode(".png", np.zeros((30, 40, 3), np.uint8))[1].tobytes())
    prediction = {"label": "café", "label_id": "1", "score": 0.5, "box": [1, 2, 30, 20]}
    image = {"image": "café/é😀.png", "width": 40, "height": 30, "predictions": [prediction]}
    (place / "pred.jsonl").write_text(json.dumps(image) + "\n")
    return place


def run_ascii(*arguments: object) -> tuple[int, bytes, bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    command = [sys.executable, "-m", "gwapctl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_table_goes_to_a_terminal_without_letters(named: Path) -> None:
    code, out, _ = run_ascii("data", "check", named / "set")
    assert code == 0
    assert rb"caf\xe9" in out
    assert out.isascii()


@pytest.mark.parametrize("name", ["coco", "jsonl", "label-studio", "cvat", "csv"])
def test_documents_stay_whole_where_stdout_is_ascii(named: Path, name: str) -> None:
    code, out, errors = run_ascii("boxes", named / "pred.jsonl", "--format", name)
    assert (code, b"internal error" in errors) == (0, False)
    if name == "coco":
        document = json.loads(out)
        assert document["images"][0]["file_name"] == "café/é😀.png"
        assert document["categories"][0]["name"] == "café"
    elif name == "jsonl":
        assert json.loads(out)["image"] == "café/é😀.png"
    elif name == "label-studio":
        assert json.loads(out)[0]["predictions"][0]["result"][0]["value"]["rectanglelabels"] == ["café"]
    elif name == "cvat":
        image = ElementTree.fromstring(out).find("image")
        assert image is not None
        assert image.get("name") == "café/é😀.png"
    else:
        [row] = csv.DictReader(io.StringIO(out.decode("utf-8")))
        assert (row["image"], row["label"]) == ("café/é😀.png", "café")


def test_json_of_a_verb_stays_valid(named: Path) -> None:
    code, out, _ = run_ascii("data", "check", named / "set", "--json")
    assert code == 0
    assert [item["name"] for item in json.loads(out)["classes"]] == ["café", "日本"]


def test_errors_and_help_go_anywhere(named: Path) -> None:
    code, _, errors = run_ascii("data", "check", named / "nicht da é")
    assert (code, errors.isascii()) == (4, True)
    assert rb"nicht da \xe9 does not exist" in errors
    for arguments in ((), ("localize",), ("models",)):
        code, out, _ = run_ascii(*arguments, "--help")
        assert (code, out.isascii()) == (0, True)
