"""All thresholds at once: the sweeps equal brute force, MaxBoxAcc and PxAP equal wsolevaluation."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.components import box_around, components, minmax
from reference.contour_loop import best_ious, boxes_at_thresholds
from reference.pixel_ap import pixel_ap

from gwapctl.boxes import from_inclusive, iou
from gwapctl.errors import DataError
from gwapctl.metrics.box_accuracy import THRESHOLDS, BoxAccuracy
from gwapctl.metrics.pixel_ap import PixelAP
from gwapctl.metrics.wsoleval import SIDE, WsolevalBoxAccuracy, grid_map, grid_objects
from gwapctl.regions import map_to_boxes, parse_box_rule, sweep
from gwapctl.regions.contours import byte_levels, loose_boxes
from gwapctl.regions.sweep import component_boxes, contour_boxes, contour_ious

steady = settings(derandomize=True, deadline=None, max_examples=60)
TAUS = np.arange(0, 1, 0.05)

UNIMODAL = np.array([[0, 0, 0, 0, 0], [0, 0.4, 0.4, 0.4, 0.6], [0, 0.4, 1, 0.8, 0.6], [0, 0.4, 0.4, 0.4, 0.6]])
UNIMODAL_CORNERS = [[1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3]]


@st.composite
def heatmaps(draw: st.DrawFn) -> np.ndarray:
    """Draw noise with many ties, with few, smooth hills, or holes inside of shapes; not square."""
    height, width = draw(st.integers(1, 13)), draw(st.integers(1, 16))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "levels", "hills", "holes"]))
    if kind == "noise":
        return generator.random((height, width))
    if kind == "levels":
        return generator.integers(0, 4, (height, width)) / 3
    if kind == "hills":
        return np.clip(cv2.resize(generator.random((4, 4)), (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    return (generator.random((height, width)) < 0.7).astype(float)


# --- largest component -----------------------------------------------------------------------------------------------


@steady
@given(heatmaps())
def test_the_component_sweep_equals_brute_force(heatmap: np.ndarray) -> None:
    boxes, sizes = component_boxes(heatmap, TAUS)
    heat = minmax(heatmap)
    for tau, box, size in zip(TAUS, boxes, sizes, strict=True):
        found = components(heat > np.float32(tau))
        assert size == (found[0].sum() if found else 0)
        assert box.tolist() == (box_around(found[0]) if found else [0, 0, 0, 0])


@steady
@given(heatmaps(), st.lists(st.floats(0, 0.999), min_size=1, max_size=5))
def test_the_component_sweep_equals_the_fixed_rule(heatmap: np.ndarray, taus: list[float]) -> None:
    for tau, box, size in zip(sorted(taus), *component_boxes(heatmap, sorted(taus)), strict=True):
        regions = map_to_boxes(heatmap, parse_box_rule(f"fixed:{tau}"))
        assert [region.area_px for region in regions] == ([size] if size else [])
        assert [region.box.tolist() for region in regions] == ([box.tolist()] if size else [])


def test_the_component_sweep_takes_uneven_and_repeated_thresholds() -> None:
    heatmap = [[0, 0.1, 0.5, 1.0]]
    boxes, sizes = component_boxes(heatmap, [0, 0.0001, 0.0001, 0.9, 0.99])
    assert sizes.tolist() == [3, 3, 3, 1, 1]
    assert boxes[:, 0].tolist() == [1, 1, 1, 3, 3]


@pytest.mark.parametrize("heatmap", [np.zeros((3, 4)), np.full((1, 1), 5.0), np.full((2, 7), -1.0)])
def test_constant_maps_have_no_component(heatmap: np.ndarray) -> None:
    boxes, sizes = component_boxes(heatmap, TAUS)
    assert not boxes.any()
    assert not sizes.any()


def test_one_pixel_on_the_rim() -> None:
    heatmap = np.zeros((3, 5))
    heatmap[2, 4] = 1
    boxes, sizes = component_boxes(heatmap, [0.5])
    assert boxes.tolist() == [[4, 2, 5, 3]]
    assert sizes.tolist() == [1]


# --- contours --------------------------------------------------------------------------------------------------------


@steady
@given(heatmaps(), st.integers(0, 2**32 - 1))
def test_the_contour_sweeps_equal_following_every_contour(heatmap: np.ndarray, seed: int) -> None:
    height, width = heatmap.shape
    levels = byte_levels(heatmap)
    if levels.max() == 0:
        return
    cuts = (TAUS * int(levels.max())).astype(np.int64)
    generator = np.random.default_rng(seed)
    x, y = np.sort(generator.integers(0, width, (2, 2))), np.sort(generator.integers(0, height, (2, 2)))
    objects = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).tolist()

    expected = [each[0] for each in boxes_at_thresholds(heatmap, TAUS, every_contour=False)]
    found = loose_boxes(contour_boxes(levels, cuts), width, height)
    assert (found - [0, 0, 1, 1]).tolist() == expected
    ious = contour_ious(levels, cuts, from_inclusive(objects))
    assert ious.tolist() == best_ious(heatmap, TAUS, objects, every_contour=True)


def test_an_inner_contour_can_be_the_better_box() -> None:
    levels = np.full((20, 30), 255, np.uint8)
    levels[5:12, 8:20] = 0
    inside = from_inclusive([7, 4, 21, 13])  # around the hole's border, a pixel more to the right and below
    assert contour_ious(levels, np.array([100]), inside).tolist() == [1.0]
    assert contour_boxes(levels, np.array([100])).tolist() == [[0, 0, 30, 20]]


@pytest.mark.parametrize("taus", [[0, 0.2, 0.4, 0.6, 0.8]])
def test_wsolevaluations_own_example(taus: list[float]) -> None:
    levels = byte_levels(UNIMODAL)
    boxes = loose_boxes(contour_boxes(levels, (np.array(taus) * 255).astype(np.int64)), 5, 4)
    assert (boxes - [0, 0, 1, 1]).tolist() == UNIMODAL_CORNERS


# --- MaxBoxAcc -------------------------------------------------------------------------------------------------------


def test_max_box_acc_by_hand() -> None:
    heatmap = np.zeros((10, 20))
    heatmap[:, :8] = 0.4
    heatmap[2:6, 1:7] = 1  # above 0.4 a box of 6 x 4, below it one of 8 x 10
    metric = BoxAccuracy(np.array([0.1, 0.3, 0.5]))
    metric.update(heatmap, [[2, 4, 14, 12]], 40, 20)  # the small box exactly, in an image of twice the size
    metric.update(heatmap, [[0, 0, 16, 20]], 40, 20)  # the large one
    metric.update(heatmap, [[30, 10, 40, 20]], 40, 20)  # neither
    metric.update(np.zeros((4, 4)), [[0, 0, 40, 20]], 40, 20)  # no box
    assert metric.n_degenerate == 1
    # of the two boxes 6 x 4 is 0.3 of 8 x 10
    np.testing.assert_allclose(metric.curve.accuracy, [[50, 50, 50], [25, 25, 25], [25, 25, 25]])
    assert metric.compute() == {
        "max_box_acc": 25,
        "max_box_acc_30": 50,
        "max_box_acc_50": 25,
        "max_box_acc_70": 25,
        "max_box_acc_threshold": 0.1,
        "max_box_acc_v2": pytest.approx(100 / 3),
    }
    assert metric.curve.at(0.45, 30) == 50


def test_a_threshold_from_other_data_can_be_worse_than_the_oracle() -> None:
    heatmap = np.array([[0, 0.2, 0.2, 0.2, 1.0]])
    metric = BoxAccuracy()
    metric.update(heatmap, [[1, 0, 5, 1]], 5, 1)
    assert metric.compute()["max_box_acc"] == 100
    assert metric.curve.best_threshold() == 0
    assert metric.curve.at(0.5) == 0


@pytest.mark.parametrize("metric", [BoxAccuracy, WsolevalBoxAccuracy])
def test_max_box_acc_of_nothing_and_of_broken_maps(metric: type[BoxAccuracy] | type[WsolevalBoxAccuracy]) -> None:
    accuracy = metric()
    assert accuracy.compute() == {}
    with pytest.raises(DataError, match="NaN"):
        accuracy.update([[0.0, np.nan]], [[0, 0, 1, 1]], 2, 1)
    with pytest.raises(DataError, match=r"\(H, W\)"):
        accuracy.update(np.zeros((2, 3, 4)), [[0, 0, 1, 1]], 2, 1)
    accuracy.update([[0.0, 1.0]], [], 2, 1)  # an image without objects is wrong at every threshold
    assert accuracy.compute()["max_box_acc"] == 0


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_the_paper_protocol_equals_its_box_rule_at_every_threshold(seed: int) -> None:
    generator = np.random.default_rng(seed)
    taus = np.arange(0, 1, 0.1)
    metric, right = BoxAccuracy(taus), np.zeros(len(taus))
    for _ in range(4):
        heatmap = cv2.resize(generator.random((4, 4)), (13, 9))
        objects = from_inclusive([[2, 1, 20, 14], [10, 8, 38, 26]])
        metric.update(heatmap, objects, 39, 27)
        for place, tau in enumerate(taus):
            region = map_to_boxes(heatmap, parse_box_rule(f"fixed:{tau}"))[0]
            right[place] += iou(region.box * 3, objects).max() >= 0.5
    np.testing.assert_allclose(metric.curve.accuracy[1], 25 * right)


def test_wsoleval_treats_a_map_of_zeros_as_one_pixel() -> None:
    metric = WsolevalBoxAccuracy()
    metric.update(np.zeros((SIDE, SIDE)), [[0, 0, 1, 1]], SIDE, SIDE)
    assert metric.n_degenerate == 1
    assert metric.compute()["max_box_acc"] == 100  # its [0, 0, 0, 0] is the object, and both are inclusive


@settings(derandomize=True, deadline=None, max_examples=3)
@given(st.integers(0, 2**32 - 1))
def test_wsoleval_equals_the_contour_loop(seed: int) -> None:
    generator = np.random.default_rng(seed)
    taus = np.arange(0, 1, 0.01)
    metric, right = WsolevalBoxAccuracy(taus), np.zeros((2, 3, len(taus)))
    for _ in range(3):
        small = cv2.resize(generator.random((6, 6)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        scoremap = (small - small.min()) / (small.max() - small.min())
        corners = [[30, 20, 200, 310], [120, 5, 333, 120]]
        metric.update(scoremap, from_inclusive(corners), 400, 330)
        objects = [
            [int(x0 * SIDE / 400), int(y0 * SIDE / 330), int(x1 * SIDE / 400), int(y1 * SIDE / 330)]
            for x0, y0, x1, y1 in corners
        ]
        for every in (False, True):
            ious = np.array(best_ious(scoremap, taus, objects, every))
            right[int(every)] += [ious >= level for level in (0.3, 0.5, 0.7)]
    np.testing.assert_array_equal(metric.curve.accuracy, right[0] * 100 / 3)
    np.testing.assert_array_equal(metric.curve_v2.accuracy, right[1] * 100 / 3)


def test_maps_reach_wsolevaluations_grid() -> None:
    generator = np.random.default_rng(0)
    ready = generator.random((SIDE, SIDE)).astype(np.float16)
    np.testing.assert_array_equal(grid_map(ready), ready.astype(np.float64))
    other = grid_map(5 * generator.normal(size=(9, 14)))
    assert (other.shape, other.dtype, other.min(), other.max()) == ((SIDE, SIDE), np.float64, 0, 1)
    assert not grid_map(np.full((9, 14), 3.0)).any()


def test_objects_reach_wsolevaluations_grid() -> None:
    assert grid_objects(from_inclusive([97, 3, 332, 257]), 500, 332).tolist() == [[43, 2, 149, 174]]
    assert grid_objects([], 500, 332).shape == (0, 4)


# --- PxAP ------------------------------------------------------------------------------------------------------------


def test_px_ap_of_a_constant_map_is_the_share_of_the_foreground() -> None:
    mask = np.zeros((6, 7), int)
    mask[:2, :3] = 1
    mask[5] = 255
    metric = PixelAP()
    metric.update(np.full((6, 7), 0.3), mask)
    assert metric.compute()["px_ap"] == pytest.approx(100 * 6 / 35)


def test_px_ap_of_a_perfect_map() -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]])
    metric = PixelAP()
    metric.update(mask.astype(float), mask)
    assert metric.compute() == {"px_ap": 100}


@steady
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_px_ap_equals_counting_pixels(seed: int, height: int, width: int) -> None:
    generator = np.random.default_rng(seed)
    thresholds = np.arange(0, 1, 0.1)
    metric = PixelAP(thresholds)
    scores = generator.integers(0, 21, (3, height, width)) / 20  # many lie exactly on a threshold
    truth = generator.choice([0, 1, 255], (3, height, width))
    for each, mask in zip(scores, truth, strict=True):
        metric.update(each, mask)
    if (truth == 1).any():
        assert metric.compute()["px_ap"] == pytest.approx(pixel_ap(scores, truth, thresholds))
    else:
        assert metric.compute() == {}


@pytest.mark.parametrize(
    ("scores", "reason"), [([[0.5, np.nan]], "between 0 and 1"), ([[0.5, 1.5]], "between"), ([[0.5]], "shape")]
)
def test_px_ap_refuses_broken_maps(scores: list[list[float]], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        PixelAP().update(scores, [[0, 1]])


def test_the_sweeps_compile_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = sweep.numba.njit

    def read_only(cache: bool = False, **options: bool) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    def twice(value: int) -> int:
        return 2 * value

    with monkeypatch.context() as patch:
        patch.setattr(sweep.numba, "njit", read_only)
        compiled = sweep._compiled(twice)
    assert compiled is not twice
    assert compiled(21) == 42


def test_default_thresholds_are_wsolevaluations() -> None:
    assert len(THRESHOLDS) == 1000
    np.testing.assert_array_equal(THRESHOLDS, np.arange(0, 1, 0.001))


def test_metrics_never_import_torch() -> None:
    modules = ("box_accuracy", "classification", "detection", "foreground", "localization", "pixel_ap", "wsoleval")
    code = ";".join(f"import gwapctl.metrics.{module}" for module in modules)
    code += ";import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
