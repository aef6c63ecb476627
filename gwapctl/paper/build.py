"""Fill a paper's table with what finished runs measured. A number is the paper's or measured, and says which.

A number measured on other images than the paper's never stands beside the paper's: each other data set (and each other
split, or part of one) gets a table of its own, named after it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from gwapctl.paper.lookup import Ground, concerns, fill_command, fits_options, fits_training, ground_of, home_ground
from gwapctl.paper.results import Result
from gwapctl.paper.specification import EXTRAS, Column, Row, TableSpec

# settings that do not make two runs different experiments (the data set is part of the ground; its path may differ)
NOT_THE_EXPERIMENT = frozenset(("seed", "dataset", "compile"))


@dataclass(frozen=True)
class Measured:
    """A measured number: the mean over the seeds of one experiment, with the result of each seed.

    ``sd`` is the sample standard deviation, None for one seed. ``others`` counts further experiments that would fit.
    """

    value: float
    sd: float | None
    results: tuple[Result, ...]
    others: int = 0


@dataclass(frozen=True)
class Cell:
    """One column of one row: the paper's number, the measured one, and what to do or to know where that is missing."""

    paper: float | None = None
    paper_bold: bool = False
    measured: Measured | None = None
    measured_bold: bool = False
    command: str | None = None
    quoted: str | None = None


@dataclass(frozen=True)
class FilledRow:
    """One row, its cells in the order of the columns. ``extra``: a row of another run, not one of the paper's."""

    id: str
    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    recipe: str | None = None
    group: str | None = None
    extra: bool = False


@dataclass(frozen=True)
class FilledTable:
    """A paper's table on one ground: the paper's own, with its numbers, or another with measured numbers only."""

    spec: TableSpec
    ground: Ground
    rows: tuple[FilledRow, ...]

    @property
    def title(self) -> str:
        """The paper's number of the table, and what it was measured on where that is not the paper's data."""
        at_home = self.ground.home and self.spec.of_a_paper
        return self.spec.number if at_home else f"{self.spec.number} on {self.ground.name}"

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

    def results(self) -> list[Result]:
        """Return every result that stands in the table, each once."""
        measured = [cell.measured for row in self.rows for cell in row.cells if cell.measured is not None]
        return list({id(result): result for one in measured for result in one.results}.values())


def fill_table(
    spec: TableSpec, results: Sequence[Result], *, dataset: str | None = None, runs: Path = Path("runs")
) -> list[FilledTable]:
    """Place ``results`` in the paper's table, and in a further table for each other ground they were measured on.

    ``dataset`` (a name or folder) asks for tables on this data set alone, with every row; otherwise other data sets'
    tables show the rows that were measured. ``runs`` is where the commands for empty cells put their runs.
    """
    name = None if dataset is None else dataset_name(dataset, results)
    home = home_ground(spec)
    grounds: dict[Ground, list[Result]] = {home: []} if name in (None, home.dataset) else {}
    for result in results:
        if concerns(spec, result) and name in (None, result.dataset):
            grounds.setdefault(ground_of(spec, result), []).append(result)
    if not grounds and dataset is not None and name is not None:
        grounds[Ground(name, name, None, None, False, dataset)] = []
    tables = []
    for ground, members in sorted(grounds.items(), key=lambda item: _order(item[0])):
        every_row = ground.home or (name is not None and name != home.dataset)
        named = replace(ground, argument=dataset) if dataset is not None and not ground.home else ground
        tables.append(_fill(spec, members, named, runs, every_row=every_row))
    return tables


def dataset_name(dataset: str, results: Sequence[Result]) -> str:
    """Return the name under which results on ``dataset`` (a name, a folder or a file) are stored.

    A folder may hold a data set that has a name of its own: then the runs that were trained on it say so.
    """
    path = PurePath(dataset)
    last = path.stem if path.suffix in (".csv", ".tsv", ".json") else path.name or Path(dataset).resolve().name
    known = {result.dataset for result in results}
    trained = {PurePath(str(r.settings.get("dataset", ""))).name: r.train_dataset for r in results}
    return last if last in known else trained.get(path.name, last)


def _order(ground: Ground) -> tuple[bool, str, str, int]:
    return not ground.home, ground.dataset, ground.split or "", -(ground.n or 0)


def _fill(spec: TableSpec, results: Sequence[Result], ground: Ground, runs: Path, *, every_row: bool) -> FilledTable:
    spec = spec.on(ground.train_dataset)
    rows = [_fill_row(spec, row, results, ground, runs) for row in spec.rows]
    if not every_row:
        rows = [row for row in rows if any(cell.measured for cell in row.cells)]
    table = _without_idle_columns(FilledTable(spec, ground, tuple(rows)))
    placed = {id(result) for result in table.results()}
    others = [r for r in results if id(r) not in placed] if spec.of_a_paper else []
    return _mark_best(replace(table, rows=(*table.rows, *_other_rows(table.spec, others))))


def _without_idle_columns(table: FilledTable) -> FilledTable:
    """Leave out optional columns for which nothing was measured, where something was."""
    columns = list(enumerate(table.spec.columns))
    filled = {place for place, _ in columns if any(row.cells[place].measured for row in table.rows)}
    kept = [place for place, column in columns if place in filled or not (filled and column.optional)]
    spec = table.spec.model_copy(update={"columns": tuple(table.spec.columns[place] for place in kept)})
    rows = tuple(replace(row, cells=tuple(row.cells[place] for place in kept)) for row in table.rows)
    return replace(table, spec=spec, rows=rows)


def _fill_row(spec: TableSpec, row: Row, results: Sequence[Result], ground: Ground, runs: Path) -> FilledRow:
    cells = tuple(_fill_cell(spec, row, column, results, ground, runs) for column in spec.columns)
    return FilledRow(row.id, row.labels, cells, row.recipe, row.group)


def _fill_cell(
    spec: TableSpec, row: Row, column: Column, results: Sequence[Result], ground: Ground, runs: Path
) -> Cell:
    cell = Cell(quoted=row.quoted or column.quoted)
    if ground.home:
        cell = replace(cell, paper=row.paper.get(column.key), paper_bold=column.key in row.bold)
    if cell.quoted is not None:
        return cell
    trained = [result for result in results if fits_training(row, column, result, ground)]
    exact = ground.home or spec.profile is not None
    fitting = [result for result in trained if fits_options(row.evaluate, result, exact=exact)]
    measured = measure(column, fitting, options=row.evaluate.asked(), recipe=row.recipe)
    if measured is not None:
        return replace(cell, measured=measured)
    newest = max(trained, key=lambda result: result.created, default=None)
    return replace(cell, command=fill_command(spec, row, column, ground, None if newest is None else newest.run, runs))


def measure(
    column: Column, results: Iterable[Result], *, options: Sequence[str] = (), recipe: str | None = None
) -> Measured | None:
    """Return the mean over seeds of one experiment among ``results``; None where none has the column's metric.

    Several experiments: one that names the row's ``recipe`` goes first, then the newest. Of one seed the newest counts.
    ``options``: the evaluation options that matter to the number.
    """
    having = [result for result in results if column.value(result.metrics) is not None]
    experiments = _by(having, lambda result: experiment(result, options))
    if not experiments:
        return None
    chosen = max(experiments, key=lambda group: (group[0].recipe == recipe, max(result.created for result in group)))
    seeds = [max(group, key=lambda result: result.created) for group in _by(chosen, lambda result: result.seed)]
    values = [value for result in seeds if (value := column.value(result.metrics)) is not None]
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Measured(statistics.fmean(values), sd, tuple(seeds), others=len(experiments) - 1)


def experiment(result: Result, options: Sequence[str], ignored: Collection[str] = ()) -> Hashable:
    """Return what two results share that differ in their seed alone; of the evaluation only ``options`` count."""
    skip = {*NOT_THE_EXPERIMENT, *ignored}
    settings = sorted((key, repr(value)) for key, value in result.settings.items() if key not in skip)
    return tuple(settings), tuple(repr(result.options.get(key)) for key in options), result.n


def _by(results: Iterable[Result], key: Callable[[Result], Hashable]) -> list[list[Result]]:
    groups: dict[Hashable, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return list(groups.values())


# --- rows that the paper does not have ------------------------------------------------------------------------------


def _other_rows(spec: TableSpec, results: Sequence[Result]) -> list[FilledRow]:
    """Return one row per further experiment on the table's ground: other networks, heads, maps or box rules."""
    asked = {option for row in spec.rows for option in row.evaluate.asked()}
    options = sorted(asked.union(EXTRAS if asked else ()))  # numbers made with and without one of them never mix
    per_column = {key for column in spec.columns for key in column.config}
    rows = []
    for group in _by(results, lambda result: experiment(result, options, per_column)):
        cells = tuple(_other_cell(column, group, options) for column in spec.columns)
        if any(cell.measured for cell in cells):
            rows.append(FilledRow(f"run:{group[0].run}", _labels(spec, group[0], options), cells, extra=True))
    return rows


def _other_cell(column: Column, results: Sequence[Result], options: Sequence[str]) -> Cell:
    if column.quoted is not None:
        return Cell(quoted=column.quoted)
    fitting = [r for r in results if all(r.settings.get(key) == value for key, value in column.config.items())]
    return Cell(measured=measure(column, fitting, options=options))


def _labels(spec: TableSpec, result: Result, options: Sequence[str]) -> tuple[str, ...]:
    """Name a row by its head and backbone, and by how its maps became boxes where the table depends on it."""
    values = [result.options.get(option) for option in options]
    texts = ["+".join(map(str, value)) if isinstance(value, list | tuple) else str(value) for value in values if value]
    how = f" ({', '.join(texts)})" if texts else ""
    if len(spec.label_columns) == 1:
        return (f"{result.backbone}-{result.head}{how}",)
    return (f"{result.head}{how}", result.backbone, *[""] * (len(spec.label_columns) - 2))


# --- bold -----------------------------------------------------------------------------------------------------------


def _mark_best(table: FilledTable) -> FilledTable:
    """Put the best measured number of each column and group in bold, where there is something to compare."""
    rows = list(table.rows)
    for place, column in enumerate(table.spec.columns):
        groups: dict[str, list[tuple[float, int]]] = {}
        for index, row in enumerate(rows):
            measured = row.cells[place].measured
            if row.group is not None and measured is not None and column.best != "none":
                groups.setdefault(row.group, []).append((round(measured.value, column.decimals), index))
        for members in groups.values():
            best = (max if column.best == "highest" else min)(value for value, _ in members)
            for _, index in [pair for pair in members if pair[0] == best and len(members) > 1]:
                rows[index] = _with_bold(rows[index], place)
    return replace(table, rows=tuple(rows))


def _with_bold(row: FilledRow, place: int) -> FilledRow:
    cells = list(row.cells)
    cells[place] = replace(cells[place], measured_bold=True)
    return replace(row, cells=tuple(cells))
