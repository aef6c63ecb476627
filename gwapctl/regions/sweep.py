"""All thresholds of a map in one pass: pixels join, the hottest first, and a union-find keeps the components.

One pass over the sorted pixels replaces labelling the map anew at every threshold. The compiled functions work on a
flat grid with a margin of one pixel around the map, so that no neighbour needs a bounds check. ``parent[pixel]`` is -1
where a pixel has not joined. (All of them live in this file: numba's cache misses a change in an imported file.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from gwapctl.boxes import BoxesLike, FloatArray, as_boxes
from gwapctl.regions.components import normalise

LEVELS = 256  # of wsolevaluation's byte maps

IntArray = npt.NDArray[np.int32]
_Function = TypeVar("_Function", bound=Callable[..., Any])

# columns of ``extent``: pixels in the component, first and last of them in scan order, leftmost and rightmost column
_SIZE, _FIRST, _LAST, _LEFT, _RIGHT = range(5)
_UNKNOWN = -1


def _compiled(function: _Function) -> _Function:
    """Compile with numba; keep the machine code on disk unless it cannot be written (read-only systems)."""
    try:
        return cast(_Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        return cast(_Function, numba.njit(nogil=True)(function))


def component_boxes(
    heatmap: npt.ArrayLike, thresholds: npt.ArrayLike, seed: tuple[int, int] | None = None
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Return the boxes ``(T, 4)`` of the largest component at each of ``T`` rising thresholds, and its pixels ``(T,)``.

    The same as ``map_to_boxes`` with ``fixed:t`` at every t: min-max map, strictly above t, 8-connected, most pixels,
    the first in scan order of equals; half-open in map pixels. Without any pixel the box is zeros and so is the count.
    With a ``seed``, row and column of a pixel, they are of the component that holds it. Raises what ``normalise`` does.
    """
    heat = normalise(heatmap)
    steps = np.asarray(thresholds, dtype=np.float32)
    above = _count_below(heat.ravel(), steps)  # the pixel is foreground at the first `above` thresholds
    width = heat.shape[1]
    pixel = _UNKNOWN if seed is None else (seed[0] + 1) * (width + 2) + seed[1] + 1
    boxes, sizes = _sweep_components(above, width, len(steps), pixel)
    return as_boxes(boxes), sizes


def contour_boxes(levels: npt.NDArray[np.uint8], cuts: npt.NDArray[np.int64]) -> FloatArray:
    """Return the boxes ``(T, 4)`` of the contour with the largest ``cv2.contourArea`` of ``levels > cut`` at each cut.

    Half-open, around the contour's pixels; of equals the one that ``cv2.findContours(RETR_TREE)`` returns first. Zeros
    where nothing is above the cut. Only outer contours can win: an inner one lies within the polygon of its outer one.
    """
    boxes = _sweep_polygons(levels.ravel(), levels.shape[1], _needed(cuts))
    return as_boxes(boxes[cuts])


def contour_ious(levels: npt.NDArray[np.uint8], cuts: npt.NDArray[np.int64], objects: BoxesLike) -> FloatArray:
    """Return the best IoU ``(T,)`` of any contour's box, outer or inner, with any of ``objects`` (N, 4) at each cut.

    A contour's box is the half-open one around its pixels, a pixel more to the right and below unless the map ends
    there (wsolevaluation). 0 where nothing is above the cut.
    """
    of_map = levels.ravel(), levels.shape[1], _needed(cuts), as_boxes(objects)
    return np.asarray(np.maximum(_sweep_ious(*of_map, False), _sweep_ious(*of_map, True))[cuts])


def _needed(cuts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    needed: npt.NDArray[np.bool_] = np.zeros(LEVELS, dtype=np.bool_)
    needed[cuts] = True
    return needed


# --- compiled: shared ------------------------------------------------------------------------------------------------


@_compiled
def _count_below(values: npt.NDArray[np.float32], thresholds: npt.NDArray[np.float32]) -> IntArray:
    """Return how many of the rising ``thresholds`` are strictly below each value (guessed as if they were even)."""
    count = len(thresholds)
    below = np.empty(len(values), np.int32)
    for index in range(len(values)):
        value = values[index]
        guess = min(max(int(value * count), 0), count)
        while guess < count and thresholds[guess] < value:
            guess += 1
        while guess > 0 and thresholds[guess - 1] >= value:
            guess -= 1
        below[index] = guess
    return below


@_compiled
def _prepare(
    ranks: npt.NDArray[Any], width: int, count: int, diagonal: bool
) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Return what a sweep starts from: pixels (indices in the grid) by rank, and where each of ``count`` ranks starts.

    Then the way to the 8 or 4 neighbours, the 8 in the order around the pixel, east first, then south-east; ``parent``
    and ``extent`` of a grid that no pixel has joined.
    """
    starts = np.zeros(count + 1, np.int32)
    for rank in ranks:
        starts[rank + 1] += 1
    for rank in range(count):
        starts[rank + 1] += starts[rank]
    cursor, order, stride = starts.copy(), np.empty(len(ranks), np.int32), width + 2
    for index in range(len(ranks)):
        rank = ranks[index]
        order[cursor[rank]] = (index // width + 1) * stride + index % width + 1
        cursor[rank] += 1
    around = np.array([1, stride + 1, stride, stride - 1, -1, -stride - 1, -stride, 1 - stride], np.int32)
    steps = around if diagonal else around[::2].copy()
    grid = stride * (len(ranks) // width + 2)
    return order, starts, steps, np.full(grid, -1, np.int32), np.empty((grid, 5), np.int32)


@_compiled
def _find(parent: IntArray, pixel: int) -> int:
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return pixel


@_compiled
def _join(pixel: int, stride: int, steps: IntArray, parent: IntArray, extent: IntArray) -> int:
    """Let ``pixel`` join, unite it with the components around it, and return the root."""
    column = pixel % stride
    extent[pixel, _SIZE] = 1
    extent[pixel, _FIRST] = pixel
    extent[pixel, _LAST] = pixel
    extent[pixel, _LEFT] = column
    extent[pixel, _RIGHT] = column
    parent[pixel] = pixel
    root = pixel
    for step in steps:
        if parent[pixel + step] < 0:
            continue
        other = _find(parent, pixel + step)
        if other == root:
            continue
        if extent[other, _SIZE] > extent[root, _SIZE]:
            root, other = other, root
        parent[other] = root
        extent[root, _SIZE] += extent[other, _SIZE]
        extent[root, _FIRST] = min(extent[root, _FIRST], extent[other, _FIRST])
        extent[root, _LAST] = max(extent[root, _LAST], extent[other, _LAST])
        extent[root, _LEFT] = min(extent[root, _LEFT], extent[other, _LEFT])
        extent[root, _RIGHT] = max(extent[root, _RIGHT], extent[other, _RIGHT])
    return root


@_compiled
def _box(root: int, stride: int, extent: IntArray) -> tuple[int, int, int, int]:
    """Return the half-open box of a component in map pixels."""
    top, bottom = extent[root, _FIRST] // stride, extent[root, _LAST] // stride
    return extent[root, _LEFT] - 1, top - 1, extent[root, _RIGHT], bottom


# --- compiled: largest component by pixels ---------------------------------------------------------------------------


@_compiled
def _sweep_components(above: IntArray, width: int, count: int, seed: int) -> tuple[IntArray, npt.NDArray[np.int64]]:
    """Return box and size of the largest component at each threshold, or of that which holds the pixel ``seed``."""
    order, starts, steps, parent, extent = _prepare(above, width, count + 1, True)
    boxes, sizes = np.zeros((count, 4), np.int32), np.zeros(count, np.int64)
    best, stride = -1, width + 2
    for step in range(count - 1, -1, -1):
        for index in range(starts[step + 1], starts[step + 2]):
            root = _join(order[index], stride, steps, parent, extent)
            if best < 0:
                best = root
            # a component that holds the old best is larger than it, so the best is always a root
            larger = extent[root, _SIZE] - extent[best, _SIZE]
            if larger > 0 or (larger == 0 and extent[root, _FIRST] < extent[best, _FIRST]):
                best = root
        if seed >= 0:
            best = _find(parent, seed) if parent[seed] >= 0 else -1
        if best >= 0:
            left, top, right, bottom = _box(best, stride, extent)
            boxes[step, 0], boxes[step, 1], boxes[step, 2], boxes[step, 3] = left, top, right, bottom
            sizes[step] = extent[best, _SIZE]
    return boxes, sizes


# --- compiled: contours of byte maps ---------------------------------------------------------------------------------


@_compiled
def _sweep_polygons(levels: npt.NDArray[np.uint8], width: int, needed: npt.NDArray[np.bool_]) -> IntArray:
    """Return the box ``(256, 4)`` of the component with the largest outer polygon above each needed cut."""
    order, starts, steps, parent, extent = _prepare(levels, width, LEVELS, True)
    doubled = np.empty(len(parent), np.int64)  # twice the polygon's area, once it is known
    alive, count = np.empty(len(levels), np.int32), 0
    boxes = np.zeros((LEVELS, 4), np.int32)
    best, stride = -1, width + 2
    for cut in range(LEVELS - 2, -1, -1):
        for index in range(starts[cut + 1], starts[cut + 2]):
            doubled[_join(order[index], stride, steps, parent, extent)] = _UNKNOWN
            alive[count] = order[index]
            count += 1
        if not needed[cut] or count == 0:
            continue
        count = _keep_roots(alive, count, parent)
        # the component that won at the cut above is a good bound for all others
        best = _find(parent, best) if best >= 0 else alive[0]
        _measure(best, stride, steps, parent, extent, doubled)
        for index in range(count):
            root = alive[index]
            if root == best or _largest_polygon(root, stride, extent) < doubled[best]:
                continue
            _measure(root, stride, steps, parent, extent, doubled)
            larger = doubled[root] - doubled[best]
            if larger > 0 or (larger == 0 and extent[root, _FIRST] > extent[best, _FIRST]):
                best = root
        left, top, right, bottom = _box(best, stride, extent)
        boxes[cut, 0], boxes[cut, 1], boxes[cut, 2], boxes[cut, 3] = left, top, right, bottom
    return boxes


@_compiled
def _keep_roots(alive: IntArray, count: int, parent: IntArray) -> int:
    """Move the pixels that still are roots to the front of ``alive`` and return how many there are."""
    kept = 0
    for index in range(count):
        if parent[alive[index]] == alive[index]:
            alive[kept] = alive[index]
            kept += 1
    return kept


@_compiled
def _largest_polygon(root: int, stride: int, extent: IntArray) -> int:
    """Return twice the area that no polygon through the centres of the component's pixels exceeds."""
    left, top, right, bottom = _box(root, stride, extent)
    return 2 * (right - left - 1) * (bottom - top - 1)


@_compiled
def _measure(
    root: int, stride: int, steps: IntArray, parent: IntArray, extent: IntArray, doubled: npt.NDArray[np.int64]
) -> None:
    """Follow the outer border of a component (Suzuki and Abe, 1985) and store twice the area of its polygon."""
    if doubled[root] != _UNKNOWN:
        return
    doubled[root] = 0
    if _largest_polygon(root, stride, extent) == 0:
        return
    start = extent[root, _FIRST]  # nothing of the component is west of it or above it
    direction = 0
    while parent[start + steps[direction]] < 0:
        direction += 1
    last, pixel, area = start + steps[direction], start, 0
    while True:
        # turn against the clock, from the pixel we came from
        direction = (direction + 7) % 8
        while parent[pixel + steps[direction]] < 0:
            direction = (direction + 7) % 8
        following = pixel + steps[direction]
        area += (pixel % stride) * (following // stride) - (following % stride) * (pixel // stride)
        if following == start and pixel == last:
            break
        pixel, direction = following, (direction + 4) % 8
    doubled[root] = abs(area)


@_compiled
def _sweep_ious(
    levels: npt.NDArray[np.uint8], width: int, needed: npt.NDArray[np.bool_], objects: FloatArray, inner: bool
) -> FloatArray:
    """Return the best IoU ``(256,)`` of any outer, or any inner, contour's box at each needed cut.

    Outer contours run around the 8-connected components of ``levels > cut``, the hottest pixels join first. Inner ones
    run around holes: 4-connected components of ``levels <= cut`` without the margin, the coldest pixels join first.
    """
    height, stride = len(levels) // width, width + 2
    order, starts, steps, parent, extent = _prepare(levels, width, LEVELS, not inner)
    if inner:  # the margin is one component, larger than any other, so that pixel 0 stays its root
        extent[0] = len(parent)
        grid = parent.reshape(height + 2, stride)
        grid[0], grid[-1], grid[:, 0], grid[:, -1] = 0, 0, 0, 0
    ious, best = np.empty(len(parent)), np.zeros(LEVELS)
    alive, count = np.empty(len(levels), np.int32), 0
    around = 1 if inner else 0
    for turn in range(LEVELS - 1):
        cut = turn if inner else LEVELS - 2 - turn
        level = cut if inner else cut + 1
        for index in range(starts[level], starts[level + 1]):
            ious[_join(order[index], stride, steps, parent, extent)] = _UNKNOWN
            alive[count] = order[index]
            count += 1
        if not needed[cut]:
            continue
        count = _keep_roots(alive, count, parent)
        for index in range(count):
            root = alive[index]
            if ious[root] == _UNKNOWN:
                left, top, right, bottom = _box(root, stride, extent)
                right, bottom = min(right + around + 1, width), min(bottom + around + 1, height)
                ious[root] = _best_iou(left - around, top - around, right, bottom, objects)
            best[cut] = max(best[cut], ious[root])
    return best


@_compiled
def _best_iou(left: int, top: int, right: int, bottom: int, objects: FloatArray) -> float:
    best = 0.0
    for index in range(len(objects)):
        x0, y0, x1, y1 = objects[index]
        common = max(min(right, x1) - max(left, x0), 0.0) * max(min(bottom, y1) - max(top, y0), 0.0)
        if common > 0:
            best = max(best, common / ((right - left) * (bottom - top) + (x1 - x0) * (y1 - y0) - common))
    return best
