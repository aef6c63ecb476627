"""Classification: VOC average precision (several classes per image) and top-k error (one class per image)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.errors import DataError
from gwapctl.metrics.average_precision import ap_replicates, both_ap, mean_ap, mean_replicates, ranking
from gwapctl.metrics.judged import Accumulator, JudgedImage, Replicates
from gwapctl.metrics.replicates import weighted_mean

IGNORED = -1


class ClassificationAP(Accumulator):
    """``voc_map_11pt`` and ``voc_map_area`` in percent (VOC development kit, VOCevalcls).

    Per class all images are ranked by score; images with only difficult objects of it count neither way. Classes
    without a positive image have no AP and are left out of the mean.
    """

    ROWS = ("_scores", "_labels")

    def __init__(self, classes: int | None = None) -> None:
        self._classes = classes  # None: as many as the first image has scores
        self._scores: list[FloatArray] = []
        self._labels: list[npt.NDArray[np.int8]] = []  # 1, 0, or IGNORED

    def update(self, scores: npt.ArrayLike, labels: Collection[int], ignored: Collection[int] = ()) -> None:
        """Add one image: ``scores`` (C,), the classes present, and those present only as difficult objects.

        Raises:
            DataError: the number of scores is not C.

        """
        row = np.asarray(scores, dtype=np.float64)
        self._classes = self._classes or row.size
        if row.shape != (self._classes,):
            raise DataError(f"an image has scores of shape {row.shape} for {self._classes} classes.")
        present = np.zeros(self._classes, np.int8)
        present[list(ignored)] = IGNORED
        present[list(labels)] = 1
        self._scores.append(row)
        self._labels.append(present)

    def compute(self) -> dict[str, float]:
        """Return the means over classes; nothing where no class has a positive image."""
        return mean_ap("voc_map", self.per_class().values())

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return ``{class: {"ap_11pt", "ap_area"}}`` in percent, of the classes with a positive image."""
        if not self._scores:
            return {}
        scores, labels = np.stack(self._scores), np.stack(self._labels)  # (N, C)
        present = np.flatnonzero((labels == 1).any(axis=0)).tolist()
        return {label: self._row(scores[:, label], labels[:, label]) for label in present}

    @property
    def units(self) -> int:
        """The images."""
        return len(self._scores)

    def judge(self, image: JudgedImage) -> None:
        """Add one image that has a score for every class."""
        if image.scores is not None:
            self.update(image.scores, image.sample.labels, image.sample.ignored)

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return the 11-point AP of each class, and their mean, on resamples of the images."""
        scores, labels = np.stack(self._scores), np.stack(self._labels)
        rows = {}
        for label in np.flatnonzero((labels == 1).any(axis=0)).tolist():
            order, present = ranking(scores[:, label]), labels[:, label]
            positives = weights @ (present == 1)
            found = ap_replicates(present[order] == 1, present[order] != IGNORED, weights, order, positives)
            rows[label] = {"ap_11pt": found}
        return Replicates(mean_replicates("voc_map_11pt", rows), rows)

    def _row(self, scores: FloatArray, labels: npt.NDArray[np.int8]) -> dict[str, float]:
        ranked = labels[ranking(scores)]
        return both_ap(ranked == 1, ranked != IGNORED, int((labels == 1).sum()))


class TopKError(Accumulator):
    """``top1_error`` and ``top5_error`` in percent: the true class is not among the k best (ILSVRC).

    >>> errors = TopKError()
    >>> errors.update([3, 1, 2, 0, 4], label=1)
    >>> errors.update([2, 0, 1, 4, 3], label=2)
    >>> errors.compute()
    {'top1_error': 50.0, 'top5_error': 0.0}
    """

    ROWS = ("_units",)

    def __init__(self) -> None:
        self._units: list[tuple[int, tuple[bool, bool]]] = []  # class, and whether top-1 and top-5 are wrong

    def update(self, ranked: Sequence[int], label: int) -> None:
        """Add one image: the predicted classes, best first (at least five where there are five), and the true one."""
        self._units.append((label, (label not in ranked[:1], label not in ranked[:5])))

    def compute(self) -> dict[str, float]:
        """Return both errors over all images."""
        return share_missed([row for _, row in self._units], "error")

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return both errors over the images of each class."""
        labels = sorted({label for label, _ in self._units})
        return {one: share_missed([row for label, row in self._units if label == one], "error") for one in labels}

    @property
    def units(self) -> int:
        """The images."""
        return len(self._units)

    def judge(self, image: JudgedImage) -> None:
        """Add one image that has ranked classes."""
        if image.ranked is not None:
            self.update(image.ranked, image.sample.labels[0])

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return both errors on resamples of the images."""
        return missed_replicates([row for _, row in self._units], "error", weights)


def share_missed(missed: Sequence[tuple[bool, bool]], name: str) -> dict[str, float]:
    """Return ``{top1_name, top5_name}`` in percent of images whose top-1 and top-5 answers are wrong; {} of none."""
    if not missed:
        return {}
    top1, top5 = (100 * np.mean(missed, axis=0)).tolist()
    return {f"top1_{name}": top1, f"top5_{name}": top5}


def missed_replicates(missed: Sequence[tuple[bool, bool]], name: str, weights: FloatArray) -> Replicates:
    """Return ``share_missed`` on resamples: ``weights`` (B, N) say how often each of the N images is drawn."""
    shares = 100 * weighted_mean(weights, np.array(missed, np.float64))
    return Replicates({f"top1_{name}": shares[:, 0], f"top5_{name}": shares[:, 1]}, {})
