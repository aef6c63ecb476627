"""Images that show none of the classes: which score says so, and how often an answer about them is wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.metrics.judged import Accumulator, JudgedImage, Replicates


class NothingErrors(Accumulator):
    """``false_box_rate`` and ``false_none_rate`` in percent.

    Of the images of nothing (no label, not even of a difficult object) those that get a box all the same, and of the
    images of some class those that are taken for images of nothing. There is neither where no image is of nothing, and
    none was taken for one.
    """

    ROWS = ("_units",)

    def __init__(self) -> None:
        self._units: list[tuple[bool, bool]] = []  # whether the image is of nothing, and whether it is taken for that

    def update(self, nothing: bool, answer: bool) -> None:
        """Add one image: whether it is of ``nothing``, and whether the ``answer`` is that."""
        self._units.append((nothing, answer))

    @property
    def units(self) -> int:
        """The images."""
        return len(self._units)

    def judge(self, image: JudgedImage) -> None:
        """Add one image, if it is said whether it is taken for one of nothing, and if that can be right or wrong."""
        if image.none is not None and (image.sample.labels or not image.sample.ignored):
            self.update(not image.sample.labels, image.none)

    def compute(self) -> dict[str, float]:
        """Return the rates."""
        found = self.replicates(np.ones((1, self.units))).values
        return {key: float(values[0]) for key, values in found.items() if not np.isnan(values[0])}

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return the rates on resamples of the images."""
        nothing, answer = np.array(self._units, np.float64).reshape(-1, 2).T
        if not (nothing.any() or answer.any()):
            return Replicates({}, {})
        with np.errstate(invalid="ignore"):
            false_box = (weights @ (nothing * (1 - answer))) / (weights @ nothing)
            false_none = (weights @ ((1 - nothing) * answer)) / (weights @ (1 - nothing))
        return Replicates({"false_box_rate": 100 * false_box, "false_none_rate": 100 * false_none}, {})


def none_threshold(shown: npt.ArrayLike, nothing: npt.ArrayLike) -> float | None:
    """Return the score below which an image's best class is none of its classes, None where no score tells.

    ``shown`` (n,) are the best scores of images of some class, ``nothing`` (m,) those of images of none, none of them
    trained on. The threshold has the highest mean of the share of ``shown`` that keep their class and the share of
    ``nothing`` that lose it (balanced accuracy), so it does not matter how many of each there are. It lies half way
    between two scores; of equally good ones it is the lowest, which loses the fewest images.

    >>> none_threshold([0.9, 0.8, 0.7], [0.1, 0.5])
    0.6
    >>> none_threshold([0.3, 0.4], [0.8]) is None
    True
    """
    kept, lost = np.sort(np.asarray(shown, np.float64)), np.sort(np.asarray(nothing, np.float64))
    scores = np.unique(np.concatenate([kept, lost]))
    if not len(kept) or not len(lost) or len(scores) < 2:
        return None
    cuts = (scores[1:] + scores[:-1]) / 2
    right = 1 - np.searchsorted(kept, cuts) / len(kept) + np.searchsorted(lost, cuts) / len(lost)
    best = int(right.argmax())
    return round(float(cuts[best]), 6) if right[best] > 1 else None
