"""Boxes for exactly the classes that the image-level labels of a data set name, in any layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gwapctl import load_model
from gwapctl.boxes import Detections, as_boxes
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import ClassName
from gwapctl.errors import DataError
from gwapctl.networks.classifier import save_model
from gwapctl.predict.detector import DetectorPredictor
from gwapctl.predict.labelled import labelled_images
from tests.factories import (
    coco,
    coco_object,
    make_classifier,
    make_coco,
    make_voc,
    save_image,
    voc_object,
    voc_xml,
    write,
)

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("known") / "model"
    save_model(make_classifier(head="gap", classes=("cat", "dog", "bird"), map="class", box_rule="otsu"), folder)
    return folder


def class_folders(root: Path) -> Path:
    for name in ("cat/a.jpg", "dog/b.jpg"):
        save_image(root / name)
    return root


def manifest(root: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        save_image(root / name)
    return write(root / "labels.csv", "image,label\na.jpg,cat\nb.jpg,dog\n")


def voc(root: Path) -> Path:
    images = {"a": voc_xml(voc_object("cat"), voc_object("cat", (41, 21, 60, 40))), "b": voc_xml(voc_object("dog"))}
    return make_voc(root, images, {"train": "a\n", "val": "b\n", "trainval": "a\nb\n"})


def coco_file(root: Path) -> Path:
    return make_coco(root, coco(annotations=[coco_object(1, 1, 1), coco_object(2, 1, 1), coco_object(3, 2, 2)]))


def yolo(root: Path) -> Path:
    for name, row in (("a", "0 0.5 0.5 0.2 0.2\n"), ("b", "1 0.5 0.5 0.2 0.2\n")):
        save_image(root / f"images/{name}.jpg")
        write(root / f"labels/{name}.txt", row)
    write(root / "classes.txt", "cat\ndog\n")
    return root


LAYOUTS = [class_folders, manifest, voc, coco_file, yolo]


def found(text: str) -> dict[str, list[str]]:
    documents = [json.loads(line) for line in text.splitlines()]
    return {Path(one["id"]).stem: [item["label"] for item in one["predictions"]] for one in documents}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_of_the_classes_that_are_there(
    run_cli: Run, tmp_path: Path, model: Path, layout: Callable[[Path], Path]
) -> None:
    data = layout(tmp_path / "data")
    options = ("--model", model, "--labels", "from-dataset", "--format", "jsonl")
    result = run_cli("boxes", data, *options)
    assert result.code == 0, result.stderr
    assert found(result.stdout) == {"a": ["cat"], "b": ["dog"]}
    assert all(json.loads(line)["predictions"][0]["doubt"] is not None for line in result.stdout.splitlines())
    assert found(run_cli("localize", data, *options).stdout) == {"a": ["cat"], "b": ["dog"]}


def test_several_classes_and_none(run_cli: Run, tmp_path: Path, model: Path) -> None:
    annotations = [coco_object(1, 1, 1), coco_object(2, 1, 2)]
    make_coco(tmp_path, coco(annotations=annotations))
    options = ("--model", model, "--labels", "from-dataset", "--format", "jsonl")
    result = run_cli("boxes", tmp_path, *options, "--split")
    labels = found(result.stdout)
    assert (set(labels["a"]), labels["b"]) == ({"cat", "dog"}, [])


def test_each_image_once_with_ids_below_the_data_set(tmp_path: Path) -> None:
    images, labels = labelled_images(open_dataset(str(voc(tmp_path / "data"))))
    assert [image.id for image in images] == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    assert [[name.name for name in labels[str(image.path)]] for image in images] == [["cat"], ["dog"]]


def test_the_score_is_that_of_the_known_class(tmp_path: Path, model: Path) -> None:
    path = save_image(tmp_path / "a.jpg")
    loaded = load_model(model, device="cpu")
    (best,) = loaded.localize(path, top_k=3)
    (known,) = loaded.localize(path, labels={str(path): ["bird"]})
    assert known.classes == ("bird",)
    assert known.scores[0] == pytest.approx(best.scores[best.classes.index("bird")])
    np.testing.assert_array_equal(known.boxes[0], best.boxes[best.classes.index("bird")])
    (nothing,) = loaded.localize(path, labels={})
    assert (nothing.classes, nothing.width, nothing.height) == ((), 80, 60)


def test_classes_that_the_model_does_not_know(run_cli: Run, tmp_path: Path, model: Path) -> None:
    save_image(tmp_path / "data/cat/a.jpg")
    save_image(tmp_path / "data/horse/b.jpg")
    result = run_cli("boxes", tmp_path / "data", "--model", model, "--labels", "from-dataset")
    assert result.code == 4
    assert "does not know 'horse', which the labels name" in result.stderr
    assert "leave out --labels" in result.stderr
    with pytest.raises(DataError, match=r"'horse'.*leave out labels="):
        load_model(model, device="cpu").localize(tmp_path / "data/cat/a.jpg", labels={"a": ["horse"]})


def test_labels_go_with_one_data_set(run_cli: Run, tmp_path: Path, model: Path) -> None:
    data = class_folders(tmp_path / "data")
    result = run_cli("localize", data, data, "--model", model, "--labels", "from-dataset")
    assert (result.code, "goes with one input" in result.stderr) == (2, True)


def test_a_class_that_is_known_keeps_the_detectors_best_box() -> None:
    """Scores below the least one are of boxes that nobody asked for, but of a class that is there one box stays."""
    names = tuple(ClassName(name, name) for name in ("cat", "dog", "bird"))
    boxes = as_boxes([[0, 0, 9, 9], [1, 0, 9, 9], [2, 0, 9, 9], [3, 0, 9, 9], [4, 0, 9, 9]])
    scores, labels = np.array([0.9, 0.4, 0.2, 0.1, 0.05]), np.array([2, 0, 0, 1, 1])
    seen: dict[str, float] = {}

    def run(images: list[np.ndarray], *, min_score: float, **_: object) -> list[Detections]:
        seen["least"] = min_score
        kept = scores >= min_score
        return [Detections(boxes[kept], scores[kept], labels[kept], 20, 10) for _ in images]

    info = SimpleNamespace(classes=names, short_side=8)
    reader: Any = SimpleNamespace(info=info, run=run, device="cpu")
    image = np.zeros((10, 20, 3), np.uint8)
    known = DetectorPredictor(reader, 0.3, 1, {"a": (0, 1), "b": ()})
    ((found, nothing),) = [list(known._predict([("a", image), ("b", image)]))]
    assert [(one.label, one.score) for one in found.predictions] == [("cat", 0.4), ("dog", 0.1)]
    assert (nothing.predictions, seen["least"]) == ((), 0.0)
    (every,) = DetectorPredictor(reader, 0.3, 1)._predict([("a", image)])
    assert [(one.label, one.score) for one in every.predictions] == [("bird", 0.9), ("cat", 0.4)]
