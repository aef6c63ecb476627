"""What is known about one image when it is judged, in the classes of the data set, wherever it came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray, scale
from gwapctl.datasets.base import ClassName
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.errors import DataError
from gwapctl.metrics.localization import Guess
from gwapctl.regions import BoxRule, Region, five_guesses, map_to_boxes

ANY = -1  # in place of a class: a map or box that stands for every class (the weight map)

Heatmap = npt.NDArray[np.floating]
_NOWHERE: Heatmap = np.zeros((1, 1))  # the map of a class that the data set does not have


@dataclass(frozen=True)
class Detections:
    """All boxes found in one image: ``boxes`` (N, 4) in original pixels, ``scores`` (N,), ``labels`` (N,)."""

    boxes: FloatArray
    scores: FloatArray
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Evidence:
    """One image: its size, class scores, maps and boxes. Classes are indices of the data set, ``ANY`` or ``FOREIGN``.

    ``scores`` (C,) has one score per class of the data set; ``ranked`` the predicted classes, best first; None where
    nothing is said. ``maps`` (h, w) cover the whole image at any resolution. ``boxes`` (N, 4) are in original pixels,
    best first; an empty array means that the map gave no box. ``guesses`` replace the five best classes and their boxes
    in the top-5 localization error, none where a map is missing; ``detections`` are several boxes, each with its score.
    """

    width: int
    height: int
    scores: FloatArray | None = None
    ranked: tuple[int, ...] | None = None
    maps: Mapping[int, Heatmap] = field(default_factory=dict)
    boxes: Mapping[int, FloatArray] = field(default_factory=dict)
    guesses: tuple[Guess, ...] | None = None
    detections: Detections | None = None

    def map_of(self, label: int) -> Heatmap | None:
        """Return the map of a class, or the one for every class; None where there is neither."""
        return self.maps.get(label, self.maps.get(ANY))

    def boxes_of(self, label: int) -> FloatArray | None:
        """Return the boxes ``(N, 4)`` of a class, or those for every class; None where nothing is known."""
        return self.boxes.get(label, self.boxes.get(ANY))


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

    def added(self, evidence: Iterable[Evidence]) -> Iterator[Evidence]:
        """Yield ``evidence`` with the guesses of each image; none where a map of its three best classes is missing.

        A class that the data set does not have is a wrong guess.
        """
        for item in evidence:
            yield replace(item, guesses=_five_guesses(item, self.tight, self.loose))


def _five_guesses(item: Evidence, tight: BoxRule, loose: BoxRule) -> tuple[Guess, ...]:
    best = (item.ranked or ())[:3]
    maps = [_NOWHERE if label == FOREIGN else item.map_of(label) for label in best]
    known = [heatmap for heatmap in maps if heatmap is not None]
    if len(known) < len(maps):
        return ()
    boxes = [
        (best[rank], _to_image([region] if region else [], known[rank], item.width, item.height))
        for rank, region in five_guesses(known, tight, loose)
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
