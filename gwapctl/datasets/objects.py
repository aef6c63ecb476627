"""From annotated objects to one sample: the part that every reader of boxes shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray, as_boxes, clip, valid
from gwapctl.datasets.base import BoxedSample, Problems
from gwapctl.errors import DataError
from gwapctl.images import image_size

Corners = tuple[float, float, float, float]


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
) -> BoxedSample | None:
    """Return the sample of an image, or None where its file is broken and problems are being collected.

    ``convert`` turns the corners of the file into our boxes. They are cut to the image (``size``, or what its header
    says); what is inverted, empty or outside is left out with a warning that names ``source``.
    """
    located = [item for item in objects if item.corners is not None]
    if located and size is None:
        try:
            size = image_size(path)
        except DataError as error:
            problems.error(str(error))
            return None
    boxes = as_boxes([])
    if located and size is not None:
        boxes = clip(convert([item.corners for item in located if item.corners]), *size)
    keep = valid(boxes)
    if not keep.all():
        problems.warn(f"{source}: {id}: {int((~keep).sum())} inverted or empty boxes, or outside the image; left out.")
    easy = {item.label for item in objects if not item.difficult}
    hard = {item.label for item in objects if item.difficult}
    return BoxedSample(
        id=id,
        path=path,
        labels=tuple(sorted(easy)),
        ignored=tuple(sorted(hard - easy)),
        size=size,
        boxes=boxes[keep],
        box_labels=np.array([item.label for item in located], np.int64)[keep],
        difficult=np.array([item.difficult for item in located], np.bool_)[keep],
        mask=mask,
    )
