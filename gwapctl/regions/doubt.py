"""How much a box moves where its map is cut a little higher or lower, or seen at another scale. Nearly free."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray, iou, scale
from gwapctl.geometry import Geometry
from gwapctl.regions.components import BoolMask, BoxRule, FloatMap, Region, normalise, resize_map
from gwapctl.regions.sweep import component_boxes

SIDE = 128  # pixels on the long side of the maps that are swept
REACH = 0.3  # thresholds go from so much below the one that was used to as much above it
STEPS = 25
LOWEST, HIGHEST = 0.02, 0.98


def doubts(heatmap: npt.ArrayLike, regions: Sequence[Region], rule: BoxRule, others: Sequence[FloatMap]) -> FloatArray:
    """Return, for each of the ``regions`` (N,) that ``rule`` found in ``heatmap`` (H, W), a doubt from 0 to 1. Ours.

    It is the mean of 1 - IoU of a region's box and the boxes around its place at ``STEPS`` thresholds around that of
    the rule: of the component that holds the pixel of the region where the map is hottest, within its own part where
    the rule splits. Nothing above a threshold there counts as 1. ``others`` are maps of the same object at any
    resolution (one per scale): they are swept as well, and the mean is over all of them.
    """
    if not regions:
        return np.zeros(0)
    whole = normalise(heatmap)
    height, width = whole.shape
    grid = Geometry.fit(width, height, min(SIDE, max(width, height)))
    size = grid.input_width, grid.input_height
    maps = [normalise(resize_map(np.asarray(one, np.float32), size)) for one in (whole, *others)]
    boxes = scale([region.box for region in regions], width, height, *size)
    parts = rule.parts(maps[0])
    thresholds = _around(rule.level(maps[0]))
    inside = [resize_map(region.mask.astype(np.float32), size) > 0 for region in regions]
    moved = [
        [_movement(heat, box, mask, parts, thresholds) for heat in maps]
        for box, mask in zip(boxes, inside, strict=True)
    ]
    return np.asarray(np.mean(moved, axis=1), np.float64)


def _around(level: float) -> FloatArray:
    return np.linspace(max(level - REACH, LOWEST), max(min(level + REACH, HIGHEST), LOWEST), STEPS)


def _movement(
    heat: FloatMap,
    box: FloatArray,
    mask: BoolMask,
    parts: npt.NDArray[np.int32] | None,
    thresholds: FloatArray,
) -> float:
    """Return the mean of 1 - IoU of ``box`` (4,) and what is around the hottest pixel of ``mask`` at each threshold."""
    row, column = np.unravel_index(int(np.argmax(np.where(mask, heat, -1))), heat.shape)
    seed = int(row), int(column)
    own = heat if parts is None else np.where(parts == parts[seed], heat, 0)
    found, _ = component_boxes(own, thresholds / max(float(own.max()), LOWEST), seed)  # which stretches ``own`` to 1
    return float(np.mean(1 - iou(box, found)))
