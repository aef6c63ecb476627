"""A box threshold of its own for each class of which enough boxes were checked, where that is better beyond chance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.stats import t

from gwapctl.boxes import FloatArray
from gwapctl.metrics.box_accuracy import THRESHOLDS, AccuracyCurve

LEAST = 50  # checked boxes of a class: fewer choose by luck
FOLDS = 5
SMOOTH = 25  # standard deviation of the Gaussian by which a curve is smoothed, in steps of ``THRESHOLDS``
CONFIDENCE = 0.95


def class_thresholds(curves: Mapping[str, AccuracyCurve], shared: float) -> dict[str, float]:
    """Return the thresholds of those classes (by id) that are better off with one of their own than with ``shared``.

    ``curves`` have the checked boxes of each class over all ``THRESHOLDS``, a class in an image being one. A class with
    fewer than ``LEAST`` shares. What an own threshold is worth is estimated on boxes that had no say in it (folds): it
    is taken where the paired difference to ``shared`` is above nothing with its 95 % interval.
    """
    found = {}
    for class_id, curve in curves.items():
        if curve.n < LEAST:
            continue
        right = curve.right()
        if _is_better(right, int(np.abs(THRESHOLDS - shared).argmin())):
            found[class_id] = float(THRESHOLDS[_best(right)])
    return found


def _best(right: np.ndarray) -> int:
    """Return the place of the highest point of the smoothed curve of the boxes (n, T)."""
    return int(gaussian_filter1d(right.mean(axis=0), SMOOTH, mode="nearest").argmax())


def _is_better(right: np.ndarray, shared: int) -> bool:
    """Tell whether the boxes (n, T) are right more often at thresholds that others of them chose than at ``shared``."""
    fold = np.arange(len(right)) % FOLDS
    gains: FloatArray = np.zeros(len(right))
    for part in range(FOLDS):
        inside = fold == part
        gains[inside] = right[inside, _best(right[~inside])].astype(float) - right[inside, shared]
    spread = gains.std(ddof=1) / np.sqrt(len(gains))
    return bool(gains.mean() > t.ppf((1 + CONFIDENCE) / 2, len(gains) - 1) * spread)
