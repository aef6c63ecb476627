"""Which images choose the box threshold that others are judged at: the halves of the split, or those of another one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gwapctl.datasets.base import BoxedSample
from gwapctl.errors import DataError, UsageError, option
from gwapctl.evaluate.ground_truth import true_boxes
from gwapctl.evaluate.result import GroundTruth
from gwapctl.evaluate.subject import Subject, find_samples
from gwapctl.metrics.box_accuracy import AccuracyCurve, BoxAccuracy
from gwapctl.metrics.wsoleval import WsolevalBoxAccuracy
from gwapctl.predict.prediction import Prediction
from gwapctl.progress import Progress, ProgressCallback

HALVES = "halves"  # one half of the split chooses the threshold of the other

Accuracy = BoxAccuracy | WsolevalBoxAccuracy


@dataclass(frozen=True)
class Calibration:
    """What was asked (``on``), and the ``n`` images of ``split`` that choose.

    They are the judged ones, and ``parts`` has the half of each by its id; or others, which ``chosen_on`` has seen.
    """

    on: str
    split: str
    n: int
    parts: Mapping[str, int] = field(default_factory=dict)
    chosen_on: Accuracy | None = None

    @property
    def curve(self) -> AccuracyCurve | None:
        """The accuracy at all thresholds of the other images that choose, where they do."""
        return None if self.chosen_on is None else self.chosen_on.curve

    def part(self, sample: BoxedSample) -> int:
        """Return the part of the judged images, which share a threshold, that ``sample`` is of."""
        return self.parts.get(sample.id, 0)

    def document(self, thresholds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        """Return what the result says: ``{metric: thresholds}``, one for each part."""
        return {"on": self.on, "split": self.split, "n": self.n, "thresholds": {k: [*v] for k, v in thresholds.items()}}


def halves(ground_truth: GroundTruth) -> Calibration:
    """Divide the images with boxes in two halves, by a hash of their ids; every class is divided evenly, within one.

    A DataError says that there are less than two of them.
    """
    blacklist = ground_truth.dataset.blacklist
    boxed = [sample for sample in ground_truth.samples if true_boxes(sample) and sample.id not in blacklist]
    if len(boxed) < 2:
        raise DataError(
            f"{ground_truth.split} of {ground_truth.dataset.name} has {len(boxed)} images with boxes, too few for two "
            f"halves. Choose the threshold on a split that has them, with {option('calibrate_on')}."
        )
    return Calibration(HALVES, ground_truth.split, len(boxed), divide(boxed, 2))


def divide(samples: Iterable[BoxedSample], parts: int) -> dict[str, int]:
    """Return the part of each sample by its id, from a hash of that; every class is divided evenly, within one."""
    ordered = sorted(samples, key=lambda sample: (sample.labels[0], hashlib.sha256(sample.id.encode()).digest()))
    return {sample.id: place % parts for place, sample in enumerate(ordered)}


def choosing_images(subject: Subject, ground_truth: GroundTruth, split: str, limit: int) -> GroundTruth:
    """Return at most ``limit`` images with boxes of ``split``, evenly spaced, none of which is judged.

    Raises:
        UsageError: it is the split that is reported on.
        DataError: there is no such split or image.

    """
    name, samples = find_samples(subject, ground_truth.dataset, split)
    if name == ground_truth.split:
        raise UsageError(
            f"the results are reported on {name}, so the threshold must not be chosen there. Give another split, or "
            f"{option('calibrate_on', HALVES)}."
        )
    judged = {sample.path for sample in ground_truth.samples}
    boxed = [sample for sample in samples if true_boxes(sample) and sample.path not in judged]
    if not boxed:
        raise DataError(
            f"{name} of {ground_truth.dataset.name} has no image with boxes beside those that are reported on, so no "
            f"threshold can be chosen there. Give another split, or {option('calibrate_on', HALVES)}."
        )
    count = min(limit, len(boxed))
    spaced = [boxed[place * len(boxed) // count] for place in range(count)]
    return replace(ground_truth, split=name, samples=spaced, shard=None)


def calibrate_on(
    asked: str,
    choosing: GroundTruth,
    read: Callable[[GroundTruth], Iterable[Prediction]],
    progress: ProgressCallback | None = None,
) -> Calibration:
    """Look at the images of ``choosing``, whose maps ``read`` yields, at all thresholds of its protocol."""
    accuracy: Accuracy = WsolevalBoxAccuracy() if choosing.protocol == "wsoleval" else BoxAccuracy()
    sweep(accuracy, choosing, read(choosing), progress)
    return Calibration(asked, choosing.split, len(choosing.samples), chosen_on=accuracy)


def sweep(
    accuracy: Accuracy,
    choosing: GroundTruth,
    found: Iterable[Prediction],
    progress: ProgressCallback | None,
    by_class: dict[int, AccuracyCurve] | None = None,
) -> None:
    """Add the maps of the true classes in ``found`` to ``accuracy``; a DataError says that there is none with a box.

    ``by_class`` gets the curve of each class by itself.
    """
    for done, (sample, prediction) in enumerate(zip(choosing.samples, found, strict=True), start=1):
        for label, objects in true_boxes(sample).items():
            heatmap = prediction.map_of(label)
            if heatmap is not None:
                ious = accuracy.update(heatmap, objects, prediction.width, prediction.height)
                if by_class is not None and not isinstance(ious, tuple):
                    by_class.setdefault(label, AccuracyCurve(accuracy.curve.thresholds)).add(ious)
        if progress is not None:
            progress(Progress(done, len(choosing.samples), "images", "choosing the threshold"))
    if not accuracy.curve.n:
        raise DataError(f"{choosing.split} of {choosing.dataset.name} has no boxes to choose a threshold by.")
