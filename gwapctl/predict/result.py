"""What a model found in one image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gwapctl import draw
from gwapctl.boxes import FloatArray
from gwapctl.errors import GwapctlError
from gwapctl.images.decode import ImageArray, read_image

Source = str | Path | ImageArray


@dataclass(frozen=True, eq=False)
class Localization:
    """The k classes asked for of one image, the most probable first, and where they are.

    Attributes:
        image: the path as given; empty for an array.
        width, height: of the upright image, in pixels; 0 where it could not be read.
        classes, class_ids: readable names, and the data set's own ids.
        scores: (k,) probabilities.
        boxes: (k, 4) float64 ``x0, y0, x1, y1``, half-open, in original pixels; NaN where the map shows nothing.
        maps: (k, h, w) float16, the original's shape, at most 512 pixels long; the same one k times where ``shared``.
            A detector's: one per class among the boxes, in the order of their best; (0, 1, 1) without a weight map.
        shared: one map, and so one box, stands for all classes (the weight map of a class-agnostic head).
        error: why the image could not be read, or None.
        mask: (h, w), the best class's object where a refined box rule found it in the image; None: the map's own.

    """

    image: str
    width: int
    height: int
    classes: tuple[str, ...] = ()
    class_ids: tuple[str, ...] = ()
    scores: FloatArray = field(default_factory=lambda: np.zeros(0))
    boxes: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))
    maps: npt.NDArray[np.float16] = field(default_factory=lambda: np.zeros((0, 1, 1), np.float16))
    shared: bool = False
    error: GwapctlError | None = None
    mask: npt.NDArray[np.bool_] | None = None
    source: Source = field(default="", repr=False)

    def plot(self, *, heat: bool = True) -> ImageArray:
        """Draw the image, the heatmap of the best class, boxes and labels: uint8 RGB ``(H', W', 3)``.

        Show it with ``matplotlib.pyplot.imshow`` or ``PIL.Image.fromarray``. The image is read again from its path.

        Raises:
            DataError: the image cannot be read.

        """
        return draw.draw_overlay(load(self.source), self.maps[0] if heat and len(self.maps) else None, self._marks())

    def _marks(self) -> list[draw.Mark]:
        marks = [
            draw.Mark(box.tolist(), f"{name} {score:.0%}")
            for name, score, box in zip(self.classes, self.scores, self.boxes, strict=True)
            if np.isfinite(box).all()
        ]
        if self.shared and marks:  # one box, one chip
            return [replace(marks[0], text=", ".join(mark.text for mark in marks))]
        return marks


def load(source: Source) -> ImageArray:
    """Return the pixels of ``source``: an array as it is, a path decoded."""
    return source if isinstance(source, np.ndarray) else read_image(Path(source))
