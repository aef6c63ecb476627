"""Judging predictions, wherever they come from, by a protocol: what is gathered of images, and the result of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gwapctl.datasets.base import Dataset
from gwapctl.errors import DataError
from gwapctl.evaluate.calibration import Calibration
from gwapctl.evaluate.ground_truth import Masks
from gwapctl.evaluate.paper import DetectionProtocol, PaperProtocol
from gwapctl.evaluate.predictions import FiveGuesses, Predictions
from gwapctl.evaluate.result import EvaluationResult, GroundTruth, JudgingProtocol
from gwapctl.evaluate.wsoleval import WsolevalProtocol
from gwapctl.files import write_json
from gwapctl.metrics.verdict import find_verdict
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.regions import parse_box_rule
from gwapctl.runs import Run

PROTOCOLS: dict[str, Callable[..., JudgingProtocol]] = {
    "paper": PaperProtocol,
    "wsoleval": WsolevalProtocol,
}


@dataclass
class Judged:
    """What was gathered of images, or of a part of them, and all that a result says beside the numbers.

    Attributes:
        protocol: what gathered it.
        detector: whether all boxes were judged by average precision.
        calibration: which images chose further box thresholds.
        about: model, data set, split, protocol and number of classes, as the result has them.
        options: how the model was run.
        notes: what a reader must know, beside what the protocol says.

    """

    protocol: JudgingProtocol
    detector: bool = False
    calibration: Calibration | None = None
    about: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def result(self) -> EvaluationResult:
        """Return the result of all images that were judged.

        Raises:
            DataError: no metric can be computed.

        """
        result = self.protocol.result()
        if not result.metrics:
            why = "; ".join(result.notes) or "the split has neither boxes nor masks, and there are no predicted classes"
            raise DataError(f"nothing can be measured: {why}.")
        for name, value in self.about.items():
            setattr(result, name, value)
        result.options = self.options
        result.notes += self.notes
        if result.threshold_curve and self.options.get("box_rule"):
            threshold = getattr(parse_box_rule(self.options["box_rule"]), "threshold", None)  # Otsu's is each map's own
            result.threshold_curve |= {} if threshold is None else {"chosen": threshold}
        verdict = find_verdict(vars(result))
        result.verdict = {} if verdict is None else verdict.to_json()
        return result


def keep(result: EvaluationResult, run: Run | None, out: Path | None, *, whole: bool) -> EvaluationResult:
    """Store a result of the ``whole`` split in the run that was judged, if one was, write it to ``out``, return it."""
    if run is not None:
        result.run, result.seed = run.name, run.document.get("seed")
        if not run.finished:  # tables would find it there, and be wrong later
            result.notes.append(f"not stored in the run: its training is {run.document['status']}")
        elif whole:
            run.save_evaluation(result.to_json())
    if out is not None:
        write_json(out, result.to_json())
    return result


def new_protocol(
    dataset: Dataset,
    protocol: str,
    calibration: Calibration | None = None,
    *,
    detector: bool = False,
    guesses: FiveGuesses | None = None,
    masks: Path | None = None,
) -> JudgingProtocol:
    """Return what judges by ``protocol``; a detector is judged by average precision whatever it is."""
    if detector:
        return DetectionProtocol(dataset)
    if guesses is not None:
        return PaperProtocol(dataset, Masks(masks), guesses, calibration)
    return PROTOCOLS[protocol](dataset, Masks(masks), calibration=calibration)


def judge(
    found: Predictions,
    ground_truth: GroundTruth,
    *,
    guesses: FiveGuesses | None = None,
    calibration: Calibration | None = None,
    progress: ProgressCallback | None = None,
) -> Judged:
    """Judge predictions one image at a time; arguments are those of ``evaluate_predictions``."""
    dataset, options, notes = ground_truth.dataset, dict(found.options), list[str]()
    if guesses is not None and not found.detector:
        tight, loose = guesses.tight.name, guesses.loose.name
        options |= {"guesses": "five", "tight": tight, "loose": loose}
        notes = [f"top5_loc_error is of five guesses, {tight} and {loose}: thresholds of ours, not the paper's"]
    protocol = new_protocol(
        dataset,
        ground_truth.protocol,
        calibration,
        detector=found.detector,
        guesses=guesses,
        masks=ground_truth.masks,
    )
    if calibration is not None:
        options["calibrate_on"] = calibration.on
    samples = ground_truth.judged(found.chunk)
    for done, (sample, prediction) in enumerate(zip(samples, found.items, strict=True), start=1):
        protocol.update(sample, prediction)
        if progress is not None:
            progress(Progress(done, len(samples), "images"))
    about: dict[str, Any] = {"model": found.name, "dataset": dataset.name, "split": ground_truth.split}
    about |= {"protocol": ground_truth.protocol, "n_classes": len(dataset.classes)}
    options = {key: value for key, value in options.items() if value is not None}
    of_data = [] if found.detector else dataset.notes(ground_truth.split)  # masks, blacklists: nothing of a detector's
    return Judged(protocol, found.detector, calibration, about, options, [*found.notes, *notes, *of_data])


def evaluate_predictions(
    found: Predictions,
    ground_truth: GroundTruth,
    *,
    guesses: FiveGuesses | None = None,
    calibration: Calibration | None = None,
    progress: ProgressCallback | None = None,
) -> EvaluationResult:
    """Judge predictions, wherever they come from, by the protocol of ``ground_truth``, one image at a time.

    >>> import numpy as np
    >>> from gwapctl.boxes import Detections, as_boxes
    >>> from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
    >>> from gwapctl.evaluate import from_detections
    >>> class Pets(Dataset):
    ...     name, classes, multi_label = "pets", (ClassName("cat", "n02123045"),), True
    ...     splits = boxed_samples = None
    >>> box, label = as_boxes([8, 4, 40, 30]), np.array([0])
    >>> sample = BoxedSample("a.jpg", Path("a.jpg"), (0,), (), (80, 60), box, label, np.array([False]))
    >>> found = from_detections([Detections(box, np.array([0.9]), label)], "mine")
    >>> evaluate_predictions(found, GroundTruth(Pets(), "val", [sample])).metrics["det_map_area"]
    100.0

    Args:
        found: ``from_model``, ``from_detector``, ``from_detections``, ``from_maps`` or ``from_boxes`` make them.
        ground_truth: data set, split, samples and protocol; a detector is judged by average precision whatever it is.
        guesses: what decides the top-5 localization error in place of the five best classes.
        calibration: which images choose the box thresholds of calibrated metrics (``evaluate.calibration``).
        progress: told after every image.

    Raises:
        DataError: an image, map or box cannot be used, or no metric can be computed.

    """
    return judge(found, ground_truth, guesses=guesses, calibration=calibration, progress=progress).result()
