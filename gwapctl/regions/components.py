"""Normalised maps, and the 8-connected components of a thresholded map.

"Largest" counts pixels: the papers say component. (``cv2.contourArea``, the area of a polygon through pixel centres,
gives a line of 40 pixels the area 0; only the ``wsoleval`` rule uses it.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.boxes import BoxesLike, FloatArray, as_boxes, from_xywh
from gwapctl.errors import DataError

FloatMap = npt.NDArray[np.float32]
BoolMask = npt.NDArray[np.bool_]
ImageArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Region:
    """A connected component: ``box`` (4,) half-open in map pixels, ``score`` the mean heat inside, its pixel count.

    ``mask`` (h, w) is its pixels: those of the map or, where the rule found the object in the image (``refined``), at a
    resolution of its own.
    """

    box: FloatArray
    score: float
    area_px: int
    mask: BoolMask
    refined: bool = False


class BoxRule(ABC):
    """How one heatmap becomes boxes. ``name`` is what ``parse_box_rule`` reads back.

    A rule with a ``refinement`` cuts no map before ``on_image`` has shown it the image (``needs_image``).
    """

    name: str
    refinement: str | None = None
    needs_image: bool = False
    by_class: bool = False  # whether ``of_class`` depends on the class

    def of_class(self, class_id: str) -> BoxRule:
        """Return the rule for maps of the class of that id."""
        del class_id
        return self

    def on_image(self, image: ImageArray) -> BoxRule:
        """Return the rule for the maps of one ``image`` (H, W, 3), uint8 RGB, of any size."""
        del image
        return self

    def without_image(self) -> BoxRule:
        """Return what is left of the rule for those who look at the map alone."""
        return self

    def whole(self) -> BoxRule:
        """Return the rule that leaves objects that touch in one piece; it looks at the map alone."""
        return self

    def parts(self, heat: FloatMap) -> npt.NDArray[np.int32] | None:
        """Return the part (H, W), counted from 1, of each pixel of a map in [0, 1]; None where objects stay whole."""
        del heat
        return None

    @abstractmethod
    def level(self, heat: FloatMap) -> float:
        """Return the value above which a map ``heat`` (H, W) in [0, 1] is foreground."""

    @abstractmethod
    def mask(self, heatmap: npt.ArrayLike) -> BoolMask:
        """Return the foreground of ``heatmap`` (H, W) as a mask (H, W); empty for a constant map."""

    @abstractmethod
    def regions(self, heatmap: npt.ArrayLike, max_boxes: int, min_area: float) -> list[Region]:
        """Return at most ``max_boxes`` regions, the best first; none for a constant map."""


def normalise(heatmap: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Return ``heatmap`` (H, W) stretched to [0, 1] by its minimum and maximum; a constant map gives zeros.

    Rules that cut the map into levels without rounding want it in double precision (``dtype``).

    >>> normalise([[2, 4], [6, 10]])
    array([[0.  , 0.25],
           [0.5 , 1.  ]], dtype=float32)

    Raises:
        DataError: the map is not two-dimensional, is empty, or holds NaN or infinity.

    """
    values = np.asarray(heatmap, dtype)
    if values.ndim != 2 or values.size == 0:
        raise DataError(f"a heatmap has shape (H, W), this one {values.shape}. Give one map per class and image.")
    low = values.min()
    span = float(values.max()) - float(low)  # NaN and infinity reach the span through min and max
    if not np.isfinite(span):
        raise DataError("the heatmap holds NaN or infinity. Write finite values.")
    if span == 0:
        return np.zeros_like(values)
    stretched = values - low
    stretched /= values.dtype.type(span)
    return np.asarray(stretched)


def stretch(heatmap: npt.ArrayLike) -> tuple[FloatMap, tuple[float, float]]:
    """Return what ``normalise`` does, and the map's lowest and highest value, from which ``unstretch`` makes it again.

    >>> stretched, limits = stretch([[2, 4], [6, 10]])
    >>> unstretch(stretched, limits).tolist()
    [[2.0, 4.0], [6.0, 10.0]]
    """
    values = np.asarray(heatmap, np.float32)
    return normalise(values), (float(values.min()), float(values.max()))


def unstretch(heatmap: npt.ArrayLike, limits: Sequence[float]) -> FloatMap:
    """Return the values (H, W) of a map in [0, 1] where 0 and 1 stand for the two ``limits``."""
    low, high = (np.float32(limit) for limit in limits)
    return low + (high - low) * np.asarray(heatmap, np.float32)


def resize_map(heatmap: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Return a map (h, w) stretched bilinearly to ``size`` (width, height), in its own dtype."""
    return np.asarray(cv2.resize(np.ascontiguousarray(heatmap), size, interpolation=cv2.INTER_LINEAR))


def region_in_box(box: BoxesLike, mask: BoolMask, heat: FloatMap) -> Region:
    """Return the region of the pixels of ``mask`` (H, W) that lie in a box (4,) of whole map pixels."""
    bounds = as_boxes(box)[0]
    x0, y0, x1, y1 = bounds.astype(int).tolist()
    inside = mask[y0:y1, x0:x1]
    pixels = int(np.count_nonzero(inside))
    score = float(heat[y0:y1, x0:x1][inside].mean()) if pixels else 0.0
    own = np.zeros_like(mask)
    own[y0:y1, x0:x1] = inside
    return Region(bounds, score, pixels, own)


def region_of(mask: BoolMask, heat: FloatMap) -> Region:
    """Return the region of all pixels of ``mask`` (H, W), which has some, in a map of the same size."""
    box = from_xywh(cv2.boundingRect(mask.view(np.uint8)))[0]
    return Region(box, float(heat[mask].mean()), int(np.count_nonzero(mask)), mask)


@dataclass(frozen=True)
class ComponentRule(BoxRule):
    """The largest components of ``map > threshold`` on the min-max map; strictly above, as in CAM (arXiv 1512.04150).

    ``threshold`` None is Otsu's on 256 levels: OpenCV returns the upper value of the lower class, so it is strict too.
    """

    name: str
    threshold: float | None

    def mask(self, heatmap: npt.ArrayLike) -> BoolMask:
        """Return ``normalise(heatmap) > threshold``."""
        return self._binarise(normalise(heatmap))

    def regions(self, heatmap: npt.ArrayLike, max_boxes: int, min_area: float) -> list[Region]:
        """Return the largest components; of equally large ones those first that a row-by-row scan meets first."""
        heat = normalise(heatmap)
        labels, stats = _label(self._binarise(heat))
        smallest = min_area * heat.size
        return [
            _region(labels, stats, heat, label)
            for label in _by_area(labels, stats, max_boxes)
            if stats[label, cv2.CC_STAT_AREA] >= smallest
        ]

    def level(self, heat: FloatMap) -> float:
        """Return the threshold, or Otsu's of this map."""
        return _otsu(heat)[0] if self.threshold is None else self.threshold

    def _binarise(self, heat: FloatMap) -> BoolMask:
        if self.threshold is None:
            return otsu_mask(heat)
        return np.asarray(heat > np.float32(self.threshold))


def otsu_mask(heat: FloatMap) -> BoolMask:
    """Return the pixels of a normalised map (H, W) above Otsu's threshold on 256 levels."""
    return _otsu(heat)[1]


def _otsu(heat: FloatMap) -> tuple[float, BoolMask]:
    """Return Otsu's threshold of a normalised map (H, W), in [0, 1], and the pixels above it."""
    levels = cv2.convertScaleAbs(heat, alpha=255)
    threshold, above = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return threshold / 255, np.asarray(above).view(np.bool_)


def largest_component(mask: npt.ArrayLike) -> BoolMask | None:
    """Return the largest 8-connected component of ``mask`` (H, W) as a mask, or None if nothing is set.

    Of several equally large ones it is the one that a row-by-row scan meets first.

    >>> largest_component([[1, 0, 1], [0, 0, 1]])
    array([[False, False,  True],
           [False, False,  True]])
    """
    labels, stats = _label(np.ascontiguousarray(mask, dtype=bool))
    largest = _by_area(labels, stats, 1)
    return np.asarray(labels == largest[0]) if largest else None


def _label(mask: BoolMask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    return np.asarray(labels), np.asarray(stats)  # (H, W); (components + 1, 5), row 0 is the background


def _by_area(labels: npt.NDArray[np.int32], stats: npt.NDArray[np.int32], count: int) -> list[int]:
    """Return the labels of the ``count`` largest components; equal ones in scan order."""
    areas = stats[1:, cv2.CC_STAT_AREA]
    if len(areas) <= 1:
        return [1] * min(len(areas), count)
    if count == 1:
        largest = np.flatnonzero(areas == areas.max()) + 1
        if len(largest) == 1:
            return [int(largest[0])]
    # OpenCV numbers components by 2 x 2 blocks, so scan order has to be looked up
    present, first = np.unique(labels, return_index=True)
    scan = first[present > 0]
    return [int(label) + 1 for label in np.lexsort((scan, -areas))[:count]]


def _region(labels: npt.NDArray[np.int32], stats: npt.NDArray[np.int32], heat: FloatMap, label: int) -> Region:
    x, y, width, height, area = stats[label].tolist()
    window = slice(y, y + height), slice(x, x + width)
    mask = np.asarray(labels == label)
    box = np.array([x, y, x + width, y + height], dtype=np.float64)
    return Region(box, cv2.mean(heat[window], mask[window].view(np.uint8))[0], area, mask)
