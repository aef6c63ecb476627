"""Two truths about one image: the size that an annotation states, and the size of the file.

The file's own upright size decides; what was meant by boxes made at another size is told from where they lie.
"""

from __future__ import annotations

from typing import NamedTuple

from gwapctl.boxes import FloatArray, scale, turn_upright, valid
from gwapctl.errors import DataError
from gwapctl.images.decode import StoredSize

ASPECTS_AGREE = 0.01  # relative difference of two aspect ratios up to which one image is the other, resized
SLACK = 1.0  # pixels that a box may reach over the border and still fit: rounding, and counting from 0 or 1

Size = tuple[int, int]


class Placed(NamedTuple):
    """Boxes in pixels of the upright file; ``note`` says what was done where the sizes differ, else it is empty."""

    boxes: FloatArray
    note: str = ""


def place_boxes(boxes: FloatArray, stated: Size | None, file: StoredSize) -> Placed:
    """Bring boxes ``(N, 4)`` of an annotation that states the size ``stated`` to the pixels of the upright file.

    Boxes that no size explains (inverted ones) are carried along and decide nothing.

    Raises:
        DataError: the boxes fit neither the file nor, resized, the stated size; the message says where they lie.

    """
    if stated is None or stated == file.upright:
        return Placed(boxes)
    solid = boxes[valid(boxes)]
    if not len(solid):
        return Placed(boxes, "the file's size counts")
    if stated == (file.width, file.height) and fits(solid, stated):
        turned = turn_upright(boxes, file.width, file.height, file.orientation)
        return Placed(turned, "that is before its EXIF rotation, so its boxes are turned with it")
    if fits(solid, file.upright):
        both = "both sizes and stay as they are; look at some of them" if fits(solid, stated) else "the file and stay"
        return Placed(boxes, f"its boxes fit {both}")
    if fits(solid, stated) and _same_aspect(stated, file.upright):
        return Placed(scale(boxes, *stated, *file.upright), "its boxes are scaled to the file")
    (x0, y0), (x1, y1) = solid[:, :2].min(axis=0), solid[:, 2:].max(axis=0)
    reach = f"its boxes reach from {x0:g}, {y0:g} to {x1:g}, {y1:g}, out of the file"
    why = "the two sizes differ in shape" if fits(solid, stated) else "out of the size stated"
    raise DataError(f"{reach} and {why}. Correct the size or the boxes")


def fits(boxes: FloatArray, size: Size) -> bool:
    """Tell whether all ``boxes`` lie in an image of ``size`` (width, height), or a pixel over its border."""
    return bool((boxes[:, :2] >= -SLACK).all() and (boxes[:, 2:] <= [size[0] + SLACK, size[1] + SLACK]).all())


def _same_aspect(first: Size, second: Size) -> bool:
    ratio = (first[0] * second[1]) / (first[1] * second[0])
    return abs(ratio - 1) <= ASPECTS_AGREE
