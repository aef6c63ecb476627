"""Box rules that follow contours: wsolevaluation's, and the one of CAM's released code."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.boxes import BoxesLike, FloatArray, clip, from_inclusive, from_xywh, sorted_corners, valid
from gwapctl.regions.components import BoolMask, BoxRule, FloatMap, Region, normalise, region_in_box

ByteMap = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PolygonRule(BoxRule):
    """wsolevaluation (arXiv 2001.07437): the contours with the largest ``cv2.contourArea`` above a share of the peak.

    The min-max map is cut into 256 levels without rounding; foreground is strictly above ``threshold`` times the
    highest level, cut to an integer. A box reaches a pixel beyond its contour to the right and below inside the map.
    """

    name: str
    threshold: float

    def level(self, heat: FloatMap) -> float:
        """Return the threshold: the peak of a map in [0, 1] is 1."""
        del heat
        return self.threshold

    def mask(self, heatmap: npt.ArrayLike) -> BoolMask:
        """Return the levels above the threshold."""
        levels = byte_levels(normalise(heatmap, np.float64))
        return np.asarray(levels > int(self.threshold * levels.max()))

    def regions(self, heatmap: npt.ArrayLike, max_boxes: int, min_area: float) -> list[Region]:
        """Return the boxes of the largest polygons, inner contours included, with the foreground that is in them."""
        mask, heat = self.mask(heatmap), normalise(heatmap)
        height, width = mask.shape
        contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        largest = sorted(contours, key=cv2.contourArea, reverse=True)  # stable: equals stay in OpenCV's order
        boxes = loose_boxes(from_xywh([cv2.boundingRect(contour) for contour in largest[:max_boxes]]), width, height)
        regions = [region_in_box(box, mask, heat) for box in boxes]
        return [region for region in regions if region.area_px >= min_area * mask.size]


def byte_levels(scores: FloatArray) -> ByteMap:
    """Return the 256 levels of a map in [0, 1], cut off, not rounded."""
    return (scores * 255).astype(np.uint8)


def loose_boxes(boxes: BoxesLike, width: int, height: int) -> FloatArray:
    """Return half-open boxes (N, 4) as wsolevaluation has them: a pixel more to the right and below inside the map."""
    return np.minimum(from_inclusive(boxes), [width, height, width, height])


class CamReleasedRule(BoxRule):
    """The box generator of CAM's released code (zhoubolei/CAM, bboxgenerator), which is not the rule of the paper.

    The map over its maximum becomes an 8-bit JPEG. At each of three thresholds: distance to the background, stretched
    to 255, strictly above 10, rectangles of all contours, kept 5 pixels off the right and lower side. All of them by
    area; from large to small each removes later ones that it overlaps by more than half of the larger area (the
    released loop skips the rectangle after one that it removes). Their sides belong to the box, as ILSVRC's kit reads
    them.
    """

    name = "cam-released"
    thresholds = (20, 100, 110)

    def level(self, heat: FloatMap) -> float:
        """Return the lowest threshold, as a share of the peak."""
        del heat
        return self.thresholds[0] / 255

    def mask(self, heatmap: npt.ArrayLike) -> BoolMask:
        """Return the foreground at the lowest threshold."""
        return _core(_as_jpeg(heatmap), self.thresholds[0])

    def regions(self, heatmap: npt.ArrayLike, max_boxes: int, min_area: float) -> list[Region]:
        """Return the rectangles that are left, the largest first."""
        grey, heat = _as_jpeg(heatmap), normalise(heatmap)
        height, width = heat.shape
        cores = [_core(grey, threshold) for threshold in self.thresholds]
        found = sorted((rectangle for core in cores for rectangle in _rectangles(core)), key=_area, reverse=True)
        corners = sorted_corners(from_xywh(_without_overlapping(found)))  # widths may be negative
        boxes = clip(from_inclusive(corners), width, height)
        regions = [region_in_box(box, cores[0], heat) for box in boxes[valid(boxes)]]
        return [region for region in regions if region.area_px >= min_area * heat.size][:max_boxes]


Rectangle = tuple[int, int, int, int]  # x, y, width, height; width and height may be negative near the far sides


def _as_jpeg(heatmap: npt.ArrayLike) -> ByteMap:
    """Return what MATLAB's ``imwrite`` (quality 75) and a JPEG reader leave of ``map / max``; 0 if it is constant."""
    if not normalise(heatmap).any():
        return np.zeros(np.shape(heatmap), dtype=np.uint8)
    values = np.asarray(heatmap, dtype=np.float64)
    peak = values.max()
    share = np.clip(values / peak, 0, 1) if peak > 0 else np.zeros_like(values)
    _, encoded = cv2.imencode(".jpg", np.rint(share * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 75])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)


def _core(grey: ByteMap, threshold: int) -> BoolMask:
    """Return the pixels deep inside ``grey > threshold``: further from the background than 10/255 of the deepest."""
    above = grey > threshold
    if above.all() or not above.any():
        return above
    distance = cv2.distanceTransform(above.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    exact = np.sqrt(np.rint(np.square(np.asarray(distance, dtype=np.float64))))  # squares are integers
    return np.asarray(np.floor(exact * (255.0 / exact.max()) + 0.5) > 10)


def _rectangles(core: BoolMask) -> list[Rectangle]:
    height, width = core.shape
    contours, _ = cv2.findContours(core.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        found.append((min(x, width - 5), min(y, height - 5), min(w, width - x - 5), min(h, height - y - 5)))
    return found


def _without_overlapping(rectangles: list[Rectangle]) -> list[Rectangle]:
    kept = list(rectangles)
    first = 0
    while first < len(kept):
        second = first + 1
        while second < len(kept):
            if _overlap(kept[first], kept[second]):
                del kept[second]
            second += 1
        first += 1
    return kept


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    half = int(max(_area(a), _area(b)) * 0.5)
    common_width = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    common_height = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return common_width * common_height > half


def _area(rectangle: Rectangle) -> int:
    return rectangle[2] * rectangle[3]
