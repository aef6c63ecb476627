"""The models of a figure: which ones, what their columns are called, and which of their maps is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gwapctl.errors import DataError, UsageError
from gwapctl.networks.heads import HEADS
from gwapctl.predict.classifier import Model, load_model
from gwapctl.predict.detector import DetectorModel
from gwapctl.runs import Run, find_runs

DETECTOR_NAMES = {
    "none": "R-FCN",
    "gap": "R-FCN + GAP",
    "gwap": "R-FCN + GWAP",
    "gwap+gap": "R-FCN + GWAP + GAP",
}


@dataclass(frozen=True, eq=False)
class Subject:
    """A model in a figure and the name of its column."""

    model: Model | DetectorModel
    name: str

    @property
    def classifier(self) -> Model:
        """The model, which must be a classifier.

        Raises:
            UsageError: it is a detector.

        """
        if isinstance(self.model, DetectorModel):
            raise UsageError(f"{self.model.name} is a detector, which has no map of its own here. Use it in figure 9.")
        return self.model

    @cached_property
    def map(self) -> str:
        """Where its head looks: the weight map, or the class map where the head pools with fixed weights."""
        try:
            self.classifier.predictor(map="weight")
        except UsageError:
            return "class"
        return "weight"


def find_subjects(models: Sequence[str], runs: Path, *, detectors: bool = False) -> list[Subject]:
    """Load ``models`` (runs, folders, zoo entries); without any, the newest finished run of each head below ``runs``.

    ``detectors``: the newest detectors instead, if there are any.

    Raises:
        DataError: there is no finished run.
        ModelError: a model is missing or broken.

    """
    specs = list(models) or newest_runs(runs, detectors=detectors)
    loaded = [load_model(spec, precision="fp32") for spec in specs]
    names = [_name(model) for model in loaded]
    several = {name for name, count in Counter(names).items() if count > 1}
    return [
        Subject(model, f"{name}\n{Path(spec).name}" if name in several else name)
        for model, name, spec in zip(loaded, names, specs, strict=True)
    ]


def _name(model: Model | DetectorModel) -> str:
    if isinstance(model, DetectorModel):
        return DETECTOR_NAMES.get(model.info.weak, model.info.weak)
    return HEADS[model.info.head].label


def newest_runs(runs: Path, *, detectors: bool = False) -> list[str]:
    """Return the newest finished run of each head below ``runs``, in the order of ``HEADS``.

    ``detectors``: of each weak branch, the last of ``DETECTOR_NAMES`` first; classifiers where there is no detector.

    Raises:
        DataError: there is none.

    """
    newest: dict[str, Run] = {}
    for run in find_runs(runs):
        kind = _kind(run)
        if run.finished and kind and (run.folder / "model.json").is_file():
            known = newest.get(kind)
            if known is None or _started(known) <= _started(run):
                newest[kind] = run
    of_detectors = [f"detector {weak}" for weak in reversed(DETECTOR_NAMES)]
    chosen = [kind for kind in of_detectors if detectors and kind in newest]
    chosen = chosen or [head for head in HEADS if head in newest]
    if not chosen:
        raise DataError(f"{runs} holds no finished run. Give models with --models, or a folder of runs with --runs.")
    return [str(newest[kind].folder) for kind in chosen]


def _kind(run: Run) -> str | None:
    """Return the head of a classifier's run or the weak branch of a detector's; None where a figure has to be asked."""
    config = run.document.get("config") or {}
    if config.get("detector"):
        return f"detector {config.get('weak')}"
    head = config.get("head")
    return head if head in HEADS and HEADS[head].in_figures else None


def _started(run: Run) -> str:
    return str(run.document.get("started", ""))
