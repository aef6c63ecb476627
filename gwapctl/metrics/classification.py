"""Classification: VOC average precision (several classes per image) and top-k error (one class per image)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.errors import DataError
from gwapctl.metrics.average_precision import ap_11pt, ap_area, precision_recall, ranking

IGNORED = -1


class ClassificationAP:
    """``voc_map_11pt`` and ``voc_map_area`` in percent (VOC development kit, VOCevalcls).

    Per class all images are ranked by score; images with only difficult objects of it count neither way. Classes
    without a positive image have no AP and are left out of the mean.
    """

    def __init__(self, classes: int, eps: float = 0.0) -> None:
        self._classes = classes
        self._eps = eps
        self._scores: list[FloatArray] = []
        self._truth: list[npt.NDArray[np.int8]] = []

    def update(self, scores: npt.ArrayLike, labels: Collection[int], ignored: Collection[int] = ()) -> None:
        """Add one image: ``scores`` (C,), the classes present, and those present only as difficult objects.

        Raises:
            DataError: the number of scores is not C.

        """
        row = np.asarray(scores, dtype=np.float64)
        if row.shape != (self._classes,):
            raise DataError(f"an image has scores of shape {row.shape} for {self._classes} classes.")
        truth = np.zeros(self._classes, np.int8)
        truth[list(ignored)] = IGNORED
        truth[list(labels)] = 1
        self._scores.append(row)
        self._truth.append(truth)

    def compute(self) -> dict[str, float]:
        """Return the means over classes; nothing where no class has a positive image."""
        rows = self.per_class().values()
        if not rows:
            return {}
        return {f"voc_map_{form}": float(np.mean([row[f"ap_{form}"] for row in rows])) for form in ("11pt", "area")}

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return ``{class: {"ap_11pt", "ap_area"}}`` in percent, of the classes with a positive image."""
        if not self._scores:
            return {}
        scores, truth = np.stack(self._scores), np.stack(self._truth)  # (N, C)
        present = np.flatnonzero((truth == 1).any(axis=0))
        return {int(label): self._row(scores[:, label], truth[:, label]) for label in present}

    def _row(self, scores: FloatArray, truth: npt.NDArray[np.int8]) -> dict[str, float]:
        ranked = truth[ranking(scores)]
        precision, recall = precision_recall(ranked == 1, ranked != IGNORED, int((truth == 1).sum()))
        return {
            "ap_11pt": 100 * ap_11pt(precision, recall, self._eps),
            "ap_area": 100 * ap_area(precision, recall),
        }


class TopKError:
    """``top1_error`` and ``top5_error`` in percent: the true class is not among the k best (ILSVRC)."""

    def __init__(self) -> None:
        self._missed: dict[int, list[tuple[bool, bool]]] = {}

    def update(self, ranked: Sequence[int], label: int) -> None:
        """Add one image: the predicted classes, best first (at least five where there are five), and the true one."""
        self._missed.setdefault(label, []).append((label not in ranked[:1], label not in ranked[:5]))

    def compute(self) -> dict[str, float]:
        """Return both errors over all images."""
        return _errors([row for rows in self._missed.values() for row in rows])

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return both errors over the images of each class."""
        return {label: _errors(rows) for label, rows in sorted(self._missed.items())}


def _errors(missed: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    if not missed:
        return {}
    top1, top5 = (100 * np.mean(missed, axis=0)).tolist()
    return {"top1_error": top1, "top5_error": top5}
