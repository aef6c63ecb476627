"""Detections judged: average precision over all boxes of all images, as VOC's and COCO's development kits do."""

from __future__ import annotations

import numpy as np

from gwapctl.boxes import Detections
from gwapctl.datasets.base import BoxedSample, Dataset
from gwapctl.errors import DataError
from gwapctl.evaluate.result import EvaluationResult, class_row
from gwapctl.metrics.detection import DetectionAP
from gwapctl.predict.prediction import Prediction


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
            class_row(self._dataset.classes[label], self._images[label], numbers)
            for label, numbers in detection_rows(self._precision).items()
        ]
        return EvaluationResult(self._n, self._n_degenerate, self._precision.compute(), {}, rows)


def add_detections(precision: DetectionAP, sample: BoxedSample, found: Detections) -> None:
    """Hand one image to the metric; detections of classes that the data set does not have are left out."""
    known = found.labels >= 0
    boxes, scores, labels = found.boxes[known], found.scores[known], found.labels[known]
    precision.update(boxes, scores, labels, sample.boxes, sample.box_labels, sample.difficult)


def detection_rows(precision: DetectionAP) -> dict[int, dict[str, float]]:
    """Return ``{class: {"det_ap_11pt", "det_ap_area"}}`` in percent: the names tell them from classification's."""
    return {label: {f"det_{key}": value for key, value in row.items()} for label, row in precision.per_class().items()}
