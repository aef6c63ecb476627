"""Classification and detection: average precision and top-k error."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from reference import voc_ap
from sklearn.metrics import precision_recall_curve

from gwapctl.boxes import from_inclusive, to_xywh
from gwapctl.errors import DataError
from gwapctl.metrics.average_precision import ap_11pt, ap_area, precision_recall
from gwapctl.metrics.classification import ClassificationAP, TopKError
from gwapctl.metrics.detection import DetectionAP

steady = settings(derandomize=True, deadline=None, max_examples=100)
seeds = st.integers(0, 2**32 - 1)


def _of_one_class(scores: list[float], labels: list[int]) -> dict[str, float]:
    metric = ClassificationAP(1)
    for score, label in zip(scores, labels, strict=True):
        metric.update([score], [0] if label == 1 else [], [0] if label == 0 else [])
    return metric.compute()


# --- classification --------------------------------------------------------------------------------------------------


def test_average_precision_by_hand() -> None:
    # ranked: right, wrong, right, difficult, right -> precision 1, 1/2, 2/3, 2/3, 3/4 at recall 1/3, 1/3, 2/3, 2/3, 1
    found = _of_one_class([0.9, 0.8, 0.7, 0.6, 0.5], [1, -1, 1, 0, 1])
    assert found["voc_map_11pt"] == pytest.approx(100 * (4 * 1 + 7 * 0.75) / 11)
    assert found["voc_map_area"] == pytest.approx(100 * (1 / 3 + 2 / 3 * 0.75))


def test_a_recall_of_exactly_three_tenths_does_not_reach_the_fourth_point() -> None:
    scores, labels = list(range(20, 0, -1)), [1] * 3 + [-1] * 10 + [1] * 7
    late = 10 / 20  # the best precision after the wrong ones
    assert _of_one_class(scores, labels)["voc_map_11pt"] == pytest.approx(100 * (3 * 1 + 8 * late) / 11)
    right = np.array(labels) == 1
    assert ap_11pt(*precision_recall(right, np.ones(20, bool), 10), eps=1e-9) == pytest.approx((4 * 1 + 7 * late) / 11)


def test_difficult_images_at_the_top_count_neither_way() -> None:
    assert _of_one_class([3, 2, 1], [0, 0, 1]) == {"voc_map_11pt": 100, "voc_map_area": 100}


def test_equal_scores_keep_the_order_of_the_images() -> None:
    assert _of_one_class([0.5, 0.5], [1, -1])["voc_map_area"] == 100
    assert _of_one_class([0.5, 0.5], [-1, 1])["voc_map_area"] == 50


@steady
@given(seeds, st.integers(1, 40), st.sampled_from([3, 1000]))
def test_classification_agrees_with_the_kits_loops(seed: int, count: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    scores = (generator.integers(0, levels, count) / levels).tolist()
    labels = [1, *generator.choice([-1, 0, 1], count - 1, p=[0.5, 0.2, 0.3]).tolist()]
    expected = voc_ap.classification(scores, labels)
    found = _of_one_class(scores, labels)
    assert (found["voc_map_11pt"], found["voc_map_area"]) == pytest.approx(tuple(100 * value for value in expected))


@steady
@given(seeds, st.integers(2, 40))
def test_classification_agrees_with_scikit_learns_curve(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    scores, labels = generator.permutation(count) / count, np.r_[1, generator.integers(0, 2, count - 1)]
    precision, recall, _ = precision_recall_curve(labels, scores)
    precision = precision[:-1]  # scikit-learn ends its curve with precision 1 at recall 0, where nothing was answered
    grid = [precision[recall[:-1] >= k * 0.1].max() for k in range(11)]
    envelope = [precision[recall[:-1] >= level].max() for level in recall[:-1]]
    found = _of_one_class(scores.tolist(), (2 * labels - 1).tolist())
    assert found["voc_map_11pt"] == pytest.approx(100 * np.mean(grid))
    assert found["voc_map_area"] == pytest.approx(-100 * np.sum(np.diff(recall) * envelope))


def test_the_mean_is_over_classes_with_a_positive_image() -> None:
    metric = ClassificationAP(3)
    metric.update([0.9, 0.1, 0.3], [0])
    metric.update([0.8, 0.7, 0.2], [1], [0])
    metric.update([0.1, 0.9, 0.1], [0])
    rows = metric.per_class()
    assert sorted(rows) == [0, 1]  # nothing is known about class 2
    assert rows[0]["ap_area"] == 100
    assert rows[1]["ap_area"] == 50
    assert metric.compute()["voc_map_area"] == 75


def test_labels_win_over_ignored() -> None:
    metric = ClassificationAP(1)
    metric.update([0.5], [0], [0])
    assert metric.compute() == {"voc_map_11pt": 100, "voc_map_area": 100}


def test_nothing_to_say_without_images_or_positives() -> None:
    metric = ClassificationAP(2)
    assert (metric.compute(), metric.per_class()) == ({}, {})
    metric.update([0.1, 0.2], [])
    assert (metric.compute(), metric.per_class()) == ({}, {})


def test_broken_scores_are_refused() -> None:
    metric = ClassificationAP(2)
    with pytest.raises(DataError, match="2 classes"):
        metric.update([0.1, 0.2, 0.3], [0])
    metric.update([0.1, np.nan], [1])
    with pytest.raises(DataError, match="NaN"):
        metric.compute()


def test_average_precision_of_an_empty_list_is_zero() -> None:
    nothing = np.zeros(0)
    assert ap_11pt(nothing, nothing) == 0
    assert ap_area(nothing, nothing) == 0


def test_top_k_error_by_hand() -> None:
    metric = TopKError()
    metric.update([3, 1, 4, 0, 5, 9], 3)  # first
    metric.update([3, 1, 4, 0, 5, 9], 5)  # fifth
    metric.update([3, 1, 4, 0, 5, 9], 9)  # sixth
    metric.update([2], 3)  # a network of one class
    assert metric.compute() == {"top1_error": 75, "top5_error": 50}
    assert metric.per_class()[3] == {"top1_error": 50, "top5_error": 50}
    assert TopKError().compute() == {}


# --- detection -------------------------------------------------------------------------------------------------------


def test_detection_by_hand() -> None:
    metric = DetectionAP()
    objects = [[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]]
    metric.update(
        [[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [50, 50, 60, 60], [0, 20, 10, 25]],
        [0.9, 0.8, 0.7, 0.6, 0.5],  # right, a second time, difficult, nothing there, IoU of exactly 0.5
        [7] * 5,
        objects,
        [7, 7, 7],
        [False, True, False],
    )
    # outcomes right, wrong, neither, wrong, right of 2 objects -> precision 1, 1/2, 1/2, 1/3, 1/2
    assert metric.compute()["det_map_area"] == pytest.approx(100 * (0.5 * 1 + 0.5 * 0.5))
    assert metric.compute()["det_map_11pt"] == pytest.approx(100 * (6 * 1 + 5 * 0.5) / 11)


def _scene(seed: int) -> tuple[list[tuple[int, float, int, list[int]]], list[tuple[int, int, list[int], bool]]]:
    """Draw detections (image, score, class, inclusive corners) near objects (image, class, corners, difficult)."""
    generator = np.random.default_rng(seed)

    def corners() -> list[int]:
        x, y = np.sort(generator.integers(0, 12, 2)), np.sort(generator.integers(0, 9, 2))
        return [int(x[0]), int(y[0]), int(x[1]) + 3, int(y[1]) + 3]

    objects = [
        (int(generator.integers(0, 4)), int(generator.integers(0, 2)), corners(), bool(generator.random() < 0.3))
    ]
    objects += [
        (int(generator.integers(0, 4)), int(generator.integers(0, 2)), corners(), bool(generator.random() < 0.3))
        for _ in range(generator.integers(0, 9))
    ]
    detections = []
    for _ in range(generator.integers(0, 15)):
        image, label, box, _ = objects[generator.integers(0, len(objects))]
        moved = [value + int(generator.integers(-1, 2)) for value in box]
        detections.append((image, float(generator.integers(0, 8) / 8), label, moved))
    return detections, objects


def _metric(
    detections: list[tuple[int, float, int, list[int]]], objects: list[tuple[int, int, list[int], bool]], coco: bool
) -> DetectionAP:
    metric = DetectionAP(coco=coco)
    for image in range(4):
        found = [item for item in detections if item[0] == image]
        real = [item for item in objects if item[0] == image]
        metric.update(
            from_inclusive([item[3] for item in found]),
            [item[1] for item in found],
            [item[2] for item in found],
            from_inclusive([item[2] for item in real]),
            [item[1] for item in real],
            [item[3] for item in real],
        )
    return metric


@steady
@given(seeds)
def test_detection_agrees_with_the_kits_loops(seed: int) -> None:
    detections, objects = _scene(seed)
    # the kit reads one file per class, image after image
    detections.sort(key=lambda item: item[0])
    rows = _metric(detections, objects, coco=False).per_class()
    present = {label for _, label, _, difficult in objects if not difficult}
    assert set(rows) == present
    for label in present:
        expected = voc_ap.detection(
            [(image, score, box) for image, score, which, box in detections if which == label],
            [(image, box, difficult) for image, which, box, difficult in objects if which == label],
        )
        assert (rows[label]["det_ap_11pt"], rows[label]["det_ap_area"]) == pytest.approx(
            [100 * one for one in expected]
        )


@settings(derandomize=True, deadline=None, max_examples=15)
@given(seeds)
def test_coco_map_agrees_with_pycocotools(seed: int) -> None:
    detections, objects = _scene(seed)
    found = _metric(detections, objects, coco=True).compute()
    if not found:
        return
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image} for image in range(1, 5)],
        "categories": [{"id": label} for label in sorted({item[1] for item in objects})],
        "annotations": [
            {"id": number, "image_id": image + 1, "category_id": label, "iscrowd": int(difficult)} | _coco_box(box)
            for number, (image, label, box, difficult) in enumerate(objects, start=1)
        ],
    }
    answers = [
        {"image_id": image + 1, "category_id": label, "score": score} | _coco_box(box)
        for image, score, label, box in detections
    ]
    if not answers:
        assert found["coco_map"] == 0
        return
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert found["coco_map"] == pytest.approx(100 * evaluation.stats[0])


def _coco_box(corners: list[int]) -> dict[str, object]:
    x, y, width, height = to_xywh(from_inclusive(corners))[0].tolist()
    return {"bbox": [x, y, width, height], "area": width * height}


def test_detections_of_a_class_that_is_nowhere_are_not_judged() -> None:
    metric = DetectionAP()
    metric.update([[0, 0, 1, 1]], [0.5], [3], [], [], [])
    assert metric.compute() == {}
    metric.update([], [], [], [[0, 0, 1, 1]], [3], [True])
    assert metric.compute() == {}  # a difficult object alone is no class, either
    metric.update([], [], [], [[0, 0, 2, 1]], [2], [False])
    assert metric.compute() == {"det_map_11pt": 0, "det_map_area": 0}


def test_detection_refuses_what_does_not_fit() -> None:
    metric = DetectionAP()
    with pytest.raises(DataError, match="one box, one score and one class"):
        metric.update([[0, 0, 1, 1]], [0.5, 0.4], [3], [], [], [])
    with pytest.raises(DataError, match="difficult flag"):
        metric.update([], [], [], [[0, 0, 1, 1]], [1], [])
    with pytest.raises(DataError, match="NaN"):
        metric.update([[0, 0, 1, 1]], [np.nan], [1], [[0, 0, 1, 1]], [1], [False])
