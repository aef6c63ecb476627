"""From maps to boxes: normalising, thresholds, components, and the rules by name."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.components import box_around, components, minmax
from scipy import ndimage
from skimage.filters import threshold_otsu

from gwapctl.errors import DataError, UsageError
from gwapctl.regions import (
    BOX_RULES,
    five_guesses,
    largest_component,
    map_to_boxes,
    normalise,
    parse_box_rule,
)
from gwapctl.regions.contours import _core, _without_overlapping

steady = settings(derandomize=True, deadline=None, max_examples=80)
ONE_OF_EACH = ["paper20", "otsu", "fixed:0.35", "cam-released", "wsoleval", "wsoleval:0.5"]


@st.composite
def heatmaps(draw: st.DrawFn, levels: int | None = None) -> np.ndarray:
    """Random maps, not square; with few ``levels`` there are ties, with many there are none."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 15))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = levels or draw(st.sampled_from([2, 4, 1000]))
    low, high = draw(st.sampled_from([(0.0, 1.0), (-3.0, 5.0), (1e-4, 1.1e-4)]))
    return low + (high - low) * generator.integers(0, count, (height, width)) / max(count - 1, 1)


# --- normalise -------------------------------------------------------------------------------------------------------


def test_normalise_by_hand() -> None:
    heat = normalise([[2, 4, 6], [10, 3, 2]])
    assert heat.dtype == np.float32
    np.testing.assert_array_equal(heat, np.array([[0, 0.25, 0.5], [1, 0.125, 0]], np.float32))


@steady
@given(heatmaps())
def test_normalise_reaches_both_ends_exactly(heatmap: np.ndarray) -> None:
    heat = normalise(heatmap)
    np.testing.assert_array_equal(heat, minmax(heatmap))
    if heatmap.astype(np.float32).min() < heatmap.astype(np.float32).max():
        assert (heat.min(), heat.max()) == (0, 1)


def test_normalise_keeps_its_input() -> None:
    heatmap = np.array([[1, 2, 5]], np.float32)
    normalise(heatmap)
    assert heatmap.tolist() == [[1, 2, 5]]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8, np.int64, np.bool_])
def test_normalise_takes_any_number(dtype: type) -> None:
    assert normalise(np.array([[0, 1], [1, 0], [0, 0]], dtype)).tolist() == [[0, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize("constant", [0.0, -2.5, 7.0])
def test_a_constant_map_is_zero(constant: float) -> None:
    assert not normalise(np.full((3, 5), constant)).any()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", ONE_OF_EACH)
def test_maps_must_be_finite(broken: float, rule: str) -> None:
    heatmap = np.random.default_rng(0).random((7, 9))
    heatmap[3, 4] = broken
    with pytest.raises(DataError, match="NaN or infinity"):
        map_to_boxes(heatmap, parse_box_rule(rule))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,), (2, 3, 4), ()])
@pytest.mark.parametrize("rule", ONE_OF_EACH)
def test_maps_must_have_two_dimensions(shape: tuple[int, ...], rule: str) -> None:
    with pytest.raises(DataError, match=r"shape \(H, W\)"):
        map_to_boxes(np.zeros(shape), parse_box_rule(rule))


# --- components ------------------------------------------------------------------------------------------------------


def test_the_largest_component_counts_pixels_and_diagonals() -> None:
    mask = np.array([[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 1], [0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0]])
    expected = mask.copy()
    assert np.array_equal(largest_component(mask), expected)  # row 3 touches the two parts at their corners
    mask[3, 3] = 0
    expected = np.zeros_like(mask)
    expected[1:3, 4] = expected[1, 5] = 1
    first = np.zeros_like(mask)
    first[range(3), range(3)] = 1
    assert np.array_equal(largest_component(mask), first)  # three pixels each: the one met first
    mask[0, 0] = 0
    assert np.array_equal(largest_component(mask), expected)


def test_a_line_of_pixels_beats_a_smaller_block() -> None:
    mask = np.zeros((20, 60), bool)
    mask[2, 5:45] = True  # 40 pixels, polygon area 0
    mask[10:14, 10:14] = True  # 16 pixels, polygon area 9
    heatmap = mask.astype(float)
    assert map_to_boxes(heatmap, parse_box_rule("paper20"))[0].box.tolist() == [5, 2, 45, 3]
    assert map_to_boxes(heatmap, parse_box_rule("wsoleval"))[0].box.tolist() == [10, 10, 15, 15]


def test_nothing_set_has_no_largest_component() -> None:
    assert largest_component(np.zeros((3, 4))) is None


@steady
@given(heatmaps(levels=2))
def test_the_largest_component_agrees_with_scipy(heatmap: np.ndarray) -> None:
    for mask in (heatmap > heatmap.min(), (heatmap > heatmap.min())[::-1, ::-1], (heatmap > heatmap.min()).T):
        found, expected = largest_component(mask), components(mask)
        if expected:
            np.testing.assert_array_equal(found, expected[0])
        else:
            assert found is None


# --- map_to_boxes ----------------------------------------------------------------------------------------------------


@steady
@given(heatmaps(), st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 0.99]), st.integers(1, 4), st.sampled_from([0, 0.1, 0.3]))
def test_boxes_are_those_of_scipys_components(
    heatmap: np.ndarray, threshold: float, max_boxes: int, min_area: float
) -> None:
    regions = map_to_boxes(heatmap, parse_box_rule(threshold=str(threshold)), max_boxes=max_boxes, min_area=min_area)
    heat = minmax(heatmap)
    expected = components(heat > np.float32(threshold))[:max_boxes]
    expected = [mask for mask in expected if mask.sum() >= min_area * mask.size]
    assert [region.box.tolist() for region in regions] == [box_around(mask) for mask in expected]
    assert [region.area_px for region in regions] == [mask.sum() for mask in expected]
    np.testing.assert_allclose([region.score for region in regions], [heat[mask].mean() for mask in expected], 1e-5)


@steady
@given(heatmaps())
def test_the_otsu_mask_is_scikit_images(heatmap: np.ndarray) -> None:
    levels = np.rint(minmax(heatmap) * np.float32(255)).astype(np.uint8)
    mask = parse_box_rule("otsu").mask(heatmap)
    if levels.max() == 0:
        assert not mask.any()
    else:
        expected = levels > threshold_otsu(levels)
        spread = [levels[each].var() * each.mean() for each in (mask, ~mask, expected, ~expected) if each.any()]
        # equal masks, or (OpenCV leaves ties to rounding) a split that is as good
        assert np.array_equal(mask, expected) or np.isclose(sum(spread[:2]), sum(spread[2:]), rtol=1e-3)


def test_the_threshold_is_strict() -> None:
    heatmap = np.array([[0, 0.5, 1, 0.5, 0.75]], np.float32)
    assert map_to_boxes(heatmap, parse_box_rule("fixed:0.5"))[0].box.tolist() == [2, 0, 3, 1]
    assert parse_box_rule("fixed:0.5").mask(heatmap).tolist() == [[False, False, True, False, True]]


def test_score_is_the_mean_of_the_normalised_heat() -> None:
    (region,) = map_to_boxes([[0, 10, 0, 0], [0, 5, 0, 0], [0, 0, 0, 1]], parse_box_rule("paper20"))
    assert (region.score, region.area_px) == (0.75, 2)


@pytest.mark.parametrize("rule", ONE_OF_EACH)
@pytest.mark.parametrize("constant", [0.0, 0.7, -1.0])
def test_a_constant_map_has_no_box(rule: str, constant: float) -> None:
    heatmap = np.full((9, 14), constant, np.float32)
    assert map_to_boxes(heatmap, parse_box_rule(rule), max_boxes=3) == []
    assert not parse_box_rule(rule).mask(heatmap).any()


@pytest.mark.parametrize("rule", ONE_OF_EACH)
@steady
@given(heatmap=heatmaps())
def test_boxes_lie_inside_the_map_and_hold_foreground(rule: str, heatmap: np.ndarray) -> None:
    height, width = heatmap.shape
    regions = map_to_boxes(heatmap, parse_box_rule(rule), max_boxes=3)
    assert len(regions) <= 3
    for region in regions:
        x0, y0, x1, y1 = region.box
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert 0 <= region.score <= 1
        assert 0 <= region.area_px <= (x1 - x0) * (y1 - y0)
    assert parse_box_rule(rule).mask(heatmap).shape == (height, width)
    assert parse_box_rule(rule).mask(heatmap).dtype == bool


@pytest.mark.parametrize("rule", ONE_OF_EACH)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_views_into_larger_arrays_give_the_same_boxes(rule: str, dtype: type) -> None:
    stack = np.random.default_rng(0).integers(0, 6, (14, 20, 3)).astype(dtype)
    for view in (
        stack[..., 1],
        stack[::-1, :, 0],
        stack[:, ::-1, 0].T,
        np.asfortranarray(stack[..., 2]),
        stack[::2, :9, 0],
    ):
        found = map_to_boxes(view, parse_box_rule(rule), max_boxes=3)
        expected = map_to_boxes(view.copy(order="C"), parse_box_rule(rule), max_boxes=3)
        assert [region.box.tolist() for region in found] == [region.box.tolist() for region in expected]


def test_one_pixel() -> None:
    assert map_to_boxes([[3.0]], parse_box_rule("otsu")) == []


# --- wsolevaluation's rule -------------------------------------------------------------------------------------------

UNIMODAL = np.array([[0, 0, 0, 0, 0], [0, 0.4, 0.4, 0.4, 0.6], [0, 0.4, 1, 0.8, 0.6], [0, 0.4, 0.4, 0.4, 0.6]])


@pytest.mark.parametrize(
    ("threshold", "corners"),
    [(0, [1, 1, 4, 3]), (0.2, [1, 1, 4, 3]), (0.4, [2, 1, 4, 3]), (0.6, [2, 2, 4, 3]), (0.8, [2, 2, 3, 3])],
)
def test_wsolevaluations_own_example(threshold: float, corners: list[int]) -> None:
    (region,) = map_to_boxes(UNIMODAL, parse_box_rule(f"wsoleval:{threshold}"))
    assert (region.box - [0, 0, 1, 1]).tolist() == corners


def test_wsoleval_cuts_levels_without_rounding() -> None:
    heatmap = np.array([[0.0, 0.2005, 1.0, 0.0]])  # 51.1 -> level 51, not above int(0.2 * 255) = 51
    assert parse_box_rule("wsoleval:0.2").mask(heatmap).tolist() == [[False, False, True, False]]
    assert parse_box_rule("paper20").mask(heatmap).tolist() == [[False, True, True, False]]


# --- the rule of CAM's released code ---------------------------------------------------------------------------------


def _blob(height: int, width: int, x: float, y: float, size: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * size**2))


def test_cam_released_on_a_square() -> None:
    heatmap = np.zeros((80, 100))
    heatmap[20:60, 10:50] = 1
    regions = map_to_boxes(heatmap, parse_box_rule("cam-released"), max_boxes=5)
    # 40 x 40, at most 20 from the background: 1 stays (12.75 of 255), so the square is itself, three times;
    # the first removes the second, and the released loop then skips the third
    assert [region.box.tolist() for region in regions] == [[10, 20, 51, 61]] * 2


def test_cam_released_keeps_off_the_right_and_lower_side() -> None:
    heatmap = np.zeros((40, 60))
    heatmap[15:, 20:] = 1
    (box, *_) = (region.box.tolist() for region in map_to_boxes(heatmap, parse_box_rule("cam-released"), max_boxes=2))
    assert box[2:] == [56, 36]  # inclusive sides at W - 5 and H - 5


def test_cam_released_gives_the_large_region_first_and_a_core_second() -> None:
    heatmap = np.maximum(_blob(120, 160, 50, 60, 18), 0.3 * _blob(120, 160, 130, 60, 12))
    first, second, *_ = map_to_boxes(heatmap, parse_box_rule("cam-released"), max_boxes=5)
    assert first.area_px > second.area_px
    assert first.box[0] < 50 < first.box[2]


def test_overlapping_rectangles_go_but_the_one_after_each_stays() -> None:
    large, inside, again, apart = (0, 0, 10, 10), (0, 0, 10, 9), (0, 0, 9, 9), (20, 20, 4, 4)
    assert _without_overlapping([large, inside, apart]) == [large, apart]
    assert _without_overlapping([large, inside, again, apart]) == [large, again, apart]
    half = (0, 0, 10, 5)
    assert _without_overlapping([large, half]) == [large, half]  # exactly half is not more than half
    assert _without_overlapping([]) == []


@steady
@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.integers(1, 25), st.sampled_from([0.05, 0.5, 0.99]))
def test_the_core_follows_the_exact_distance(seed: int, height: int, width: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    core = _core(mask.astype(np.uint8) * 200, 100)
    if mask.all() or not mask.any():
        np.testing.assert_array_equal(core, mask)
    else:
        distance = ndimage.distance_transform_edt(mask)
        np.testing.assert_array_equal(core, np.floor(distance * (255 / distance.max()) + 0.5) > 10)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ONE_OF_EACH)
def test_names_come_back(text: str) -> None:
    assert parse_box_rule(text).name == text
    assert text.partition(":")[0] in BOX_RULES


def test_the_threshold_option_is_short_for_a_rule() -> None:
    assert parse_box_rule(threshold="otsu") == parse_box_rule("otsu")
    assert parse_box_rule(threshold="0.3") == parse_box_rule("fixed:0.3")


@pytest.mark.parametrize("text", ["paper2", "", "0.3", "otsu:", "Otsu", "fixed", "wsol"])
def test_unknown_rules_name_the_choices(text: str) -> None:
    if text == "otsu:":
        assert parse_box_rule(text).name == "otsu"
        return
    with pytest.raises(UsageError) as caught:
        parse_box_rule(text)
    assert "fixed:" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["fixed:", "fixed:1", "fixed:-0.1", "fixed:half", "fixed:nan", "wsoleval:2"])
def test_thresholds_lie_between_0_and_1(text: str) -> None:
    with pytest.raises(UsageError, match="up to, but not including, 1"):
        parse_box_rule(text)


def test_rules_without_a_value_say_so() -> None:
    with pytest.raises(UsageError, match="takes no value"):
        parse_box_rule("paper20:0.3")


def test_a_wrong_threshold_option_names_both_forms() -> None:
    with pytest.raises(UsageError, match=r"0\.3 or otsu"):
        parse_box_rule(threshold="oslo")


# --- CAM's five guesses ----------------------------------------------------------------------------------------------


def test_five_guesses_are_two_two_and_one() -> None:
    heatmaps = [_blob(30, 40, 10 + 5 * rank, 15, 5) for rank in range(5)]
    guesses = five_guesses(heatmaps, parse_box_rule("fixed:0.5"), parse_box_rule("fixed:0.1"))
    assert [rank for rank, _ in guesses] == [0, 0, 1, 1, 2]
    areas = [region.area_px if region else 0 for _, region in guesses]
    assert areas[0] < areas[1]
    assert areas[2] < areas[3]
    assert areas[1] == areas[3]
    assert guesses[4][1] is not None
    assert guesses[4][1].box.tolist() == map_to_boxes(heatmaps[2], parse_box_rule("fixed:0.1"))[0].box.tolist()


def test_five_guesses_of_fewer_or_empty_maps() -> None:
    rule = parse_box_rule("paper20")
    assert five_guesses([], rule, rule) == []
    assert five_guesses([np.zeros((3, 4))], rule, rule) == [(0, None), (0, None)]


def test_boxes_need_neither_torch_nor_numba() -> None:
    code = "import gwapctl.regions, sys; sys.exit(any(name in sys.modules for name in ('torch', 'numba')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
