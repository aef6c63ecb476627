"""MaxBoxAcc: localization accuracy at every box threshold, and the best of it (Choe et al., arXiv 2001.07437).

The best threshold is found on the very data it is reported on: an oracle. The accuracy at a threshold that was chosen
on other data (``AccuracyCurve.at``) is the honest figure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import BoxesLike, FloatArray, as_boxes, iou, scale
from gwapctl.metrics.judged import Accumulator, JudgedImage, Replicates
from gwapctl.metrics.merging import Mergeable
from gwapctl.regions.sweep import component_boxes

THRESHOLDS: FloatArray = np.arange(0, 1, 0.001)
IOU_LEVELS = (30, 50, 70)  # percent
_BLOCK = 4096  # images of which all answers are held at a time


class AccuracyCurve(Mergeable):
    """Accuracy in percent ``(3, T)`` at IoU >= 0.3, 0.5 and 0.7 and each of ``T`` thresholds."""

    SUMS, ROWS = ("n", "_right"), ("_each",)

    def __init__(self, thresholds: FloatArray) -> None:
        self.thresholds = thresholds
        self.n = 0
        self._right = np.zeros((len(IOU_LEVELS), len(thresholds)))
        self._each: list[npt.NDArray[np.uint8]] = []  # one bit per level and threshold

    @classmethod
    def joined(cls, curves: Sequence[AccuracyCurve]) -> AccuracyCurve:
        """Return the curve of the images of several curves at the same thresholds."""
        whole = cls(curves[0].thresholds)
        whole.n = sum(curve.n for curve in curves)
        whole._right = np.sum([curve._right for curve in curves], axis=0)
        whole._each = [one for curve in curves for one in curve._each]
        return whole

    def add(self, ious: FloatArray) -> None:
        """Add one image: the IoU ``(T,)`` of its answer at each threshold."""
        right = ious >= np.array(IOU_LEVELS)[:, None] / 100
        self._right += right
        self._each.append(np.packbits(right))
        self.n += 1

    @property
    def accuracy(self) -> FloatArray:
        """The accuracy ``(3, T)`` in percent."""
        return self._right * 100.0 / float(max(self.n, 1))

    def at(self, threshold: float, level: int = 50) -> float:
        """Return the accuracy at the threshold nearest to ``threshold`` and IoU >= ``level`` percent."""
        nearest = int(np.abs(self.thresholds - threshold).argmin())
        return float(self.accuracy[IOU_LEVELS.index(level), nearest])

    def best_threshold(self, level: int = 50) -> float:
        """Return the lowest threshold with the highest accuracy at IoU >= ``level`` percent."""
        return float(self.thresholds[self.accuracy[IOU_LEVELS.index(level)].argmax()])

    def replicates(self, weights: FloatArray) -> FloatArray:
        """Return the best accuracy in percent (B, 3) where image i counts ``weights[b, i]`` times: (B, n)."""
        each, sums = np.stack(self._each), np.zeros((len(weights), self._right.size))
        for start in range(0, self.n, _BLOCK):
            part = slice(start, start + _BLOCK)
            right = np.unpackbits(each[part], axis=1, count=self._right.size)
            sums += weights[:, part].astype(np.float32) @ right.astype(np.float32)
        with np.errstate(invalid="ignore"):
            accuracy = 100 * sums / weights.sum(axis=1, keepdims=True)
        return np.asarray(accuracy.reshape(-1, *self._right.shape).max(axis=2))

    def right(self, level: int = 50) -> npt.NDArray[np.bool_]:
        """Return whether each image is right (n, T) at each threshold, at IoU >= ``level`` percent."""
        each = np.unpackbits(np.stack(self._each), axis=1, count=self._right.size)
        return np.asarray(each.reshape(self.n, *self._right.shape)[:, IOU_LEVELS.index(level)], bool)

    def maxima(self, name: str) -> dict[str, float]:
        """Return the best accuracy at each IoU level, each at its own threshold: ``{name_30, name_50, name_70}``."""
        best = self.accuracy.max(axis=1).tolist()
        return {f"{name}_{level}": value for level, value in zip(IOU_LEVELS, best, strict=True)}


class TransferredAccuracy(Mergeable):
    """Accuracy at box thresholds that other images chose: no image has a say in the threshold that it is judged at.

    With ``chosen_on``, the curve of other images, all are judged at its best threshold. Without it the images are two
    halves, ``part`` 0 and 1, and each half is judged at the best threshold of the other.
    """

    PARTS = ("reported",)

    def __init__(self, chosen_on: AccuracyCurve | None = None) -> None:
        self.reported = [AccuracyCurve(THRESHOLDS) for _ in range(2 if chosen_on is None else 1)]
        self._chosen_on = self.reported[::-1] if chosen_on is None else [chosen_on]

    def add(self, ious: FloatArray, part: int = 0) -> None:
        """Add one image: the IoU ``(T,)`` of its answer at each of ``THRESHOLDS``."""
        self.reported[part].add(ious)

    def places(self, level: int = 50) -> list[int]:
        """Return for each part where its threshold is in ``THRESHOLDS``: the lowest of the best at IoU >= ``level``."""
        return [int(curve.accuracy[IOU_LEVELS.index(level)].argmax()) for curve in self._chosen_on]

    def thresholds(self, level: int = 50) -> list[float]:
        """Return the threshold of each part."""
        return [float(THRESHOLDS[place]) for place in self.places(level)]

    def at(self, level: int = 50) -> float:
        """Return the accuracy in percent over the images of all parts, each at the threshold of its part."""
        row, pairs = IOU_LEVELS.index(level), zip(self.reported, self.places(level), strict=True)
        right = sum(curve.accuracy[row, place] * curve.n for curve, place in pairs)
        return float(right / max(sum(curve.n for curve in self.reported), 1))


class BoxAccuracy(Accumulator):
    """``max_box_acc`` (IoU >= 0.5; also ``_30``, ``_50``, ``_70``), ``max_box_acc_threshold`` and ``max_box_acc_v2``.

    Protocol ``paper``: the largest 8-connected component by pixels of the min-max map strictly above the threshold, its
    half-open box scaled to the image, any object of the class. V2 is the mean over the three IoU levels.
    """

    SUMS, PARTS = ("n_degenerate",), ("curve",)

    def __init__(self, thresholds: FloatArray = THRESHOLDS) -> None:
        self.curve = AccuracyCurve(thresholds)
        self.n_degenerate = 0
        self.latest: dict[int, FloatArray] = {}  # of the latest image that was judged: the IoUs (T,) by class

    def update(self, heatmap: npt.ArrayLike, objects: BoxesLike, width: int, height: int) -> FloatArray:
        """Add one map (h, w) of a true class and its objects (N, 4) in pixels of the image of ``width x height``.

        Returns the best IoU ``(T,)`` at each threshold. Raises what ``regions.normalise`` does.
        """
        array = np.asarray(heatmap)
        boxes, sizes = component_boxes(array, self.curve.thresholds)
        rows, columns = array.shape
        found = iou(scale(boxes, columns, rows, width, height), as_boxes(objects)).max(axis=1, initial=0.0)
        ious = np.where(sizes > 0, found, 0.0)
        self.curve.add(ious)
        self.n_degenerate += not sizes.any()
        return ious

    @property
    def units(self) -> int:
        """The maps."""
        return self.curve.n

    def judge(self, image: JudgedImage) -> None:
        """Add the maps of one image, or the blind box."""
        self.latest = {}
        for label, objects in image.objects.items():
            if image.blind is not None:
                self.curve.add(at_every_threshold(self.curve, image.blind, objects))
            elif label in image.maps:
                self.latest[label] = self.update(image.maps[label], objects, image.width, image.height)

    def compute(self) -> dict[str, float]:
        """Return the maxima over thresholds."""
        return max_box_acc(self.curve, self.curve.maxima("max_box_acc"))

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return the maxima on resamples, each at its own best threshold."""
        return max_box_acc_replicates(self.curve, self.curve, weights)


def at_every_threshold(curve: AccuracyCurve, box: FloatArray, objects: BoxesLike) -> FloatArray:
    """Return the IoU (T,) with the nearest object of a box (1, 4) that is the same at each threshold of ``curve``."""
    return np.full(len(curve.thresholds), iou(box, as_boxes(objects)).max(initial=0.0))


def max_box_acc_replicates(curve: AccuracyCurve, of_v2: AccuracyCurve, weights: FloatArray) -> Replicates:
    """Return ``max_box_acc`` of ``curve`` and ``max_box_acc_v2`` of ``of_v2`` on resamples."""
    best = curve.replicates(weights)
    levels_of_v2 = best if of_v2 is curve else of_v2.replicates(weights)
    return Replicates({"max_box_acc": best[:, IOU_LEVELS.index(50)], "max_box_acc_v2": levels_of_v2.mean(axis=1)}, {})


def max_box_acc(curve: AccuracyCurve, levels_of_v2: dict[str, float]) -> dict[str, float]:
    """Return ``max_box_acc`` with its parts, and ``max_box_acc_v2``, the mean of ``levels_of_v2``; {} of no image."""
    if curve.n == 0:
        return {}
    maxima = curve.maxima("max_box_acc")
    return {
        "max_box_acc": maxima["max_box_acc_50"],
        **maxima,
        "max_box_acc_threshold": curve.best_threshold(),
        "max_box_acc_v2": float(np.mean(list(levels_of_v2.values()))),
    }
