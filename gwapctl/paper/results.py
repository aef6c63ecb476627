"""What finished runs measured, as flat records: one per evaluation of a run. Read from run folders alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gwapctl.errors import DataError
from gwapctl.runs import Run, find_runs

HELD_OUT = "held-out"  # how `evaluate --split held-out` calls the images that a run kept out of its training


@dataclass(frozen=True)
class Result:
    """One evaluation of one finished run, with everything that a table must know to place it.

    ``settings`` are the run's resolved settings; ``options`` those of the evaluation; ``n`` counts images; ``created``
    is when it was measured (ISO 8601). ``chosen_on``: the images are those on which the run's settings were chosen, so
    the number is no result.
    """

    run: str
    settings: Mapping[str, Any]
    recipe: str | None
    train_dataset: str
    seed: int | None
    dataset: str
    split: str
    protocol: str
    n: int
    created: str
    chosen_on: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    floors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def date(self) -> str:
        """The day of the measurement."""
        return self.created[:10]

    @property
    def backbone(self) -> str:
        """The name of the network."""
        return str(self.settings.get("backbone", "?"))

    @property
    def head(self) -> str:
        """The name of the head."""
        return str(self.settings.get("head", "?"))

    @property
    def scales(self) -> tuple[int, ...]:
        """The input sizes whose maps were averaged; empty where the evaluation does not say."""
        return tuple(self.options.get("scales") or ())

    @property
    def own_scale(self) -> int | None:
        """The side of the model's own square input; None where it is not square or not known."""
        sides = set(self.settings.get("image_size") or ())
        return int(sides.pop()) if len(sides) == 1 else None


def is_chosen_on(split: str, val_split: str | None) -> bool:
    """Tell whether a run's settings or weights were chosen on ``split``; ``val_split`` is what ``run.json`` says."""
    return split.startswith(HELD_OUT) or split == val_split


def collect_results(folder: Path) -> list[Result]:
    """Return every evaluation of every finished run below ``folder``, runs in the order of their names.

    Raises:
        DataError: a run's documents are broken.

    """
    return [result for run in find_runs(folder) if run.finished for result in run_results(run)]


def run_results(run: Run) -> list[Result]:
    """Return the evaluations of one run.

    Raises:
        DataError: one of its documents lacks what a table needs.

    """
    results = []
    for document in run.evaluations():
        try:
            results.append(_result(run, document))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{run.folder / 'evaluations'} holds a broken evaluation ({type(error).__name__}: {error}). "
                f"Repeat it with: gwapctl evaluate {run.folder}."
            ) from error
    return results


def _result(run: Run, document: Mapping[str, Any]) -> Result:
    settings: dict[str, Any] = run.document.get("config") or {}
    data: dict[str, Any] = run.document.get("dataset") or {}
    split = str(document["split"])
    return Result(
        run=str(run.folder),
        settings=settings,
        recipe=settings.get("recipe"),
        train_dataset=str(data.get("name", "")),
        seed=run.document.get("seed", settings.get("seed")),
        dataset=str(document["dataset"]),
        split=split,
        protocol=str(document["protocol"]),
        n=int(document["n"]),
        created=str(document.get("created", "")),
        chosen_on=is_chosen_on(split, data.get("val_split")),
        options=document.get("options") or {},
        metrics={key: float(value) for key, value in document["metrics"].items() if value is not None},
        floors=document.get("floors") or {},
    )
