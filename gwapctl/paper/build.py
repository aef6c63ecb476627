"""Build a paper's table from measured rows. A number is the paper's or measured, and says which.

A number measured on other images than the paper's never stands beside the paper's: each other data set (and each other
split, or part of one) gets a table of its own, named after it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from gwapctl.paper.lookup import Ground, build_command, concerned, evaluations, home_ground, is_home, trainings
from gwapctl.paper.measured import usual_settings
from gwapctl.paper.specification import EXTRAS, Column, Row, TableSpec

if TYPE_CHECKING:
    import pandas as pd

# of a cell; a measured number is the mean over the seeds, ``sd`` the sample standard deviation (NaN for one seed)
CELL = (
    *("row", "id", "labels", "recipe", "group", "extra", "key", "paper", "paper_bold"),
    *("value", "sd", "bold", "n", "split", "sources", "shipped", "floors", "note", "command", "quoted"),
)


@dataclass(frozen=True)
class BuiltTable:
    """A paper's table on one ground: the paper's own, with its numbers, or another with measured numbers only.

    ``cells`` has one row per cell, row after row of the table, with the columns ``CELL``. ``sources`` are the runs of a
    measured number, one per seed; ``extra`` marks a row of other runs, not one of the paper's.
    """

    spec: TableSpec
    ground: Ground
    cells: pd.DataFrame

    @property
    def title(self) -> str:
        """The paper's number of the table, and what it was measured on where that is not the paper's data."""
        spec, ground = self.spec, self.ground
        if ground.home and spec.of_a_paper:
            return spec.number
        stand_in = "Stand-in for " if spec.profile is not None and spec.of_a_paper else ""
        return f"{stand_in}{spec.number} on {ground.name}"

    @property
    def caption(self) -> str:
        """The paper's caption, or what is measured here instead."""
        spec, ground = self.spec, self.ground
        profile = f" {spec.profile_caption}" if spec.profile_caption else ""
        if ground.home or not spec.of_a_paper:
            return spec.caption + profile
        trained = "" if ground.train_dataset == ground.dataset else f", trained on {ground.train_dataset}"
        paper = f"{spec.dataset} {spec.split} ({spec.images[0]:,} images)"
        return (
            f"The rows of {spec.number} measured on {ground.name}{trained}. "
            f"Not comparable with the paper's numbers, which were measured on {paper}.{profile}"
        )

    @property
    def measured(self) -> pd.DataFrame:
        """The cells that have a measured number."""
        return self.cells[self.cells["value"].notna()]

    def runs(self) -> set[str]:
        """Return the runs whose numbers stand in the table."""
        return {source["run"] for sources in self.measured["sources"] for source in sources}


def build_table(
    spec: TableSpec,
    rows: pd.DataFrame,
    *,
    dataset: str | None = None,
    runs: Path = Path("runs"),
    others: bool = True,
) -> list[BuiltTable]:
    """Place measured ``rows`` in the paper's table, and in a further table for each other ground they were measured on.

    ``dataset`` (a name or folder) asks for tables on this data set alone, with every row; otherwise other data sets'
    tables show the rows that were measured. ``runs`` is where the commands of empty cells put their runs. ``others``:
    experiments of one's own that are none of the table's follow as rows of their own.
    """
    name = None if dataset is None else dataset_name(dataset, rows)
    home = home_ground(spec)
    ours = concerned(spec, rows)
    ours = ours if name is None else ours[ours["dataset"] == name]
    parts: dict[Ground, list[Any]] = {home: []} if name in (None, home.dataset) else {}
    for _, part in ours.groupby(["trained_on", "dataset", "split", "n"], sort=False):
        trained_on, evaluated_on, split, n, source = part.iloc[0][["trained_on", "dataset", "split", "n", "source"]]
        ground = Ground(trained_on, evaluated_on, split, int(n), False, dataset or source)
        parts.setdefault(home if is_home(spec, ground) else ground, []).append(part.index)
    asked = dataset is not None and name != home.dataset
    tables = []
    for ground, indices in sorted(parts.items(), key=lambda item: _order(item[0])):
        members = ours.loc[[index for one in indices for index in one]]
        table = _build(spec.on(ground.train_dataset), members, ground, runs, others=others)
        whole = ground.home or (asked and (len(table.measured) or not members["shipped"].all()))
        tables += [table] if whole else _with_numbers(table)
    if not tables and dataset is not None:
        nothing = Ground(str(name), str(name), None, None, False, dataset)
        tables = [_build(spec.on(dataset), ours.iloc[:0], nothing, runs, others=False)]
    return tables


def dataset_name(dataset: str, rows: pd.DataFrame) -> str:
    """Return the name under which results on ``dataset`` (a name, a folder or a file) are stored.

    A folder may hold a data set that has a name of its own: then the runs that were trained on it say so.
    """
    path = PurePath(dataset)
    last = path.stem if path.suffix in (".csv", ".tsv", ".json") else path.name or Path(dataset).resolve().name
    if last in set(rows["dataset"]):
        return last
    trained = {PurePath(source).name: name for source, name in zip(rows["source"], rows["trained_on"], strict=True)}
    return str(trained.get(path.name, last))


def _order(ground: Ground) -> tuple[bool, str, str, int]:
    return not ground.home, ground.dataset, ground.split or "", -(ground.n or 0)


def _with_numbers(table: BuiltTable) -> list[BuiltTable]:
    """Leave the rows that were measured; no table where there are none."""
    rows = table.cells["row"].isin(table.measured["row"])
    return [replace(table, cells=table.cells[rows].reset_index(drop=True))] if rows.any() else []


def _build(spec: TableSpec, rows: pd.DataFrame, ground: Ground, runs: Path, *, others: bool) -> BuiltTable:
    import pandas as pd

    cells, placed = [], set()
    for row in spec.rows:
        for column in spec.columns:
            cell, found = _cell(spec, row, column, rows, ground, runs)
            cells.append(_labelled(row.id, row.labels, column, recipe=row.recipe, group=row.group) | cell)
            placed |= found
    left = rows[~rows.index.isin(placed) & ~rows["shipped"]]
    cells += _other_cells(spec, left) if others and spec.of_a_paper else []
    frame = pd.DataFrame(cells, columns=[*CELL]).astype({"paper": "float64", "value": "float64", "sd": "float64"})
    frame["row"] = frame.index // len(spec.columns)
    return _mark_best(_without_idle_columns(BuiltTable(spec, ground, frame)))


def _labelled(identity: str, labels: tuple[str, ...], column: Column, **more: Any) -> dict[str, Any]:
    false = dict.fromkeys(("extra", "paper_bold", "bold", "shipped"), False)
    return {**false, "id": identity, "labels": labels, "key": column.key, "sources": (), "floors": (), **more}


def _cell(
    spec: TableSpec, row: Row, column: Column, rows: pd.DataFrame, ground: Ground, runs: Path
) -> tuple[dict[str, Any], set[Any]]:
    """Return a cell of the paper's, and the rows that belong to it."""
    cell: dict[str, Any] = {"quoted": row.quoted or column.quoted}
    if ground.home:
        cell |= {"paper": row.paper.get(column.key), "paper_bold": column.key in row.bold}
    if cell["quoted"] is not None:
        return cell, set()
    fitting = evaluations(row, column, rows, ground.argument)
    measured = _mean(column, fitting)
    if measured:
        usual, used = row.config.get("backbone"), row.instead.get("backbone", row.config.get("backbone"))
        cell |= measured | {"note": None if used == usual else f"{used} stands in for {usual}"}
    else:
        trained = trainings(row, column, rows[~rows["shipped"]], ground.argument).sort_values("date", kind="stable")
        last = None if trained.empty else str(trained["run"].iloc[-1])
        cell["command"] = build_command(spec, row, column, ground, last, runs)
    return cell, set(fitting.index)


def _mean(column: Column, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the mean over seeds of ``rows``; nothing where none has the column's metric.

    Of one seed the newest row counts; rows of one's own go before those that ship, and the newest count of images.
    """
    rows = rows.assign(value=column.values(rows))
    rows = rows[rows["value"].notna()].sort_values("date", kind="stable")
    rows = rows[~rows["shipped"]] if not rows["shipped"].all() else rows
    if rows.empty:
        return {}
    rows = rows[rows["n"] == rows["n"].iloc[-1]].drop_duplicates("seed", keep="last").sort_values("seed")
    sources = [
        {"run": run, "seed": seed if isinstance(seed, int) else None, "date": date[:10], "value": value}
        for run, seed, date, value in zip(rows["run"], rows["seed"].tolist(), rows["date"], rows["value"], strict=True)
    ]
    mean = {"value": rows["value"].mean(), "sd": rows["value"].std(), "n": int(rows["n"].iloc[0])}
    origin = {"split": rows["split"].iloc[0], "sources": sources, "shipped": bool(rows["shipped"].iloc[0])}
    return {**mean, **origin, "floors": _floors(column, rows["floors"])}


def _floors(column: Column, floors: Iterable[Mapping[str, Mapping[str, float]]]) -> list[tuple[float, float]]:
    """Return the column's metric of the whole image and of a centred box, where an evaluation has both."""
    pairs = [[column.value(one.get(name, {})) for name in ("full_image", "centred_box")] for one in floors]
    return [(full, centred) for full, centred in pairs if full is not None and centred is not None]


def _without_idle_columns(table: BuiltTable) -> BuiltTable:
    """Leave out optional columns for which nothing was measured, where something was."""
    used = set(table.measured["key"])
    columns = tuple(one for one in table.spec.columns if one.key in used or not (used and one.optional))
    kept = table.cells["key"].isin([column.key for column in columns])
    spec = table.spec.model_copy(update={"columns": columns})
    return replace(table, spec=spec, cells=table.cells[kept].reset_index(drop=True))


def _mark_best(table: BuiltTable) -> BuiltTable:
    """Put the best measured number of each column and group in bold, where there is something to compare."""
    cells = table.cells.copy()
    for column in table.spec.columns:
        value = cells["value"].where((cells["key"] == column.key) & cells["group"].notna()).round(column.decimals)
        groups = value.groupby(cells["group"])
        if column.best != "none":
            best = groups.transform("max" if column.best == "highest" else "min")
            cells["bold"] |= (value == best) & (groups.transform("count") > 1)
    return replace(table, cells=cells)


# --- rows that the paper does not have ------------------------------------------------------------------------------


def _other_cells(spec: TableSpec, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the cells of one row per further experiment on the table's ground: other networks, heads, maps or rules.

    Settings in which the table's columns differ do not make rows differ.
    """
    asked = {option for row in spec.rows for option in row.evaluate.asked()}
    options = sorted(asked.union(EXTRAS if asked else ()))  # numbers made with and without one of them never mix
    per_column = {key for column in spec.columns for key in column.config}
    cells = []
    identity = [_experiment(row, options, per_column) for row in rows.to_dict("records")]
    for _, group in rows.groupby(identity, sort=False):
        first = group.iloc[0].to_dict()
        labels = _labels(spec, first, options)
        note = _departures(first, per_column)
        measured = [_mean(column, _of_column(column, group)) for column in spec.columns]
        if any(measured):
            cells += [
                _labelled(f"run:{first['run']}", labels, column, extra=True, note=note) | cell
                for column, cell in zip(spec.columns, measured, strict=True)
            ]
    return cells


def _experiment(row: Mapping[Any, Any], options: Iterable[str], ignored: Collection[str]) -> str:
    """Return what two rows share that differ in their seed alone; of the evaluation only ``options`` count."""
    network = [row["recipe"], row["backbone"], row["method"], row["changed"] | dict.fromkeys(ignored)]
    return json.dumps([network, [row["options"].get(option) for option in options]], sort_keys=True)


def _of_column(column: Column, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have the column's own settings."""
    own = column.config.items()
    return rows[rows["changed"].map(lambda changed: all(changed.get(key) == value for key, value in own))]


def _departures(row: Mapping[Any, Any], ignored: Collection[str]) -> str | None:
    """Say in which settings a run departs from its recipe: a short training is no reproduction."""
    if not isinstance(row["recipe"], str):
        return None
    usual = usual_settings(row["source"], row["recipe"])
    said = [f"{key} {value} ({usual.get(key)})" for key, value in row["changed"].items() if key not in ignored]
    return f"departs from recipe {row['recipe']}: {', '.join(said)}" if said else None


def _labels(spec: TableSpec, row: Mapping[Any, Any], options: Iterable[str]) -> tuple[str, ...]:
    """Name a row by its head and backbone, and by how its maps became boxes where the table depends on it."""
    values = [row["options"].get(option) for option in options]
    texts = ["+".join(map(str, value)) if isinstance(value, list | tuple) else str(value) for value in values if value]
    how = f" ({', '.join(texts)})" if texts else ""
    if len(spec.label_columns) == 1:
        return (f"{row['backbone']}-{row['method']}{how}",)
    return (f"{row['method']}{how}", row["backbone"], *[""] * (len(spec.label_columns) - 2))
