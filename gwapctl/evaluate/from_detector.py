"""A detector measured: its boxes on every image of the split, judged as the development kits do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gwapctl.boxes import Detections
from gwapctl.datasets.base import BoxedSample
from gwapctl.evaluate.detections import evaluate_detections
from gwapctl.evaluate.predictions import match_classes
from gwapctl.evaluate.result import EvaluationResult, GroundTruth
from gwapctl.images.decode import read_image
from gwapctl.progress import ProgressCallback

if TYPE_CHECKING:
    from gwapctl.predict.detector import DetectorPredictor


def evaluate_detector(
    predictor: DetectorPredictor,
    ground_truth: GroundTruth,
    *,
    name: str,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> EvaluationResult:
    """Evaluate a detector: all boxes it finds, whatever their score, after NMS.

    Args:
        predictor: the detector, as it runs; its ``min_score`` is not looked at.
        ground_truth: what is measured on.
        name: what the result calls it.
        workers: threads; None: one per core.
        progress: told after every image.

    Raises:
        DataError: model and data set share no classes, an image cannot be read, or there is no box to measure by.

    """
    options: dict[str, Any] = {
        "short_side": predictor.reader.info.short_side,
        "long_side": predictor.reader.info.long_side,
        "precision": predictor.reader.precision,
        "box_subset": predictor.reader.info.provenance.get("box_subset"),  # the images whose boxes it was trained with
    }
    return evaluate_detections(
        _detections(predictor, ground_truth, name, workers), ground_truth, name=name, options=options, progress=progress
    )


def _detections(
    predictor: DetectorPredictor, ground_truth: GroundTruth, name: str, workers: int | None
) -> Iterator[Detections]:
    """Yield what is found in each image, classes matched by id or name; foreign ones are negative."""
    from gwapctl.predict.threads import in_threads

    present = {label for sample in ground_truth.samples for label in sample.labels}
    match = match_classes(
        predictor.reader.info.classes, ground_truth.dataset.classes, present, name, ground_truth.dataset.name
    )

    def work(part: list[BoxedSample]) -> list[Detections]:
        found = predictor.detect([read_image(sample.path) for sample in part])
        return [Detections(item.boxes, item.scores, match[item.labels]) for item in found]

    yield from in_threads(work, ground_truth.samples, chunk=predictor.batch_size, workers=workers)
