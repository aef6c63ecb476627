"""Build a paper's table from measured rows. A number is the paper's or measured, and says which.

A number measured on other images than the paper's never stands beside the paper's: each other data set (and each other
split, or part of one) gets a table of its own, named after it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from gwapctl.paper.lookup import MeasuredOn, build_command, cell_key, concerned, home_ground, is_home
from gwapctl.paper.measured import Record, records, usual_settings
from gwapctl.paper.replicates import options_hash
from gwapctl.paper.specification import EXTRAS, Column, Row, TableSpec

if TYPE_CHECKING:
    import pandas as pd

Cells = list[Record]  # of one row of a table
DTYPES = {**dict.fromkeys(("paper", "value", "sd"), float), **dict.fromkeys(("extra", "paper_bold", "shipped"), bool)}
NOT_MEASURED: Record = {"sources": [], "floors": [], "n": None, "split": None, "shipped": False}


@dataclass(frozen=True)
class BuiltTable:
    """A paper's table on one data set: the paper's own, with its numbers, or another with measured numbers only.

    ``cells`` has one row per cell, row after row of the table (``row`` counts them): its ``id``, ``labels``, ``recipe``
    and ``group``, whether it is ``extra`` (of other runs, not one of the paper's), the column's ``key``, the number of
    the ``paper``, why it is ``quoted``, and a ``note``. It says of a measured number ``value`` (mean over the seeds),
    ``sd`` (sample standard deviation, NaN for one seed), ``sources`` (the run of each seed, the hash of its options),
    ``floors``, ``n``, ``split``, whether it is ``bold`` and ``shipped``, and of an empty cell the
    ``command`` that measures it.
    """

    spec: TableSpec
    measured_on: MeasuredOn
    cells: pd.DataFrame

    @property
    def title(self) -> str:
        """The paper's number of the table, and what it was measured on where that is not the paper's data."""
        spec, measured_on = self.spec, self.measured_on
        if measured_on.home and spec.of_a_paper:
            return spec.number
        stand_in = "Stand-in for " if spec.profile is not None and spec.of_a_paper else ""
        return f"{stand_in}{spec.number} on {measured_on.name}"

    @property
    def caption(self) -> str:
        """The paper's caption, or what is measured here instead."""
        spec, measured_on = self.spec, self.measured_on
        profile = f" {spec.profile_caption}" if spec.profile_caption else ""
        if measured_on.home or not spec.of_a_paper:
            return spec.caption + profile
        trained = (
            "" if measured_on.train_dataset == measured_on.dataset else f", trained on {measured_on.train_dataset}"
        )
        paper = f"{spec.dataset} {spec.split} ({spec.images[0]:,} images)"
        return (
            f"The rows of {spec.number} measured on {measured_on.name}{trained}. "
            f"Not comparable with the paper's numbers, which were measured on {paper}.{profile}"
        )

    @property
    def beside_paper(self) -> bool:
        """Whether the table has numbers of a paper, measured on the same data."""
        return self.measured_on.home and self.spec.of_a_paper

    @property
    def measured(self) -> pd.DataFrame:
        """The cells that have a measured number."""
        return self.cells[self.cells["value"].notna()]

    def rows(self) -> list[Cells]:
        """Return the cells of each row, as plain dicts with None for what is missing."""
        return [[*cells] for _, cells in groupby(records(self.cells), key=itemgetter("row"))]

    def runs(self) -> set[str]:
        """Return the runs whose numbers stand in the table."""
        return {source["run"] for sources in self.cells["sources"] for source in sources}


def build_table(
    spec: TableSpec,
    rows: pd.DataFrame,
    *,
    dataset: str | None = None,
    runs: Path = Path("runs"),
    others: bool = True,
) -> list[BuiltTable]:
    """Place measured ``rows`` in the paper's table, and in a further table for each other data set.

    ``dataset`` (a name or folder) asks for tables on this data set alone, with every row; otherwise other data sets'
    tables show the rows that were measured. ``runs`` is where the commands of empty cells put their runs. ``others``:
    experiments of one's own that are none of the table's follow as rows of their own.
    """
    import pandas as pd

    name = None if dataset is None else dataset_name(dataset, rows)
    home = home_ground(spec)
    parts: dict[MeasuredOn, list[Record]] = {home: []} if name in (None, home.dataset) else {}
    for one in records(concerned(spec, rows)):
        if name in (None, one["dataset"]):
            trained_on, evaluated_on, split, n = (one[key] for key in ("trained_on", "dataset", "split", "n"))
            measured_on = MeasuredOn(trained_on, evaluated_on, split, n, dataset or one["source"], one["classes"])
            parts.setdefault(home if is_home(spec, measured_on) else measured_on, []).append(one)
    if dataset is not None and name is not None and not parts:
        parts[MeasuredOn(name, name, None, None, dataset)] = []
    tables = []
    for measured_on, members in sorted(parts.items(), key=lambda part: _order(part[0])):
        source = members[0]["source"] if members else measured_on.argument
        on = spec.on(source, measured_on.train_dataset)
        built, found = _match(on, members, measured_on, others=others)
        whole = measured_on.home or (dataset is not None and name != home.dataset)
        if found or (whole and (not members or not all(one["shipped"] for one in members))):
            used = {cell["key"] for row in built for cell in row if cell["sources"]}
            columns = tuple(one for one in on.columns if one.key in used or not (used and one.optional))
            keys = {column.key for column in columns}
            kept = [row for row in built if any(cell["sources"] for cell in row) or (whole and not row[0]["extra"])]
            cells = [cell | {"row": index} for index, row in enumerate(kept) for cell in row if cell["key"] in keys]
            _add_means(cells)
            _mark_best(columns, cells)
            _add_commands(on, measured_on, cells, members, runs)
            frame = pd.DataFrame(cells, columns=None if cells else [*DTYPES, "row"], dtype=object).astype(DTYPES)
            tables.append(BuiltTable(on.model_copy(update={"columns": columns}), measured_on, frame))
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


def _order(measured_on: MeasuredOn) -> tuple[bool, str, str, int]:
    return not measured_on.home, measured_on.dataset, measured_on.split or "", -(measured_on.n or 0)


def _match(
    spec: TableSpec, rows: Sequence[Record], measured_on: MeasuredOn, *, others: bool
) -> tuple[list[Cells], bool]:
    """Return the cells of the table row by row, and whether a measured row fits any of them."""
    built: list[Cells] = []
    placed: set[int] = set()
    for row in spec.rows:
        cells = []
        candidates = [] if row.quoted else [one for one in rows if one["recipe"] == row.recipe]
        for column in spec.columns:
            found = [] if column.quoted else [one for one in candidates if _fits(row, column, one)]
            placed.update(map(id, found))
            cells.append(_paper_cell(row, column, home=measured_on.home) | _sources(column, found))
        built.append(cells)
    left = [one for one in rows if id(one) not in placed and not one["shipped"]]
    other = _others(spec, left) if others and spec.of_a_paper else []
    return built + other, bool(placed or other)


def _fits(row: Row, column: Column, measured: Record) -> bool:
    return cell_key(row, column, measured["source"]).fits(measured)


def _paper_cell(row: Row, column: Column, *, home: bool) -> Record:
    usual, used = row.config.get("backbone"), row.instead.get("backbone", row.config.get("backbone"))
    return {
        **{"id": row.id, "labels": row.labels, "recipe": row.recipe, "group": row.group, "extra": False},
        **{"key": column.key, "quoted": row.quoted or column.quoted},
        "note": None if used == usual else f"{used} stands in for {usual}",
        "paper": row.paper.get(column.key) if home else None,
        "paper_bold": home and column.key in row.bold,
    }


def _sources(column: Column, rows: Iterable[Record]) -> Record:
    """Return the seeds whose numbers a cell has, of the ``rows`` that fit it.

    Of one seed the newest row counts; rows of one's own go before those that ship, and the newest count of images.
    """
    there = sorted((one for one in rows if column.value(one) is not None), key=itemgetter("date"))
    there = [one for one in there if not one["shipped"]] or there
    if not there:
        return NOT_MEASURED
    by_seed = {one["seed"]: one for one in there if one["n"] == there[-1]["n"]}
    seeds = sorted(by_seed, key=lambda seed: (seed is None, seed))
    found = [by_seed[seed] for seed in seeds]
    return {
        "sources": [
            {
                **{"run": one["run"], "seed": one["seed"], "date": one["date"][:10], "value": column.value(one)},
                "options": options_hash(one["options"]),
            }
            for one in found
        ],
        "floors": [floor for one in found if (floor := _floors(column, one["floors"])) is not None],
        **{key: found[0][key] for key in ("n", "split", "shipped")},
    }


def _floors(column: Column, floors: Mapping[str, Mapping[str, float]]) -> tuple[float, float] | None:
    """Return the column's metric of the whole image and of a centred box, where an evaluation has both."""
    full, centred = (column.value(floors.get(name, {})) for name in ("full_image", "centred_box"))
    return None if full is None or centred is None else (full, centred)


def _add_means(cells: Sequence[Record]) -> None:
    """Give each cell the mean over its seeds and their standard deviation."""
    import pandas as pd

    numbers = [(index, one["value"]) for index, cell in enumerate(cells) for one in cell["sources"]]
    seeds = pd.Series([value for _, value in numbers], dtype=float).groupby([index for index, _ in numbers])
    means, deviations = seeds.mean().to_dict(), seeds.std().to_dict()
    for index, cell in enumerate(cells):
        cell["value"] = means.get(index)
        cell["sd"] = deviations[index] if len(cell["sources"]) > 1 else None


def _mark_best(columns: Sequence[Column], cells: Iterable[Record]) -> None:
    """Put the best measured number of each column and group in bold, where there is something to compare."""
    decimals = {column.key: column.decimals for column in columns}
    best = {column.key: {"highest": max, "lowest": min}.get(column.best) for column in columns}
    groups: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        if cell["value"] is not None and cell["group"] is not None:
            groups.setdefault((cell["key"], cell["group"]), []).append(round(cell["value"], decimals[cell["key"]]))
    for cell in cells:
        values, choose, cell["bold"] = groups.get((cell["key"], cell["group"]), []), best[cell["key"]], False
        if choose is not None and cell["value"] is not None and len(values) > 1:
            cell["bold"] = round(cell["value"], decimals[cell["key"]]) == choose(values)


def _add_commands(
    spec: TableSpec, measured_on: MeasuredOn, cells: Iterable[Record], rows: Iterable[Record], runs: Path
) -> None:
    """Give each empty cell of the paper's the command that measures it."""
    own = sorted((one for one in rows if not one["shipped"]), key=itemgetter("date"))
    by_id, columns = {row.id: row for row in spec.rows}, {column.key: column for column in spec.columns}
    for cell in cells:
        cell["command"] = None
        if not (cell["extra"] or cell["quoted"] or cell["sources"]):
            row, column = by_id[cell["id"]], columns[cell["key"]]
            trained = [one["run"] for one in own if cell_key(row, column, one["source"]).is_network_of(one)]
            cell["command"] = build_command(spec, row, column, measured_on, trained[-1] if trained else None, runs)


# --- rows that the paper does not have ------------------------------------------------------------------------------


def _others(spec: TableSpec, rows: Iterable[Record]) -> list[Cells]:
    """Return one row per further experiment on the table's data set: other networks, heads, maps or box rules.

    Settings in which the table's columns differ do not make rows differ.
    """
    asked = {option for row in spec.rows for option in row.evaluate.asked()}
    options = sorted(asked.union(EXTRAS if asked else ()))  # numbers made with and without one of them never mix
    per_column = {key for column in spec.columns for key in column.config}
    experiments: dict[str, list[Record]] = {}
    for row in rows:  # what rows share that differ in their seed alone
        network = [row["recipe"], row["backbone"], row["method"], row["changed"] | dict.fromkeys(per_column)]
        key = json.dumps([network, [row["options"].get(option) for option in options]], sort_keys=True)
        experiments.setdefault(key, []).append(row)
    built = []
    for first, *more in experiments.values():
        about = {
            **{"id": f"run:{first['run']}", "labels": _labels(spec, first, options), "recipe": None, "group": None},
            **{"extra": True, "note": _departures(first, per_column), "paper": None, "paper_bold": False},
        }
        cells = []
        for column in spec.columns:
            found = [one for one in (first, *more) if column.config.items() <= one["changed"].items()]
            cells.append({**about, "key": column.key, "quoted": column.quoted, **_sources(column, found)})
        built.append(cells)
    return built


def _departures(row: Record, ignored: Collection[str]) -> str | None:
    """Say in which settings a run departs from its recipe: a short training is no reproduction."""
    if row["recipe"] is None:
        return None
    usual = usual_settings(row["source"], row["recipe"])
    said = [f"{key} {value} ({usual.get(key)})" for key, value in row["changed"].items() if key not in ignored]
    return f"departs from recipe {row['recipe']}: {', '.join(said)}" if said else None


def _labels(spec: TableSpec, row: Record, options: Iterable[str]) -> tuple[str, ...]:
    """Name a row by its head and backbone, and by how its maps became boxes where the table depends on it."""
    values = [row["options"].get(option) for option in options]
    texts = ["+".join(map(str, value)) if isinstance(value, list | tuple) else str(value) for value in values if value]
    how = f" ({', '.join(texts)})" if texts else ""
    if len(spec.label_columns) == 1:
        return (f"{row['backbone']}-{row['method']}{how}",)
    return (f"{row['method']}{how}", row["backbone"], *[""] * (len(spec.label_columns) - 2))
