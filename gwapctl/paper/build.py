"""Build a paper's table from measured rows. A number is the paper's or measured, and says which.

A number measured on other images than the paper's never stands beside the paper's: each other data set (and each other
split, or part of one) gets a table of its own, named after it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from gwapctl.paper.lookup import Ground, build_command, cell_key, concerned, home_ground, is_home
from gwapctl.paper.measured import usual_settings
from gwapctl.paper.specification import EXTRAS, Column, Row, TableSpec

if TYPE_CHECKING:
    import pandas as pd

# what is asked of a measured row to find its cell or its name
KNOWN = ("run", "recipe", "settings", "changed", "backbone", "method", "source", "options")
LABELS = ("id", "labels", "recipe", "group", "extra", "key", "quoted", "note", "paper", "paper_bold")


@dataclass(frozen=True)
class BuiltTable:
    """A paper's table on one ground: the paper's own, with its numbers, or another with measured numbers only.

    ``cells`` has one row per cell, row after row of the table (``row`` counts them). Beside ``LABELS`` it says of a
    measured number ``value`` (the mean over the seeds), ``sd`` (the sample standard deviation, NaN for one seed),
    ``sources`` (the run of each seed), ``floors``, ``n``, ``split``, whether it is ``bold`` and ``shipped``, and of an
    empty cell the ``command`` that measures it. ``extra`` marks a row of other runs, not one of the paper's.
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

    def rows(self) -> list[list[dict[Any, Any]]]:
        """Return the cells of each row, as plain dicts."""
        return [[*cells] for _, cells in groupby(self.cells.to_dict("records"), key=itemgetter("row"))]

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
    if dataset is not None and name is not None and not parts:
        parts[Ground(name, name, None, None, False, dataset)] = []
    tables = []
    for ground, indices in sorted(parts.items(), key=lambda item: _order(item[0])):
        members = ours.loc[[index for one in indices for index in one]].reset_index(drop=True)
        on = spec.on(ground.train_dataset)
        cells, found = _match(on, members, ground, others=others)
        whole = ground.home or (dataset is not None and name != home.dataset)
        if found or (whole and (members.empty or not members["shipped"].all())):
            table = _built(on, members, ground, cells, found)
            tables.append(_with_commands(table if whole else _with_numbers(table), members, runs))
    if not tables and dataset is not None:
        return build_table(spec, rows.iloc[:0], dataset=dataset, runs=runs)
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


def _with_numbers(table: BuiltTable) -> BuiltTable:
    """Leave the rows that were measured."""
    return replace(table, cells=table.cells[table.cells["row"].isin(table.measured["row"])].reset_index(drop=True))


def _match(
    spec: TableSpec, rows: pd.DataFrame, ground: Ground, *, others: bool
) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """Return the table's cells, and pairs of a cell and a measured row that has its key."""
    records = rows[[*KNOWN]].to_dict("records")
    of_recipe = rows.groupby("recipe").indices
    cells: list[dict[str, Any]] = []
    found: list[tuple[int, int]] = []
    for row in spec.rows:
        for column in spec.columns:
            candidates = of_recipe.get(row.recipe, ()) if (row.quoted or column.quoted) is None else ()
            for index in candidates:
                if cell_key(row, column, records[index]["source"]).fits(records[index]):
                    found.append((len(cells), index))
            cells.append(_paper_cell(row, column, home=ground.home))
    if others and spec.of_a_paper:
        placed = {index for _, index in found} | {*rows.index[rows["shipped"]]}
        _add_others(spec, {index: row for index, row in enumerate(records) if index not in placed}, cells, found)
    return cells, found


def _built(
    spec: TableSpec, rows: pd.DataFrame, ground: Ground, cells: list[dict[str, Any]], found: list[tuple[int, int]]
) -> BuiltTable:
    """Return the table with the mean of the rows that were ``found`` for each cell."""
    import pandas as pd

    frame = pd.DataFrame(cells, columns=[*LABELS]).astype({"paper": "float64"})
    frame = frame.assign(row=frame.index // len(spec.columns), bold=False, command=None)
    frame = frame.join(_means(spec, rows, frame["key"], found))
    frame["sources"] = frame["sources"].where(frame["value"].notna(), None)
    frame["shipped"] = frame["shipped"].eq(True)
    idle = frame["extra"] & ~frame["row"].isin(frame.loc[frame["value"].notna(), "row"])
    return _mark_best(_without_idle_columns(BuiltTable(spec, ground, frame[~idle].reset_index(drop=True))))


def _paper_cell(row: Row, column: Column, *, home: bool) -> dict[str, Any]:
    usual, used = row.config.get("backbone"), row.instead.get("backbone", row.config.get("backbone"))
    return {
        **{"id": row.id, "labels": row.labels, "recipe": row.recipe, "group": row.group, "extra": False},
        **{"key": column.key, "quoted": row.quoted or column.quoted},
        "note": None if used == usual else f"{used} stands in for {usual}",
        "paper": row.paper.get(column.key) if home else None,
        "paper_bold": home and column.key in row.bold,
    }


def _means(spec: TableSpec, rows: pd.DataFrame, keys: pd.Series[str], found: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """Return the mean over seeds of each cell's rows, by cell.

    Of one seed the newest row counts; rows of one's own go before those that ship, and the newest count of images.
    """
    import pandas as pd

    values = {column.key: column.values(rows) for column in spec.columns}
    long = rows.loc[[index for _, index in found], ["run", "seed", "date", "n", "split", "shipped", "floors"]]
    long["cell"] = [cell for cell, _ in found]
    long["value"] = pd.Series([values[keys[cell]][index] for cell, index in found], long.index, "float64")
    long = long[long["value"].notna()].sort_values("date", kind="stable")
    long = long[~long["shipped"] | long.groupby("cell")["shipped"].transform("all")]
    long = long[long["n"] == long.groupby("cell")["n"].transform("last")]
    long = long.drop_duplicates(["cell", "seed"], keep="last").sort_values(["cell", "seed"])
    columns = {column.key: column for column in spec.columns}
    pairs = zip(long["cell"], long["floors"], strict=True)
    long["floors"] = pd.Series([_floors(columns[keys[cell]], floors) for cell, floors in pairs], long.index, "object")
    sources = [
        {"run": run, "seed": None if pd.isna(seed) else int(seed), "date": date[:10], "value": value}
        for run, seed, date, value in long[["run", "seed", "date", "value"]].itertuples(index=False)
    ]
    groups = long.assign(sources=pd.Series(sources, long.index, "object"), sd=long["value"]).groupby("cell")
    how: dict[str, Any] = {"value": "mean", "sd": "std", "sources": list, "floors": list}
    return groups.agg({**how, **dict.fromkeys(("n", "split", "shipped"), "first")})


def _floors(column: Column, floors: Mapping[str, Mapping[str, float]]) -> tuple[float, float] | None:
    """Return the column's metric of the whole image and of a centred box, where an evaluation has both."""
    full, centred = (column.value(floors.get(name, {})) for name in ("full_image", "centred_box"))
    return None if full is None or centred is None else (full, centred)


def _with_commands(table: BuiltTable, rows: pd.DataFrame, runs: Path) -> BuiltTable:
    """Give each empty cell of the paper's the command that measures it."""
    import pandas as pd

    spec, ground = table.spec, table.ground
    own = rows.loc[~rows["shipped"]].sort_values("date", kind="stable")[[*KNOWN]].to_dict("records")
    rows_by_id, columns = ({row.id: row for row in spec.rows}, {column.key: column for column in spec.columns})
    commands: list[str | None] = []
    for cell in table.cells.to_dict("records"):
        if cell["extra"] or isinstance(cell["quoted"], str) or cell["value"] == cell["value"]:
            commands.append(None)
            continue
        row, column = rows_by_id[cell["id"]], columns[cell["key"]]
        trained = [one["run"] for one in own if cell_key(row, column, one["source"]).is_network_of(one)]
        commands.append(build_command(spec, row, column, ground, trained[-1] if trained else None, runs))
    return replace(table, cells=table.cells.assign(command=pd.Series(commands, table.cells.index, "object")))


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


def _add_others(
    spec: TableSpec, rows: Mapping[int, Mapping[Any, Any]], cells: list[dict[str, Any]], found: list[tuple[int, int]]
) -> None:
    """Add one row per further experiment on the table's ground: other networks, heads, maps or box rules.

    Settings in which the table's columns differ do not make rows differ.
    """
    asked = {option for row in spec.rows for option in row.evaluate.asked()}
    options = sorted(asked.union(EXTRAS if asked else ()))  # numbers made with and without one of them never mix
    per_column = {key for column in spec.columns for key in column.config}
    experiments: dict[str, list[int]] = {}
    for index, row in rows.items():
        experiments.setdefault(_experiment(row, options, per_column), []).append(index)
    for members in experiments.values():
        first = rows[members[0]]
        about = {
            **{"id": f"run:{first['run']}", "labels": _labels(spec, first, options), "extra": True},
            **{"note": _departures(first, per_column), "paper_bold": False},
        }
        for column in spec.columns:
            found += [(len(cells), one) for one in members if column.config.items() <= rows[one]["changed"].items()]
            cells.append({**about, "key": column.key, "quoted": column.quoted})


def _experiment(row: Mapping[Any, Any], options: Iterable[str], ignored: Collection[str]) -> str:
    """Return what two rows share that differ in their seed alone; of the evaluation only ``options`` count."""
    network = [row["recipe"], row["backbone"], row["method"], row["changed"] | dict.fromkeys(ignored)]
    return json.dumps([network, [row["options"].get(option) for option in options]], sort_keys=True)


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
