"""Localization by one box per class: ILSVRC's top-k error, GT-known, CorLoc, and the two floors beside them.

A box is right when its IoU with any ground-truth box of its class is at least 0.5 (the devkit's "not below"). Boxes are
half-open, so the plain IoU is ILSVRC's and VOC's inclusive one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gwapctl.boxes import BoxesLike, FloatArray, as_boxes, centred, full_image, iou
from gwapctl.metrics.average_precision import mean_replicates
from gwapctl.metrics.classification import missed_replicates, share_missed
from gwapctl.metrics.judged import Accumulator, Guess, JudgedImage, Replicates
from gwapctl.metrics.replicates import weighted_mean

IOU_THRESHOLD = 0.5
TOP = 5

# what a map must beat: boxes (1, 4) that never look at the image, from its width and height
FLOORS: dict[str, Callable[[float, float], FloatArray]] = {"full_image": full_image, "centred_box": centred}


class TopKLocalization(Accumulator):
    """``top1_loc_error`` and ``top5_loc_error`` in percent: none of the first k guesses has class and box right.

    The k-th guess is the k-th best class. CAM's five guesses (``five``) name a class twice, so top-1 is not theirs.
    """

    ROWS = ("_missed",)

    def __init__(self) -> None:
        self._missed: list[tuple[bool, bool]] = []

    def update(
        self, guesses: Sequence[Guess], ground_truth: Mapping[int, BoxesLike], five: Sequence[Guess] | None = None
    ) -> None:
        """Add one image: the guesses, best first, and ``{class: boxes (N, 4)}`` of the objects in it.

        ``five`` are guesses that decide top-5 instead of the first five.
        """

        def is_right(guess: Guess) -> bool:
            return best_iou(guess.box, ground_truth.get(guess.label, ())) >= IOU_THRESHOLD

        any_of_five = any(map(is_right, (guesses if five is None else five)[:5]))
        self._missed.append((not any(map(is_right, guesses[:1])), not any_of_five))

    @property
    def units(self) -> int:
        """The images."""
        return len(self._missed)

    def judge(self, image: JudgedImage) -> None:
        """Add one image that has objects and ranked classes."""
        if image.objects and image.ranked is not None:
            guesses = [Guess(label, image.boxes.get(label)) for label in image.ranked[:TOP]]
            self.update(guesses, image.objects, image.five)

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return both errors on resamples of the images."""
        return missed_replicates(self._missed, "loc_error", weights)

    def compute(self) -> dict[str, float]:
        """Return both errors over all images."""
        return share_missed(self._missed, "loc_error")


class GtKnownLocalization(Accumulator):
    """``gt_known_error``, ``cor_loc`` (percent) and ``mean_iou`` of the boxes of the classes that are in the image.

    The unit is a class in an image. GT-known pools all of them; CorLoc (Deselaers et al., 2012) is the mean over
    classes of the share that is right. Several classes in an image are several units, so multi-label data sets fit.

    >>> localization = GtKnownLocalization()
    >>> localization.update({7: [0, 0, 8, 4]}, {7: [[0, 0, 8, 5]]})
    >>> localization.compute()
    {'gt_known_error': 0.0, 'cor_loc': 100.0, 'mean_iou': 0.8}
    """

    SUMS, ROWS = ("n_degenerate",), ("_units",)

    def __init__(self) -> None:
        self._units: list[tuple[int, float]] = []  # class and IoU
        self.n_degenerate = 0

    def update(self, boxes: Mapping[int, BoxesLike | None], ground_truth: Mapping[int, BoxesLike]) -> None:
        """Add one image: ``{class: box (4,) or None}`` and ``{class: boxes (N, 4)}`` of the objects in it.

        A true class without a box is wrong; ``n_degenerate`` counts the images that have such a class.
        """
        for label, objects in ground_truth.items():
            self._units.append((label, best_iou(boxes.get(label), objects)))
        self.n_degenerate += any(boxes.get(label) is None for label in ground_truth)

    def compute(self) -> dict[str, float]:
        """Return the numbers over all images."""
        if not self._units:
            return {}
        pooled = [value for values in self._by_class().values() for value in values]
        return _shares(pooled) | {"cor_loc": float(np.mean([row["cor_loc"] for row in self.per_class().values()]))}

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return ``{class: {"gt_known_error", "cor_loc", "mean_iou"}}``."""
        return {label: _shares(values) for label, values in sorted(self._by_class().items())}

    def _by_class(self) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}
        for label, value in self._units:
            found.setdefault(label, []).append(value)
        return found

    @property
    def units(self) -> int:
        """The classes in images."""
        return len(self._units)

    def judge(self, image: JudgedImage) -> None:
        """Add one image that has objects."""
        if image.objects:
            self.update(image.boxes, image.objects)

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return the numbers on resamples of the images; CorLoc is the mean over the classes that a resample has."""
        labels = np.array([label for label, _ in self._units])
        ious = np.array([value for _, value in self._units])
        right = 100.0 * (ious >= IOU_THRESHOLD)
        classes = {label: labels == label for label in np.unique(labels).tolist()}
        shares = {label: {"cor_loc": weighted_mean(weights[:, one], right[one])} for label, one in classes.items()}
        numbers = {
            "gt_known_error": 100 - weighted_mean(weights, right),
            "mean_iou": weighted_mean(weights, ious),
            **mean_replicates("cor_loc", shares),
        }
        return Replicates(numbers, {})


def _shares(ious: Sequence[float]) -> dict[str, float]:
    error = 100 * float(np.mean(np.asarray(ious) < IOU_THRESHOLD))
    return {"gt_known_error": error, "cor_loc": 100 - error, "mean_iou": float(np.mean(ious))}


def best_iou(box: BoxesLike | None, objects: BoxesLike) -> float:
    """Return the highest IoU of one box (4,) with ``objects`` (N, 4); 0 where either is missing."""
    if box is None or len(as_boxes(objects)) == 0:
        return 0.0
    return float(iou(box, objects).max(initial=0.0))
