"""Which results belong into which cell of a table, and the command that fills a cell which has none."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from gwapctl.config import all_settings, build_train_config
from gwapctl.config.settings import as_arguments
from gwapctl.datasets import DATASETS
from gwapctl.networks.zoo import zoo_folder
from gwapctl.paper.results import Result
from gwapctl.paper.specification import EXTRAS, Column, EvaluateOptions, Row, Setting, TableSpec

# settings that must be off in a row's runs unless the row asks for them
OFF_UNLESS_ASKED = ("cam_conv", "freeze_backbone", "detector", "box_proportion")
# settings in which a run that names a row's recipe may differ away from the paper's data: a small network stands in
STAND_IN = ("backbone", "cam_conv")
# settings that change nothing about what is trained
NO_DEPARTURE = frozenset(("dataset", "recipe", "seed", "precision", "compile", "deterministic"))


@dataclass(frozen=True)
class Ground:
    """What a table's numbers are measured on: trained on, evaluated on, split, how many images.

    ``home``: that of the paper (``n`` is None, the paper's own counts hold). ``split`` and ``n`` are None also where
    nothing was measured yet. ``argument``: how the user names the training data on the command line.
    """

    train_dataset: str
    dataset: str
    split: str | None
    n: int | None
    home: bool
    argument: str

    @property
    def name(self) -> str:
        """Data set, split and number of images for a heading."""
        split = "" if self.split is None else f" {self.split}"
        count = "" if self.n is None else f" ({self.n:,} image{'s' * (self.n != 1)})"
        return f"{self.dataset}{split}{count}"


def home_ground(spec: TableSpec) -> Ground:
    """Return what the paper measured on."""
    return Ground(spec.train_dataset, spec.dataset, spec.split, None, True, spec.train_dataset)


def ground_of(spec: TableSpec, result: Result) -> Ground:
    """Return what ``result`` was measured on: the paper's ground only if everything agrees, down to the image count."""
    home = home_ground(spec)
    measured = (result.train_dataset, result.dataset, result.split)
    if measured == (home.train_dataset, home.dataset, home.split) and result.n in spec.images:
        return home
    return Ground(*measured, result.n, False, str(result.settings.get("dataset", result.train_dataset)))


def concerns(spec: TableSpec, result: Result) -> bool:
    """Tell whether ``result`` holds a number of the table's kind: its protocol, its metrics, trained for the data."""
    trained_for_it = result.train_dataset in (result.dataset, spec.train_dataset)
    metrics = {column.metric for column in spec.columns}
    judged = result.protocol == spec.protocol and not result.chosen_on
    return judged and trained_for_it and not metrics.isdisjoint(result.metrics)


def fits_training(row: Row, column: Column, result: Result, ground: Ground) -> bool:
    """Tell whether the run of ``result`` is a training of this row (and column), a profile's settings included."""
    wanted = {**row.config, **row.instead, **column.config}
    stands_in = not ground.home and row.recipe is not None and result.recipe == row.recipe
    free = STAND_IN if stands_in and not row.instead else ()
    off = {key: False for key in OFF_UNLESS_ASKED if key not in wanted}
    return all(_same(value, result.settings.get(key)) for key, value in {**off, **wanted}.items() if key not in free)


def _same(wanted: Setting, value: object) -> bool:
    """Compare a setting; a run that does not mention one has it off."""
    if value is None:
        return wanted in (False, "none")
    as_json = list(wanted) if isinstance(wanted, tuple) else wanted
    return value == as_json or (wanted is False and value == "none")


def fits_options(wanted: EvaluateOptions, result: Result, *, exact: bool) -> bool:
    """Tell whether ``result`` was evaluated as the row asks.

    The papers warp and do not flip. Unless ``exact`` (the paper's own data, or a profile that says which) the paper's
    several scales stand for any several scales, and its layers for any as many: other networks have other input sizes
    and names.
    """
    if not all(_fits_extra(name, wanted, result, exact) for name in EXTRAS):
        return False
    if wanted.asked() and (result.options.get("flip") or result.options.get("resize", "warp") != "warp"):
        return False
    if wanted.map is not None and result.options.get("map") != wanted.map:
        return False
    if wanted.box_rule is not None and result.options.get("box_rule") != wanted.box_rule:
        return False
    if wanted.scales is None:
        return True
    if wanted.scales == "own":
        return len(result.scales) <= 1 and result.own_scale in (None, *result.scales)
    return result.scales == wanted.scales if exact else (len(result.scales) > 1) == (len(wanted.scales) > 1)


def _fits_extra(name: str, wanted: EvaluateOptions, result: Result, exact: bool) -> bool:
    """Tell whether an option that is off by default was on or off as the row asks."""
    asked: Any = getattr(wanted, name) or EXTRAS[name]
    used: Any = result.options.get(name) or EXTRAS[name]
    if name != "layer" or asked is None or used is None:
        return bool(asked == used)
    return [*map(str, asked)] == [*map(str, used)] if exact else len(asked) == len(used)


def departures(spec: TableSpec, row: Row, column: Column, result: Result) -> list[str]:
    """Say in which settings a run departs from the row's own: a short training is no reproduction.

    The row's own are those of its recipe, else the defaults on the paper's data set; without both nothing is said.
    """
    recipe = None if row.recipe is None else recipe_file(row.recipe)
    paper = DATASETS.get(spec.train_dataset)
    if recipe is None and (paper is None or paper.train is None):
        return []
    known = {key: value for key, value in {**row.config, **column.config}.items() if key in all_settings()}
    own = build_train_config(spec.train_dataset, recipe, known).model_dump(mode="json")
    compared = [key for key in own if key not in NO_DEPARTURE and key in result.settings]
    return [f"{key} {result.settings[key]} ({own[key]})" for key in compared if result.settings[key] != own[key]]


def recipe_file(name: str) -> Path | None:
    """Return the file of a recipe, None where this version does not have it."""
    path = zoo_folder() / "recipes" / f"{name}.toml"
    return path if path.is_file() else None


def fill_command(spec: TableSpec, row: Row, column: Column, ground: Ground, trained: str | None, runs: Path) -> str:
    """Return the command that fills a cell: the evaluation of the ``trained`` run, or the training and then that.

    ``runs`` is the folder into which new runs go. In a profile it is ``gwapctl reproduce`` for this row.
    """
    if spec.profile is not None:
        dataset = [] if ground.argument == spec.default_dataset else ["--dataset", ground.argument]
        row_alone = ["--profile", spec.profile, *dataset, "--rows", row.id]
        return shlex.join(["gwapctl", "reproduce", spec.name, *row_alone])
    if trained is not None:
        return _evaluate(trained, row.evaluate, ground)
    run = str(runs / run_name(row, column, ground))
    return f"{_train(row, column, ground, run)} && {_evaluate(run, row.evaluate, ground)}"


def run_name(row: Row, column: Column, ground: Ground) -> str:
    """Return the name of a row's run folder: its recipe, the column's settings, and any data set but the paper's."""
    parts = [row.recipe or row.id, *map(str, column.config.values())]
    return "-".join(parts if ground.home else [*parts, "on", PurePath(ground.argument).name])


def _train(row: Row, column: Column, ground: Ground, run: str) -> str:
    """Write the training: by the recipe where this version has it, else by its settings."""
    has_recipe = row.recipe is not None and recipe_file(row.recipe) is not None
    settings = column.config if has_recipe else {**row.config, **column.config}
    recipe = ["--recipe", str(row.recipe)] if has_recipe else []
    return shlex.join(["gwapctl", "train", ground.argument, *recipe, *as_arguments(settings), "--out", run])


def _evaluate(run: str, wanted: EvaluateOptions, ground: Ground) -> str:
    options = [] if wanted.map is None else ["--map", wanted.map]
    if isinstance(wanted.scales, tuple):
        options += ["--scales", ",".join(map(str, wanted.scales))]
    if wanted.box_rule is not None:
        options += ["--box-rule", wanted.box_rule]
    for name in EXTRAS:
        options += _extra_flag(name, getattr(wanted, name))
    if wanted.timing:
        options += ["--timing"]
    if ground.train_dataset != ground.dataset:
        options += ["--dataset", ground.dataset]
    return shlex.join(["gwapctl", "evaluate", run, *options])


def _extra_flag(name: str, value: object) -> list[str]:
    if value is None:
        return []
    return [f"--{name.replace('_', '-')}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
