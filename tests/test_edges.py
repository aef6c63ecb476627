"""Box rules that look at the image: what GrabCut finds, how it is judged, and that nothing else changes it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np
import pytest

from gwapctl.boxes import iou
from gwapctl.errors import DataError, UsageError
from gwapctl.regions import BOX_RULES, REFINEMENTS, edges, map_to_boxes, normalise, parse_box_rule
from gwapctl.regions.edges import grabcut

TRUTH = np.array([120.0, 60.0, 330.0, 220.0])  # in an image of 450 x 300


def photo() -> np.ndarray:
    """Return an image 450 x 300 of a red rectangle, ``TRUTH``, on green noise."""
    rng = np.random.default_rng(0)
    image = np.zeros((300, 450, 3), np.uint8)
    image[..., 1] = rng.integers(80, 160, image.shape[:2])
    x0, y0, x1, y1 = TRUTH.astype(int)
    image[y0:y1, x0:x1] = [220, 20, 20]
    image[..., 0] += rng.integers(0, 30, image.shape[:2], dtype=np.uint8)
    return image


def blob(height: int, width: int, centre: tuple[float, float] = (0.5, 0.47), spread: float = 12) -> np.ndarray:
    """Return a map with one hot spot at ``centre``, shares of width and height."""
    rows, columns = np.mgrid[:height, :width]
    distance = ((columns + 0.5) / width - centre[0]) ** 2 + ((rows + 0.5) / height - centre[1]) ** 2
    return np.exp(-spread * distance).astype(np.float32)


@pytest.mark.parametrize("shape", [(14, 21), (100, 150), (300, 450)])
@pytest.mark.parametrize("plain", ["otsu", "fixed:0.3", "fixed:0.7", "wsoleval:0.6"])
def test_boxes_come_closer_to_the_object_at_any_resolution(plain: str, shape: tuple[int, int]) -> None:
    heat, image = blob(*shape), photo()
    truth = TRUTH * shape[0] / 300
    before, after = (map_to_boxes(heat, parse_box_rule(name), image=image)[0] for name in (plain, f"{plain}+grabcut"))
    assert iou(after.box, truth)[0, 0] > iou(before.box, truth)[0, 0] + 0.05
    assert before.mask.shape == shape
    assert (before.refined, after.refined) == (False, True)
    assert after.mask.shape == (107, 160)
    assert 0.15 < after.mask.mean() < 0.35  # the object has a quarter of the image
    assert after.area_px == pytest.approx(after.mask.mean() * heat.size, abs=1)


def test_the_rule_is_that_of_its_description() -> None:
    image, heat = photo(), blob(100, 150)
    small = cv2.resize(image, (160, 107), interpolation=cv2.INTER_AREA)
    fine = normalise(cv2.resize(heat, (160, 107), interpolation=cv2.INTER_LINEAR))
    plain = parse_box_rule("fixed:0.4")
    likely = parse_box_rule("otsu").mask(fine)
    found = grabcut(small, sure=fine > edges.SURE, likely=likely, never=fine <= edges.NEVER, steps=edges.STEPS)
    assert found is not None
    labels, stats = cv2.connectedComponentsWithStats(found.astype(np.uint8), connectivity=8)[1:3]
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y, width, height, _ = stats[largest]
    piece = np.array([x, y, x + width, y + height]) * np.array([150 / 160, 100 / 107] * 2)
    region = map_to_boxes(heat, parse_box_rule("fixed:0.4+grabcut"), image=image)[0]
    np.testing.assert_allclose(region.box, (piece + map_to_boxes(heat, plain)[0].box) / 2)
    np.testing.assert_array_equal(region.mask, labels == largest)
    assert region.score == pytest.approx(fine[labels == largest].mean(), abs=1e-6)


def test_any_thread_and_order_give_the_same() -> None:
    image, rule = photo(), parse_box_rule("otsu+grabcut")
    heats = [blob(100, 150, (0.3 + 0.05 * place, 0.5)) for place in range(8)]

    def boxes(heat: np.ndarray) -> list[float]:
        return map_to_boxes(heat, rule, image=image)[0].box.tolist()

    expected = [boxes(heat) for heat in heats]
    cv2.setRNGSeed(7)
    assert [boxes(heat) for heat in heats[::-1]] == expected[::-1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(boxes, heats * 3)) == expected * 3
    assert any(first != second for first, second in pairwise(expected))


def with_pieces(monkeypatch: pytest.MonkeyPatch, *boxes: tuple[int, int, int, int]) -> None:
    """Let GrabCut find ``boxes`` in an image of 40 x 24."""
    found = np.zeros((24, 40), bool)
    for x0, y0, x1, y1 in boxes:
        found[y0:y1, x0:x1] = True
    monkeypatch.setattr(edges, "grabcut", lambda *_args, **_settings: found)


IMAGE = np.zeros((24, 40, 3), np.uint8)
TWO = np.zeros((12, 20), np.float32)  # half the image's resolution
TWO[2:10, 2:8], TWO[4:8, 14:18] = 0.5, 1.0


@pytest.mark.parametrize(
    ("piece", "box"),
    [
        ((4, 4, 16, 20), [2, 2, 8, 10]),  # the very same
        ((4, 4, 20, 24), [2, 2, 9, 11]),  # each edge moves half way: 10, 12 in map pixels
        ((10, 12, 16, 20), [2, 2, 8, 10]),  # a corner of it, IoU 0.25: too little
        ((28, 8, 36, 16), [2, 2, 8, 10]),  # somewhere else
    ],
)
def test_a_piece_counts_where_it_agrees(
    monkeypatch: pytest.MonkeyPatch, piece: tuple[int, int, int, int], box: list[float]
) -> None:
    with_pieces(monkeypatch, piece)
    (region,) = map_to_boxes(TWO, parse_box_rule("fixed:0.3+grabcut"), image=IMAGE)
    assert region.box.tolist() == box
    assert region.refined == (piece[0] == 4)
    mask = parse_box_rule("fixed:0.3+grabcut").on_image(IMAGE).mask(TWO)
    assert mask.shape == ((24, 40) if region.refined else (12, 20))


def test_regions_are_judged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = parse_box_rule("fixed:0.3+grabcut")
    with_pieces(monkeypatch, (28, 8, 40, 20), (0, 22, 2, 24))
    first, second = map_to_boxes(TWO, rule, max_boxes=2, image=IMAGE)
    assert first.box.tolist() == [2, 2, 8, 10]
    assert second.box.tolist() == [14, 4, 19, 9]  # (14 + 14) / 2, (4 + 4) / 2, (18 + 20) / 2, (8 + 10) / 2
    assert second.area_px == 6 * 6  # of the piece, in pixels of the map
    assert [region.area_px for region in map_to_boxes(TWO, rule, max_boxes=2, min_area=0.18, image=IMAGE)] == [48]


def test_nothing_to_start_from_leaves_the_map_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "grabcut", lambda *_args, **_settings: None)
    (region,) = map_to_boxes(TWO, parse_box_rule("fixed:0.3+grabcut"), image=IMAGE)
    assert region.box.tolist() == [2, 2, 8, 10]
    assert not region.refined


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (5, 1)])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (24, 40)])
def test_tiny_maps_and_images(shape: tuple[int, int], size: tuple[int, int]) -> None:
    heat = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    regions = map_to_boxes(heat, parse_box_rule("otsu+grabcut"), image=image)
    assert len(regions) == (heat.size > 1)
    for region in regions:
        assert (region.box[2:] > region.box[:2]).all()
        assert (region.box >= 0).all()
        assert (region.box <= [shape[1], shape[0]] * 2).all()


def test_constant_and_broken_maps() -> None:
    rule = parse_box_rule("otsu+grabcut")
    assert map_to_boxes(np.full((13, 20), 7.0), rule, image=IMAGE) == []
    assert not rule.on_image(IMAGE).mask(np.full((13, 20), 7.0)).any()
    with pytest.raises(DataError):
        map_to_boxes(np.full((3, 4), np.nan), rule, image=IMAGE)


@pytest.mark.parametrize("plain", ["fixed:0.25" if name == "fixed" else name for name in BOX_RULES])
@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_names_travel_and_plain_rules_stay_pure(plain: str, refinement: str) -> None:
    rule = parse_box_rule(f"{plain}+{refinement}")
    assert (rule.name, rule.refinement, rule.needs_image) == (f"{plain}+{refinement}", refinement, True)
    assert parse_box_rule(rule.name) == rule == parse_box_rule(rule, refine=refinement)
    assert parse_box_rule(plain, refine=refinement) == rule
    pure = parse_box_rule(rule, refine="none")
    assert (pure.name, pure.refinement, pure.needs_image) == (plain, None, False)
    assert rule.without_image() is pure.without_image() is pure
    assert parse_box_rule(rule, refine=None) is rule
    with_image, without = (map_to_boxes(TWO, pure, image=image) for image in (IMAGE, None))
    assert [region.box.tolist() for region in with_image] == [region.box.tolist() for region in without]


@pytest.mark.parametrize("use", [lambda rule: map_to_boxes(TWO, rule), lambda rule: rule.mask(TWO)])
def test_without_the_image_it_says_so(use: Callable[..., object]) -> None:
    with pytest.raises(UsageError, match=r"'otsu\+grabcut' looks at the image.*'otsu'"):
        use(parse_box_rule("otsu+grabcut"))


@pytest.mark.parametrize(("text", "said"), [("otsu+grabcat", "Did you mean 'grabcut'"), ("otsu+", "refinement ''")])
def test_unknown_refinements(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_box_rule(text)
