"""Whether a metric can be measured at all, found out before any image is looked at."""

from __future__ import annotations

from collections.abc import Iterable

from gwapctl.errors import UsageError, option
from gwapctl.evaluate.result import GroundTruth
from gwapctl.evaluate.subject import Subject
from gwapctl.metrics import METRICS, Need
from gwapctl.networks.zoo import is_detector


def require_measurable(metrics: Iterable[str], subject: Subject, ground_truth: GroundTruth, calibrated: bool) -> None:
    """Raise ``UsageError`` where one of ``metrics`` cannot come out of evaluating ``subject`` on ``ground_truth``.

    ``calibrated``: other images choose box thresholds, for the metrics that need that.
    """
    for key in metrics:
        why = _obstacle(key, subject, ground_truth, calibrated)
        if why is not None:
            raise UsageError(f"{option('fail_under')}: {key} cannot be measured here: {why}.")


def _obstacle(key: str, subject: Subject, ground_truth: GroundTruth, calibrated: bool) -> str | None:
    metric, data, samples = METRICS[key], ground_truth.dataset, ground_truth.samples
    detects = subject.kind == "model" and is_detector(subject.path)
    if not metric.protocols:
        return "evaluate does not measure it"
    if ground_truth.protocol not in metric.protocols and not detects:
        return f"protocol {ground_truth.protocol} does not have it"
    if metric.calibrated and not calibrated:
        return f"no other images choose a threshold ({option('calibrate_on')})"
    missing: dict[Need, tuple[bool, str]] = {
        "class scores": (not data.multi_label, f"images of {data.name} have one class each"),
        "ranked classes": (data.multi_label, f"images of {data.name} may have several classes"),
        "detections": (subject.kind == "maps" or (subject.kind == "model" and not detects), "no detector is judged"),
        "maps": (subject.kind == "boxes", f"{subject.name} holds no maps"),
        "ground-truth boxes": (not any(len(one.boxes) for one in samples), f"{data.name} has no boxes"),
        "masks": (
            ground_truth.masks is None and not any(one.mask for one in samples),
            f"{data.name} has no masks ({option('masks')})",
        ),
    }
    if detects and "detections" not in metric.needs:
        return f"{subject.name} is a detector, which is judged by average precision"
    return next((why for need, (lacks, why) in missing.items() if lacks and need in metric.needs), None)
