"""What is judged by, and the result of ``evaluate`` with its document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.errors import counted
from gwapctl.metrics.merging import State
from gwapctl.metrics.shown import FLOOR_NAMES, groups
from gwapctl.metrics.verdict import find_verdict
from gwapctl.predict.prediction import Prediction
from gwapctl.predict.shards import Shard
from gwapctl.runs import now

SCHEMA_VERSION = 1
ALWAYS = (  # the fields of every document, in their order
    *("model", "dataset", "split", "protocol", "n", "n_degenerate", "metrics", "floors", "per_class"),
    *("notes", "options", "created"),
)
SHOWN = 4  # numbers in a line
WHERE_KNOWN = (
    *("threshold_curve", "fg_iou_curve", "examples", "timing", "calibration", "by_area", "replicates", "seconds"),
    *("n_classes", "verdict"),
)


@dataclass(frozen=True)
class GroundTruth:
    """What is measured on: ``samples`` of a ``split``, by which ``protocol``; ``masks`` is their folder.

    With ``shard`` only a part of the samples is judged here, and all else is as it would be for all.
    """

    dataset: Dataset = field(repr=False)
    split: str
    samples: Sequence[BoxedSample] = field(repr=False)
    protocol: str = "paper"
    masks: Path | None = None
    shard: Shard | None = None

    def judged(self, chunk: int = 1) -> Sequence[BoxedSample]:
        """Return the samples to judge; a shard's begin and end where ``chunk`` of all are worked on together."""
        return self.samples if self.shard is None else self.shard.of(self.samples, chunk)


@dataclass(repr=False)
class EvaluationResult:
    """What an evaluation measured, of what and on what; ``to_json`` is the document of ``evaluate --json``.

    Attributes:
        n, n_degenerate: how many images, and in how many of them nothing was found.
        metrics: rates in percent, F-measure and IoU in 0..1.
        floors: the same of two boxes that never look at the image.
        per_class: one row per class: its name and id, the images that show it, its numbers.
        notes: what a reader must know, such as what is left out and why.
        threshold_curve, fg_iou_curve, examples: for pages and figures; may be empty.
        model, dataset, split, protocol, options: what was judged, and how.
        created: when.
        timing, calibration: how costs were measured and which box threshold was chosen, where that was asked for.
        by_area: accuracies, floors and margins by the size of the object (``metrics.margin``), one row per size.
        replicates: metrics, floors and AP per class on resamples of the images, as ``metrics.replicates`` writes them.
        seconds: how long it took, from the first image to the last.
        n_classes: how many classes the data set has.
        verdict: whether boxes are better than the better floor (``metrics.verdict``); empty where that was not judged.
        run, seed: of the run that was judged, if it was one.

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
    model: str = ""
    dataset: str = ""
    split: str = ""
    protocol: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=now)
    timing: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    by_area: list[dict[str, Any]] = field(default_factory=list)
    replicates: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    n_classes: int = 0
    verdict: dict[str, Any] = field(default_factory=dict)
    run: str | None = None
    seed: int | None = None

    def __repr__(self) -> str:
        """Say in a line what was judged, and the first few numbers."""
        numbers = [f"{title} {value}" for group in groups(vars(self)) for title, value, *_ in group.rows(vars(self))]
        more = [f"{len(numbers) - SHOWN} more"] * (len(numbers) > SHOWN)
        return f"EvaluationResult({self._title}: {', '.join([*numbers[:SHOWN], *more])})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the numbers that ``gwapctl evaluate`` prints, the verdict and the notes."""
        from gwapctl.predict.notebook import as_html

        found, document = groups(vars(self)), vars(self)
        floors = list(dict.fromkeys(name for group in found for name in group.floors))
        rows = []
        for group in found:
            for title, value, *blind in group.rows(document):
                of_floor = dict(zip(group.floors, blind, strict=True))
                rows.append((title, value, *(of_floor.get(name, "") for name in floors)))
        verdict = find_verdict(document)
        said = [*([verdict.text()] if verdict else []), *self.notes]
        heads = ("metric", "value", *(FLOOR_NAMES.get(name, name) for name in floors))
        return as_html(self._title, rows, heads=heads, below=said)

    @property
    def _title(self) -> str:
        return f"{self.model} on {self.dataset} {self.split}, {counted(self.n, 'image')}"

    def to_json(self) -> dict[str, Any]:
        """Return the document, made of plain dicts and lists; numbers that are not finite become null."""
        document = {key: _plain(getattr(self, key)) for key in ALWAYS}
        document |= {key: _plain(value) for key in WHERE_KNOWN if (value := getattr(self, key))}
        of_run = {} if self.run is None else {"run": self.run, "seed": self.seed}
        return {"schema_version": SCHEMA_VERSION, **document, **of_run}


class JudgingProtocol(Protocol):
    """A named, frozen way of judging: one ``update`` per image, then the ``result``."""

    def update(self, sample: BoxedSample, prediction: Prediction) -> None:
        """Judge one image."""

    def state(self) -> State:
        """Return what was gathered of each image, as ``metrics.merging`` takes it."""

    def extend(self, state: State) -> Self:
        """Add what another one gathered of the images that follow."""

    def result(self) -> EvaluationResult:
        """Return all metrics that the data allows."""


def class_row(item: ClassName, images: int, numbers: Mapping[str, float]) -> dict[str, Any]:
    """Return the row of one class, which ``images`` show."""
    return {"class": item.name, "id": item.id, "n": int(images), **numbers}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
