"""Detections judged: average precision over all boxes of all images, as VOC's and COCO's development kits do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gwapctl.boxes import Detections
from gwapctl.datasets.base import BoxedSample, Dataset
from gwapctl.errors import DataError
from gwapctl.evaluate.result import EvaluationResult, GroundTruth, judge
from gwapctl.metrics.detection import DetectionAP
from gwapctl.predict.prediction import Prediction
from gwapctl.progress import ProgressCallback


def evaluate_detections(
    detections: Iterable[Detections],
    ground_truth: GroundTruth,
    *,
    name: str,
    options: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    progress: ProgressCallback | None = None,
) -> EvaluationResult:
    """Judge what a detector found and return the result.

    Args:
        detections: of each sample of ``ground_truth``, in order, in original pixels; labels are indices of the data
            set's classes, negative ones are of no class that it has and do not count.
        ground_truth: data set, split and samples.
        name: what the result calls the detector.
        options: how it was run, for the record.
        notes: what the reader must know.
        progress: told after every image.

    Raises:
        DataError: the split has no object that counts, or an image cannot be used.

    """
    predictions = (Prediction("", 0, 0, detections=found) for found in detections)
    protocol = DetectionProtocol(ground_truth.dataset)
    result = judge(protocol, ground_truth, predictions, name=name, options=dict(options or {}), progress=progress)
    result.notes.extend(notes)
    return result


class DetectionProtocol:
    """``det_map_11pt``, ``det_map_area`` (IoU >= 0.5, difficult objects count neither way) and ``coco_map``.

    There are no floors: a box that never looks at the image has no score to be ranked by. ``n_degenerate`` counts the
    images in which nothing was found.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._precision = DetectionAP(coco=True)
        self._images = np.zeros(len(dataset.classes), np.int64)
        self._n = self._n_degenerate = 0

    def update(self, sample: BoxedSample, prediction: Prediction) -> None:
        """Judge one image.

        Raises:
            DataError: nothing says what was found in it.

        """
        found = prediction.detections
        if found is None:
            raise DataError(f"there are no detections for {sample.id!r}. Detect on the whole split.")
        self._n += 1
        self._n_degenerate += not len(found.boxes)
        self._images[list(sample.labels)] += 1
        add_detections(self._precision, sample, found)

    def result(self) -> EvaluationResult:
        """Return the metrics; none where no class has an object that counts."""
        rows = [
            {"class": item.name, "id": item.id, "n": int(self._images[label]), **numbers}
            for label, numbers in detection_rows(self._precision).items()
            for item in (self._dataset.classes[label],)
        ]
        return EvaluationResult(self._n, self._n_degenerate, self._precision.compute(), {}, rows)


def add_detections(precision: DetectionAP, sample: BoxedSample, found: Detections) -> None:
    """Hand one image to the metric; detections of classes that the data set does not have are left out."""
    known = found.labels >= 0
    precision.update(
        found.boxes[known],
        found.scores[known],
        found.labels[known],
        sample.boxes,
        sample.box_labels,
        sample.difficult,
    )


def detection_rows(precision: DetectionAP) -> dict[int, dict[str, float]]:
    """Return ``{class: {"det_ap_11pt", "det_ap_area"}}`` in percent: the names tell them from classification's."""
    return {label: {f"det_{key}": value for key, value in row.items()} for label, row in precision.per_class().items()}
