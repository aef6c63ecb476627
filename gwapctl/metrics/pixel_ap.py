"""PxAP: average precision of all pixels of a data set (Choe et al., CVPR 2020, arXiv 2001.07437)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.errors import DataError
from gwapctl.metrics.box_accuracy import THRESHOLDS
from gwapctl.metrics.judged import Accumulator, JudgedImage


class PixelAP(Accumulator):
    """``px_ap`` in percent: pixels of all images pooled, histogrammed between the thresholds, 1, 2 and 3.

    With precision and recall of {score in bin l or above}: AP = sum over l of precision_l (recall_l - recall_(l-1)).
    """

    SUMS = ("_inside", "_outside")

    def __init__(self, thresholds: FloatArray = THRESHOLDS) -> None:
        self._edges = np.append(thresholds, [1.0, 2.0, 3.0])
        self._inside = np.zeros(len(self._edges) - 1)
        self._outside = np.zeros(len(self._edges) - 1)

    def update(self, scores: npt.ArrayLike, mask: npt.ArrayLike) -> None:
        """Add one image: a map (H, W) with values in [0, 1] and its mask (H, W): 1 inside, 0 outside, others ignored.

        Raises:
            DataError: the shapes differ, or a value is not in [0, 1].

        """
        values, inside = np.asarray(scores, dtype=np.float64), np.asarray(mask)
        if values.shape != inside.shape:
            raise DataError(f"the map has shape {values.shape} but its mask {inside.shape}.")
        if not ((values >= 0) & (values <= 1)).all():
            raise DataError("PxAP needs map values between 0 and 1. Stretch the map by its minimum and maximum.")
        bins = np.searchsorted(self._edges, values, side="right") - 1  # half-open bins, as in np.histogram
        self._inside += np.bincount(bins[inside == 1], minlength=len(self._inside))
        self._outside += np.bincount(bins[inside == 0], minlength=len(self._outside))

    def judge(self, image: JudgedImage) -> None:
        """Add one image that has a map and a mask."""
        if image.heat is not None and image.mask is not None:
            self.update(image.heat, image.mask)

    def compute(self) -> dict[str, float]:
        """Return the area; nothing where no pixel is inside of any mask."""
        if self._inside.sum() == 0:
            return {}
        true, false = self._inside[::-1].cumsum(), self._outside[::-1].cumsum()
        found = true + false
        precision = np.divide(true, found, out=np.zeros_like(true), where=found > 0)
        recall = true / self._inside.sum()
        return {"px_ap": 100 * float((precision[1:] * np.diff(recall))[found[1:] > 0].sum())}
