"""Boxes of objects that touch: the foreground of another rule, divided along the valleys between the map's peaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gwapctl.regions.components import BoolMask, BoxRule, FloatMap, Region, largest_component, normalise, region_of

APART = 0.15  # smallest distance of two peaks, as a share of the map's shorter side
DEPTH = 0.25  # how far below the lower of two peaks the valley between them lies at least, on the map in [0, 1]

Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class SplitRule(BoxRule):
    """The parts of a ``plain`` rule's foreground, one per peak of the map, the largest first. Ours.

    Peaks are maxima at least ``APART`` from each other (scikit-image's ``peak_local_max``); from them a watershed of
    the negative map (Vincent and Soille, PAMI 1991) divides the foreground. Two parts whose valley is less than
    ``DEPTH`` below the lower peak are one again. A part's box is that of its largest 8-connected component.
    """

    name: str
    plain: BoxRule

    def whole(self) -> BoxRule:
        """Return the plain rule."""
        return self.plain

    def level(self, heat: FloatMap) -> float:
        """Return the plain rule's."""
        return self.plain.level(heat)

    def mask(self, heatmap: npt.ArrayLike) -> BoolMask:
        """Return the plain rule's foreground."""
        return self.plain.mask(heatmap)

    def parts(self, heat: FloatMap) -> Labels:
        """Return the part (H, W), counted from 1, of each pixel of a map in [0, 1], the background divided as well."""
        return _deep_basins(heat, np.ones(heat.shape, np.bool_))

    def regions(self, heatmap: npt.ArrayLike, max_boxes: int, min_area: float) -> list[Region]:
        """Return the largest parts; of equally large ones those with the higher peak."""
        heat, foreground = normalise(heatmap), self.plain.mask(heatmap)
        basins = _deep_basins(heat, foreground)
        parts = (largest_component(basins == part) for part in range(1, int(basins.max(initial=0)) + 1))
        found = [region_of(part, heat) for part in parts if part is not None]
        found.sort(key=lambda region: -region.area_px)
        return [region for region in found[:max_boxes] if region.area_px >= min_area * heat.size]


def _deep_basins(heat: FloatMap, foreground: BoolMask) -> Labels:
    """Return the parts (H, W) of ``foreground``, numbered from 1 by falling peak; 0 elsewhere."""
    from skimage.feature import peak_local_max  # takes half a second to import
    from skimage.segmentation import watershed

    if not foreground.any():
        return np.zeros(heat.shape, np.int32)
    apart = max(1, round(APART * min(heat.shape)))
    peaks = peak_local_max(  # type: ignore[no-untyped-call]
        heat, min_distance=apart, exclude_border=False, labels=foreground.astype(np.int32)
    )
    markers = np.zeros(heat.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)  # (N, 2) rows and columns, the highest first
    found = watershed(-heat, markers, mask=foreground, connectivity=2)  # type: ignore[no-untyped-call]
    basins = np.asarray(found, np.int32)
    return _without_shallow(basins, _passes(basins, heat), heat[tuple(peaks.T)])


def _passes(basins: Labels, heat: FloatMap) -> npt.NDArray[np.float32]:
    """Return the highest heat (N + 1, N + 1) on the way from one basin to another; 0 where two do not touch."""
    count = int(basins.max()) + 1
    passes = np.zeros((count, count), np.float32)
    for here, there in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ):
        one, other = basins[here], basins[there]
        border = (one != other) & (one > 0) & (other > 0)
        height = np.minimum(heat[here], heat[there])[border]
        np.maximum.at(passes, (one[border], other[border]), height)
    return np.maximum(passes, passes.T)


def _without_shallow(basins: Labels, passes: npt.NDArray[np.float32], peaks: npt.NDArray[np.float32]) -> Labels:
    """Return ``basins`` numbered anew, those with a valley too shallow united, the highest pass first."""
    heights = np.concatenate([[0], peaks])
    owner = np.arange(len(heights), dtype=np.int32)
    while True:
        lower = np.minimum(heights[:, None], heights[None])
        depth = np.where(passes > 0, lower - passes, np.inf)
        low, high = np.unravel_index(int(np.argmin(depth)), depth.shape)
        if depth[low, high] >= DEPTH:
            break
        keep, gone = (low, high) if heights[low] >= heights[high] else (high, low)
        owner[owner == gone] = keep
        passes[keep] = np.maximum(passes[keep], passes[gone])
        passes[:, keep] = passes[keep]
        passes[gone], passes[:, gone], passes[keep, keep] = 0, 0, 0
    _, numbered = np.unique(owner, return_inverse=True)
    return np.asarray(numbered, np.int32)[basins]
