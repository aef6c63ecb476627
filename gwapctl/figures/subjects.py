"""The models of a figure: which ones, what their columns are called, and which of their maps is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gwapctl.errors import DataError, UsageError
from gwapctl.localize import DetectorModel, Model, load_model
from gwapctl.runs import Run, find_runs

# how the papers call the heads; figures show them in this order
HEAD_NAMES = {
    "gap": "GAP",
    "gmp": "GMP",
    "gmp-features": "GMP",
    "lse": "LSE",
    "weldon": "WELDON",
    "wildcat": "WILDCAT",
    "gwap-no-sigmoid": "GWAP w/o σ",
    "gwap-no-exp": "GWAP w/o exp",
    "gwap": "GWAP",
    "gwap-class": "class-specific GWAP",
    "gwap-gt": "GWAP-gt",
    "background": "background images",
    "original": "original",
}
NOT_BY_DEFAULT = ("gwap-gt", "original")  # one needs ground-truth boxes, the other has neither of the two maps
MAP_NAMES = {
    "weight": "weight map",
    "class": "class map",
    "fused": "weight and class map",
    "score": "score map",
    "foreground": "foreground map",
    "backprop": "saliency",
    "gradcam": "Grad-CAM",
    "layercam": "LayerCAM",
    "dgl": "dual gradients",
}


@dataclass(frozen=True, eq=False)
class Subject:
    """A model in a figure and the name of its column."""

    model: Model
    name: str

    @cached_property
    def map(self) -> str:
        """Where its head looks: the weight map, or the class map where the head pools with fixed weights."""
        try:
            self.model.finder(map="weight")
        except UsageError:
            return "class"
        return "weight"


def find_subjects(models: Sequence[str], runs: Path, *, device: str = "auto") -> list[Subject]:
    """Load ``models`` (runs, folders, zoo entries); without any, the newest finished run of each head below ``runs``.

    Raises:
        DataError: there is no finished run.
        ModelError: a model is missing or broken.

    """
    specs = list(models) or newest_runs(runs)
    loaded = [_classifier(load_model(spec, device=device, precision="fp32")) for spec in specs]
    heads = [HEAD_NAMES.get(model.info.head, model.info.head) for model in loaded]
    several = {head for head, count in Counter(heads).items() if count > 1}
    return [
        Subject(model, f"{head}\n{Path(spec).name}" if head in several else head)
        for model, head, spec in zip(loaded, heads, specs, strict=True)
    ]


def _classifier(model: Model | DetectorModel) -> Model:
    if isinstance(model, DetectorModel):
        raise UsageError(f"{model.name} is a detector, and this figure shows the maps of classifiers.")
    return model


def newest_runs(runs: Path) -> list[str]:
    """Return the newest finished run of each head below ``runs``, in the order of ``HEAD_NAMES``.

    Raises:
        DataError: there is none.

    """
    newest: dict[str, Run] = {}
    for run in find_runs(runs):
        head = _head(run)
        if run.finished and head and (run.folder / "model.json").is_file():
            known = newest.get(head)
            if known is None or _started(known) <= _started(run):
                newest[head] = run
    if not newest:
        raise DataError(f"{runs} holds no finished run. Give models with --models, or a folder of runs with --runs.")
    order = list(HEAD_NAMES)
    return [str(newest[head].folder) for head in sorted(newest, key=lambda head: (order.index(head), head))]


def _head(run: Run) -> str | None:
    """Return the head of a classifier's run; None for a detector's."""
    head = (run.document.get("config") or {}).get("head")
    return head if head in HEAD_NAMES and head not in NOT_BY_DEFAULT else None


def _started(run: Run) -> str:
    return str(run.document.get("started", ""))
