"""Photos of nothing: every layout has them, training learns from them, and a model may answer none of its classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from factories import coco, coco_object, make_classifier, make_coco, make_voc, save_image, voc_object, voc_xml, write

from gwapctl import load_model
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import BoxedSample, holdout
from gwapctl.errors import DataError
from gwapctl.metrics.judged import JudgedImage
from gwapctl.metrics.nothing import NothingErrors, none_threshold
from gwapctl.networks.classifier import load_info, save_info, save_model

Cli = Callable[..., Any]

# --- layouts ---------------------------------------------------------------------------------------------------------


def class_folders(root: Path) -> None:
    for name in ("cat/a", "dog/b", "_none/c"):
        save_image(root / f"{name}.jpg")


def manifest(root: Path) -> None:
    for name in "abc":
        save_image(root / f"{name}.jpg")
    write(root / "labels.csv", "image,label\na.jpg,cat\nb.jpg,dog\nc.jpg,\n")


def coco_file(root: Path) -> None:
    images = [{"id": n, "file_name": f"{name}.jpg", "width": 80, "height": 60} for n, name in enumerate("abc", start=1)]
    make_coco(root, coco(images, [coco_object(1, 1, 1), coco_object(2, 2, 2)]), images="abc")


def voc_folder(root: Path) -> None:
    xml = {"a": voc_xml(voc_object("cat")), "b": voc_xml(voc_object("dog")), "c": voc_xml()}
    make_voc(root, xml, {"train": "a\nb\nc\n"})


def yolo(root: Path) -> None:
    for name, text in (("a", "0 0.5 0.5 0.2 0.2"), ("b", "1 0.5 0.5 0.2 0.2"), ("c", "")):
        save_image(root / "images" / f"{name}.jpg")
        write(root / "labels" / f"{name}.txt", text)
    write(root / "classes.txt", "cat\ndog\n")


@pytest.mark.parametrize("make", [class_folders, manifest, coco_file, voc_folder, yolo])
def test_an_image_without_a_label_is_one_of_nothing(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "set")
    dataset = open_dataset(str(tmp_path / "set"))
    assert [item.name for item in dataset.classes] == ["cat", "dog"]
    assert dataset.multi_label  # each class is asked for by itself: that none is there can be said
    labels = {sample.path.stem: (sample.labels, sample.ignored) for sample in dataset.samples("train")}
    assert labels == {"a": ((0,), ()), "b": ((1,), ()), "c": ((), ())}


def test_a_folder_of_nothing_alone_is_no_data_set(tmp_path: Path) -> None:
    save_image(tmp_path / "set" / "_none" / "a.jpg")
    with pytest.raises(DataError, match="no class beside _none"):
        open_dataset(str(tmp_path / "set"))


def test_without_it_class_folders_have_one_label_per_image(tmp_path: Path) -> None:
    for name in ("cat/a", "dog/b"):
        save_image(tmp_path / "set" / f"{name}.jpg")
    assert not open_dataset(str(tmp_path / "set")).multi_label


def test_images_of_nothing_are_held_out_like_a_class(tmp_path: Path) -> None:
    for index in range(20):
        save_image(tmp_path / "set" / ("cat", "_none")[index % 2] / f"{index}.jpg", 8, 6)
    _, held = holdout(open_dataset(str(tmp_path / "set")).samples("train"), 0.2, seed=0)
    assert sorted(sample.labels for sample in held) == [(), (), (0,), (0,)]


# --- the threshold and what is counted -------------------------------------------------------------------------------


def test_threshold_is_half_way_between_what_it_tells_apart() -> None:
    assert none_threshold([0.9, 0.7], [0.1, 0.3]) == 0.5
    # one image of nothing scores 0.8: losing the only other two for it would cost more than it gains
    assert none_threshold([0.7, 0.9], [0.1, 0.2, 0.8]) == 0.45
    assert none_threshold([0.5], [0.5]) is None
    assert none_threshold([0.5], []) is None
    assert none_threshold([0.1, 0.2], [0.8, 0.9]) is None


def test_threshold_does_not_depend_on_how_many_of_each_there_are() -> None:
    shown, nothing = [0.3, 0.6, 0.9], [0.1, 0.2, 0.5]
    assert none_threshold(shown * 10, nothing) == none_threshold(shown, nothing) == none_threshold(shown, nothing * 7)


def judged(labels: tuple[int, ...], none: bool | None, ignored: tuple[int, ...] = ()) -> JudgedImage:
    return JudgedImage(BoxedSample("a.jpg", Path("a.jpg"), labels, ignored), 80, 60, none=none)


def test_rates_count_boxes_on_nothing_and_objects_taken_for_nothing() -> None:
    errors = NothingErrors()
    answers = [((), True), ((), True), ((), False), ((), False), ((0,), False), ((1,), True)]
    for labels, none in answers:
        errors.judge(judged(labels, none))
    errors.judge(judged((), False, ignored=(0,)))  # a difficult object is there: nothing can be wrong
    errors.judge(judged((0,), None))
    assert errors.units == 6
    assert errors.compute() == {"false_box_rate": 50.0, "false_none_rate": 50.0}
    (boxes,) = errors.replicates(np.array([[3.0, 0, 1, 0, 1, 0]])).values["false_box_rate"]
    assert boxes == 25


def test_there_is_no_rate_where_nothing_can_be_taken_for_nothing() -> None:
    errors = NothingErrors()
    errors.judge(judged((0,), False))
    assert errors.compute() == {}
    errors.judge(judged((0,), True))
    assert errors.compute() == {"false_none_rate": 50.0}


# --- from training to boxes ------------------------------------------------------------------------------------------


def draw(path: Path, colour: tuple[int, int, int] | None, generator: np.random.Generator) -> None:
    """Write noise, with a block of one colour on it."""
    image = generator.integers(0, 90, (48, 64, 3), dtype=np.uint8)
    if colour is not None:
        image[12:36, 20:48] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos of each of two classes and of nothing, and six of each to test on."""
    root, generator = tmp_path_factory.mktemp("nothing") / "photos", np.random.default_rng(0)
    colours = {"apple": (40, 40, 220), "pear": (40, 220, 60), "_none": None}
    for split, count in (("train", 12), ("test", 6)):
        for name, colour in colours.items():
            for number in range(count):
                draw(root / split / name / f"{number}.png", colour, generator)
    return root


def test_a_model_trained_with_photos_of_nothing_answers_none(photos: Path, tmp_path: Path, run_cli: Cli) -> None:
    run, out = tmp_path / "run", tmp_path / "found"
    asked = ("--image-size", 64, "--val-fraction", 0.25, "--epochs", 30, "--feature-cache", tmp_path / "cache")
    trained = run_cli("train", photos, *asked, "--out", run)
    assert trained.code == 0, trained.stderr
    assert "shows none of the classes: chosen on 3 held-out images of nothing and 6 others" in trained.stderr
    info = load_info(run)
    assert [item.name for item in info.classes] == ["apple", "pear"]
    assert 0 < info.none_threshold < 1

    found = run_cli("localize", photos / "test", "--model", run, "--scales", 64, "--refine", "none", "--out", out)
    assert found.code == 0, found.stderr
    documents = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    right = [(not one["predictions"]) is one["none"] is one["id"].startswith("_none/") for one in documents]
    assert sum(right) >= 16, documents
    assert "(none)" in found.stdout
    assert "without any of the classes" in found.stderr

    for subject in (run, out, out / "predictions.jsonl"):
        scales = ("--scales", 64, "--refine", "none") if subject == run else ()
        judged = run_cli("evaluate", subject, "--dataset", photos, "--split", "test", "--json", *scales)
        assert judged.code == 0, judged.stderr
        document = json.loads(judged.stdout)
        wrong = {one["id"] for one, fine in zip(documents, right, strict=True) if not fine}
        assert document["metrics"]["false_box_rate"] == pytest.approx(
            100 * sum(name.startswith("_none/") for name in wrong) / 6
        )
        assert document["metrics"]["false_none_rate"] == pytest.approx(
            100 * sum(not name.startswith("_none/") for name in wrong) / 12
        )
        assert document["floors"]["centred_box"]["false_box_rate"] == 100


def test_min_score_decides_in_place_of_the_model(tmp_path: Path) -> None:
    save_model(make_classifier("gwap", ("cat", "dog"), multi_label=True), tmp_path / "model")
    image = np.full((48, 64, 3), 120, np.uint8)
    model = load_model(tmp_path / "model", device="cpu")
    (usual,) = model.localize(image, top_k=2)
    assert not usual.none
    assert len(usual.predictions) == 2
    best, second = usual.scores
    (one,) = model.localize(image, top_k=2, min_score=(best + second) / 2)
    assert one.classes == usual.classes[:1]
    assert len(one.maps) == 1
    save_info(model.info.model_copy(update={"none_threshold": min(1.0, best + 0.01)}), tmp_path / "model")
    strict = load_model(tmp_path / "model", device="cpu")
    (none,) = strict.localize(image, top_k=2)
    assert (none.none, none.classes, none.boxes.shape) == (True, (), (0, 4))
    assert none.plot().shape == usual.plot().shape
    (all_of_it,) = strict.localize(image, top_k=2, min_score=0)
    assert all_of_it == usual
