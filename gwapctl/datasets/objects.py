"""From annotated objects to one sample: the part that every reader of boxes shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray, as_boxes, clip, scale, turn_upright, valid
from gwapctl.datasets.base import BoxedSample, Problems
from gwapctl.errors import DataError
from gwapctl.images.decode import stored_size
from gwapctl.images.jpeg import StoredSize

ASPECTS_AGREE = 0.01  # relative difference of two aspect ratios up to which one image is the other, resized
SLACK = 1.0  # pixels that a box may reach over the border and still fit: rounding, and counting from 0 or 1
ROUNDING = 0.5  # pixels that a box may lose at the border without a word

Size = tuple[int, int]
Corners = tuple[float, float, float, float]


def stated_size(width: str | float | None, height: str | float | None) -> Size | None:
    """Return the size that an annotation states, or None where it is missing, zero or no number."""
    try:
        size = int(float(width or 0)), int(float(height or 0))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


class LabelledObject(NamedTuple):
    """One object of an image: the class index, its box as the file has it (None: only the label is known)."""

    label: int
    corners: Corners | None
    difficult: bool = False


def make_sample(
    id: str,
    path: Path,
    objects: Sequence[LabelledObject],
    *,
    convert: Callable[[npt.ArrayLike], FloatArray],
    size: tuple[int, int] | None,
    source: Path,
    problems: Problems,
    mask: Path | None = None,
    stored: StoredSize | None = None,
) -> BoxedSample:
    """Return the sample of an image.

    ``convert`` turns the corners of the file into our boxes, in pixels of an image of ``size`` (None: not stated). The
    size of the upright file decides (``place_boxes``): boxes are brought to it and cut to it. What was mended is a
    warning that names ``source``; boxes that fit no size are an error, and the image goes on without them.
    ``stored`` is the size of the file where it was read already. A file that cannot be read is no matter of its
    annotation: whoever reads the image says so.
    """
    located = [item for item in objects if item.corners is not None]
    boxes = as_boxes(convert([item.corners for item in located if item.corners])) if located else as_boxes([])
    if located or size is not None:
        stored = stored or _stored_size(path)
    if stored is not None:
        boxes, size, refused = _to_file(boxes, size, stored, path, source, problems)
        located = [] if refused else located
    kept, keep = _cut(boxes, size, f"{source}: {id}", problems)
    easy = {item.label for item in objects if not item.difficult}
    hard = {item.label for item in objects if item.difficult}
    return BoxedSample(
        id=id,
        path=path,
        labels=tuple(sorted(easy)),
        ignored=tuple(sorted(hard - easy)),
        size=size,
        boxes=kept,
        box_labels=np.array([item.label for item in located], np.int64)[keep],
        difficult=np.array([item.difficult for item in located], np.bool_)[keep],
        mask=mask,
    )


def _stored_size(path: Path) -> StoredSize | None:
    try:
        return stored_size(path)
    except DataError:
        return None


def _to_file(
    boxes: FloatArray, stated: Size | None, stored: StoredSize, path: Path, source: Path, problems: Problems
) -> tuple[FloatArray, Size | None, bool]:
    """Return the boxes in pixels of the file, the size that counts, and whether the boxes were refused."""
    width, height = stored.upright
    other = f"{stated[0]} x {stated[1]}" if stated is not None else "nothing"
    difference = f"{path} is {width} x {height}, but {source} says {other}"
    try:
        boxes, note = place_boxes(boxes, stated, stored)
    except DataError as error:
        problems.error(f"{difference}: {error}.")
        return as_boxes([]), stated, True
    if note:
        problems.warn(f"{difference}: {note}.", kind=f"size: {note}")
    return boxes, stored.upright, False


def _cut(
    boxes: FloatArray, size: Size | None, name: str, problems: Problems
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return the boxes cut to the image, without those of which nothing is left, and which these are not."""
    inside = clip(boxes, *size) if size is not None else boxes
    keep = valid(inside)
    cut = keep & (np.abs(inside - boxes) > ROUNDING).any(axis=1)
    parts = []
    if not keep.all():
        parts.append(f"{int((~keep).sum())} inverted or empty boxes, or outside the image; left out")
    if cut.any() and size is not None:
        count = int(cut.sum())
        parts.append(f"{count} {'boxes' if count > 1 else 'box'} cut to the image of {size[0]} x {size[1]}")
    if parts:
        problems.warn(f"{name}: {'; '.join(parts)}.", kind="boxes left out" if not keep.all() else "boxes cut")
    return inside[keep], keep


def place_boxes(boxes: FloatArray, stated: Size | None, file: StoredSize) -> tuple[FloatArray, str]:
    """Bring boxes ``(N, 4)`` of an annotation that states the size ``stated`` to the pixels of the upright file.

    Return them and what was done where the sizes differ. Boxes that no size explains (inverted ones) are carried along
    and decide nothing.

    Raises:
        DataError: the boxes fit neither the file nor, resized, the stated size; the message says where they lie.

    """
    if stated is None or stated == file.upright:
        return boxes, ""
    solid = boxes[valid(boxes)]
    if not len(solid):
        return boxes, "the file's size counts"
    if stated == (file.width, file.height) and fits(solid, stated):
        turned = turn_upright(boxes, file.width, file.height, file.orientation)
        return turned, "that is before its EXIF rotation, so its boxes are turned with it"
    if fits(solid, file.upright):
        both = "both sizes and stay as they are; look at some of them" if fits(solid, stated) else "the file and stay"
        return boxes, f"its boxes fit {both}"
    aspects = (stated[0] * file.upright[1]) / (stated[1] * file.upright[0])
    if fits(solid, stated) and abs(aspects - 1) <= ASPECTS_AGREE:
        return scale(boxes, *stated, *file.upright), "its boxes are scaled to the file"
    (x0, y0), (x1, y1) = solid[:, :2].min(axis=0), solid[:, 2:].max(axis=0)
    reach = f"its boxes reach from {x0:g}, {y0:g} to {x1:g}, {y1:g}, out of the file"
    why = "the two sizes differ in shape" if fits(solid, stated) else "out of the size stated"
    raise DataError(f"{reach} and {why}. Correct the size or the boxes")


def fits(boxes: FloatArray, size: Size) -> bool:
    """Tell whether all ``boxes`` lie in an image of ``size`` (width, height), or a pixel over its border."""
    return bool((boxes[:, :2] >= -SLACK).all() and (boxes[:, 2:] <= [size[0] + SLACK, size[1] + SLACK]).all())
