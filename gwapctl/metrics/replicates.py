"""Resamples of a split's images, and a metric's values on them: what a bootstrap over images needs (Efron, 1979).

Every evaluation of the same number of images draws the same resamples, in the order of the split. So the replicates of
two evaluations on one split are pairs, and their differences are replicates of the difference.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.errors import DataError

RESAMPLES = 200
SEED = 1809  # of the resamples: any constant will do
STEPS = 127  # a deviation is kept in so many steps of the greatest: 0.3 % of their standard deviation is lost


def resamples(images: int, count: int = RESAMPLES) -> FloatArray:
    """Return how often each image is drawn ``(count, images)``: ``images`` draws with replacement per resample.

    The stream of PCG64's raw numbers never changes, so that they are the same on every machine and version.
    """
    drawn = np.random.PCG64([SEED, images]).random_raw(count * images).reshape(count, images) % np.uint64(images)
    return np.stack([np.bincount(row, minlength=images) for row in drawn.astype(np.intp)]).astype(np.float64)


def weighted_mean(weights: FloatArray, values: npt.NDArray[Any]) -> FloatArray:
    """Return the means (B, ...) of ``values`` (U, ...) by ``weights`` (B, U); NaN where all weights are 0."""
    total = weights.sum(axis=1)
    flat = np.asarray(values, np.float32).reshape(len(values), -1)  # single precision: rates, at most 1000 per unit
    sums = (weights.astype(np.float32) @ flat).reshape(len(weights), *values.shape[1:]).astype(np.float64)
    shape = (-1, *[1] * (values.ndim - 1))
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / total.reshape(shape))


def encode(replicates: FloatArray, value: float) -> str:
    """Write replicates (B,) as a short text: the step, then their deviations from ``value`` in steps, a byte each.

    A replicate that does not exist (NaN) is written as no deviation.

    >>> decode(encode(np.array([1.0, 2.0, 4.0]), 2.0)).round(2).tolist()
    [-1.01, 0.0, 2.0]
    """
    deviations = np.nan_to_num(replicates - value)
    step = float(f"{np.abs(deviations).max(initial=0.0) / STEPS:.6g}") or 1.0
    steps = np.rint(deviations / step).clip(-STEPS, STEPS).astype(np.int8)
    return f"{step:g}:{base64.b64encode(steps.tobytes()).decode()}"


def decode(text: str) -> FloatArray:
    """Return the deviations (B,) that ``encode`` wrote; a DataError says that the text is none of its."""
    step, _, steps = text.partition(":")
    try:
        return np.frombuffer(base64.b64decode(steps, validate=True), np.int8).astype(np.float64) * float(step)
    except ValueError as error:
        raise DataError(f"{text[:20]!r} are no replicates: {error}. Evaluate again.") from error
