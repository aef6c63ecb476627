"""Localization errors, CorLoc, F-measure and foreground IoU."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwapctl.errors import DataError
from gwapctl.metrics.foreground import FMeasure, ForegroundIoU, boxes_mask, f_beta, otsu_foreground, union_of_maps
from gwapctl.metrics.judged import Guess
from gwapctl.metrics.localization import FLOORS, GtKnownLocalization, TopKLocalization, best_iou

steady = settings(derandomize=True, deadline=None, max_examples=60)
seeds = st.integers(0, 2**32 - 1)
RIGHT, WRONG = [0, 0, 10, 10], [50, 50, 60, 60]
TRUTH = {1: [[0, 0, 10, 10], [30, 0, 40, 10]]}


# --- top-k -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guesses", "top1", "top5"),
    [
        ([Guess(1, RIGHT)], 0, 0),
        ([Guess(1, [30, 0, 40, 10])], 0, 0),  # any object of the class will do
        ([Guess(1, [0, 0, 10, 5])], 0, 0),  # an IoU of exactly 0.5 is right
        ([Guess(1, [0, 0, 10, 4.9])], 100, 100),
        ([Guess(2, RIGHT)], 100, 100),  # right place, wrong class
        ([Guess(1, WRONG)], 100, 100),
        ([Guess(1, None)], 100, 100),
        ([], 100, 100),
        ([Guess(2, RIGHT), Guess(1, RIGHT)], 100, 0),
        ([Guess(1, WRONG), Guess(1, RIGHT)], 100, 0),  # one class twice: CAM's five guesses
        ([*[Guess(0, RIGHT)] * 4, Guess(1, RIGHT)], 100, 0),
        ([*[Guess(0, RIGHT)] * 5, Guess(1, RIGHT)], 100, 100),  # sixth
    ],
)
def test_top_k_localization(guesses: list[Guess], top1: float, top5: float) -> None:
    metric = TopKLocalization()
    metric.update(guesses, TRUTH)
    assert metric.compute() == {"top1_loc_error": top1, "top5_loc_error": top5}


def test_top_k_localization_averages_over_images() -> None:
    metric = TopKLocalization()
    assert metric.compute() == {}
    for guess in (Guess(1, RIGHT), Guess(1, WRONG), Guess(1, None)):
        metric.update([guess], TRUTH)
    assert metric.compute()["top1_loc_error"] == pytest.approx(200 / 3)


# --- GT-known --------------------------------------------------------------------------------------------------------


def test_gt_known_pools_pairs_and_corloc_averages_classes() -> None:
    metric = GtKnownLocalization()
    metric.update({1: RIGHT, 2: WRONG}, {1: [RIGHT], 2: [RIGHT]})
    metric.update({1: [0, 0, 10, 5]}, {1: [RIGHT]})
    metric.update({1: None}, {1: [RIGHT]})
    metric.update({}, {1: [RIGHT]})
    found = metric.compute()
    assert found["gt_known_error"] == 60  # 2 of 5 are right
    assert found["cor_loc"] == 25  # class 1: 2 of 4, class 2: 0 of 1
    assert found["mean_iou"] == pytest.approx((1 + 0 + 0.5 + 0 + 0) / 5)
    assert metric.n_degenerate == 2
    assert metric.per_class()[1] == {"gt_known_error": 50, "cor_loc": 50, "mean_iou": 0.375}


def test_gt_known_of_nothing() -> None:
    metric = GtKnownLocalization()
    metric.update({1: RIGHT}, {})
    assert (metric.compute(), metric.per_class(), metric.n_degenerate) == ({}, {}, 0)


def test_a_map_without_a_box_is_wrong_where_the_full_frame_would_be_right() -> None:
    degenerate, floor = GtKnownLocalization(), GtKnownLocalization()
    degenerate.update({0: None}, {0: [[0, 0, 100, 80]]})
    floor.update({0: FLOORS["full_image"](100, 80)[0]}, {0: [[0, 0, 100, 80]]})
    assert degenerate.compute()["gt_known_error"] == 100
    assert floor.compute()["gt_known_error"] == 0


@pytest.mark.parametrize(("box", "objects"), [(None, [RIGHT]), (RIGHT, []), (WRONG, [RIGHT])])
def test_no_overlap(box: list[float] | None, objects: list[list[float]]) -> None:
    assert best_iou(box, objects) == 0


def test_floors_never_look_at_the_image() -> None:
    assert {name: floor(40, 20).tolist() for name, floor in FLOORS.items()} == {
        "full_image": [[0, 0, 40, 20]],
        "centred_box": [[5, 2.5, 35, 17.5]],
    }


# --- F-measure -------------------------------------------------------------------------------------------------------


def test_f_measure_by_hand() -> None:
    metric = FMeasure()
    metric.update([[1, 1, 0, 0]], [[1, 0, 1, 0]])  # P 1/2, R 1/2
    metric.update([[1, 1, 0, 0]], [[1, 1, 1, 1]])  # P 1, R 1/2
    metric.update([[0, 0, 0, 0]], [[1, 1, 0, 0]])  # nothing found
    metric.update([[1, 0, 0, 0]], [[0, 0, 0, 1]])  # nothing right
    each = [0.5, 1.3 * 0.5 / (0.3 + 0.5), 0, 0]
    assert metric.compute()["f_measure"] == pytest.approx(sum(each) / 4)
    precision, recall = 1.5 / 4, 1 / 4
    expected = 1.3 * precision * recall / (0.3 * precision + recall)
    assert metric.compute()["f_of_means"] == pytest.approx(expected)
    assert metric.compute()["fg_precision"] == pytest.approx(precision)
    assert metric.compute()["fg_recall"] == pytest.approx(recall)
    assert metric.compute()["fg_area"] == pytest.approx((0.5 + 0.5 + 0 + 0.25) / 4)


def test_f_measure_weighs_precision_more() -> None:
    assert f_beta(1, 0.5) > f_beta(0.5, 1)
    assert f_beta(1, 1) == pytest.approx(1)
    assert f_beta(0, 0) == 0


def test_images_without_objects_have_no_f_measure() -> None:
    metric = FMeasure()
    metric.update([[1, 0]], [[0, 0]])
    assert metric.compute() == {}


def test_masks_must_fit() -> None:
    with pytest.raises(DataError, match="shape"):
        FMeasure().update([[1, 0]], [[1, 0, 1]])


@steady
@given(seeds, st.integers(1, 20), st.integers(1, 20))
def test_f_measure_agrees_with_counting_pixels(seed: int, height: int, width: int) -> None:
    generator = np.random.default_rng(seed)
    found, real = generator.random((2, height, width)) < generator.random((2, 1, 1))
    metric = FMeasure()
    metric.update(found, real)
    pixels = [(bool(f), bool(r)) for f, r in zip(found.ravel(), real.ravel(), strict=True)]
    both, m, g = pixels.count((True, True)), sum(f for f, _ in pixels), sum(r for _, r in pixels)
    if g == 0:
        assert metric.compute() == {}
    else:
        p, r = (both / m if m else 0), both / g
        expected = 1.3 * p * r / (0.3 * p + r) if p + r else 0
        foreground = {"fg_precision": p, "fg_recall": r, "fg_area": m / len(pixels)}
        assert metric.compute() == pytest.approx({"f_measure": expected, "f_of_means": expected, **foreground})


def test_a_pixel_belongs_to_a_box_when_its_centre_does() -> None:
    assert boxes_mask([[0.5, 0, 2.5, 1]], 4, 1).tolist() == [[True, True, False, False]]
    assert boxes_mask([[0.51, 0, 2.51, 1]], 4, 1).tolist() == [[False, True, True, False]]
    assert boxes_mask([[0, 0, 1, 1], [3, 1, 9, 9]], 4, 2).tolist() == [[True, *[False] * 3], [*[False] * 3, True]]
    assert not boxes_mask([[-5, 0, -1, 2], [2, 0, 2, 2]], 4, 2).any()
    assert boxes_mask([], 4, 2).shape == (2, 4)


def test_otsu_foreground_is_cut_at_the_size_of_the_image() -> None:
    heatmap = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    mask = otsu_foreground(heatmap, 12, 6)
    assert mask.shape == (6, 12)
    assert mask[:, 10:].all()
    assert not mask[:, :6].any()
    assert not otsu_foreground(np.full((2, 3), 0.4), 12, 6).any()
    with pytest.raises(DataError, match="NaN"):
        otsu_foreground([[0, np.nan]], 4, 4)


def test_union_of_maps_stretches_each_first() -> None:
    assert union_of_maps([[[0, 1, 2]], [[10, 0, 0]]]).tolist() == [[1, 0.5, 1]]


# --- foreground IoU --------------------------------------------------------------------------------------------------


def test_foreground_iou_by_hand() -> None:
    metric = ForegroundIoU()
    metric.update(np.array([[0, 100, 200, 250]], np.uint8), np.array([[0, 0, 1, 1]]))
    assert metric.compute()["fg_iou"] == 1
    assert metric.compute()["fg_iou_threshold"] == 100
    np.testing.assert_allclose(metric.curve[[0, 99, 100, 199, 200, 249, 250]], [2 / 3, 2 / 3, 1, 1, 0.5, 0.5, 0])


def test_pooled_foreground_iou_weighs_pixels_not_images() -> None:
    metric = ForegroundIoU()
    metric.update(np.array([[0, 255]], np.uint8), np.array([[0, 1]]))
    metric.update(np.array([[0, 0, 0, 255]], np.uint8), np.array([[1, 1, 1, 1]]))
    assert metric.compute()["fg_iou"] == (1 + 0.25) / 2
    assert metric.compute()["fg_iou_pooled"] == (1 + 1) / (1 + 4)


def test_ignored_pixels_do_not_count() -> None:
    metric = ForegroundIoU()
    metric.update(np.array([[0, 255, 255]], np.uint8), np.array([[0, 1, 255]]))
    assert metric.compute()["fg_iou"] == 1


@settings(derandomize=True, deadline=None, max_examples=12)
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_foreground_iou_agrees_with_cutting_at_every_level(seed: int, height: int, width: int, resized: bool) -> None:
    generator = np.random.default_rng(seed)
    metric = ForegroundIoU()
    expected = np.zeros((3, 256))
    for image in range(3):
        heatmap = generator.normal(size=(height, width) if not resized else (4, 3)).astype(np.float32)
        mask = generator.choice([0, 1, 255], (height, width))
        metric.update(heatmap, mask)
        heat = heatmap - heatmap.min()
        heat = cv2.resize(heat / (heat.max() or 1), (width, height), interpolation=cv2.INTER_LINEAR)
        levels = np.rint(heat * np.float32(255))
        for cut in range(256):
            found, real, counted = levels > cut, mask == 1, mask != 255
            union = ((found | real) & counted).sum()
            expected[image, cut] = (found & real).sum() / union if union else 0
    np.testing.assert_allclose(metric.curve, expected.mean(axis=0))


def test_foreground_iou_of_nothing_and_of_broken_masks() -> None:
    metric = ForegroundIoU()
    assert metric.compute() == {}
    with pytest.raises(DataError, match=r"\(H, W\)"):
        metric.update(np.zeros((2, 3)), np.zeros((2, 3, 1)))
    with pytest.raises(DataError, match="NaN"):
        metric.update(np.array([[np.nan, 1]]), np.zeros((1, 2)))
    metric.update(np.zeros((2, 3)), np.zeros((2, 3)))  # no object, nothing found
    assert metric.compute()["fg_iou"] == 0
