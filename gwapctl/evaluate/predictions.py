"""Predictions made ready to be judged: in the classes of the data set, with boxes cut from their maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray, scale
from gwapctl.datasets.base import ClassName
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.errors import DataError
from gwapctl.metrics.localization import Guess
from gwapctl.predict.prediction import ANY, Heatmap, Prediction
from gwapctl.regions import BoxRule, Region, five_guesses, map_to_boxes

_NOWHERE: Heatmap = np.zeros((1, 1))  # the map of a class that the data set does not have


def boxes_from_maps(
    maps: Mapping[int, Heatmap], rule: BoxRule | None, width: int, height: int, labels: Iterable[int]
) -> dict[int, FloatArray]:
    """Return one box per map, ``(1, 4)`` in pixels of the original image of ``width x height``; ``(0, 4)`` for none.

    Cut are the maps of ``labels``, the classes present, and the one for every class: no box of another class is right.
    ``rule`` has seen the image if it needs to; None cuts nothing.
    """
    if rule is None:
        return {}
    judged = {ANY, *labels}
    return {label: _box_from_map(heatmap, rule, width, height) for label, heatmap in maps.items() if label in judged}


def _box_from_map(heatmap: Heatmap, rule: BoxRule, width: int, height: int) -> FloatArray:
    return _to_image(map_to_boxes(heatmap, rule), heatmap, width, height)


def _to_image(regions: Sequence[Region], heatmap: Heatmap, width: int, height: int) -> FloatArray:
    rows, columns = heatmap.shape
    return scale([region.box for region in regions], columns, rows, width, height)


@dataclass(frozen=True)
class FiveGuesses:
    """CAM's heuristic for the top-5 localization error (Zhou et al., arXiv 1512.04150, section 3.2).

    A ``tight`` and a ``loose`` box for the best two classes, a loose one for the third. The paper gives no threshold.
    """

    tight: BoxRule
    loose: BoxRule

    def of(self, prediction: Prediction) -> tuple[Guess, ...]:
        """Return the guesses of one image; none where a map of its three best classes is missing.

        A class that the data set does not have is a wrong guess.
        """
        best = (prediction.ranked or ())[:3]
        maps = [_NOWHERE if label == FOREIGN else prediction.map_of(label) for label in best]
        known = [heatmap for heatmap in maps if heatmap is not None]
        if len(known) < len(maps):
            return ()
        width, height = prediction.width, prediction.height
        boxes = [
            (best[rank], _to_image([region] if region else [], known[rank], width, height))
            for rank, region in five_guesses(known, self.tight, self.loose)
        ]
        return tuple(Guess(label, box[0] if len(box) else None) for label, box in boxes)


def match_classes(
    known: Sequence[ClassName], classes: Sequence[ClassName], needed: Iterable[int], source: str, dataset: str
) -> npt.NDArray[np.int64]:
    """Return ``(len(known),)``: the data set's index of each class that ``source`` knows, or ``FOREIGN``.

    Raises:
        DataError: the two share no class, or ``source`` lacks a class of the data set that is ``needed``.

    """
    matcher = ClassMatcher(classes)
    found = np.array([matcher.index(item.name, item.id) for item in known], dtype=np.int64)
    missing = [classes[label].name for label in sorted(set(needed) - set(found.tolist()))]
    if not (found >= 0).any():
        raise DataError(
            f"{source} and {dataset} share no class name or id: {source} knows {some(item.name for item in known)}, "
            f"{dataset} has {some(item.name for item in classes)}. Evaluate on the data set it was trained for."
        )
    if missing:
        raise DataError(
            f"{source} does not know {len(missing)} of the classes of {dataset}: {some(missing)}. "
            "Use a model trained on these classes."
        )
    return found


def spread(values: FloatArray, match: npt.NDArray[np.int64], count: int) -> FloatArray:
    """Return the values ``(len(match),)`` of the known classes in the data set's order ``(count,)``; others get 0.

    Of two known classes that are one in the data set, the greater counts.
    """
    scores = np.zeros(count)
    np.maximum.at(scores, match[match >= 0], values[match >= 0])
    return scores


def some(names: Iterable[str], most: int = 5) -> str:
    """Return the first ``most`` of ``names``, quoted, and how many more there are."""
    every = list(names)
    shown = ", ".join(repr(name) for name in every[:most])
    return shown + (f" and {len(every) - most} more" if len(every) > most else "")
