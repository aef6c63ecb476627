"""Classification: VOC average precision (several classes per image) and top-k error (one class per image)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.errors import DataError
from gwapctl.metrics.average_precision import both_ap, mean_ap, ranking

IGNORED = -1


class ClassificationAP:
    """``voc_map_11pt`` and ``voc_map_area`` in percent (VOC development kit, VOCevalcls).

    Per class all images are ranked by score; images with only difficult objects of it count neither way. Classes
    without a positive image have no AP and are left out of the mean.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._scores: list[FloatArray] = []
        self._labels: list[npt.NDArray[np.int8]] = []  # 1, 0, or IGNORED

    def update(self, scores: npt.ArrayLike, labels: Collection[int], ignored: Collection[int] = ()) -> None:
        """Add one image: ``scores`` (C,), the classes present, and those present only as difficult objects.

        Raises:
            DataError: the number of scores is not C.

        """
        row = np.asarray(scores, dtype=np.float64)
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

    def _row(self, scores: FloatArray, labels: npt.NDArray[np.int8]) -> dict[str, float]:
        ranked = labels[ranking(scores)]
        return both_ap(ranked == 1, ranked != IGNORED, int((labels == 1).sum()))


class TopKError:
    """``top1_error`` and ``top5_error`` in percent: the true class is not among the k best (ILSVRC).

    >>> errors = TopKError()
    >>> errors.update([3, 1, 2, 0, 4], label=1)
    >>> errors.update([2, 0, 1, 4, 3], label=2)
    >>> errors.compute()
    {'top1_error': 50.0, 'top5_error': 0.0}
    """

    def __init__(self) -> None:
        self._missed: dict[int, list[tuple[bool, bool]]] = {}

    def update(self, ranked: Sequence[int], label: int) -> None:
        """Add one image: the predicted classes, best first (at least five where there are five), and the true one."""
        self._missed.setdefault(label, []).append((label not in ranked[:1], label not in ranked[:5]))

    def compute(self) -> dict[str, float]:
        """Return both errors over all images."""
        return share_missed([row for rows in self._missed.values() for row in rows], "error")

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return both errors over the images of each class."""
        return {label: share_missed(rows, "error") for label, rows in sorted(self._missed.items())}


def share_missed(missed: Sequence[tuple[bool, bool]], name: str) -> dict[str, float]:
    """Return ``{top1_name, top5_name}`` in percent of images whose top-1 and top-5 answers are wrong; {} of none."""
    if not missed:
        return {}
    top1, top5 = (100 * np.mean(missed, axis=0)).tolist()
    return {f"top1_{name}": top1, f"top5_{name}": top5}
