"""The one box convention, and every conversion to and from it.

A box is ``x0, y0, x1, y1``: float, half-open, in pixels of the original upright image. Pixel column ``i`` covers
``[i, i + 1)``, so a box around all of a ``W x H`` image is ``0, 0, W, H`` and its area is ``W * H``. With boxes from
integer, inclusive coordinates the plain IoU below equals the inclusive ("+1") IoU of VOC and ILSVRC exactly.

Arrays of boxes have shape ``(N, 4)`` and dtype float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoxesLike = npt.ArrayLike | Sequence[Sequence[float]]


@dataclass(frozen=True, eq=False)
class Detections:
    """All boxes found in one image: ``boxes`` (N, 4) in its pixels, ``scores`` (N,), ``labels`` (N,), class indices.

    ``width, height`` are the image's, 0 where they are not known. ``weight_maps`` (C, h, w) are those of a detector's
    weak branch, one per class of the model; None where they were not asked for or there are none.
    """

    boxes: FloatArray
    scores: FloatArray
    labels: npt.NDArray[np.int64]
    width: int = 0
    height: int = 0
    weight_maps: npt.NDArray[np.float32] | None = None


def as_boxes(boxes: BoxesLike) -> FloatArray:
    """Return ``boxes`` as a float64 array of shape ``(N, 4)``; an empty input gives ``(0, 4)``."""
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def area(boxes: BoxesLike) -> FloatArray:
    """Return areas ``(N,)`` in square pixels; inverted boxes have area 0."""
    array = as_boxes(boxes)
    sides = np.clip(array[:, 2:] - array[:, :2], 0, None)
    return np.asarray(sides[:, 0] * sides[:, 1])


def iou(first: BoxesLike, second: BoxesLike) -> FloatArray:
    """Return the intersection over union ``(N, M)`` of boxes ``(N, 4)`` and ``(M, 4)``; 0 where the union is empty.

    >>> iou([[0, 0, 8, 4]], [[0, 0, 8, 8], [8, 4, 9, 9]])
    array([[0.5, 0. ]])
    """
    a, b = as_boxes(first)[:, None], as_boxes(second)[None]  # (N, 1, 4), (1, M, 4)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)  # (N, M, 2)
    intersection = sides[..., 0] * sides[..., 1]
    union = area(first)[:, None] + area(second)[None] - intersection
    return np.asarray(np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0))


def clip(boxes: BoxesLike, width: float, height: float) -> FloatArray:
    """Return boxes cut to an image of ``width x height`` pixels."""
    return np.clip(as_boxes(boxes), 0, [width, height, width, height])


def scale(boxes: BoxesLike, width: float, height: float, to_width: float, to_height: float) -> FloatArray:
    """Return boxes of an image of ``width x height`` pixels in pixels of the same image at another size."""
    return as_boxes(as_boxes(boxes) * ([to_width / width, to_height / height] * 2))


def turn_upright(boxes: BoxesLike, width: float, height: float, orientation: int) -> FloatArray:
    """Turn boxes of an image stored as ``width x height`` pixels to how the EXIF ``orientation`` (1..8) shows it."""
    x0, y0, x1, y1 = as_boxes(boxes).T
    if orientation in (5, 6, 7, 8):
        x0, y0, x1, y1, width, height = y0, x0, y1, x1, height, width
    if orientation in (2, 3, 6, 7):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 7, 8):
        y0, y1 = height - y1, height - y0
    return np.stack([x0, y0, x1, y1], axis=1)


def sorted_corners(boxes: BoxesLike) -> FloatArray:
    """Return boxes with the smaller coordinate first, as they are no longer after a mirror."""
    corners = as_boxes(boxes).reshape(-1, 2, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def valid(boxes: BoxesLike) -> npt.NDArray[np.bool_]:
    """Return ``(N,)``: True where a box is finite and has a positive width and height."""
    array = as_boxes(boxes)
    return np.asarray(np.isfinite(array).all(axis=1) & (array[:, 2:] > array[:, :2]).all(axis=1))


def full_image(width: float, height: float) -> FloatArray:
    """Return the one box ``(1, 4)`` over the whole image: the lower of the two floors."""
    return as_boxes([0, 0, width, height])


def centred(width: float, height: float, side: float = 0.75) -> FloatArray:
    """Return the one box ``(1, 4)`` of ``side * W x side * H`` in the middle of the image: the other floor."""
    margin = (1 - side) / 2
    return as_boxes([margin * width, margin * height, (1 - margin) * width, (1 - margin) * height])


def from_inclusive(boxes: BoxesLike) -> FloatArray:
    """Convert 0-based inclusive corners (ILSVRC, Tiny ImageNet) to our boxes."""
    return as_boxes(as_boxes(boxes) + np.array([0.0, 0.0, 1.0, 1.0]))


def to_inclusive(boxes: BoxesLike) -> FloatArray:
    """Convert our boxes to 0-based inclusive corners (ILSVRC, Tiny ImageNet)."""
    return as_boxes(as_boxes(boxes) - np.array([0.0, 0.0, 1.0, 1.0]))


def from_voc(boxes: BoxesLike) -> FloatArray:
    """Convert 1-based inclusive corners (VOC XML) to our boxes.

    >>> from_voc([1, 1, 500, 375])
    array([[  0.,   0., 500., 375.]])
    """
    return as_boxes(as_boxes(boxes) - np.array([1.0, 1.0, 0.0, 0.0]))


def to_voc(boxes: BoxesLike) -> FloatArray:
    """Convert our boxes to 1-based inclusive corners (VOC XML)."""
    return as_boxes(as_boxes(boxes) + np.array([1.0, 1.0, 0.0, 0.0]))


def from_xywh(boxes: BoxesLike) -> FloatArray:
    """Convert ``x, y, width, height`` from the top left corner (COCO, CUB) to our boxes."""
    array = as_boxes(boxes)
    return np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], axis=1)


def to_xywh(boxes: BoxesLike) -> FloatArray:
    """Convert our boxes to ``x, y, width, height`` from the top left corner (COCO)."""
    array = as_boxes(boxes)
    return np.concatenate([array[:, :2], array[:, 2:] - array[:, :2]], axis=1)


def from_yolo(boxes: BoxesLike, width: float, height: float) -> FloatArray:
    """Convert ``centre x, centre y, width, height`` as fractions of the image (YOLO) to our boxes."""
    array = as_boxes(boxes) * [width, height, width, height]
    return np.concatenate([array[:, :2] - array[:, 2:] / 2, array[:, :2] + array[:, 2:] / 2], axis=1)


def to_yolo(boxes: BoxesLike, width: float, height: float) -> FloatArray:
    """Convert our boxes to ``centre x, centre y, width, height`` as fractions of the image (YOLO)."""
    array = as_boxes(boxes) / [width, height, width, height]
    return np.concatenate([(array[:, :2] + array[:, 2:]) / 2, array[:, 2:] - array[:, :2]], axis=1)


def to_percent_xywh(boxes: BoxesLike, width: float, height: float) -> FloatArray:
    """Convert our boxes to ``x, y, width, height`` in percent of the image, from the top left corner (Label Studio)."""
    return np.asarray(to_xywh(boxes) * 100 / np.array([width, height, width, height], dtype=np.float64))


def from_percent_xywh(boxes: BoxesLike, width: float, height: float) -> FloatArray:
    """Convert ``x, y, width, height`` in percent of the image, from the top left corner (Label Studio), to our boxes.

    >>> from_percent_xywh([10, 50, 20, 25], 80, 60)
    array([[ 8., 30., 24., 45.]])
    """
    return from_xywh(as_boxes(boxes) * np.array([width, height, width, height], dtype=np.float64) / 100)


def centre(boxes: BoxesLike) -> FloatArray:
    """Return the centres ``(N, 2)`` of boxes."""
    array = as_boxes(boxes)
    return np.asarray((array[:, :2] + array[:, 2:]) / 2)


def around(points: npt.ArrayLike) -> FloatArray:
    """Return the smallest box ``(1, 4)`` around points ``(N, 2)``: of a polygon, say."""
    array = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return as_boxes([*array.min(axis=0), *array.max(axis=0)])


def around_turned(box: BoxesLike, degrees: float, pivot: npt.ArrayLike) -> FloatArray:
    """Return the smallest box ``(1, 4)`` around one box that is turned clockwise about ``pivot``, a point ``(x, y)``.

    >>> around_turned([0, 0, 8, 4], 90, (0, 0)).round(6)
    array([[-4.,  0.,  0.,  8.]])
    """
    x0, y0, x1, y1 = as_boxes(box)[0]
    arms = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) - np.asarray(pivot)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))  # y points down, so this is clockwise
    return around(arms @ np.array([[cosine, sine], [-sine, cosine]]) + np.asarray(pivot))


def to_list(box: npt.NDArray[Any]) -> list[float]:
    """Return one box ``(4,)`` as plain floats for JSON."""
    return [float(value) for value in box]
