"""How an image became a network input, and the way back to original pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gwapctl.boxes import BoxesLike, FloatArray, as_boxes
from gwapctl.errors import DataError


@dataclass(frozen=True)
class Geometry:
    """The affine map ``input = original * scale + offset``, per axis, of one image.

    ``width, height`` are the original's pixels, ``input_width, input_height`` the network input's. A mirrored image has
    a negative ``scale_x``. EXIF rotation is not part of it: decoding applies that once; "original" means upright.
    """

    width: int
    height: int
    input_width: int
    input_height: int
    scale_x: float
    scale_y: float
    offset_x: float = 0.0
    offset_y: float = 0.0

    @classmethod
    def warp(cls, width: int, height: int, input_width: int, input_height: int) -> Geometry:
        """Resize to exactly ``input_width x input_height``; the aspect ratio changes, as in the paper.

        Raises:
            DataError: the image, or the input, has no pixels.

        """
        if min(width, height, input_width, input_height) < 1:
            raise DataError(f"an image of {width} x {height} pixels cannot become {input_width} x {input_height}.")
        return cls(width, height, input_width, input_height, input_width / width, input_height / height)

    @classmethod
    def keep(cls, width: int, height: int, short_side: int) -> Geometry:
        """Resize so that the shorter side has ``short_side`` pixels; the aspect ratio stays, to the nearest pixel."""
        factor = short_side / max(1, min(width, height))
        return cls.warp(width, height, max(1, round(width * factor)), max(1, round(height * factor)))

    @classmethod
    def within(cls, width: int, height: int, short_side: int, long_side: int) -> Geometry:
        """Resize the shorter side to ``short_side`` pixels, or fewer where the longer one would pass ``long_side``.

        The aspect ratio stays, to the nearest pixel (py-faster-rcnn's test.py and minibatch.py).
        """
        factor = min(short_side / min(width, height), long_side / max(width, height))
        return cls.warp(width, height, max(1, round(width * factor)), max(1, round(height * factor)))

    @classmethod
    def fit(cls, width: int, height: int, long_side: int) -> Geometry:
        """Shrink so that the longer side has at most ``long_side`` pixels; smaller images stay as they are."""
        factor = min(1.0, long_side / max(1, width, height))
        return cls.warp(width, height, max(1, round(width * factor)), max(1, round(height * factor)))

    def crop(self, x: int, y: int, crop_width: int, crop_height: int) -> Geometry:
        """Cut a window out of the input; ``x, y`` is its top left corner. Negative values pad."""
        return replace(
            self,
            input_width=crop_width,
            input_height=crop_height,
            offset_x=self.offset_x - x,
            offset_y=self.offset_y - y,
        )

    def mirror(self) -> Geometry:
        """Flip the input left to right."""
        return replace(self, scale_x=-self.scale_x, offset_x=self.input_width - self.offset_x)

    def to_input(self, boxes: BoxesLike) -> FloatArray:
        """Map boxes ``(N, 4)`` from original pixels to input pixels."""
        return _sorted_corners(as_boxes(boxes) * self._scale + self._offset)

    def to_original(self, boxes: BoxesLike) -> FloatArray:
        """Map boxes ``(N, 4)`` from input pixels to original pixels."""
        return _sorted_corners((as_boxes(boxes) - self._offset) / self._scale)

    @property
    def _scale(self) -> FloatArray:
        return np.array([self.scale_x, self.scale_y] * 2, dtype=np.float64)

    @property
    def _offset(self) -> FloatArray:
        return np.array([self.offset_x, self.offset_y] * 2, dtype=np.float64)


def _sorted_corners(boxes: FloatArray) -> FloatArray:
    """Put the smaller coordinate first again after a mirror."""
    corners = boxes.reshape(-1, 2, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
