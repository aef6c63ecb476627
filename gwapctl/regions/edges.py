"""Boxes that follow the edges of an image: those of another rule, moved to what GrabCut cuts out by colour."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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
    largest_component,
    normalise,
    otsu_mask,
)

SIDE = 160  # pixels on the long side of the image that GrabCut sees
SURE, NEVER = 0.9, 0.1  # cuts of the map: the object for good above the first, the background up to the second
STEPS = 1
AGREEMENT = 0.3  # smallest IoU of a region's box, or a detector's, and a piece's
BOX_SIDE, BOX_STEPS = 128, 2  # the same where there is no map but a detector's box
CORE = 0.4  # of the box's sides: the middle that is the object for good


@dataclass(frozen=True)
class GrabCutRule(BoxRule):
    """The boxes of a ``plain`` rule, moved half way to what GrabCut finds in the image, where the two agree. Ours.

    GrabCut (Rother et al., SIGGRAPH 2004) sees the image shrunk to ``SIDE`` pixels and starts from the map in [0, 1]:
    above ``SURE`` is the object and up to ``NEVER`` the background, for good; of the rest what is above Otsu's
    threshold is the object at first, whatever the plain rule. Where there are several regions it runs once for each, on
    the map over the region's own peak, and what a watershed gives to the others is background for good: objects that
    touch do not flow together. From an IoU of ``AGREEMENT`` on, of the region's box and that of the largest component
    found, every edge of the region's box becomes the mean of the two boxes' edges, and the component its mask; below,
    the region stays as the plain rule found it.

    The map errs by its coarse grid and GrabCut by like colours: their mean errs less than either.
    """

    name: str
    plain: BoxRule
    image: ImageArray | None = field(default=None, compare=False, repr=False)  # (h, w, 3), a small copy
    needs_image: bool = True
    refinement = "grabcut"

    @property
    def by_class(self) -> bool:  # type: ignore[override]
        """Whether the plain rule's is."""
        return self.plain.by_class

    def of_class(self, class_id: str) -> BoxRule:
        """Return the rule on top of the plain rule's for that class."""
        return replace(self, plain=self.plain.of_class(class_id)) if self.by_class else self

    def on_image(self, image: ImageArray) -> BoxRule:
        """Return the rule for the maps of one ``image`` (H, W, 3), uint8 RGB; it keeps a small copy."""
        return replace(self, image=_shrunk(image, SIDE), needs_image=False)

    def without_image(self) -> BoxRule:
        """Return the plain rule."""
        return self.plain

    def whole(self) -> BoxRule:
        """Return the plain rule that leaves objects that touch in one piece."""
        return self.plain.whole()

    def parts(self, heat: FloatMap) -> npt.NDArray[np.int32] | None:
        """Return the plain rule's."""
        return self.plain.parts(heat)

    def level(self, heat: FloatMap) -> float:
        """Return the plain rule's."""
        return self.plain.level(heat)

    def mask(self, heatmap: npt.ArrayLike) -> BoolMask:
        """Return the mask (h, w) of the best region: GrabCut's component, or all that the plain rule has."""
        found = self.regions(heatmap, 1, 0.0)
        return found[0].mask if found and found[0].refined else self.plain.mask(heatmap)

    def regions(self, heatmap: npt.ArrayLike, max_boxes: int, min_area: float) -> list[Region]:
        """Return the plain rule's regions, each judged by itself; their areas are counted in pixels of the map."""
        if self.image is None:
            raise UsageError(
                f"box rule {self.name!r} looks at the image, and there is none. "
                f"Give the image, or use {self.plain.name!r}."
            )
        found = self.plain.regions(heatmap, max_boxes, min_area)
        if not found:
            return []
        shape = np.shape(heatmap)
        heat = _on_grid(np.asarray(heatmap, np.float32), *self.image.shape[:2])
        owners = _owners(found, heat) if len(found) > 1 else np.ones(heat.shape, np.int32)
        judged = [
            _judge(region, _piece(self.image, heat, owners, number), heat, shape)
            for number, region in enumerate(found, start=1)
        ]
        return [region for region in judged if region.area_px >= min_area * shape[0] * shape[1]]


def _owners(regions: list[Region], heat: FloatMap) -> npt.NDArray[np.int32]:
    """Return for each pixel of a map (h, w) of any resolution the number, from 1, of the region that it belongs to.

    Outside of all regions that is where a watershed of the negative map, from the regions down, arrives from.
    """
    from skimage.segmentation import watershed  # takes half a second to import

    height, width = heat.shape
    owners = np.zeros((height, width), np.int32)
    for number, region in enumerate(regions, start=1):
        small = cv2.resize(region.mask.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        owners[small > 0] = number
    return np.asarray(watershed(-heat, owners, connectivity=2), np.int32)  # type: ignore[no-untyped-call]


def _piece(image: ImageArray, heat: FloatMap, owners: npt.NDArray[np.int32], number: int) -> BoolMask | None:
    """Return the largest component (h, w) that GrabCut finds of the region with this ``number``; None if there is none.

    What belongs to another region is background for good, and the map counts from 0 to the region's own peak.
    """
    inside, own = owners == number, heat
    if not inside.all():
        own = np.where(inside, heat, np.float32(0))
        own /= max(float(own.max()), NEVER)
    cut = grabcut(image, sure=own > SURE, likely=otsu_mask(heat) & inside, never=own <= NEVER, steps=STEPS)
    return None if cut is None else largest_component(cut)


def _shrunk(image: ImageArray, side: int) -> ImageArray:
    """Return a copy of an image (H, W, 3) whose longer side has at most ``side`` pixels."""
    grid = Geometry.fit(image.shape[1], image.shape[0], side)
    small = cv2.resize(image, (grid.input_width, grid.input_height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _on_grid(heatmap: FloatMap, height: int, width: int) -> FloatMap:
    """Return the map in [0, 1] at the resolution of the image."""
    shrinks = heatmap.size > height * width
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return normalise(cv2.resize(np.ascontiguousarray(heatmap), (width, height), interpolation=way))


def _box(piece: BoolMask, shape: tuple[int, ...]) -> FloatArray:
    """Return the box (4,) around a ``piece`` (h, w) in pixels of a map of ``shape`` (H, W)."""
    height, width = piece.shape
    found = from_xywh(cv2.boundingRect(piece.view(np.uint8)))
    return np.asarray(scale(found, width, height, shape[1], shape[0])[0])


def _judge(region: Region, piece: BoolMask | None, heat: FloatMap, shape: tuple[int, ...]) -> Region:
    """Return ``region`` moved half way to ``piece``; itself if there is none or the two do not agree."""
    box = None if piece is None else _box(piece, shape)
    if piece is None or box is None or iou(region.box, box)[0, 0] < AGREEMENT:
        return region
    area = round(piece.mean() * shape[0] * shape[1])
    return Region((region.box + box) / 2, float(heat[piece].mean()), area, piece, refined=True)


def move_to_edges(image: ImageArray, boxes: FloatArray, margin: float = 0.0) -> FloatArray:
    """Return ``boxes`` (N, 4) in pixels of ``image`` (H, W, 3), moved half way to what GrabCut finds in each. Ours.

    It sees the image shrunk to ``BOX_SIDE`` pixels. The middle of a box is the object for good, what lies further
    outside than ``margin`` times its sides is background for good, and all else is taken for the object at first. As
    with maps, the mean of the two boxes errs less than either, and where they do not agree the box stays.
    """
    small = _shrunk(image, BOX_SIDE)
    whole, seen = image.shape[1::-1], small.shape[1::-1]  # width and height
    moved = [_moved(small, box, margin) for box in scale(boxes, *whole, *seen)]
    return scale(np.reshape(moved, (-1, 4)), *seen, *whole)


def _moved(image: ImageArray, box: FloatArray, margin: float) -> FloatArray:
    """Return a box (4,) moved half way to what GrabCut finds in ``image``, a small one."""
    inside, core = (_within(box, share, image.shape) for share in (1 + 2 * margin, CORE))
    if inside.all():  # something must be background
        inside[[0, -1]] = inside[:, [0, -1]] = False
    cut = grabcut(image, sure=core, likely=inside, never=~inside, steps=BOX_STEPS)
    piece = None if cut is None else largest_component(cut)
    found = box if piece is None else _box(piece, image.shape)
    return np.asarray((box + found) / 2) if iou(box, found)[0, 0] >= AGREEMENT else box


def _within(box: FloatArray, share: float, shape: tuple[int, ...]) -> BoolMask:
    """Return the pixels (H, W) of a box whose sides are ``share`` of those of ``box`` (4,), at least one."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * share / 2
    left, top = np.clip(np.round(middle - half).astype(int), 0, (shape[1] - 1, shape[0] - 1))
    right, bottom = np.round(middle + half).astype(int)
    mask = np.zeros(shape[:2], bool)
    mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return mask


def grabcut(image: ImageArray, *, sure: BoolMask, likely: BoolMask, never: BoolMask, steps: int) -> BoolMask | None:
    """Return the object (H, W) that GrabCut finds in ``image`` (H, W, 3, RGB) after ``steps`` steps.

    ``sure`` (H, W) stays the object and ``never`` the background; of the other pixels GrabCut first takes those of
    ``likely`` for the object and the rest for background, and may change its mind. None where one of the two has no
    pixel to start from. Colours are clustered from a random start, whose seed is set here and for this thread alone:
    neither other images nor other threads change what is found.
    """
    labels = np.full(sure.shape, cv2.GC_PR_BGD, np.uint8)
    labels[likely] = cv2.GC_PR_FGD
    labels[never] = cv2.GC_BGD
    labels[sure] = cv2.GC_FGD
    start = _is_object(labels)
    if start.all() or not start.any():
        return None
    cv2.setRNGSeed(0)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    colours = np.zeros((1, 65)), np.zeros((1, 65))  # of the background and of the object, for OpenCV's own use
    cv2.grabCut(bgr, labels, (0, 0, 0, 0), *colours, steps, cv2.GC_INIT_WITH_MASK)
    return _is_object(labels)


def _is_object(labels: npt.NDArray[np.uint8]) -> BoolMask:
    return np.asarray((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))
