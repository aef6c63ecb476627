"""VOC by name: all of trainval trains, results are reported on a split that training never saw, and it is fetched."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gwapctl.datasets import download, open_dataset, published, reporting_split, training_splits
from gwapctl.datasets.published import Archive
from gwapctl.datasets.voc import CLASSES
from gwapctl.errors import DataError
from gwapctl.runs import Run, find_runs
from tests.factories import make_voc, voc_object, voc_xml

Fetch = list[str]

TINY = """
caption = "Profile tiny."
[settings]
backbone = "resnet-s"
weights = "none"
image_size = [32, 24]
batch_size = 4
iterations = 2
[tables.i]
rows = ["googlenet-gap"]
"""


def lay_out(root: Path, splits: dict[str, Sequence[int]], year: int = 2007) -> Path:
    """Write a part of VOC below ``root``: every image shows five of the twenty classes."""
    objects = ["".join(map(voc_object, CLASSES[start::4])) for start in range(4)]
    numbers = sorted({number for part in splits.values() for number in part})
    images = {f"{number:06d}": voc_xml(objects[number % 4], size=(60, 40)) for number in numbers}
    lists = {name: "".join(f"{number:06d}\n" for number in part) for name, part in splits.items()}
    return make_voc(root / f"VOCdevkit/VOC{year}", images, lists, (60, 40), ".jpg")


TRAINVAL = {"trainval": range(10), "train": range(5), "val": range(5, 10)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of data where only the trainval archive of VOC 2007 was unpacked."""
    lay_out(tmp_path / "data", TRAINVAL)
    return tmp_path / "data"


@pytest.fixture
def fetched(root: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """The files of the archives that were fetched: the test part appears as if it had been."""
    files: Fetch = []

    def fetch(name: str, archive: Archive, *_: object) -> None:
        assert archive is published.VOC2007_TEST, "all else is there"
        files.append(archive.file)
        lay_out(root, {"test": range(20, 24)})

    monkeypatch.setattr(download, "_fetch", fetch)
    return files


@pytest.mark.parametrize("name", ["voc", "voc:5", "voc07+12"])
@pytest.mark.parametrize("with_test", [False, True])
def test_all_of_trainval_trains(name: str, with_test: bool, root: Path) -> None:
    if with_test:
        lay_out(root, {"test": range(20, 24)})
    if name == "voc07+12":
        lay_out(root, TRAINVAL, 2012)
    dataset = open_dataset(name, root)
    assert training_splits(dataset) == ("trainval", None)
    assert len(dataset.samples("trainval")) == {"voc": 10, "voc:5": 3, "voc07+12": 20}[name]
    if with_test:
        assert reporting_split(dataset) == "test"
        return
    with pytest.raises(DataError, match=r"has no test split, which results are reported on.*train, val, trainval"):
        reporting_split(dataset)  # val is a part of what trains


def test_voc2012_reports_on_val_and_does_not_train_on_it(root: Path) -> None:
    lay_out(root, TRAINVAL | {"test": range(20, 24)}, 2012)  # lists of test were published, annotations never
    dataset = open_dataset("voc2012", root)
    assert training_splits(dataset) == ("train", None)
    assert reporting_split(dataset) == "val"


def test_a_folder_is_divided_by_what_is_there(root: Path) -> None:
    dataset = open_dataset(str(root / "VOCdevkit" / "VOC2007"))
    assert (training_splits(dataset), reporting_split(dataset)) == (("train", None), "val")


def test_a_dry_run_says_which_images(root: Path, run_cli: Callable[..., Any]) -> None:
    asked = ("train", "voc", "--root", root, "--backbone", "googlenet", "--dry-run")
    said = run_cli(*asked).stderr
    assert "10 images of trainval to train on, none to validate on; results are reported on test, which is not" in said
    held = json.loads(run_cli(*asked, "--val-fraction", 0.2, "--json").stdout)["data"]
    assert held == {
        "train_split": "trainval", "n_train": 8, "val_split": "0.2 of trainval, seed 0", "n_val": 2,
        "reporting_split": "test",
    }  # fmt: skip
    nowhere = run_cli("train", "voc", "--root", root / "nowhere", "--dry-run")
    assert nowhere.code == 0
    assert "images not counted: voc is not here" in nowhere.stderr


def test_reproduce_fetches_test_and_fills_the_cell(
    root: Path, fetched: Fetch, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    asked = ("reproduce", "i", "--profile", tmp_path / "tiny.toml", "--root", root, "--runs", tmp_path / "runs")
    planned = json.loads(run_cli(*asked, "--dry-run", "--json").stdout)["tables"][0]["plan"]
    assert [(row["images"], row["images_evaluated"]) for row in planned] == [(8, None)]
    done = run_cli(*asked, "--device", "cpu", "--json")
    assert done.code == 0, done.stderr
    assert fetched == [published.VOC2007_TEST.file]
    (run,) = find_runs(tmp_path / "runs")
    assert (run.document["dataset"]["train_split"], run.document["dataset"]["n_train"]) == ("trainval", 10)
    (evaluation,) = run.evaluations()
    assert (evaluation["split"], evaluation["n"]) == ("test", 4)
    *_, table = json.loads(done.stdout)["tables"]  # beside the paper's, for four images are not its 4,952
    (cell,) = table["rows"][0]["cells"]
    assert (cell["split"], cell["value"]) == ("test", pytest.approx(evaluation["metrics"]["voc_map_11pt"]))

    assert run_cli("evaluate", run.folder, "--root", root, "--device", "cpu").code == 0
    assert len(fetched) == 1, "it is here"
    seen = run_cli("evaluate", run.folder, "--root", root, "--device", "cpu", "--split", "val")
    assert "training saw 5 of these 5 images" in " ".join(seen.stderr.split())


def test_evaluate_fetches_what_it_reports_on(root: Path, fetched: Fetch, run_cli: Callable[..., Any]) -> None:
    boxes = root / "boxes.jsonl"
    boxes.write_text("")
    run_cli("evaluate", boxes, "--dataset", "voc:5", "--root", root, "--split", "val")
    assert fetched == []
    run_cli("evaluate", boxes, "--dataset", "voc:5", "--root", root)
    assert fetched == [published.VOC2007_TEST.file]


def test_an_earlier_run_keeps_the_images_that_it_held_out(
    root: Path, tmp_path: Path, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gwapctl.train.data.training_splits", lambda _: ("train", None))  # as before trainval
    asked = ("--backbone", "resnet-s", "--weights", "none", "--image-size", 32, "--iterations", 1, "--batch-size", 2)
    out = tmp_path / "run"
    assert (
        run_cli("train", "voc", "--root", root, *asked, "--val-fraction", 0.2, "--out", out, "--device", "cpu").code
        == 0
    )
    assert Run.open(out).document["dataset"]["val_split"] == "0.2 of train, seed 0"
    done = run_cli("evaluate", out, "--root", root, "--split", "held-out", "--device", "cpu", "--json")
    assert done.code == 0, done.stderr
    assert (json.loads(done.stdout)["split"], json.loads(done.stdout)["n"]) == ("held-out 0.2 of train, seed 0", 1)
    assert "training saw" not in done.stdout
    partly = run_cli("evaluate", out, "--root", root, "--split", "trainval", "--device", "cpu", "--json")
    assert "training saw 4 of these 10 images" in partly.stdout
