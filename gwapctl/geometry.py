"""How an image became a network input, and the way back to original pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gwapctl.boxes import BoxesLike, FloatArray, as_boxes, sorted_corners
from gwapctl.errors import DataError


@dataclass(frozen=True)
class Geometry:
    """The affine map ``input = original * scale + offset``, per axis, of one image.

    ``width, height`` are the original's pixels, ``input_width, input_height`` the network input's. A mirrored image has
    a negative ``scale_x``. EXIF rotation is not part of it: decoding applies that once; "original" means upright.

    >>> Geometry.keep(640, 480, short_side=240).to_original([[0, 0, 160, 120]])
    array([[  0.,   0., 320., 240.]])
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
    def keep(cls, width: int, height: int, short_side: int, step: int = 1) -> Geometry:
        """Resize so that the shorter side has ``short_side`` pixels; the aspect ratio stays, to the nearest ``step``.

        The longer side is a multiple of ``step``. A network's stride as the step gives its map whole cells there: the
        last one of a side that its cells do not divide is partly outside of the image, or the image goes on behind it.
        """
        kept = cls.scaled(width, height, short_side / max(1, min(width, height)))
        long_side = max(short_side, step * round(max(kept.input_width, kept.input_height) / step))
        return cls.warp(width, height, *((long_side, short_side) if width > height else (short_side, long_side)))

    @classmethod
    def within(cls, width: int, height: int, short_side: int, long_side: int) -> Geometry:
        """Resize the shorter side to ``short_side`` pixels, or fewer where the longer one would pass ``long_side``.

        The aspect ratio stays, to the nearest pixel (py-faster-rcnn's test.py and minibatch.py).
        """
        return cls.scaled(width, height, min(short_side / min(width, height), long_side / max(width, height)))

    @classmethod
    def fit(cls, width: int, height: int, long_side: int) -> Geometry:
        """Shrink so that the longer side has at most ``long_side`` pixels; smaller images stay as they are."""
        return cls.scaled(width, height, min(1.0, long_side / max(1, width, height)))

    @classmethod
    def scaled(cls, width: int, height: int, factor: float) -> Geometry:
        """Resize both sides by ``factor``, to the nearest pixel; none vanishes."""
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
        scale, offset = self._affine()
        return sorted_corners(as_boxes(boxes) * scale + offset)

    def to_original(self, boxes: BoxesLike) -> FloatArray:
        """Map boxes ``(N, 4)`` from input pixels to original pixels."""
        scale, offset = self._affine()
        return sorted_corners((as_boxes(boxes) - offset) / scale)

    def _affine(self) -> FloatArray:
        return np.array([[self.scale_x, self.scale_y] * 2, [self.offset_x, self.offset_y] * 2], dtype=np.float64)
