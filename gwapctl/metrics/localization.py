"""Localization by one box per class: ILSVRC's top-k error, GT-known, CorLoc, and the two floors beside them.

A box is right when its IoU with any ground-truth box of its class is at least 0.5 (the devkit's "not below"). Boxes are
half-open, so the plain IoU is ILSVRC's and VOC's inclusive one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gwapctl.boxes import BoxesLike, FloatArray, as_boxes, centred, full_image, iou
from gwapctl.metrics.classification import share_missed

IOU_THRESHOLD = 0.5

# what a map must beat: boxes (1, 4) that never look at the image, from its width and height
FLOORS: dict[str, Callable[[float, float], FloatArray]] = {"full_image": full_image, "centred_box": centred}


@dataclass(frozen=True)
class Guess:
    """One answer of the top-k protocol: a class, and its box (4,), or None where the map gave none."""

    label: int
    box: BoxesLike | None


class TopKLocalization:
    """``top1_loc_error`` and ``top5_loc_error`` in percent: none of the first k guesses has class and box right.

    The k-th guess is the k-th best class. CAM's five guesses (``five``) name a class twice, so top-1 is not theirs.
    """

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

    def compute(self) -> dict[str, float]:
        """Return both errors over all images."""
        return share_missed(self._missed, "loc_error")


class GtKnownLocalization:
    """``gt_known_error``, ``cor_loc`` (percent) and ``mean_iou`` of the boxes of the classes that are in the image.

    The unit is a class in an image. GT-known pools all of them; CorLoc (Deselaers et al., 2012) is the mean over
    classes of the share that is right. Several classes in an image are several units, so multi-label data sets fit.

    >>> localization = GtKnownLocalization()
    >>> localization.update({7: [0, 0, 8, 4]}, {7: [[0, 0, 8, 5]]})
    >>> localization.compute()
    {'gt_known_error': 0.0, 'cor_loc': 100.0, 'mean_iou': 0.8}
    """

    def __init__(self) -> None:
        self._ious: dict[int, list[float]] = {}
        self.n_degenerate = 0

    def update(self, boxes: Mapping[int, BoxesLike | None], ground_truth: Mapping[int, BoxesLike]) -> None:
        """Add one image: ``{class: box (4,) or None}`` and ``{class: boxes (N, 4)}`` of the objects in it.

        A true class without a box is wrong; ``n_degenerate`` counts the images that have such a class.
        """
        for label, objects in ground_truth.items():
            self._ious.setdefault(label, []).append(best_iou(boxes.get(label), objects))
        self.n_degenerate += any(boxes.get(label) is None for label in ground_truth)

    def compute(self) -> dict[str, float]:
        """Return the numbers over all images."""
        if not self._ious:
            return {}
        pooled = [value for values in self._ious.values() for value in values]
        return _shares(pooled) | {"cor_loc": float(np.mean([row["cor_loc"] for row in self.per_class().values()]))}

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return ``{class: {"gt_known_error", "cor_loc", "mean_iou"}}``."""
        return {label: _shares(values) for label, values in sorted(self._ious.items())}


def _shares(ious: Sequence[float]) -> dict[str, float]:
    error = 100 * float(np.mean(np.asarray(ious) < IOU_THRESHOLD))
    return {"gt_known_error": error, "cor_loc": 100 - error, "mean_iou": float(np.mean(ious))}


def best_iou(box: BoxesLike | None, objects: BoxesLike) -> float:
    """Return the highest IoU of one box (4,) with ``objects`` (N, 4); 0 where either is missing."""
    if box is None or len(as_boxes(objects)) == 0:
        return 0.0
    return float(iou(box, objects).max(initial=0.0))
