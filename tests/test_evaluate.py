"""Evaluation from disk: maps and boxes against hand-worked numbers, and every mistake a folder can hold."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from gwapctl.boxes import as_boxes
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.errors import DataError, ModelError, UsageError
from gwapctl.evaluate import GroundTruth, Options, evaluate
from gwapctl.evaluate.ground_truth import Masks
from gwapctl.evaluate.predictions import FOREIGN, ClassMatcher, match_classes
from gwapctl.evaluate.subject import find_subject
from gwapctl.formats import EXPORTERS, READERS
from gwapctl.maps.reading import MapReading, ResolvedReading
from gwapctl.predict.map_folder import MapImage, MapsInfo, write_map, write_maps_info
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.predict.predictions import read_predictions
from tests.judging import evaluate_boxes, evaluate_maps

WIDTH, HEIGHT = 40, 30  # of every image here; maps are 20 x 15
BOX = (10.0, 6.0, 30.0, 24.0)
NAMES = ("apple", "red bell", "cello")


class Tiny(Dataset):
    """A data set in memory; its images need not exist because their sizes are known."""

    name = "tiny"

    def __init__(self, samples: Sequence[BoxedSample], multi_label: bool = False) -> None:
        self.root = Path()
        self.classes = tuple(ClassName(name, f"n{index}") for index, name in enumerate(NAMES))
        self.multi_label = multi_label
        self._samples = list(samples)

    def splits(self) -> tuple[str, ...]:
        return ("val",)

    def boxed_samples(self, split: str) -> list[BoxedSample]:
        return self._samples


def sample(name: str, objects: dict[int, list[Sequence[float]]], ignored: tuple[int, ...] = (), **rest) -> BoxedSample:
    boxes = [(box, label) for label, found in objects.items() for box in found]
    return BoxedSample(
        name,
        Path(name),
        tuple(label for label in objects if label not in ignored),
        ignored,
        (WIDTH, HEIGHT),
        as_boxes([box for box, _ in boxes]),
        np.array([label for _, label in boxes], np.int64),
        np.array([label in ignored for _, label in boxes], np.bool_),
        **rest,
    )


def ground(samples: Sequence[BoxedSample], *, multi_label: bool = False, **rest) -> GroundTruth:
    return GroundTruth(Tiny(samples, multi_label), "val", samples, **rest)


def box_map(box: Sequence[float], width: int = WIDTH // 2, height: int = HEIGHT // 2) -> np.ndarray:
    """Return a map that is 1 inside of a box of even corners, at half the image's resolution."""
    x0, y0, x1, y1 = (int(value) // (WIDTH // width) for value in box)
    heat = np.zeros((height, width), np.float16)
    heat[y0:y1, x0:x1] = 1
    return heat


def full_map(box: Sequence[float]) -> np.ndarray:
    return box_map(box, WIDTH, HEIGHT)


def write_predictions(folder: Path, images: dict[str, list[tuple[str, float, Sequence[float] | None]]]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = []
    for name, found in images.items():
        predictions = tuple(ClassPrediction(label, "", score, box and tuple(box)) for label, score, box in found)
        lines.append(json.dumps(Prediction(name, WIDTH, HEIGHT, predictions=predictions).to_json()))
    path = folder / "predictions.jsonl"
    path.write_text("\n".join(lines))
    return path


# ------------------------------------------------------------------------------------------------------------- maps


def test_perfect_maps_give_perfect_scores(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[6:24, 10:30] = 7  # instance numbers are foreground, whatever they are
    (tmp_path / "masks" / "d").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "masks" / "d" / "a.png"), mask)
    write_map(tmp_path / "maps", "d/a.jpg", full_map(BOX))
    document = evaluate_maps(tmp_path / "maps", ground([sample("d/a.jpg", {1: [BOX]})], masks=tmp_path / "masks"))
    metrics = document.metrics
    for name in ("cor_loc", "max_box_acc", "max_box_acc_70", "max_box_acc_v2", "px_ap"):
        assert metrics[name] == 100, name
    for name in ("mean_iou", "f_measure", "f_of_means", "fg_precision", "fg_recall", "fg_iou", "fg_iou_pooled"):
        assert metrics[name] == pytest.approx(1), name
    assert metrics["gt_known_error"] == 0
    assert document.n == 1
    assert document.n_degenerate == 0


LOCATED = {
    *("gt_known_error", "cor_loc", "mean_iou", "f_measure", "f_of_means", "px_ap", "margin", "margin_medium"),
    *("fg_precision", "fg_recall", "fg_area"),
    *("fg_iou", "fg_iou_threshold", "fg_iou_pooled", "fg_iou_pooled_threshold"),
    *("max_box_acc", "max_box_acc_30", "max_box_acc_50", "max_box_acc_70", "max_box_acc_v2", "max_box_acc_threshold"),
}
RANKED = {"top1_error", "top5_error", "top1_loc_error", "top5_loc_error"}
PREDICTED = {"f_measure_predicted", "f_of_means_predicted", "fg_iou_predicted", "fg_iou_pooled_predicted"}


@pytest.mark.parametrize(
    ("multi_label", "own_maps", "expected"),
    [
        (False, False, LOCATED | RANKED),
        (True, False, LOCATED | {"voc_map_11pt", "voc_map_area"}),
        (False, True, LOCATED | RANKED | PREDICTED),
        (True, True, LOCATED | PREDICTED | {"voc_map_11pt", "voc_map_area"}),
    ],
)
def test_every_metric_that_the_data_allows(
    tmp_path: Path, multi_label: bool, own_maps: bool, expected: set[str]
) -> None:
    """Boxes, masks and predicted classes are there; one map for all classes has no predicted class's own."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[6:24, 10:30] = 255
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), mask)
    maps = np.stack([full_map(BOX)] * 3)
    write_map(tmp_path / "out" / "maps", "a.png", maps if own_maps else maps[0])
    about = {"a.png": MapImage(WIDTH, HEIGHT, NAMES)}
    write_maps_info(
        tmp_path / "out" / "maps", MapsInfo(ResolvedReading(method="class"), class_agnostic=not own_maps), about.items()
    )
    write_predictions(tmp_path / "out", {"a.png": [(name, 0.5, None) for name in NAMES]})
    judged = ground([sample("a.png", {0: [BOX]})], multi_label=multi_label, masks=tmp_path / "masks")
    document = evaluate_maps(tmp_path / "out", judged)
    assert set(document.metrics) == expected
    assert document.notes == []
    for floor in document.floors.values():
        blind = {key for key in expected if not key.endswith(("_threshold", "_predicted")) and "margin" not in key}
        assert set(floor) == blind - {"top1_error", "top5_error", "voc_map_11pt", "voc_map_area"}


def test_floors_are_the_hand_worked_boxes(tmp_path: Path) -> None:
    write_map(tmp_path, "a.jpg", full_map(BOX))
    floors = evaluate_maps(tmp_path, ground([sample("a.jpg", {0: [BOX]})])).floors
    whole = 20 * 18 / (WIDTH * HEIGHT)  # 0.3: the object in the full image
    assert floors["full_image"]["mean_iou"] == pytest.approx(whole)
    assert floors["full_image"]["gt_known_error"] == 100
    assert floors["full_image"]["f_measure"] == pytest.approx(1.3 * whole / (0.3 * whole + 1))
    assert floors["full_image"]["max_box_acc_30"] == 100
    assert floors["full_image"]["max_box_acc"] == 0
    centred = 360 / (30 * 22.5)  # the object lies within 5, 3.75, 35, 26.25
    assert floors["centred_box"]["mean_iou"] == pytest.approx(centred)
    assert floors["centred_box"]["gt_known_error"] == 0
    assert floors["centred_box"]["max_box_acc_v2"] == pytest.approx(200 / 3)
    assert "max_box_acc_threshold" not in floors["centred_box"]


def test_localization_errors_of_four_images(tmp_path: Path) -> None:
    """Right; right box, class only second; wrong box; constant map. Each has a map of its own."""
    near, far = (10.0, 6.0, 30.0, 16.0), (0.0, 0.0, 8.0, 6.0)
    samples = [sample(f"{name}.png", {0: [BOX]}) for name in "abcd"]
    maps = {"a": box_map(near), "b": box_map(BOX), "c": box_map(far), "d": np.full((15, 20), 3.0, np.float32)}
    for name, heat in maps.items():
        write_map(tmp_path / "maps", f"{name}.png", heat)
    first, second = [(NAMES[0], 0.9, None), (NAMES[1], 0.1, None)], [(NAMES[1], 0.9, None), (NAMES[0], 0.1, None)]
    ranked = {"a.png": first, "b.png": second, "c.png": first, "d.png": first}
    third = [(NAMES[2], 0.0, None)]
    write_predictions(tmp_path, {name: found + third for name, found in ranked.items()})
    document = evaluate_maps(tmp_path, ground(samples))
    metrics = document.metrics
    assert metrics["gt_known_error"] == 50  # a: 200 / 360, b: 1
    assert metrics["mean_iou"] == pytest.approx((200 / 360 + 1 + 0 + 0) / 4)
    assert metrics["top1_error"] == 25
    assert metrics["top5_error"] == 0
    assert metrics["top1_loc_error"] == 75
    assert metrics["top5_loc_error"] == 50
    assert metrics["max_box_acc"] == 50
    assert document.n_degenerate == 1
    assert document.per_class == [
        {
            "class": "apple", "id": "n0", "n": 4, "top1_error": 25.0, "top5_error": 0.0,
            "gt_known_error": 50.0, "cor_loc": 50.0, "mean_iou": pytest.approx((200 / 360 + 1) / 4),
        }
    ]  # fmt: skip
    assert document.notes == []


def test_blacklisted_images_count_for_classes_alone(tmp_path: Path) -> None:
    samples = [sample(name, {0: [BOX]}) for name in ("a.png", "b.png")]
    for item in samples:
        write_map(tmp_path / "maps", item.id, full_map(BOX if item.id == "a.png" else (0, 0, 6, 6)))
    write_predictions(tmp_path, {item.id: [(name, 0.5, None) for name in NAMES] for item in samples})
    judged = ground(samples)
    judged.dataset.blacklist = frozenset({"b.png"})
    document = evaluate_maps(tmp_path, judged)
    assert document.n == 2
    assert document.metrics["top1_error"] == 0
    assert document.metrics["top1_loc_error"] == document.metrics["gt_known_error"] == 0
    assert document.floors["full_image"]["mean_iou"] == pytest.approx(0.3)
    assert document.notes == ["localization leaves out 1 blacklisted images"]


def test_fewer_ranked_classes_than_five_leave_top5_out(tmp_path: Path) -> None:
    write_map(tmp_path / "maps", "a.png", box_map(BOX))
    write_predictions(tmp_path, {"a.png": [(NAMES[0], 0.9, None)]})
    document = evaluate_maps(tmp_path, ground([sample("a.png", {0: [BOX]})]))
    assert document.metrics["top1_error"] == 0
    assert "top5_error" not in document.metrics
    assert "top5_error" not in document.per_class[0]
    assert any("top5_loc_error" in note for note in document.notes)


def test_class_maps_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    other = (0.0, 0.0, 8.0, 6.0)
    write_map(tmp_path, "a.png", np.stack([box_map(other), box_map(BOX), np.zeros((15, 20), np.float16)]))
    about = {"a.png": MapImage(WIDTH, HEIGHT, ("a foreign one", "Red_Bell", "apple"))}
    write_maps_info(tmp_path, MapsInfo(ResolvedReading(method="class"), class_agnostic=False), about.items())
    right = evaluate_maps(tmp_path, ground([sample("a.png", {1: [BOX]})]))
    wrong = evaluate_maps(tmp_path, ground([sample("a.png", {0: [BOX]})]))
    assert right.metrics["gt_known_error"] == 0
    assert wrong.metrics["gt_known_error"] == 100
    assert (right.n_degenerate, wrong.n_degenerate) == (0, 1)
    assert right.options == {"map": "class", "box_rule": "paper20"}


def test_a_missing_class_map_leaves_its_metrics_out_and_says_so(tmp_path: Path) -> None:
    write_map(tmp_path / "maps", "a.png", box_map(BOX)[None])
    about = {"a.png": MapImage(WIDTH, HEIGHT, ("apple",))}
    write_maps_info(tmp_path / "maps", MapsInfo(ResolvedReading(method="class"), class_agnostic=False), about.items())
    write_predictions(tmp_path, {"a.png": [(name, 0.5, None) for name in NAMES]})
    document = evaluate_maps(tmp_path, ground([sample("a.png", {2: [BOX]})]))
    assert {"gt_known_error", "cor_loc", "f_measure", "max_box_acc"} & set(document.metrics) == set()
    assert {"top1_error", "top5_loc_error"} < set(document.metrics)
    assert any(note.startswith("gt_known_error") and "1 of 1" in note for note in document.notes)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({"a.png": np.full((15, 20), np.nan, np.float32)}, "NaN"),
        ({"b.png": np.zeros((15, 20))}, r"no map for 1 of 1 images, such as 'a.png'. It has 'b.png'"),
        ({"a.png": np.zeros((2, 15, 20))}, "2 channels but maps.json names 0 classes"),
        ({"a.png": np.zeros(20)}, r"a map is a numeric array \(H, W\)"),
    ],
)
def test_unusable_maps_are_named(tmp_path: Path, maps: dict[str, np.ndarray], message: str) -> None:
    for name, heat in maps.items():
        np.save(tmp_path / f"{name}.npy", heat)
    with pytest.raises(DataError, match=message):
        evaluate_maps(tmp_path, ground([sample("a.png", {0: [BOX]})]))


def test_a_failed_image_is_not_skipped(tmp_path: Path) -> None:
    write_map(tmp_path / "maps", "a.png", box_map(BOX))
    line = {"schema_version": 1, "image": "a.png", "width": 0, "height": 0, "predictions": []}
    failed = {**line, "error": {"type": "DataError", "message": "is cut off"}}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(failed))
    with pytest.raises(DataError, match=r"a.png failed \(is cut off\).*resume=True"):
        evaluate_maps(tmp_path, ground([sample("a.png", {0: [BOX]})]))


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    write_map(tmp_path, "a.png", box_map(BOX))
    bare = BoxedSample("a.png", Path("a.png"), (0,), size=(WIDTH, HEIGHT))
    with pytest.raises(DataError, match="nothing can be measured"):
        evaluate_maps(tmp_path, ground([bare]))


def test_threshold_curve_and_examples_for_the_report(tmp_path: Path) -> None:
    """Inside of the object the map is 1, around it 0.3: below that the box is the full image, which is wrong."""
    samples = [sample(f"{index}.png", {0: [BOX]}) for index in range(30)]
    for index, item in enumerate(samples):
        heat = np.full((HEIGHT, WIDTH), 0.3, np.float32)
        heat[6 : 24 - index % 15, 10:30] = 1
        heat[0, 0] = 0
        write_map(tmp_path, item.id, heat)
    document = evaluate_maps(tmp_path, ground(samples), box_rule="fixed:0.5")
    curve = document.threshold_curve
    assert curve["chosen"] == 0.5
    assert curve["thresholds"] == pytest.approx(np.arange(100) / 100)
    assert curve["max_box_acc_50"] == pytest.approx([0 if t < 0.3 else 100 * 10 / 15 for t in curve["thresholds"]])
    assert max(curve["max_box_acc_30"]) == document.metrics["max_box_acc_30"] == 100  # the full image is just right
    examples = document.examples
    ious = [example["iou"] for example in examples]
    assert len(examples) == 24
    assert ious == sorted(ious, reverse=True)
    assert ious[0] == 1
    assert ious[-1] == pytest.approx(4 / 18)
    best = next(example for example in examples if example["image"] == "0.png")
    assert best == {
        "image": "0.png",
        "path": "0.png",
        "label": "apple",
        "iou": 1,
        "box": list(BOX),
        "truth": [list(BOX)],
    }
    assert "examples" not in evaluate_maps(tmp_path, ground(samples, protocol="wsoleval")).to_json()


def test_an_example_without_a_box_says_null(tmp_path: Path) -> None:
    write_map(tmp_path, "a.png", np.zeros((3, 4)))
    document = evaluate_maps(tmp_path, ground([sample("a.png", {0: [BOX]})]), box_rule="otsu")
    assert [(example["iou"], example["box"]) for example in document.examples] == [(0, None)]
    assert "chosen" not in document.threshold_curve


# ------------------------------------------------------------------------------------------- several labels, and boxes


def test_multi_label_metrics(tmp_path: Path) -> None:
    """Two classes in a, one of them only difficult in b: it counts neither for AP nor for GT-known."""
    other = (0.0, 0.0, 8.0, 6.0)
    samples = [
        sample("a.png", {0: [BOX], 1: [other]}),
        sample("b.png", {0: [BOX, other], 1: [other]}, ignored=(1,)),
        sample("c.png", {2: [BOX]}),
    ]
    for item in samples:
        write_map(tmp_path / "maps", item.id, box_map(BOX))
    scores = {"a.png": (0.9, 0.2, 0.1), "b.png": (0.3, 0.8, 0.1), "c.png": (0.5, 0.6, 0.7)}
    write_predictions(
        tmp_path, {name: [(n, s, None) for n, s in zip(NAMES, row, strict=True)] for name, row in scores.items()}
    )
    document = evaluate_maps(tmp_path, ground(samples, multi_label=True))
    metrics = document.metrics
    rows = {row["class"]: row for row in document.per_class}
    # apple: ranked a (yes), c (no), b (yes); red bell: b ignored, c (no), a (yes); cello: c (yes)
    assert rows["apple"]["ap_area"] == pytest.approx(100 * (1 / 2 + 1 / 2 * 2 / 3))
    assert rows["red bell"]["ap_area"] == pytest.approx(50)
    assert rows["cello"]["ap_area"] == 100
    assert metrics["voc_map_area"] == pytest.approx((500 / 6 + 50 + 100) / 3)
    assert metrics["gt_known_error"] == 25  # of a0, a1, b0, c2 only a1 is wrong
    assert metrics["cor_loc"] == pytest.approx((100 + 0 + 100) / 3)
    assert {key for key in metrics if key.startswith("top")} == set()
    assert rows["red bell"]["n"] == 1


def test_f_measure_of_class_maps_is_given_for_true_and_for_predicted_classes(tmp_path: Path) -> None:
    other = (0.0, 0.0, 8.0, 6.0)
    write_map(tmp_path / "maps", "a.png", np.stack([full_map(BOX), full_map(other), full_map(other)]))
    about = {"a.png": MapImage(WIDTH, HEIGHT, NAMES)}
    write_maps_info(tmp_path / "maps", MapsInfo(ResolvedReading(method="class"), class_agnostic=False), about.items())
    write_predictions(tmp_path, {"a.png": [("apple", 0.4, None), ("red bell", 0.9, None), ("cello", 0.1, None)]})
    metrics = evaluate_maps(tmp_path, ground([sample("a.png", {0: [BOX]})], multi_label=True)).metrics
    assert metrics["f_measure"] == pytest.approx(1)
    assert metrics["f_measure_predicted"] == 0
    assert metrics["f_of_means_predicted"] == 0


def test_boxes_file_as_lines_and_as_table(tmp_path: Path) -> None:
    near = (10.0, 6.0, 30.0, 16.0)
    samples = [sample("a.png", {0: [BOX]}), sample("b.png", {0: [BOX]})]
    lines = write_predictions(tmp_path, {"a.png": [("apple", 0.9, near), ("cello", 0.3, None), ("red bell", 0.1, BOX)]})
    table = tmp_path / "boxes.csv"
    table.write_text(
        "image,width,height,label,label_id,score,x0,y0,x1,y1\n"
        "a.png,40,30,apple,n0,0.9,10,6,30,16\na.png,40,30,cello,n2,0.3,,,,\na.png,40,30,red bell,n1,0.1,10,6,30,24\n"
    )
    documents = [evaluate_boxes(path, ground(samples)) for path in (lines, table)]
    assert documents[0].metrics == documents[1].metrics
    metrics = documents[0].metrics
    assert metrics["gt_known_error"] == 50  # b is left out of the file: no box
    assert metrics["top1_loc_error"] == 50
    assert metrics["mean_iou"] == pytest.approx(200 / 360 / 2)
    assert documents[0].n_degenerate == 1
    assert "f_measure" not in metrics
    assert "max_box_acc" not in metrics


@pytest.mark.parametrize("name", [name for name, entry in EXPORTERS.items() if entry.filename or name in READERS])
def test_every_file_of_boxes_is_evaluated_and_a_missing_box_is_a_miss(tmp_path: Path, name: str) -> None:
    """In b the class that is there has no box, and c is not in the file at all."""
    samples = [sample(f"{letter}.png", {0: [BOX]}) for letter in "abc"]
    lines = write_predictions(tmp_path, {"a.png": [("apple", 0.9, BOX)], "b.png": [("cello", 0.8, BOX)]})
    path = tmp_path / f"boxes{EXPORTERS[name].suffix}"
    EXPORTERS[name].build().write(path, read_predictions(lines))
    document = evaluate_boxes(path, ground(samples))
    assert document.metrics["gt_known_error"] == pytest.approx(200 / 3)
    assert document.metrics["margin"] == pytest.approx(100 / 3 - 100)  # the centred box is always right
    assert any("2 of 3 images have no box of a class that is there, such as 'b.png'" in note for note in document.notes)
    assert find_subject(str(path)).kind == "boxes"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,width\na.png,3\n", "lacks the columns"),
        ("image,width,height,label,label_id,score,x0,y0,x1,y1\na.png,40,30,x,x,high,,,,\n", "cannot read .*high"),
        ("image,width,height,label,label_id,score,x0,y0,x1,y1\na.png,40\n", "cannot read"),
        ("image,width,height,label,label_id,score,x0,y0,x1,y1\nz.png,40,30,x,x,1,,,,\n", "has no image of tiny"),
    ],
)
def test_broken_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        evaluate_boxes(tmp_path / "boxes.csv", ground([sample("a.png", {0: [BOX]})]))


# ------------------------------------------------------------------------------------------- classes, masks, targets


def test_classes_match_by_id_then_name_never_by_number() -> None:
    classes = [ClassName("crane", "n1"), ClassName("crane", "n2"), ClassName("Red Panda", "n3")]
    matcher = ClassMatcher(classes)
    assert matcher.index("crane", "n2") == 1
    assert matcher.index("crane") == FOREIGN  # two of them: nobody knows which
    assert matcher.index("red_panda") == 2
    assert matcher.index("n3") == 2
    known = [ClassName("red panda", "x"), ClassName("other", "y"), ClassName("crane", "n1")]
    assert match_classes(known, classes, [0, 2], "m", "d").tolist() == [2, FOREIGN, 0]
    with pytest.raises(DataError, match=r"m does not know 1 of the classes of d: 'crane'"):
        match_classes(known, classes, [0, 1], "m", "d")
    with pytest.raises(DataError, match="m and d share no class name or id: m knows 'other'"):
        match_classes(known[1:2], classes, [0], "m", "d")


def test_masks_come_from_the_folder_or_the_sample(tmp_path: Path) -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[:, :10] = 255
    cv2.imwrite(str(tmp_path / "a.png"), mask)
    own = sample("x/a.jpg", {0: [BOX]}, mask=tmp_path / "a.png")
    for masks in (Masks(tmp_path), Masks()):
        found = masks.at(own, 40, 30)
        assert found is not None
        assert found.shape == (30, 40)
        assert found.sum() == 30 * 20
    assert Masks().at(sample("b", {0: [BOX]}), 40, 30) is None
    with pytest.raises(DataError, match=r"no mask for 'b\.jpg'"):
        Masks(tmp_path).at(sample("b.jpg", {0: [BOX]}), 40, 30)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no mask"):
        Masks(tmp_path / "empty")


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda path: path, Options(), DataError, "neither a run or model"),
        (lambda path: path / "nowhere", Options(), ModelError, "no model"),
        (lambda path: _touch(path / "x.txt"), Options(), DataError, "no file of boxes"),
        (lambda path: _maps(path), Options(), UsageError, "dataset="),
        (
            lambda path: _maps(path),
            Options(reading=MapReading(method="class"), dataset="voc"),
            UsageError,
            "map= cannot be used on maps",
        ),
        (lambda path: _maps(path), Options(dataset="voc", calibrate=True), UsageError, "calibrate= cannot"),
        (lambda path: _maps(path), Options(protocol="wsol"), UsageError, "Did you mean 'wsoleval'"),
        (lambda path: _maps(path), Options(protocol="wsoleval", box_rule="otsu"), UsageError, "its own box rule"),
        (lambda path: _maps(path), Options(dataset="tiny-imagenot"), UsageError, "tiny-imagenet"),
        (lambda path: _touch(path / "x.jsonl"), Options(box_rule="otsu"), UsageError, "box_rule= cannot"),
    ],
)
def test_wrong_targets_and_options(
    tmp_path: Path, make: Callable[[Path], Path], options: Options, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(str(make(tmp_path)), options)


def _touch(path: Path) -> Path:
    path.touch()
    return path


def _maps(path: Path) -> Path:
    np.save(path / "a.png.npy", np.zeros((3, 4)))
    return path


# ---------------------------------------------------------------------------------------------------- without torch


def make_class_folders(folder: Path) -> Path:
    """Write two classes with one image each and boxes in a manifest."""
    folder.mkdir()
    rows = ["image,label,split,x0,y0,x1,y1"]
    for name in NAMES[:2]:
        cv2.imwrite(str(folder / f"{name}.png"), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
        rows.append(f"{name}.png,{name},val,{','.join(map(str, BOX))}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder


def test_maps_are_evaluated_without_torch(tmp_path: Path) -> None:
    data = make_class_folders(tmp_path / "data")
    for name in NAMES[:2]:
        write_map(tmp_path / "maps", f"{name}.png", box_map(BOX))
    script = (
        "import json, sys\nfrom pathlib import Path\nfrom gwapctl.evaluate import Options, evaluate\n"
        f"document = evaluate({str(tmp_path / 'maps')!r}, Options(dataset={str(data)!r}))\n"
        "assert 'torch' not in sys.modules\nprint(document.metrics['gt_known_error'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert math.isclose(float(done.stdout), 0)
