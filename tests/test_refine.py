"""Closing gaps of a heatmap, and cutting a saliency map into object and rest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from gwapctl.boxes import as_boxes, iou
from gwapctl.errors import DataError
from gwapctl.regions import map_to_boxes, normalise, parse_box_rule
from gwapctl.regions.edges import move_to_edges
from gwapctl.regions.refine import SEGMENTATIONS, close_gaps, grabcut_mask, mean_mask


def smooth_map(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.random((5, 7), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def slow_close(levels: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Dilate, then erode, pixel by pixel; beyond the border there is nothing."""
    reach = kernel.shape[0] // 2
    offsets = [(y - reach, x - reach) for y, x in zip(*np.nonzero(kernel), strict=True)]
    height, width = levels.shape

    def extreme(image: np.ndarray, best: object) -> np.ndarray:
        result = np.empty_like(image)
        for y in range(height):
            for x in range(width):
                inside = [(y + dy, x + dx) for dy, dx in offsets if 0 <= y + dy < height and 0 <= x + dx < width]
                result[y, x] = best(image[place] for place in inside)  # type: ignore[operator]
        return result

    return extreme(extreme(levels, max), min)


def test_closing_is_that_of_the_definition() -> None:
    heat = smooth_map(24, 37)
    levels = np.rint(normalise(heat) * 255).astype(np.uint8)
    for share, side in ((0.05, 1), (0.1, 3), (0.2, 5), (0.25, 7)):  # 24 pixels: 1.2, 2.4, 4.8 and 6 made odd
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        np.testing.assert_allclose(close_gaps(heat, share) * 255, slow_close(levels, kernel), atol=1e-4)


def test_closing_fills_narrow_gaps_and_keeps_the_rest() -> None:
    heat = np.zeros((60, 100), np.float32)
    heat[20:40, 10:90] = 1
    heat[:, 40:42] = 0  # a narrow gap
    heat[:, 60:80] = 0  # a wide one
    closed = close_gaps(heat, 0.05)
    assert closed.dtype == np.float32
    assert closed[22:38, 40:42].min() == 1
    assert closed[:, 62:78].max() == 0
    assert (closed >= heat).all()
    np.testing.assert_array_equal(close_gaps(closed, 0.05), closed)
    rule = parse_box_rule("paper20")
    before, after = (map_to_boxes(one, rule)[0].box for one in (heat, closed))
    assert before.tolist() == [10, 20, 40, 40]
    assert after.tolist() == [10, 20, 60, 40]


@pytest.mark.parametrize("share", [0.0, 0.04, 0.3])
def test_closing_a_constant_map(share: float) -> None:
    assert not close_gaps(np.full((13, 20), 7.0), share).any()
    with pytest.raises(DataError):
        close_gaps(np.full((3, 4), np.nan), share)


def object_image(height: int = 60, width: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an image of a red ellipse on green noise, a saliency map of its middle, and where it is."""
    rng = np.random.default_rng(0)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 1] = rng.integers(80, 160, (height, width))
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 2, height // 2), (width // 4, height // 4), 0, 0, 360, 1, -1)
    image[mask == 1] = [220, 20, 20]
    image[..., 0] += rng.integers(0, 30, (height, width), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    distance = ((rows - height / 2) / height) ** 2 + ((columns - width / 2) / width) ** 2
    saliency = np.exp(-40 * distance) * rng.uniform(0.5, 1, (height, width))
    return image, saliency.astype(np.float32), mask.astype(bool)


def test_grabcut_finds_the_object_of_another_colour() -> None:
    image, saliency, mask = object_image()
    found = grabcut_mask(saliency, image)
    assert set(np.unique(found)) == {0, 1}
    overlap = (found.astype(bool) & mask).sum() / (found.astype(bool) | mask).sum()
    assert overlap > 0.9
    rows, columns = np.nonzero(mask)
    true = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert iou(map_to_boxes(found, parse_box_rule("paper20"))[0].box, true)[0, 0] > 0.85


def test_grabcut_gives_the_same_in_any_thread_and_order() -> None:
    image, saliency, _ = object_image()
    other = np.roll(image, 7, axis=1)
    expected = grabcut_mask(saliency, image)
    grabcut_mask(saliency, other)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: grabcut_mask(saliency, image), range(6)):
            np.testing.assert_array_equal(found, expected)


def test_mean_is_of_the_blurred_map() -> None:
    image, saliency, mask = object_image()
    found = mean_mask(saliency, image)
    blurred = cv2.GaussianBlur(normalise(saliency), (0, 0), 0.02 * 60)
    np.testing.assert_array_equal(found, blurred > blurred.mean())
    assert found[mask].mean() > 0.9
    assert found.mean() < 0.6


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_a_constant_map_has_no_object(name: str) -> None:
    image, saliency, _ = object_image()
    assert not SEGMENTATIONS[name](np.full_like(saliency, 3.0), image).any()


# --- boxes without a map ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_boxes_move_half_way_to_the_object(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(120, 420, 2))
    true = np.array([0.3 * width, 0.25 * height, 0.7 * width, 0.8 * height]).round()
    image = rng.integers(20, 60, (height, width, 3)).astype(np.uint8)
    left, top, right, bottom = true.astype(int)
    image[top:bottom, left:right] = rng.integers(180, 230, (bottom - top, right - left, 3))
    sides = np.tile(true[2:] - true[:2], 2)
    boxes = true + sides * rng.uniform(-0.12, 0.12, (3, 4))
    moved = move_to_edges(image, boxes, 0.15)
    pixel = max(width, height) / 128  # of what GrabCut sees
    np.testing.assert_allclose(moved, (boxes + true) / 2, atol=1.5 * max(pixel, 1))
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: move_to_edges(image, boxes, 0.15), range(4)):
            np.testing.assert_array_equal(found, moved)
    np.testing.assert_array_equal(move_to_edges(image, boxes[1:], 0.15), moved[1:])
    shrunk = move_to_edges(image, boxes)  # not beyond the box
    assert (shrunk[:, :2] >= boxes[:, :2] - 0.5 * pixel).all()
    assert (shrunk[:, 2:] <= boxes[:, 2:] + 0.5 * pixel).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 3), (40, 56)])
def test_any_box_of_any_image_stays_inside(size: tuple[int, int]) -> None:
    height, width = size
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    boxes = as_boxes(
        [[0, 0, width, height], [0, 0, 1, 1], [width - 1, height - 1, width, height], [0.2, 0.1, 0.3, 0.3]]
    )
    moved = move_to_edges(image, boxes)
    assert moved.shape == (4, 4)
    assert (moved >= 0).all()
    assert (moved <= [width, height, width, height]).all()
    assert (moved[:, 2:] > moved[:, :2]).all()
    assert move_to_edges(image, boxes[:0]).shape == (0, 4)
    flat = np.full((height, width, 3), 90, np.uint8)
    assert np.isfinite(move_to_edges(flat, boxes)).all()
