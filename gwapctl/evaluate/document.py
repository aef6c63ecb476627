"""From evidence to the document of ``evaluate --json``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gwapctl.datasets.base import BoxedSample, Dataset
from gwapctl.errors import DataError
from gwapctl.evaluate.predictions import Evidence
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.runs import now

SCHEMA_VERSION = 1
Document = dict[str, Any]


@dataclass(frozen=True)
class Ground:
    """What is measured on: ``samples`` of a ``split``, by which ``protocol``; ``masks`` is their folder."""

    dataset: Dataset
    split: str
    samples: Sequence[BoxedSample]
    protocol: str = "paper"
    masks: Path | None = None


@dataclass
class Verdict:
    """The outcome of a protocol: what goes into the document of ``evaluate --json``.

    ``notes`` say what is left out; the curves and ``examples`` are for pages and figures and may be empty.
    """

    n: int
    n_degenerate: int
    metrics: dict[str, float]
    floors: dict[str, dict[str, float]]
    per_class: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    threshold_curve: dict[str, Any] = field(default_factory=dict)
    fg_iou_curve: dict[str, list[float]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)


class JudgingProtocol(Protocol):
    """A named, frozen way of judging: one ``update`` per image, then the ``verdict``."""

    def update(self, sample: BoxedSample, evidence: Evidence) -> None:
        """Judge one image."""

    def verdict(self) -> Verdict:
        """Return all metrics that the data allows."""


def judge(
    protocol: JudgingProtocol,
    samples: Sequence[BoxedSample],
    evidence: Iterable[Evidence],
    progress: ProgressCallback | None = None,
) -> Verdict:
    """Judge all ``samples`` by their ``evidence``, one at a time.

    Raises:
        DataError: an image or map cannot be used, or no metric can be computed.

    """
    for done, (sample, found) in enumerate(zip(samples, evidence, strict=True), start=1):
        protocol.update(sample, found)
        if progress is not None:
            progress(Progress(done, len(samples), "images"))
    verdict = protocol.verdict()
    if not verdict.metrics:
        why = "; ".join(verdict.notes) or "the split has neither boxes nor masks, and there are no predicted classes"
        raise DataError(f"nothing can be measured: {why}.")
    return verdict


def build_document(
    verdict: Verdict, *, model: str, dataset: Dataset, split: str, protocol: str, options: dict[str, Any]
) -> Document:
    """Return the JSON document; numbers that are not finite become null."""
    judged = {key: _plain(value) for key, value in asdict(verdict).items()}
    extras = {key: judged.pop(key) for key in ("threshold_curve", "fg_iou_curve", "examples")}
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "dataset": dataset.name,
        "split": split,
        "protocol": protocol,
        **judged,
        "options": {key: value for key, value in options.items() if value is not None},
        "created": now(),
        **{key: value for key, value in extras.items() if value},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
