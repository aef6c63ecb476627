"""Localization at calibrated box thresholds: the best ones on images that are not the ones that are judged.

A box is that of ``fixed:t`` at the threshold ``t``, of the plain map. The threshold with the best GT-known accuracy is
chosen, the lowest of equals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.datasets.base import BoxedSample
from gwapctl.metrics.average_precision import mean_replicates
from gwapctl.metrics.box_accuracy import THRESHOLDS, AccuracyCurve, BoxAccuracy, TransferredAccuracy
from gwapctl.metrics.judged import Accumulator, JudgedImage, Replicates
from gwapctl.metrics.localization import IOU_THRESHOLD
from gwapctl.metrics.merging import State
from gwapctl.metrics.replicates import weighted_mean

STEPS = 2.0**40  # of an IoU of 1 in a sum: whole numbers add up to the same in any order, up to 8 million images
NOWHERE = -1  # the unit of a best class that is not in the image


class CalibratedLocalization(Accumulator):
    """``gt_known_error_calibrated``, ``top1_loc_error_calibrated``, ``cor_loc_calibrated``, ``mean_iou_calibrated``.

    What ``GtKnownLocalization`` and ``TopKLocalization`` say of boxes, for a map's boxes at all thresholds. The unit is
    a class in an image. ``chosen_on`` is the curve of other images that choose; without it two halves of the judged
    ones choose for each other. Of every unit one bit per threshold is kept. ``judge`` takes the boxes at all thresholds
    from ``sweep``, which judges the same image before it; ``part`` tells the half of an image.
    """

    ROWS, PARTS = ("_bits", "_labels", "_parts"), ("accuracy",)

    def __init__(
        self,
        chosen_on: AccuracyCurve | None = None,
        sweep: BoxAccuracy | None = None,
        part: Callable[[BoxedSample], int] = lambda _: 0,
    ) -> None:
        self.accuracy = TransferredAccuracy(chosen_on)
        self._sweep, self._part = sweep or BoxAccuracy(), part
        self._sums = [np.zeros(len(THRESHOLDS), np.int64) for _ in self.accuracy.reported]  # of IoUs in STEPS, by part
        self._bits: list[npt.NDArray[np.uint8]] = []
        self._labels: list[int] = []
        self._parts: list[int] = []
        self._best: list[int] = []  # of each image with ranked classes the unit of its best one

    @property
    def units(self) -> int:
        """The classes in images."""
        return len(self._labels)

    def judge(self, image: JudgedImage) -> None:
        """Add the image that ``sweep`` has just judged."""
        self.update(self._sweep.latest, self._part(image.sample), image.ranked[0] if image.ranked else None)

    def update(self, ious: Mapping[int, FloatArray], part: int = 0, best_class: int | None = None) -> None:
        """Add one image: ``{true class: IoU (T,) at each of THRESHOLDS}``, and its best class where there is one."""
        if ious and best_class is not None:
            self._best.append(len(self._labels) + [*ious].index(best_class) if best_class in ious else NOWHERE)
        for label, values in ious.items():
            self.accuracy.add(values, part)
            self._sums[part] += np.rint(values * STEPS).astype(np.int64)
            self._bits.append(np.packbits(values >= IOU_THRESHOLD))
            self._labels.append(label)
            self._parts.append(part)

    def state(self) -> State:
        """Return what was gathered."""
        return super().state() | {"_sums": self._sums, "_best": self._best}

    def extend(self, state: State) -> Self:
        """Add what another one gathered of the images that follow; its units come after those that are here."""
        self._best += [unit if unit == NOWHERE else unit + self.units for unit in state["_best"]]
        self._sums = [here + there for here, there in zip(self._sums, state["_sums"], strict=True)]
        return super().extend(state)

    def right(self) -> npt.NDArray[np.bool_]:
        """Return for each unit whether its box at the threshold of its part is right, ``(units,)``, in order."""
        places = self.accuracy.places()
        pairs = zip(self._bits, self._parts, strict=True)
        return np.array([np.unpackbits(bits)[places[part]] for bits, part in pairs], dtype=np.bool_)

    def compute(self) -> dict[str, float]:
        """Return the numbers over all images; {} of none."""
        if not self._labels:
            return {}
        right, labels = self.right(), np.array(self._labels)
        summed = sum(values[place] for values, place in zip(self._sums, self.accuracy.places(), strict=True))
        found = {
            "gt_known_error_calibrated": 100 * float(1 - right.mean()),
            "cor_loc_calibrated": 100 * float(np.mean([right[labels == label].mean() for label in np.unique(labels)])),
            "mean_iou_calibrated": float(summed) / STEPS / len(right),
        }
        if self._best:
            first = [unit != NOWHERE and right[unit] for unit in self._best]
            found["top1_loc_error_calibrated"] = 100 * float(1 - np.mean(first))
        return found

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return the rates on resamples of the images; the thresholds stay those of ``compute``."""
        right, labels = 100.0 * self.right(), np.array(self._labels)
        shares = {
            label: {"cor_loc_calibrated": weighted_mean(weights[:, labels == label], right[labels == label])}
            for label in np.unique(labels).tolist()
        }
        numbers = {
            "gt_known_error_calibrated": 100 - weighted_mean(weights, right),
            **mean_replicates("cor_loc_calibrated", shares),
        }
        if len(self._best) == len(right):  # one class per image: its best class is its unit, or wrong
            first = np.array([unit != NOWHERE and right[unit] > 0 for unit in self._best])
            numbers["top1_loc_error_calibrated"] = 100 - weighted_mean(weights, 100.0 * first)
        return Replicates(numbers, {})
