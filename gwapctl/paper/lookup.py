"""The key by which a measured row belongs into a cell of a table, and the command that makes a row that is missing.

A row fits a cell if recipe, settings hash (a profile's settings included), data set, split, number of images, protocol
and evaluation options are the ones that the cell asks for: nothing else stands in for anything.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from gwapctl.config import build_train_config
from gwapctl.config.settings import as_arguments
from gwapctl.datasets import DATASETS
from gwapctl.errors import DataError
from gwapctl.paper.measured import COLUMNS, Config, Record, recipe_file, settings_hash
from gwapctl.paper.specification import EXTRAS, USUAL, Column, EvaluateOptions, Row, TableSpec

if TYPE_CHECKING:
    import pandas as pd

# what an evaluation did that does not say so
UNSAID = {option: value for option, value in USUAL.items() if option not in ("map", "scales")}


@dataclass(frozen=True)
class MeasuredOn:
    """What a table's numbers are measured on: trained on, evaluated on, split, how many images.

    ``home``: that of the paper (``n`` is None, the paper's own counts hold). ``split`` and ``n`` are None also where
    nothing was measured yet. ``argument``: how the user names the training data on the command line. ``classes``: how
    many there were to tell apart, where that is known: not always all of a published data set.
    """

    train_dataset: str
    dataset: str
    split: str | None
    n: int | None
    argument: str = field(compare=False)
    classes: int | None = field(default=None, compare=False)
    home: bool = False

    @property
    def name(self) -> str:
        """Data set, split and number of images for a heading, and of which classes where those are not all."""
        split = "" if self.split is None else f" {self.split}"
        if self.n is None:
            return f"{self.dataset}{split}"
        whole = DATASETS[self.dataset].classes if self.dataset in DATASETS else None
        part = f"{self.classes:,} of {whole:,} classes, " if whole and self.classes and self.classes < whole else ""
        return f"{self.dataset}{split} ({part}{self.n:,} image{'s' * (self.n != 1)})"


def home_ground(spec: TableSpec) -> MeasuredOn:
    """Return what the paper measured on."""
    return MeasuredOn(spec.train_dataset, spec.dataset, spec.split, None, spec.train_dataset, home=True)


def is_home(spec: TableSpec, measured_on: MeasuredOn) -> bool:
    """Tell whether something was measured as in the paper, down to the image count."""
    measured = (measured_on.train_dataset, measured_on.dataset, measured_on.split)
    return measured == (spec.train_dataset, spec.dataset, spec.split) and measured_on.n in spec.images


def concerned(spec: TableSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that hold a number of the table's kind: its protocol, its metrics, trained for the data."""
    metrics = list(dict.fromkeys(column.metric for column in spec.columns if column.metric in rows))
    rows = rows.reindex(columns=[*COLUMNS, "shipped", *metrics])[rows["protocol"] == spec.protocol]
    for_it = (rows["trained_on"] == rows["dataset"]) | (rows["trained_on"] == spec.train_dataset)
    return rows[for_it & rows[metrics].notna().any(axis=1)]


# --- the key --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """What a measured row must have to stand in a cell; ``own`` are the sides of the network's input."""

    recipe: str
    settings: str
    wanted: EvaluateOptions
    own: frozenset[int]

    def is_network_of(self, row: Record) -> bool:
        """Tell whether a measured row is of the cell's network."""
        return (row["recipe"], row["settings"]) == (self.recipe, self.settings)

    def fits(self, row: Record) -> bool:
        """Tell whether a measured row is of the cell's network, evaluated as the cell asks.

        The papers warp and do not flip. Where a cell asks for no map, scales or box rule, its number does not depend on
        it.
        """
        if not self.is_network_of(row):
            return False
        asked, options = self.wanted.recorded(), row["options"]
        used = {**options, **{name: options.get(name) or value for name, value in UNSAID.items()}}
        exact = {**(UNSAID if asked else EXTRAS), **asked}
        wanted, scales = exact.pop("scales", None), [*(options.get("scales") or ())]
        if any(_plain(used.get(name)) != _plain(value) for name, value in exact.items()):
            return False
        if wanted == "own":
            return len(scales) <= 1 if len(self.own) != 1 else scales in ([], [*self.own])
        return wanted is None or scales == [*wanted]


def _plain(value: Any) -> Any:
    return [*map(str, value)] if isinstance(value, list | tuple) else value


def cell_key(row: Row, column: Column, dataset: str) -> Key:
    """Return the key of a cell for rows that were trained on ``dataset``, as the command line names it.

    Raises:
        DataError: this version does not have the row's recipe.
        UsageError: the profile's settings are wrong.

    """
    config, settings = _network(str(row.recipe), _settings(row, column), dataset)
    return Key(str(row.recipe), settings, row.evaluate, frozenset(getattr(config, "image_size", ())))


def cell_config(row: Row, column: Column, dataset: str, seed: int = 0) -> Config:
    """Return the settings of one row, column and seed on ``dataset``: recipe, then profile, then column.

    It raises what ``cell_key`` does.
    """
    return _network(str(row.recipe), _settings(row, column), dataset)[0].model_copy(update={"seed": seed})


def _settings(row: Row, column: Column) -> str:
    return json.dumps({**row.instead, **column.config})


@cache
def _network(recipe: str, settings: str, dataset: str) -> tuple[Config, str]:
    file = recipe_file(recipe)
    if file is None:
        raise DataError(f"there is no recipe models/recipes/{recipe}.toml. Install gwapctl again.")
    config = build_train_config(dataset, file, json.loads(settings))
    return config, settings_hash(config)


# --- commands of empty cells ----------------------------------------------------------------------------------------


def build_command(
    spec: TableSpec, row: Row, column: Column, measured_on: MeasuredOn, trained: str | None, runs: Path
) -> str:
    """Return the command for an empty cell: the evaluation of the ``trained`` run, or the training and then that.

    ``runs`` is the folder into which new runs go. In a profile it is ``gwapctl reproduce`` for this row.
    """
    if spec.profile is not None:
        return f"{table_command(spec, measured_on)} {shlex.join(['--rows', row.id])}"
    if trained is not None:
        return _evaluate(trained, row.evaluate, measured_on)
    run = str(runs / run_name(row, column, measured_on))
    recipe = ["--recipe", str(row.recipe)]
    train = ["gwapctl", "train", measured_on.argument, *recipe, *as_arguments(column.config), "--out", run]
    return f"{shlex.join(train)} && {_evaluate(run, row.evaluate, measured_on)}"


def table_command(spec: TableSpec, measured_on: MeasuredOn) -> str:
    """Return the command that measures every empty cell of a table on ``measured_on``."""
    profile = [] if spec.profile is None else ["--profile", spec.profile]
    usual = spec.default_dataset or spec.train_dataset
    dataset = [] if measured_on.argument == usual else ["--dataset", measured_on.argument]
    return shlex.join(["gwapctl", "reproduce", spec.name, *profile, *dataset])


def run_name(row: Row, column: Column, measured_on: MeasuredOn) -> str:
    """Return the name of a row's run folder: its recipe, the column's settings, and any data set but the paper's."""
    parts = [str(row.recipe), *map(str, column.config.values())]
    return "-".join(parts if measured_on.home else [*parts, "on", PurePath(measured_on.argument).name])


def _evaluate(run: str, wanted: EvaluateOptions, measured_on: MeasuredOn) -> str:
    options = []
    for key, value in wanted.asked().items():
        if value != "own":
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            options += [f"--{key.replace('_', '-')}", text]
    dataset = [] if measured_on.train_dataset == measured_on.dataset else ["--dataset", measured_on.dataset]
    return shlex.join(["gwapctl", "evaluate", run, *options, *dataset])
