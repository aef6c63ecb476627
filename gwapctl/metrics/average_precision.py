"""Average precision of a ranked list, as the PASCAL VOC development kits compute it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.errors import DataError

# in binary 3 * 0.1 is 0.30000000000000004: a recall of exactly 3/10 does not reach it, nor in the reference codes
RECALL_GRID = tuple(k * 0.1 for k in range(11))
_BLOCK = 2_000_000  # how many numbers of resamples are held at a time


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


def ap_replicates(
    relevant: npt.NDArray[np.bool_],
    counted: npt.NDArray[np.bool_],
    weights: FloatArray,
    unit: npt.NDArray[np.intp],
    positives: FloatArray,
) -> FloatArray:
    """Return the 11-point AP in percent (B,) of N ranked answers, of which answer i belongs to unit ``unit[i]``.

    It counts ``weights[b, unit[i]]`` times; ``positives`` (B,) right answers exist. NaN where none does.
    """
    if not len(unit):
        return np.where(positives > 0, 0.0, np.nan)
    blocks = np.array_split(np.arange(len(weights)), -(-len(weights) * len(unit) // _BLOCK))
    right = relevant & counted
    parts = [_ap_11pt_rows(right, counted, weights[block][:, unit], positives[block]) for block in blocks]
    return 100 * np.concatenate(parts)


def _ap_11pt_rows(
    right: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_], weights: FloatArray, positives: FloatArray
) -> FloatArray:
    """Return ``ap_11pt`` (b,) of answers that count ``weights`` (b, N) times."""
    true, answered = np.cumsum(weights * right, axis=1), np.cumsum(weights * counted, axis=1)
    precision = np.divide(true, answered, out=np.zeros_like(true), where=answered > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.append(best, np.zeros((len(best), 1)), axis=1)  # a recall that is never reached
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = true / positives[:, None]
    places = np.stack([(recall < level).sum(axis=1) for level in RECALL_GRID], axis=1)
    return np.where(positives > 0, np.take_along_axis(best, places, axis=1).mean(axis=1), np.nan)


def mean_replicates(name: str, rows: Mapping[int, Mapping[str, FloatArray]]) -> dict[str, FloatArray]:
    """Return ``{name: (B,)}``, the mean over the classes that a resample has; nothing where there is no class."""
    if not rows:
        return {}
    values = np.stack([one for row in rows.values() for one in row.values()])
    there = ~np.isnan(values)
    sums, counts = np.where(there, values, 0.0).sum(axis=0), there.sum(axis=0)
    return {name: np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)}


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
