"""Boxes that a detector learns from in place of true ones: which count, how much, and those of the next round.

The image-level labels say which classes an image shows: no box of another class is ever kept. In the first round the
boxes are somebody else's, a classifier's as a rule. From the second round on they are the detector's own where the two
agree, or where the detector is sure (in the manner of self-training after weak supervision: OICR, arXiv 1704.00138;
unbiased teachers take their sure boxes, too, arXiv 2102.09480). Thresholds and weights are ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import BoxesLike, Detections, FloatArray, as_boxes, iou, to_list
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset, Sample
from gwapctl.errors import DataError
from gwapctl.files import read_text, write_text
from gwapctl.images.decode import image_size
from gwapctl.metrics.detection import DetectionAP
from gwapctl.progress import ProgressCallback

AGREEMENT = 0.5  # IoU from which two boxes are of one object
LIKELY, SURE = 0.1, 0.5  # a detector's score from which its box counts: beside another's box, and alone
DOUBTFUL = 0.5  # the weight of a box that stays only because the labels name its class and there is no better one


@dataclass(frozen=True, eq=False)
class PseudoBoxes:
    """Boxes of one image: ``boxes`` (N, 4) in its pixels, ``labels`` (N,), class indices, ``scores`` (N,) in 0..1.

    ``weights`` (N,) in 0..1 say how much each counts in training.
    """

    boxes: FloatArray
    labels: npt.NDArray[np.int64]
    scores: FloatArray
    weights: FloatArray

    def __len__(self) -> int:
        """Return how many boxes there are."""
        return len(self.boxes)

    def of_classes(self, possible: Collection[int]) -> PseudoBoxes:
        """Return the boxes of the classes that are possible."""
        return self.take(np.isin(self.labels, list(possible)))

    def take(self, chosen: npt.NDArray[Any]) -> PseudoBoxes:
        """Return the boxes of these indices, or where the flags (N,) are set."""
        return PseudoBoxes(self.boxes[chosen], self.labels[chosen], self.scores[chosen], self.weights[chosen])

    def counting(self, weights: Sequence[float]) -> PseudoBoxes:
        """Return the same boxes with other weights, which are cut to 0..1."""
        return replace(self, weights=np.clip(np.array(weights, np.float64), 0, 1))


# finds the boxes of samples, one value for each
BoxSource = Callable[[Dataset, Sequence[Sample], ProgressCallback], Sequence[PseudoBoxes]]


def pseudo_boxes(boxes: BoxesLike, labels: npt.ArrayLike, scores: npt.ArrayLike) -> PseudoBoxes:
    """Return boxes that count as much as their scores say."""
    array = np.array(scores, np.float64)
    return PseudoBoxes(as_boxes(boxes), np.array(labels, np.int64), array, np.clip(array, 0, 1))


def ranked(found: Sequence[PseudoBoxes]) -> list[PseudoBoxes]:
    """Return boxes that count as much as their rank says: the share of their class's that weigh no more than they do.

    What doubt means differs from set to set and from class to class, which of two boxes is the better one does not.

    >>> [one.weights.tolist() for one in ranked([pseudo_boxes([[0, 0, 9, 9]], [0], [one]) for one in (0.6, 0.8)])]
    [[0.5], [1.0]]
    """
    labels = {label for one in found for label in one.labels.tolist()}
    of_class = {label: np.sort(np.concatenate([one.weights[one.labels == label] for one in found])) for label in labels}

    def rank(weight: float, label: int) -> float:
        return float(np.searchsorted(of_class[label], weight, "right") / len(of_class[label]))

    return [one.counting(list(map(rank, one.weights.tolist(), one.labels.tolist()))) for one in found]


def next_round(first: PseudoBoxes, found: Detections, possible: Collection[int]) -> PseudoBoxes:
    """Return the boxes of the next round of an image whose labels name the classes ``possible``.

    Of what the detector ``found`` there stays what agrees with a box of the ``first`` round (the same class, an IoU of
    0.5 or more), and what it is sure of. A class of which nothing stays keeps the best box of the first round: the
    label says that it is there.

    >>> first = pseudo_boxes([[0, 0, 10, 10], [50, 0, 60, 10]], [0, 1], [0.9, 0.8])
    >>> boxes = as_boxes([[0, 0, 10, 8], [30, 30, 40, 40], [70, 70, 80, 80]])
    >>> found = Detections(boxes, np.array([0.3, 0.7, 0.9]), np.array([0, 0, 2]))
    >>> kept = next_round(first, found, [0, 1])
    >>> kept.boxes.tolist(), kept.labels.tolist(), kept.weights.tolist()
    ([[0.0, 0.0, 10.0, 8.0], [30.0, 30.0, 40.0, 40.0], [50.0, 0.0, 60.0, 10.0]], [0, 0, 1], [0.9, 0.7, 0.4])
    """
    own = pseudo_boxes(found.boxes, found.labels, found.scores).of_classes(possible)
    own = own.take(own.scores >= LIKELY)
    same = (iou(own.boxes, first.boxes) >= AGREEMENT) & (own.labels[:, None] == first.labels)  # (N, M)
    backing = np.where(same, first.weights, 0).max(axis=1, initial=0)  # (N,)
    best_of = {int(index) for index in np.where(same, own.scores[:, None], -1).argmax(axis=0)} if len(own) else set()
    agreed = np.array([index in best_of for index in range(len(own))], bool) & same.any(axis=1)
    own = replace(own, weights=np.maximum(own.weights, backing))
    kept = own.take(agreed | (own.scores >= SURE))
    lost = [label for label in possible if label not in kept.labels and label in first.labels]
    rest = [max(np.flatnonzero(first.labels == label), key=lambda index: first.scores[index]) for label in lost]
    last = first.take(np.array(rest, np.int64))
    parts = (kept, replace(last, weights=last.weights * DOUBTFUL))
    return PseudoBoxes(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.weights for part in parts]),
    )


def with_boxes(sample: Sample, found: PseudoBoxes) -> BoxedSample:
    """Return a sample with these boxes, as a detector takes it."""
    return BoxedSample(
        sample.id,
        sample.path,
        sample.labels,
        sample.ignored,
        sample.size,
        found.boxes,
        found.labels,
        np.zeros(len(found), np.bool_),
    )


def judge(found: Sequence[PseudoBoxes], truth: Sequence[BoxedSample]) -> dict[str, float]:
    """Return the average precision of boxes on true ones; empty where there are none."""
    if not any(len(sample.boxes) for sample in truth):
        return {}
    meter = DetectionAP()
    for one, sample in zip(found, truth, strict=True):
        meter.update(one.boxes, one.scores, one.labels, sample.boxes, sample.box_labels, sample.difficult)
    return meter.compute()


def boxes_file(folder: Path, number: int) -> Path:
    """Return where the run in ``folder`` keeps the boxes of a round, counted from 1."""
    return folder / f"boxes-{number}.jsonl"


def write_boxes(
    file: Path, samples: Sequence[Sample], found: Sequence[PseudoBoxes], names: Sequence[ClassName]
) -> None:
    """Write boxes as JSON lines, which ``gwapctl boxes`` and ``evaluate`` read; each box also has its ``weight``."""
    lines = [json.dumps(_line(*pair, names)) for pair in zip(samples, found, strict=True)]
    write_text(file, "".join(f"{line}\n" for line in lines))


def _line(sample: Sample, found: PseudoBoxes, names: Sequence[ClassName]) -> dict[str, Any]:
    width, height = sample.size or image_size(sample.path)
    rows = zip(found.boxes, found.labels.tolist(), found.scores.tolist(), found.weights.tolist(), strict=True)
    predictions = [
        {"label": names[label].name, "label_id": names[label].id, "score": score, "box": to_list(box), "weight": weight}
        for box, label, score, weight in rows
    ]
    size = {"width": width, "height": height}
    image = {"image": str(sample.path), "id": sample.id}
    return {"schema_version": 1, **image, **size, "predictions": predictions, "error": None}


def read_boxes(file: Path, samples: Sequence[Sample], names: Sequence[ClassName]) -> list[PseudoBoxes]:
    """Read what ``write_boxes`` wrote of the same samples; it is a ``DataError`` that they are others."""
    lines = [json.loads(line) for line in read_text(file).splitlines()]
    if [line["id"] for line in lines] != [sample.id for sample in samples]:
        raise DataError(f"{file} has the boxes of other images than those of this training. Start another run.")
    index = {(item.name, item.id): number for number, item in enumerate(names)}
    return [_read(line["predictions"], index) for line in lines]


def _read(rows: list[dict[str, Any]], index: dict[tuple[str, str], int]) -> PseudoBoxes:
    return PseudoBoxes(
        as_boxes([row["box"] for row in rows]),
        np.array([index[row["label"], row["label_id"]] for row in rows], np.int64),
        np.array([row["score"] for row in rows], np.float64),
        np.array([row["weight"] for row in rows], np.float64),
    )
