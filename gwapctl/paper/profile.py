"""A profile: the rows of the papers' tables on another budget, stated in the caption. One TOML in ``models/profiles``.

``paper`` is no file: it leaves a table as it is. A profile keeps some rows, sets settings on top of every row's recipe,
the same for all of them unless it says otherwise for one, and may choose the data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gwapctl.config import DetectorConfig, TrainConfig
from gwapctl.errors import DataError, UsageError, unknown_name
from gwapctl.networks.zoo import zoo_folder
from gwapctl.paper.specification import (
    Column,
    EvaluateOptions,
    Frozen,
    Row,
    Setting,
    TableSpec,
    load_table,
    read_toml,
    table_names,
)

PAPER = "paper"


class RowChange(Frozen):
    """What one row has of its own: settings of its training, and options of its evaluation."""

    settings: dict[str, Setting] = Field(default_factory=dict)
    evaluate: EvaluateOptions = EvaluateOptions()


class Budget(RowChange):
    """What every row has on top of its recipe and options, what one ``row`` has besides, and the caption on it.

    ``rows``: the rows that it keeps, by id, in the table's order (networks for which the same one stands in are trained
    and shown once); empty means all. ``columns`` replace the table's own. ``seeds``: how many trainings of each network
    it is made for.
    """

    caption: str = ""
    rows: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    seeds: Annotated[int, Field(ge=1)] | None = None
    row: dict[str, RowChange] = Field(default_factory=dict)


class ProfileTable(Budget):
    """What a profile makes of one table.

    ``added`` are rows that the paper does not have, behind its own. ``dataset`` is what is used when the user names
    none, ``caption`` is added to the profile's. ``on`` has another budget for a data set by name: what it does not
    state is the table's.
    """

    added: tuple[Row, ...] = ()
    dataset: str | None = None
    on: dict[str, Budget] = Field(default_factory=dict)


class Profile(Frozen):
    """A profile: what holds for every table, and for each that it has; ``name`` is how it was asked for.

    Of the ``settings`` for every table a detector takes those that it has. ``data`` says of a data set, by name, what a
    reader of numbers on it must know: it ends the captions.
    """

    name: str
    caption: str
    settings: dict[str, Setting] = Field(default_factory=dict)
    data: dict[str, str] = Field(default_factory=dict)
    tables: dict[str, ProfileTable]


def profile_names() -> tuple[str, ...]:
    """Return the profiles by name."""
    return (PAPER, *sorted(path.stem for path in (zoo_folder() / "profiles").glob("*.toml")))


def load_profile(spec: str) -> Profile | None:
    """Read the profile called ``spec``, a name or a TOML file; None is the paper's. A UsageError: there is none."""
    if spec == PAPER:
        return None
    if not Path(spec).is_file() and spec not in profile_names():
        raise unknown_name("profile", spec, profile_names())
    file = Path(spec) if Path(spec).is_file() else zoo_folder() / "profiles" / f"{spec}.toml"
    return read_toml(Profile, file, "profile", name=spec)


def load_specs(name: str, profile: str = PAPER) -> list[TableSpec]:
    """Read the tables that ``name`` stands for as a profile has them; of several those that it has.

    A UsageError says that there is no such table or profile, or that the profile has none of the tables.
    """
    names, budget = table_names(name), load_profile(profile)
    if budget is not None:
        names = tuple(one for one in names if one in budget.tables) or names
    return [apply_profile(load_table(one), budget) for one in names]


def apply_profile(spec: TableSpec, profile: Profile | None) -> TableSpec:
    """Return the table as ``profile`` has it: its rows, their settings and evaluations, its columns, its caption.

    Raises:
        UsageError: the profile does not have this table.
        DataError: it names a row that the table does not have.

    """
    if profile is None:
        return spec
    if spec.name not in profile.tables:
        raise UsageError(
            f"profile {profile.name} does not have table {spec.name}. It has: {', '.join(profile.tables)}."
        )
    table = profile.tables[spec.name]
    spec = spec.model_copy(update={"rows": (*spec.rows, *table.added), "default_dataset": table.dataset})
    named = [name for budget in (table, *table.on.values()) for name in (*budget.rows, *budget.row)]
    if unknown := [name for name in named if name not in {row.id for row in spec.rows}]:
        raise DataError(f"profile {profile.name} names rows that table {spec.name} does not have: {unknown}.")
    variants = {
        name: _on_budget(spec, profile, _merged(table, table.on.get(name, Budget())), profile.data.get(name, ""))
        for name in (*table.on, *profile.data)
    }
    return _on_budget(spec, profile, table).model_copy(update={"variants": variants})


def _merged(table: Budget, own: Budget) -> Budget:
    """Return the budget of a table with what one data set has of its ``own``."""
    both, none = _both(table, own), RowChange()
    return Budget(
        settings=both.settings,
        evaluate=both.evaluate,
        caption=own.caption or table.caption,
        rows=own.rows or table.rows,
        columns=own.columns or table.columns,
        seeds=own.seeds or table.seeds,
        row={name: _both(table.row.get(name, none), own.row.get(name, none)) for name in table.row | own.row},
    )


def _both(first: RowChange, second: RowChange) -> RowChange:
    evaluate = first.evaluate.model_copy(update=second.evaluate.asked())
    return RowChange(settings=first.settings | second.settings, evaluate=evaluate)


def _on_budget(spec: TableSpec, profile: Profile, budget: Budget, data: str = "") -> TableSpec:
    """Return the table with the settings and the caption of one budget; ``data`` says more of the data set."""
    rows = (row for row in spec.rows if not budget.rows or row.id in budget.rows)
    return spec.model_copy(
        update={
            "profile": profile.name,
            "profile_caption": " ".join(text for text in (profile.caption, budget.caption, data) if text),
            "seeds": budget.seeds or 1,
            "columns": budget.columns or spec.columns,
            "rows": tuple(_change(row, profile, budget) for row in rows),
        }
    )


def _change(row: Row, profile: Profile, budget: Budget) -> Row:
    """Set a row's settings and options; a quoted row stays as it is."""
    own = budget.row.get(row.id, RowChange())
    if row.quoted is not None:
        return row
    options = {name: value for one in (budget, own) for name, value in one.evaluate.asked().items()}
    instead = {**_known(row, profile.settings), **budget.settings, **own.settings}
    return row.model_copy(update={"instead": instead, "evaluate": row.evaluate.model_copy(update=options)})


def with_settings(spec: TableSpec, settings: Mapping[str, Setting]) -> TableSpec:
    """Return the table with ``settings`` on top of those of every row; a detector takes those that it has."""
    variants = {name: with_settings(variant, settings) for name, variant in spec.variants.items()}
    rows = tuple(row.model_copy(update={"instead": {**row.instead, **_known(row, settings)}}) for row in spec.rows)
    return spec.model_copy(update={"rows": rows, "variants": variants})


def _known(row: Row, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the settings that the row's network has, be it a classifier or a detector."""
    known = (DetectorConfig if "detector" in row.config else TrainConfig).model_fields
    return {key: value for key, value in settings.items() if key in known}
