"""Protocol ``wsoleval``: the numbers of clovaai/wsolevaluation to the last digit (Choe et al., arXiv 2001.07437).

Its habits are part of the protocol: maps and objects live on a grid of 224 x 224, coordinates of objects are cut to
integers, maps to 256 levels, the threshold is a fraction of the highest level, the region is the contour with the
largest polygon, and a box's right and lower sides lie one pixel outside of it unless the map ends there. Its inclusive
IoU is the plain IoU of half-open boxes.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.boxes import BoxesLike, FloatArray, as_boxes, from_inclusive, iou, to_inclusive
from gwapctl.metrics.box_accuracy import (
    IOU_LEVELS,
    THRESHOLDS,
    AccuracyCurve,
    TransferredAccuracy,
    at_every_threshold,
    max_box_acc,
    max_box_acc_replicates,
)
from gwapctl.metrics.judged import Accumulator, JudgedImage, Replicates
from gwapctl.metrics.merging import Mergeable
from gwapctl.regions.components import normalise
from gwapctl.regions.contours import byte_levels, loose_boxes
from gwapctl.regions.sweep import contour_boxes, contour_ious

SIDE = 224  # of the square grid
_NO_CONTOUR = as_boxes([0, 0, 1, 1])  # its inclusive [0, 0, 0, 0] for a map of zeros


class WsolevalBoxAccuracy(Accumulator):
    """``max_box_acc`` and ``max_box_acc_v2`` in percent, with their parts, on the 224 x 224 grid.

    ``max_box_acc`` (``_30``, ``_50``, ``_70``, ``_threshold``) has one contour per threshold. ``max_box_acc_v2`` takes
    the best of all contours, inner ones too, and is the mean of its own ``_v2_30``, ``_v2_50`` and ``_v2_70``.
    """

    SUMS, PARTS = ("n_degenerate",), ("curve", "curve_v2")

    def __init__(self, thresholds: FloatArray = THRESHOLDS) -> None:
        self.curve = AccuracyCurve(thresholds)
        self.curve_v2 = AccuracyCurve(thresholds)
        self.n_degenerate = 0
        self.latest: list[tuple[FloatArray, FloatArray]] = []  # of the latest image that was judged, as ``update`` does

    def update(
        self, heatmap: npt.ArrayLike, objects: BoxesLike, width: int, height: int
    ) -> tuple[FloatArray, FloatArray]:
        """Add one map (h, w) of a true class and its objects (N, 4) in pixels of the image of ``width x height``.

        Returns the IoU ``(T,)`` of the one contour and the best of all contours at each threshold. Raises what
        ``regions.normalise`` does.
        """
        levels = byte_levels(grid_map(heatmap))
        true_boxes = grid_objects(objects, width, height)
        highest = int(levels.max())
        if highest == 0:
            nothing = np.full(len(self.curve.thresholds), iou(_NO_CONTOUR, true_boxes).max(initial=0.0))
            self.n_degenerate += 1
            return self._add(nothing, nothing)
        cuts = (self.curve.thresholds * highest).astype(np.int64)
        largest = iou(loose_boxes(contour_boxes(levels, cuts), SIDE, SIDE), true_boxes).max(axis=1, initial=0.0)
        return self._add(largest, contour_ious(levels, cuts, true_boxes))

    def _add(self, largest: FloatArray, best: FloatArray) -> tuple[FloatArray, FloatArray]:
        self.curve.add(largest)
        self.curve_v2.add(best)
        return largest, best

    @property
    def units(self) -> int:
        """The maps."""
        return self.curve.n

    def judge(self, image: JudgedImage) -> None:
        """Add the maps of one image, or the blind box, which is on the grid."""
        self.latest = []
        for label, objects in image.objects.items():
            if image.blind is not None:
                on_grid = grid_objects(objects, image.width, image.height)
                found = at_every_threshold(self.curve, image.blind, on_grid)
                self.curve.add(found)
                self.curve_v2.add(found)
            elif label in image.maps:
                self.latest.append(self.update(image.maps[label], objects, image.width, image.height))

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return the maxima on resamples, each at its own best threshold."""
        return max_box_acc_replicates(self.curve, self.curve_v2, weights)

    def compute(self) -> dict[str, float]:
        """Return the maxima over thresholds."""
        of_v2 = self.curve_v2.maxima("max_box_acc_v2")
        found = max_box_acc(self.curve, of_v2)
        return found and found | of_v2


class TransferredWsolevalAccuracy(Mergeable):
    """``box_acc`` and ``box_acc_v2`` in percent: ``max_box_acc`` and ``_v2`` at thresholds that other images chose.

    One threshold for ``box_acc``, one per IoU level for ``box_acc_v2``. ``chosen_on`` are those other images; without
    them two halves choose for each other (``TransferredAccuracy``).
    """

    PARTS = ("_largest", "_best")

    def __init__(self, chosen_on: WsolevalBoxAccuracy | None = None) -> None:
        self._largest = TransferredAccuracy(None if chosen_on is None else chosen_on.curve)
        self._best = TransferredAccuracy(None if chosen_on is None else chosen_on.curve_v2)

    def add(self, largest: FloatArray, best: FloatArray, part: int = 0) -> None:
        """Add one image: what ``WsolevalBoxAccuracy.update`` returns of it."""
        self._largest.add(largest, part)
        self._best.add(best, part)

    def thresholds(self) -> dict[str, list[float]]:
        """Return the thresholds of each part, of ``box_acc`` and of the levels of ``box_acc_v2``."""
        of_v2 = {f"box_acc_v2_{level}": self._best.thresholds(level) for level in IOU_LEVELS}
        return {"box_acc": self._largest.thresholds(), **of_v2}

    def compute(self) -> dict[str, float]:
        """Return the accuracies; {} of no image."""
        if not any(curve.n for curve in self._largest.reported):
            return {}
        of_v2 = {f"box_acc_v2_{level}": self._best.at(level) for level in IOU_LEVELS}
        return {"box_acc": self._largest.at(), "box_acc_v2": float(np.mean(list(of_v2.values()))), **of_v2}


def grid_map(heatmap: npt.ArrayLike) -> FloatArray:
    """Return a map as float64 ``(224, 224)`` in [0, 1].

    One that is so already stays as it is; others are resized (bicubic), then stretched by minimum and maximum; a
    constant one gives zeros. Raises what ``regions.normalise`` does.
    """
    values = np.asarray(heatmap, dtype=np.float64)
    if values.shape == (SIDE, SIDE) and ((values >= 0) & (values <= 1)).all():
        return values
    stretched = normalise(values, np.float64)  # refuses what is not a map
    if values.shape == (SIDE, SIDE):
        return stretched
    return normalise(cv2.resize(stretched, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.float64)


def grid_objects(objects: BoxesLike, width: int, height: int) -> FloatArray:
    """Return objects (N, 4) on the grid: their inclusive corners scaled from ``width x height`` and cut to integers."""
    return from_inclusive(np.trunc(to_inclusive(objects) * SIDE / np.array([width, height, width, height])))
