"""A built table as a DataFrame of short texts with notes: what the terminal, markdown, LaTeX and HTML all draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from gwapctl.paper.build import BuiltTable
from gwapctl.paper.lookup import table_command
from gwapctl.paper.specification import Column

if TYPE_CHECKING:
    import pandas as pd

Cell = Mapping[Any, Any]  # a row of a table's cells

WIDE_FROM = 3  # columns of numbers: measured ones stand below the paper's instead of beside them
DASH = "–"
SHIPPED = "Measured by the authors of gwapctl (`models/results.csv`); `--no-shipped` leaves it out."


@dataclass(frozen=True)
class Entry:
    """One cell to draw. ``note``: where a measured number comes from, or the command that makes it."""

    text: str = ""
    bold: bool = False
    kind: Literal["label", "paper", "measured", "empty", "quoted"] = "label"
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Note:
    """What stands below the table, under its ``mark``."""

    mark: str
    text: str
    is_command: bool


@dataclass(frozen=True)
class Grid:
    """A table to draw: ``labels`` leading columns of text, then columns of numbers; ``remarks`` on the whole table.

    ``entries`` holds an ``Entry`` per cell; its columns are pairs of a name and whose numbers stand below it (empty for
    labels). ``breaks`` are the rows above which a thin line belongs.
    """

    title: str
    caption: str
    entries: pd.DataFrame
    labels: int
    breaks: frozenset[int]
    remarks: tuple[str, ...]
    notes: tuple[Note, ...]

    @property
    def heads(self) -> list[tuple[str, str]]:
        """The columns' heads."""
        return [*self.entries.columns.to_flat_index()]

    @property
    def rows(self) -> list[tuple[Entry, ...]]:
        """The entries row by row."""
        return list(self.entries.itertuples(index=False, name=None))


def make_grid(table: BuiltTable, *, commands: bool = False) -> Grid:
    """Lay a table out: measured numbers beside the paper's, or below them where there are many columns.

    ``commands``: every empty cell has its command in a note; otherwise one command for all of them is a remark.
    """
    import pandas as pd

    stacked = _beside_paper(table) and _is_wide(table)
    cells, shared = table.rows(), _shared(table)
    rows: list[list[Entry]] = []
    breaks: set[int] = set()
    for index, row in enumerate(cells):
        if index and _part(table, row[0]) != _part(table, cells[index - 1][0]):
            breaks.add(len(rows))
        rows += _stacked_rows(table, row, shared) if stacked else [_row(table, row, shared)]
    empty = {one.note for row in rows for one in row if one.kind == "empty"}
    notes = dict.fromkeys(one.note for row in rows for one in row if one.note and (commands or one.note not in empty))
    marks = {text: note_mark(index) for index, text in enumerate(notes)}
    marked = [[replace(one, mark=marks.get(one.note, "")) for one in row] for row in rows]
    labels = [(name, "") for name in table.spec.label_columns] + [("", "")] * stacked
    heads = pd.MultiIndex.from_tuples([*labels, *_heads(table, stacked)])
    return Grid(
        title=table.title,
        caption=table.caption,
        entries=pd.DataFrame(marked, columns=heads, dtype=object),
        labels=len(labels),
        breaks=frozenset(breaks),
        remarks=(*([] if commands else _empty_cells(table)), *_remarks(table, shared)),
        notes=tuple(Note(mark, text, text in empty) for text, mark in marks.items()),
    )


def note_mark(index: int) -> str:
    """Return the letters of a note by its ``index``, from 0: a to z, then aa. Letters, because [6] is a citation."""
    return (note_mark(index // 26 - 1) if index >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[index % 26]


def _part(table: BuiltTable, cell: Cell) -> tuple[Any, ...]:
    """Return what rows of one part of the table share: a network, or that the paper does not have them."""
    if not table.spec.of_a_paper:
        return (cell["recipe"],)
    labels = cell["labels"]
    return (cell["extra"], "" if cell["extra"] or len(labels) < 2 else labels[1])


def _is_wide(table: BuiltTable) -> bool:
    return len(table.spec.columns) >= WIDE_FROM


def _beside_paper(table: BuiltTable) -> bool:
    """Tell whether the table has numbers of a paper, measured on the same data."""
    return table.ground.home and table.spec.of_a_paper


def _heads(table: BuiltTable, stacked: bool) -> list[tuple[str, str]]:
    names = [column.name for column in table.spec.columns]
    if _beside_paper(table) and not stacked:
        return [(name, whose) for name in names for whose in ("paper", "measured")]
    alone = table.spec.of_a_paper and not table.ground.home and not _is_wide(table)  # else the title says it alone
    return [(name, _measured_on(table) if alone else "") for name in names]


def _measured_on(table: BuiltTable) -> str:
    """Name the data of another table than the paper's; a part of the paper's own split is told apart by its count."""
    spec, ground = table.spec, table.ground
    if (ground.dataset, ground.split) == (spec.dataset, spec.split):
        return ground.name
    return f"{ground.dataset} {ground.split or ''}".strip()


def _pairs(table: BuiltTable, row: Sequence[Cell], shared: Sequence[str]) -> list[tuple[Entry, Entry]]:
    """Return the paper's and the measured entry of each column of a row."""
    pairs = zip(table.spec.columns, row, strict=True)
    return [(_paper(column, cell), _measured(column, cell, table, shared)) for column, cell in pairs]


def _row(table: BuiltTable, row: Sequence[Cell], shared: Sequence[str]) -> list[Entry]:
    labels = [Entry(label) for label in row[0]["labels"]]
    pairs = _pairs(table, row, shared)
    if _beside_paper(table):
        return [*labels, *[entry for pair in pairs for entry in pair]]
    measured = [entry for _, entry in pairs]
    return [*labels, *(_noted_once(measured) if not table.spec.of_a_paper or _is_wide(table) else measured)]


def _noted_once(entries: Sequence[Entry]) -> list[Entry]:
    """Leave a note that cells of a row share at the last of them alone: many columns, one origin."""
    last = {entry.note: index for index, entry in enumerate(entries)}
    return [one if last[one.note] == index else replace(one, note="") for index, one in enumerate(entries)]


def _stacked_rows(table: BuiltTable, row: Sequence[Cell], shared: Sequence[str]) -> list[list[Entry]]:
    paper, measured = ([*entries] for entries in zip(*_pairs(table, row, shared), strict=True))
    labels = [Entry(label) for label in row[0]["labels"]]
    rows = [[*labels, Entry("paper"), *paper]] if any(entry.text for entry in paper) else []
    if any(entry.kind in ("measured", "empty") for entry in measured):
        rows.append([*([Entry()] * len(labels) if rows else labels), Entry("measured"), *measured])
    return rows


def _paper(column: Column, cell: Cell) -> Entry:
    text = "" if cell["paper"] != cell["paper"] else f"{cell['paper']:.{column.decimals}f}"
    return Entry(text, cell["paper_bold"], "paper")


def _measured(column: Column, cell: Cell, table: BuiltTable, shared: Sequence[str]) -> Entry:
    if cell["sources"]:
        mean, sd = (f"{cell[name]:.{column.decimals}f}" for name in ("value", "sd"))
        text = mean if len(cell["sources"]) == 1 else f"{mean} ± {sd}"
        own = [part for part in provenance(table, cell) if part not in shared]
        return Entry(text, cell["bold"], "measured", "; ".join(own))
    if isinstance(cell["command"], str):
        return Entry(DASH, False, "empty", cell["command"])
    return Entry(DASH if isinstance(cell["quoted"], str) else "", False, "quoted")


def provenance(table: BuiltTable, cell: Cell) -> list[str]:
    """Say where a measured number comes from: runs, data set, split, images, seeds, date, and what to know besides."""
    sources = cell["sources"]
    first, *more = [source["run"] for source in sources]
    dates = sorted({source["date"] for source in sources})
    date = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    seeds = ", ".join("?" if source["seed"] is None else str(source["seed"]) for source in sources)
    several = len(sources) > 1
    return [
        ", ".join([first, *(f"…{run.removeprefix(first)}" if run.startswith(first) else run for run in more)]),
        f"{table.ground.dataset} {cell['split']}, n = {cell['n']:,.0f}, seed{'s' * several} {seeds}, {date}",
        *([f"mean ± standard deviation of {len(sources)} seeds"] if several else []),
        *([cell["note"]] if isinstance(cell["note"], str) else []),
    ]


def _shared(table: BuiltTable) -> list[str]:
    """Return what the notes of all measured numbers say, where there are several notes."""
    told = [provenance(table, cell) for cell in table.measured.to_dict("records")]
    return [part for part in told[0] if all(part in one for one in told)] if len({one[0] for one in told}) > 1 else []


def _empty_cells(table: BuiltTable) -> list[str]:
    """Say with which command all empty cells are filled."""
    count = int(table.cells["command"].notna().sum())
    command = table_command(table.spec, table.ground)
    said = f"{count} empty cells: `{command}` fills them." if count > 1 else f"1 empty cell: `{command}` fills it."
    return [said] if count else []


def _remarks(table: BuiltTable, shared: Sequence[str]) -> list[str]:
    """Say what holds for the whole table: which numbers can only be quoted, and the floors of its metrics."""
    reasons: dict[str, list[str]] = {}
    for column in table.spec.columns:
        if column.quoted is not None:
            reasons.setdefault(column.quoted, []).append(column.name)
    for row in table.spec.rows:
        if row.quoted is not None:
            reasons.setdefault(row.quoted, []).append(row.labels[0])
    why = "; ".join(f"{', '.join(what)}: {reason}" for reason, what in reasons.items())
    quoted = [f"{DASH} quoted only, not measured here ({why})."] if why and table.ground.home else []
    remarks = table.spec.remarks if table.ground.home or not table.spec.of_a_paper else ()
    paper = [f"Paper: {table.spec.source}."] if _beside_paper(table) else []
    said = [f"All measured: {'; '.join(shared)}."] if shared else []
    ours = [SHIPPED] if table.cells["shipped"].any() else []
    return [*quoted, *_floors(table), *remarks, *paper, *said, *ours]


def _floors(table: BuiltTable) -> list[str]:
    """State the floors: the data set's alone, or a range where they take the judged model's own classes."""
    said = []
    for column in table.spec.columns:
        pairs = table.cells.loc[table.cells["key"] == column.key, "floors"].explode().dropna()
        if len(pairs):
            full, centred = (_range(values, column) for values in zip(*pairs, strict=True))
            name = f"{column.name} of " if len(table.spec.columns) > 1 else ""
            said.append(f"Floors: {name}{full} (full image), {centred} (centred box).")
    return said


def _range(values: Sequence[float], column: Column) -> str:
    """Write one number, or the smallest and the largest."""
    return " to ".join(dict.fromkeys(f"{value:.{column.decimals}f}" for value in (min(values), max(values))))
