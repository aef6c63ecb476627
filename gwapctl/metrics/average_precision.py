"""Average precision of a ranked list, as the PASCAL VOC development kits compute it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.errors import DataError

# in binary 3 * 0.1 is 0.30000000000000004: a recall of exactly 3/10 does not reach it, nor in the reference codes
RECALL_GRID = tuple(k * 0.1 for k in range(11))


def precision_recall(
    relevant: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_], positives: int
) -> tuple[FloatArray, FloatArray]:
    """Return precision and recall ``(N,)`` after each of ``N`` ranked answers.

    ``relevant`` (N,) marks the right answers, ``counted`` (N,) those that are neither right nor wrong with False;
    before the first counted answer the precision (0/0) is 0. ``positives`` is how many right answers exist.
    """
    true = np.cumsum(relevant & counted, dtype=np.float64)
    answered = np.cumsum(counted, dtype=np.float64)
    precision = np.divide(true, answered, out=np.zeros_like(true), where=answered > 0)
    return precision, true / positives


def both_ap(relevant: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_], positives: int) -> dict[str, float]:
    """Return ``{"ap_11pt", "ap_area"}`` of a class in percent; the arguments are those of ``precision_recall``."""
    precision, recall = precision_recall(relevant, counted, positives)
    return {"ap_11pt": 100 * ap_11pt(precision, recall), "ap_area": 100 * ap_area(precision, recall)}


def mean_ap(name: str, rows: Collection[Mapping[str, float]]) -> dict[str, float]:
    """Return ``{name_11pt, name_area}``, the means over the ``rows`` of classes; nothing where there is no row."""
    if not rows:
        return {}
    return {f"{name}_{form}": float(np.mean([row[f"ap_{form}"] for row in rows])) for form in ("11pt", "area")}


def ap_11pt(precision: FloatArray, recall: FloatArray, eps: float = 0.0) -> float:
    """Return the 11-point average precision of VOC 2007: the mean over recalls 0, 0.1 .. 1 of the best precision there.

    ``eps`` is subtracted from the grid. 0, the default, is what the development kit and its ports do.

    >>> ap_11pt(np.array([1, 0.5, 2 / 3]), np.array([0.5, 0.5, 1]))
    0.8484848484848484
    """
    best = [precision[recall >= level - eps].max(initial=0.0) for level in RECALL_GRID]
    return float(np.mean(best))


def ap_area(precision: FloatArray, recall: FloatArray) -> float:
    """Return the area under the monotone envelope of the precision-recall curve (VOC from 2010 on)."""
    envelope = np.maximum.accumulate(np.concatenate([precision, [0.0]])[::-1])[::-1]
    steps = np.diff(np.concatenate([[0.0], recall, [1.0]]))
    return float(np.sum(steps * envelope))


def ranking(scores: FloatArray) -> npt.NDArray[np.intp]:
    """Return the order ``(N,)`` from the highest score to the lowest; equal scores keep theirs.

    Raises:
        DataError: a score is NaN.

    """
    if np.isnan(scores).any():
        raise DataError("a score is NaN, so the answers have no order. Check the model's output.")
    return np.argsort(-scores, kind="stable")
