"""Objects that touch come apart, each box says how much it moves, and a score says how much its map stands out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gwapctl.boxes import iou
from gwapctl.predict.cut import SEVERAL, Cut, Cutting, with_boxes
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.regions import edges, map_to_boxes, normalise, parse_box_rule
from gwapctl.regions.doubt import doubts
from gwapctl.regions.sweep import component_boxes

SPLIT = parse_box_rule("fixed:0.2+split")


def blobs(*spots: tuple[float, float, float], height: int = 60, width: int = 100, spread: float = 12) -> np.ndarray:
    """Return a map with a hot spot at each x, y of a height."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    heats = [top * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * spread**2)) for x, y, top in spots]
    return np.max(heats, axis=0).astype(np.float32)


TOUCHING = blobs((25, 30, 1.0), (70, 30, 0.8), spread=14)


def test_objects_that_touch_come_apart_at_the_valley() -> None:
    assert len(map_to_boxes(TOUCHING, parse_box_rule("fixed:0.2"), max_boxes=5)) == 1
    left, right = map_to_boxes(TOUCHING, SPLIT, max_boxes=5)
    assert left.box[2] == right.box[0]
    assert 46 <= left.box[2] <= 49  # a little nearer to the lower peak
    assert not (left.mask & right.mask).any()
    assert left.area_px == left.mask.sum() > right.area_px
    whole = SPLIT.mask(TOUCHING)
    np.testing.assert_array_equal(left.mask | right.mask, whole)


@pytest.mark.parametrize(("valley", "parts"), [(0.5, 2), (0.6, 1)])  # the lower peak is 0.8 high
def test_a_shallow_valley_does_not_divide(valley: float, parts: int) -> None:
    heat = np.maximum(TOUCHING, np.float32(valley))
    heat[0] = 0  # the map begins at 0 still
    assert len(map_to_boxes(heat, SPLIT, max_boxes=5)) == parts


def test_peaks_side_by_side_are_one() -> None:
    heat = blobs((46, 30, 1.0), (52, 30, 1.0), spread=1.5)  # 6 of 60 pixels apart
    assert len(map_to_boxes(heat, SPLIT, max_boxes=5)) == 1


def test_largest_parts_first_and_none_too_small() -> None:
    heat = np.maximum(TOUCHING, blobs((92, 8, 1.0), spread=2))
    areas = [region.area_px for region in map_to_boxes(heat, SPLIT, max_boxes=5)]
    assert len(areas) == 3
    assert areas == sorted(areas, reverse=True)
    assert [region.area_px for region in map_to_boxes(heat, SPLIT, max_boxes=2)] == areas[:2]
    assert len(map_to_boxes(heat, SPLIT, max_boxes=5, min_area=0.05)) == 2


def test_one_object_is_what_the_plain_rule_finds() -> None:
    heat = blobs((30, 25, 1.0))
    (split,), (plain,) = (map_to_boxes(heat, rule, max_boxes=5) for rule in (SPLIT, SPLIT.whole()))
    assert split.box.tolist() == plain.box.tolist()
    assert split.score == pytest.approx(plain.score)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (4, 1)])
def test_tiny_and_constant_maps(shape: tuple[int, int]) -> None:
    assert map_to_boxes(np.full(shape, 3.0), SPLIT, max_boxes=5) == []
    heat = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    assert len(map_to_boxes(heat, SPLIT, max_boxes=5)) == (heat.size > 1)


# --- the rule as one value -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["otsu+split", "otsu+split+grabcut", "fixed:0.3+split", "paper20+split+grabcut"])
def test_the_name_says_all(name: str) -> None:
    rule = parse_box_rule(name)
    plain = name.replace("+split", "")
    assert rule.name == name
    assert parse_box_rule(rule.name) == rule == parse_box_rule(plain, split=True) == parse_box_rule(rule, split=True)
    assert parse_box_rule(rule, split=False) == parse_box_rule(plain)
    assert parse_box_rule(rule, refine="none").name == name.removesuffix("+grabcut")
    assert rule.needs_image == name.endswith("grabcut")


def test_the_order_of_additions_does_not_matter() -> None:
    assert parse_box_rule("otsu+grabcut+split") == parse_box_rule("otsu+split+grabcut")


def test_how_many_boxes_follow_from_the_rule() -> None:
    assert Cutting().cut("otsu").max_boxes == 1
    assert Cutting(split=True).cut("otsu+grabcut").max_boxes == Cutting().cut("otsu+split").max_boxes == SEVERAL
    assert Cutting(split=True, max_boxes=3).cut("otsu").max_boxes == 3
    assert Cutting(split=False).cut("otsu+split") == Cut(parse_box_rule("otsu"))


# --- grabcut for each region -----------------------------------------------------------------------------------------


def test_grabcut_does_not_let_touching_objects_flow_together() -> None:
    """Two objects of one colour that touch: GrabCut of both at once finds one piece, the mask of neither is both."""
    image = np.zeros((60, 100, 3), np.uint8)
    image[..., 1] = np.random.default_rng(0).integers(60, 120, (60, 100))
    for x in (25, 70):
        cv2.circle(image, (x, 30), 23, (220, 30, 30), -1)
    left, right = map_to_boxes(TOUCHING, parse_box_rule("fixed:0.2+split+grabcut"), max_boxes=5, image=image)
    assert left.refined
    assert right.refined
    assert left.mask[:, 49:].sum() == right.mask[:, :49].sum() == 0  # the valley
    assert iou(left.box, [2, 7, 48, 53])[0, 0] > 0.8
    assert iou(right.box, [47, 7, 93, 53])[0, 0] > 0.8


def test_each_region_counts_from_its_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(edges, "grabcut", lambda _image, **masks: asked.append(masks))
    rule = parse_box_rule("fixed:0.2+split+grabcut")
    map_to_boxes(TOUCHING, rule, max_boxes=5, image=np.zeros((60, 100, 3), np.uint8))
    assert [masks["sure"].any() for masks in asked] == [True, True]  # the second peak is 0.8 of the first
    assert not (asked[0]["sure"] & asked[1]["sure"]).any()
    owner = asked[1]["sure"]
    assert asked[0]["never"][owner].all()  # the other's pixels are background for good


# --- doubt -----------------------------------------------------------------------------------------------------------


def doubt_of(heat: np.ndarray, rule: str = "fixed:0.4", others: tuple[np.ndarray, ...] = ()) -> list[float]:
    parsed = parse_box_rule(rule)
    return doubts(heat, map_to_boxes(heat, parsed, max_boxes=5), parsed, others).tolist()


def test_a_box_with_sharp_edges_has_no_doubt() -> None:
    heat = np.zeros((30, 50), np.float32)
    heat[5:20, 10:30] = 1
    assert doubt_of(heat) == [pytest.approx(0, abs=1e-9)]
    assert doubt_of(heat, others=(heat[::2, ::2],))[0] < 0.15  # the other map has half the pixels


def test_doubt_is_the_mean_movement_over_thresholds() -> None:
    heat = normalise(blobs((40, 30, 1.0)))
    (region,) = map_to_boxes(heat, parse_box_rule("fixed:0.4"))
    thresholds = np.linspace(0.1, 0.7, 25)
    boxes = [map_to_boxes(heat, parse_box_rule(f"fixed:{t}"))[0].box for t in thresholds]
    assert doubt_of(heat) == [pytest.approx(np.mean(1 - iou(region.box, boxes)), abs=1e-6)]
    assert 0.2 < doubt_of(heat)[0] < 0.6


def test_a_map_that_says_something_else_adds_doubt() -> None:
    heat, elsewhere = blobs((30, 30, 1.0)), blobs((80, 30, 1.0))
    assert doubt_of(heat, others=(heat,)) == pytest.approx(doubt_of(heat))
    assert doubt_of(heat, others=(elsewhere,))[0] == pytest.approx((doubt_of(heat)[0] + 1) / 2, abs=0.05)


def test_each_of_several_regions_has_its_own_doubt() -> None:
    heat = np.maximum(blobs((30, 30, 1.0), spread=14), 0)
    heat[5:15, 85:97] = 1
    large, sharp = doubt_of(heat, "fixed:0.4")
    assert sharp < 0.05 < large
    apart = doubt_of(TOUCHING, "fixed:0.4+split")
    assert len(apart) == 2
    assert max(apart) < 0.75
    assert doubt_of(np.zeros((4, 5))) == []


def test_the_sweep_follows_a_seed() -> None:
    thresholds = [0.1, 0.5, 0.85]
    boxes, sizes = component_boxes(TOUCHING, thresholds, (30, 70))
    heat = normalise(TOUCHING)
    for threshold, box, size in zip(thresholds, boxes, sizes, strict=True):
        _, labels = cv2.connectedComponents((heat > threshold).astype(np.uint8), connectivity=8)
        own = (labels == labels[30, 70]) & (labels[30, 70] > 0)
        assert size == own.sum()
        rows, columns = np.nonzero(own)
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if size else [0, 0, 0, 0]
        assert box.tolist() == corners
    assert sizes[-1] == 0 < sizes[0]  # the second peak ends at 0.8


# --- scores ----------------------------------------------------------------------------------------------------------


def test_one_box_has_the_score_of_its_class_several_times_their_contrast() -> None:
    heat = np.full((12, 20), 0.2, np.float32)
    heat[2:8, 2:10], heat[1:4, 14:18], heat[11, 19] = 0.6, 1.0, 0.0
    item = Prediction("a.jpg", 40, 24, predictions=(ClassPrediction("cat", "cat", 0.5),))
    rule = parse_box_rule("fixed:0.3")
    (single,) = with_boxes(item, heat[None], [0], Cut(rule)).predictions
    assert (single.score, single.box) == (0.5, (4, 4, 20, 16))
    hot, warm = with_boxes(item, heat[None], [0], Cut(rule, max_boxes=3)).predictions
    outside = heat[heat <= 0.3].mean()
    assert hot.score == pytest.approx(0.5 * (1.0 - outside))
    assert warm.score == pytest.approx(0.5 * (0.6 - outside))
    assert hot.doubt is not None
    assert hot.mask is None
