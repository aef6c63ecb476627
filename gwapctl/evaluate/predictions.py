"""Predictions made ready to be judged: in the classes of the data set, with boxes cut from their maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import Detections, FloatArray, as_boxes
from gwapctl.datasets.base import ClassName
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.errors import DataError
from gwapctl.evaluate.result import GroundTruth
from gwapctl.maps.reading import BETA, ResolvedReading
from gwapctl.metrics.judged import Guess
from gwapctl.predict.cut import Cut, in_image
from gwapctl.predict.prediction import ANY, Heatmap, Prediction
from gwapctl.regions import BoxRule, five_guesses, parse_box_rule

_NOWHERE: Heatmap = np.zeros((1, 1))  # the map of a class that the data set does not have


@dataclass
class Predictions:
    """What is judged, wherever it comes from: one prediction per sample of the ground truth, in order.

    Attributes:
        items: the predictions, one at a time.
        name: what the result calls the model.
        options: how it was run, for the record; None: not said.
        notes: what a reader of the result must know.
        detector: all boxes are judged by average precision, and nothing else is.
        chunk: how many samples are worked on together; with a shard there are items of its own samples alone.

    """

    items: Iterable[Prediction] = field(repr=False)
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    detector: bool = False
    chunk: int = field(default=1, repr=False)


def from_detections(
    found: Iterable[Detections],
    name: str,
    options: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Predictions:
    """Return what a detector found in each sample, in original pixels, to be judged.

    Labels are indices of the data set's classes; negative ones are of no class that it has and do not count.
    """
    items = (Prediction("", 0, 0, detections=one) for one in found)
    return Predictions(items, name, dict(options or {}), list(notes), detector=True)


def rule_for(ground_truth: GroundTruth, asked: str | BoxRule | None, refine: str | None, default: str) -> Cut | None:
    """Return how boxes are cut as it is asked for, or None where the protocol finds its own boxes."""
    if ground_truth.protocol == "wsoleval":
        return None
    return Cut(parse_box_rule(asked, refine=refine, default=default))


def reading_options(reading: ResolvedReading, cut: Cut | None) -> dict[str, Any]:
    """Return how maps were made and cut, for the document; None where there is nothing to say."""
    return {
        "map": reading.method,
        "box_rule": cut and cut.rule.name,
        "scales": list(reading.scales) or None,
        "resize": reading.resize if reading.scales else None,
        "flip": reading.flip or None,
        "layer": list(reading.layer) or None,
        "fuse": reading.fuse if len(reading.layer) > 1 else None,
        "close": reading.close or None,
        "crops": None if reading.crops == "none" else reading.crops,
        "backprop_seg": None if reading.backprop_seg == "none" else reading.backprop_seg,
        "beta": None if reading.beta == BETA else reading.beta,
    }


def boxes_from_maps(
    maps: Mapping[int, Heatmap], cut: Cut | None, width: int, height: int, labels: Mapping[int, str]
) -> dict[int, FloatArray]:
    """Return one box per map, ``(1, 4)`` in pixels of the original image of ``width x height``; ``(0, 4)`` for none.

    Cut are the maps of ``labels``, the classes present by index with their ids, and the one for every class: no box of
    another class is right. ``cut`` has seen the image if its rule needs to; None cuts nothing.
    """
    if cut is None:
        return {}
    shared = maps.get(ANY) if cut.rule.by_class else None  # then one map has a box for each class
    wanted = {label: maps.get(label, shared) for label in (ANY, *labels)}
    return {
        label: as_boxes([r.box for r in cut.of_class(labels.get(label, "")).regions(heatmap, width, height)])
        for label, heatmap in wanted.items()
        if heatmap is not None
    }


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
        size = prediction.width, prediction.height
        return tuple(
            Guess(best[rank], None if region is None else in_image(region, known[rank], *size))
            for rank, region in five_guesses(known, self.tight, self.loose)
        )


def match_classes(
    known: Sequence[ClassName], classes: Sequence[ClassName], needed: Iterable[int], model: str, dataset: str
) -> npt.NDArray[np.int64]:
    """Return ``(len(known),)``: the data set's index of each class that ``model`` knows, or ``FOREIGN``.

    >>> cat, dog = ClassName("cat", "n02123045"), ClassName("dog", "n02084071")
    >>> match_classes([dog, ClassName("car", "")], [cat, dog], {1}, "mine", "pets").tolist()
    [1, -2]

    Raises:
        DataError: the two share no class, or ``model`` lacks a class of the data set that is ``needed``.

    """
    matcher = ClassMatcher(classes)
    found = np.array([matcher.index(item.name, item.id) for item in known], dtype=np.int64)
    missing = [classes[label].name for label in sorted(set(needed) - set(found.tolist()))]
    if not (found >= 0).any():
        raise DataError(
            f"{model} and {dataset} share no class name or id: {model} knows {some(item.name for item in known)}, "
            f"{dataset} has {some(item.name for item in classes)}. Evaluate on the data set it was trained for."
        )
    if missing:
        raise DataError(
            f"{model} does not know {len(missing)} of the classes of {dataset}: {some(missing)}. "
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
