"""Boxes that follow the edges of an image: those of another rule, and GrabCut's word on them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray, from_xywh, iou, scale
from gwapctl.errors import UsageError
from gwapctl.geometry import Geometry
from gwapctl.regions.components import (
    BoolMask,
    BoxRule,
    FloatMap,
    ImageArray,
    Region,
    largest_components,
    normalise,
    otsu_mask,
)
from gwapctl.regions.grabcut import grabcut

SIDE = 160  # pixels on the long side of the image that GrabCut sees
SURE, NEVER = 0.9, 0.1  # cuts of the map: the object for good above the first, the background up to the second
STEPS = 1
AGREEMENT = 0.3  # smallest IoU of a region's box and a piece's


@dataclass(frozen=True)
class GrabCutRule(BoxRule):
    """The boxes of a ``plain`` rule, moved half way to what GrabCut finds in the image, where the two agree. Ours.

    GrabCut (Rother et al., SIGGRAPH 2004) sees the image shrunk to ``SIDE`` pixels and starts from the map in [0, 1]:
    above ``SURE`` is the object and up to ``NEVER`` the background, for good; of the rest what is above Otsu's
    threshold is the object at first, whatever the plain rule. Of its largest components, as many as regions are asked
    for, each region takes the one whose box has the highest IoU with its own. From ``AGREEMENT`` on, every edge of the
    region's box becomes the mean of the two boxes' edges, and the component its mask; below, the region stays as the
    plain rule found it.

    The map errs by its coarse grid and GrabCut by like colours: their mean errs less than either.
    """

    name: str
    plain: BoxRule
    refinement = "grabcut"

    def on_image(self, image: ImageArray) -> BoxRule:
        """Return the rule for the maps of one ``image`` (H, W, 3), uint8 RGB; it keeps a small copy."""
        return _OnImage(self.name, self.plain, _shrink(image))

    def without_image(self) -> BoxRule:
        """Return the plain rule."""
        return self.plain

    def mask(self, heatmap: npt.ArrayLike) -> BoolMask:
        """Refuse: there is no image."""
        del heatmap
        raise self._no_image()

    def regions(self, heatmap: npt.ArrayLike, max_boxes: int, min_area: float) -> list[Region]:
        """Refuse: there is no image."""
        del heatmap, max_boxes, min_area
        raise self._no_image()

    def _no_image(self) -> UsageError:
        return UsageError(
            f"box rule {self.name!r} looks at the image, and there is none. Give the image, or use {self.plain.name!r}."
        )


def with_grabcut(plain: BoxRule) -> BoxRule:
    """Return ``plain`` refined by GrabCut."""
    return GrabCutRule(f"{plain.name}+{GrabCutRule.refinement}", plain)


@dataclass(frozen=True, eq=False)
class _OnImage(BoxRule):
    """A ``GrabCutRule`` that knows its ``image`` (h, w, 3), shrunk."""

    name: str
    plain: BoxRule
    image: ImageArray

    def mask(self, heatmap: npt.ArrayLike) -> BoolMask:
        """Return the mask (h, w) of the best region: GrabCut's component, or all that the plain rule has."""
        found = self.regions(heatmap, 1, 0.0)
        return self.plain.mask(heatmap) if not found or found[0].mask is None else found[0].mask

    def regions(self, heatmap: npt.ArrayLike, max_boxes: int, min_area: float) -> list[Region]:
        """Return the plain rule's regions, each judged by itself; their areas are counted in pixels of the map."""
        found = self.plain.regions(heatmap, max_boxes, min_area)
        if not found:
            return []
        shape = np.shape(heatmap)
        heat = self._on_grid(np.asarray(heatmap, np.float32))
        pieces = self._pieces(heat, max_boxes)
        judged = []
        for region in found:
            piece = _closest(region, pieces, shape)
            judged.append(region if piece is None else _moved(region, piece, heat, shape))
            pieces = [other for other in pieces if other is not piece]
        return [region for region in judged if region.area_px >= min_area * shape[0] * shape[1]]

    def _on_grid(self, heatmap: FloatMap) -> FloatMap:
        """Return the map in [0, 1] at the resolution of the image."""
        height, width = self.image.shape[:2]
        shrinks = heatmap.size > height * width
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return normalise(cv2.resize(np.ascontiguousarray(heatmap), (width, height), interpolation=way))

    def _pieces(self, heat: FloatMap, count: int) -> list[BoolMask]:
        """Return the largest components (h, w) of what GrabCut finds."""
        found = grabcut(self.image, sure=heat > SURE, likely=otsu_mask(heat), never=heat <= NEVER, steps=STEPS)
        return [] if found is None else largest_components(found, count)


def _shrink(image: ImageArray) -> ImageArray:
    grid = Geometry.fit(image.shape[1], image.shape[0], SIDE)
    size = grid.input_width, grid.input_height
    if size == image.shape[1::-1]:
        return image.copy()
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _box(piece: BoolMask, shape: tuple[int, ...]) -> FloatArray:
    """Return the box (4,) around a ``piece`` (h, w) in pixels of a map of ``shape`` (H, W)."""
    height, width = piece.shape
    found = from_xywh(cv2.boundingRect(piece.view(np.uint8)))
    return np.asarray(scale(found, width, height, shape[1], shape[0])[0])


def _closest(region: Region, pieces: list[BoolMask], shape: tuple[int, ...]) -> BoolMask | None:
    """Return the piece whose box agrees best with the region's, or None where none agrees enough."""
    agreement = [float(iou(region.box, _box(piece, shape))[0, 0]) for piece in pieces]
    best = int(np.argmax(agreement)) if agreement else -1
    return pieces[best] if agreement and agreement[best] >= AGREEMENT else None


def _moved(region: Region, piece: BoolMask, heat: FloatMap, shape: tuple[int, ...]) -> Region:
    """Return ``region`` moved half way to ``piece`` (h, w), with its mean heat and its area."""
    box = (region.box + _box(piece, shape)) / 2
    area = round(piece.mean() * shape[0] * shape[1])
    return Region(box, float(heat[piece].mean()), area, piece)
