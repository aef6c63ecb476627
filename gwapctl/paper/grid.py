"""A built table as short texts with notes: what the terminal, markdown, LaTeX and HTML all draw."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from gwapctl.paper.build import BuiltTable, Cells
from gwapctl.paper.lookup import table_command
from gwapctl.paper.measured import Record
from gwapctl.paper.specification import Column

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

    ``heads`` are pairs of a name and whose numbers stand below it (empty for labels). ``breaks`` are the rows above
    which a thin line belongs.
    """

    title: str
    caption: str
    heads: list[tuple[str, str]]
    rows: list[list[Entry]]
    labels: int
    breaks: frozenset[int]
    remarks: tuple[str, ...]
    notes: tuple[Note, ...]


def make_grid(table: BuiltTable, *, commands: bool = False) -> Grid:
    """Lay a table out: measured numbers beside the paper's, or below them where there are many columns.

    ``commands``: every empty cell has its command in a note; otherwise one command for all of them is a remark.
    """
    stacked = table.beside_paper and _is_wide(table)
    cells = table.rows()
    shared = _shared(table, cells)
    rows: list[list[Entry]] = []
    breaks: set[int] = set()
    for index, row in enumerate(cells):
        if index and _part(table, row[0]) != _part(table, cells[index - 1][0]):
            breaks.add(len(rows))
        rows += _entries(table, row, shared, stacked=stacked)
    empty = {one.note for row in rows for one in row if one.kind == "empty"}
    notes = dict.fromkeys(one.note for row in rows for one in row if one.note and (commands or one.note not in empty))
    marks = {text: note_mark(index) for index, text in enumerate(notes)}
    labels = [(name, "") for name in table.spec.label_columns] + [("", "")] * stacked
    return Grid(
        title=table.title,
        caption=table.caption,
        heads=[*labels, *_heads(table, stacked)],
        rows=[[replace(one, mark=marks[one.note]) if one.note in marks else one for one in row] for row in rows],
        labels=len(labels),
        breaks=frozenset(breaks),
        remarks=(*([] if commands else _empty_cells(table, cells)), *_remarks(table, cells, shared)),
        notes=tuple(Note(mark, text, text in empty) for text, mark in marks.items()),
    )


def note_mark(index: int) -> str:
    """Return the letters of a note by its ``index``, from 0: a to z, then aa. Letters, because [6] is a citation."""
    return (note_mark(index // 26 - 1) if index >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[index % 26]


def _part(table: BuiltTable, cell: Record) -> tuple[Any, ...]:
    """Return what rows of one part of the table share: a network, or that the paper does not have them."""
    if not table.spec.of_a_paper:
        return (cell["recipe"],)
    labels = cell["labels"]
    return (cell["extra"], "" if cell["extra"] or len(labels) < 2 else labels[1])


def _is_wide(table: BuiltTable) -> bool:
    return len(table.spec.columns) >= WIDE_FROM


def _heads(table: BuiltTable, stacked: bool) -> list[tuple[str, str]]:
    """Return the heads of the columns of numbers; a part of the paper's own split is told apart by its count."""
    spec, measured_on = table.spec, table.measured_on
    names = [column.name for column in spec.columns]
    if table.beside_paper and not stacked:
        return [(name, whose) for name in names for whose in ("paper", "measured")]
    where = f"{measured_on.dataset} {measured_on.split or ''}".strip()
    if (measured_on.dataset, measured_on.split) == (spec.dataset, spec.split):
        where = measured_on.name
    alone = spec.of_a_paper and not measured_on.home and not _is_wide(table)  # else the title says it alone
    return [(name, where if alone else "") for name in names]


def _entries(table: BuiltTable, row: Cells, shared: Sequence[str], *, stacked: bool) -> list[list[Entry]]:
    """Return the one or two rows to draw of one row of a table."""
    labels = [Entry(label) for label in row[0]["labels"]]
    pairs = [*zip(table.spec.columns, row, strict=True)]
    paper = [_paper(column, cell) for column, cell in pairs]
    measured = [_measured(column, cell, table, shared) for column, cell in pairs]
    if stacked:
        rows = [[*labels, Entry("paper"), *paper]] if any(entry.text for entry in paper) else []
        if any(entry.kind in ("measured", "empty") for entry in measured):
            rows.append([*([Entry()] * len(labels) if rows else labels), Entry("measured"), *measured])
        return rows
    if table.beside_paper:
        return [[*labels, *chain.from_iterable(zip(paper, measured, strict=True))]]
    if not table.spec.of_a_paper or _is_wide(table):  # many columns, one origin: the last of them alone notes it
        last = {entry.note: index for index, entry in enumerate(measured)}
        measured = [one if last[one.note] == index else replace(one, note="") for index, one in enumerate(measured)]
    return [[*labels, *measured]]


def _paper(column: Column, cell: Record) -> Entry:
    text = "" if cell["paper"] is None else f"{cell['paper']:.{column.decimals}f}"
    return Entry(text, cell["paper_bold"], "paper")


def _measured(column: Column, cell: Record, table: BuiltTable, shared: Sequence[str]) -> Entry:
    if cell["sources"]:
        text = " ± ".join(f"{cell[name]:.{column.decimals}f}" for name in ("value", "sd") if cell[name] is not None)
        own = [part for part in provenance(table, cell) if part not in shared]
        return Entry(text, cell["bold"], "measured", "; ".join(own))
    if cell["command"]:
        return Entry(DASH, False, "empty", cell["command"])
    return Entry(DASH if cell["quoted"] else "", False, "quoted")


def provenance(table: BuiltTable, cell: Record) -> list[str]:
    """Say where a measured number comes from: runs, data set, split, images, seeds, date, and what to know besides."""
    sources = cell["sources"]
    dates = sorted({source["date"] for source in sources})
    seeds = ", ".join(_in_a_row(["?" if source["seed"] is None else str(source["seed"]) for source in sources]))
    several = len(sources) > 1
    return [
        ", ".join(_run_names([source["run"] for source in sources])),
        f"{table.measured_on.dataset} {cell['split']}, n = {cell['n']:,.0f}, seed{'s' * several} {seeds}, "
        + " to ".join(dict.fromkeys((dates[0], dates[-1]))),
        *([f"mean ± standard deviation of {len(sources)} seeds"] if several else []),
        *([cell["note"]] if cell["note"] else []),
    ]


def _run_names(runs: Sequence[str]) -> list[str]:
    """Return the names of runs; of those that differ from the first by their seed alone, the end."""
    first = runs[0]
    return [first, *_in_a_row([f"…{run.removeprefix(first)}" if run.startswith(first) else run for run in runs[1:]])]


def _in_a_row(names: Sequence[str]) -> list[str]:
    """Put ``first to last`` in the place of three and more names that count up by one.

    >>> _in_a_row(["0", "1", "2", "3"]), _in_a_row(["a-1", "a-2", "b"]), _in_a_row(["…-seed1", "…-seed2", "…-seed3"])
    (['0 to 3'], ['a-1', 'a-2', 'b'], ['…-seed1 to …-seed3'])
    """
    ends = [re.search(r"\d+$", name) for name in names]
    counted = [(name[: end.start()], int(end[0])) for name, end in zip(names, ends, strict=True) if end]
    up = counted and [(counted[0][0], counted[0][1] + step) for step in range(len(names))]
    return [f"{names[0]} to {names[-1]}"] if len(names) > 2 and counted == up else list(names)


def _shared(table: BuiltTable, rows: Sequence[Cells]) -> list[str]:
    """Return what the notes of all measured numbers say, where there are several notes."""
    told = [provenance(table, cell) for row in rows for cell in row if cell["sources"]]
    return [part for part in told[0] if all(part in one for one in told)] if len({one[0] for one in told}) > 1 else []


def _empty_cells(table: BuiltTable, rows: Sequence[Cells]) -> list[str]:
    """Say with which command all empty cells are filled."""
    count = sum(cell["command"] is not None for row in rows for cell in row)
    command = table_command(table.spec, table.measured_on)
    said = f"{count} empty cells: `{command}` fills them." if count > 1 else f"1 empty cell: `{command}` fills it."
    return [said] if count else []


def _remarks(table: BuiltTable, rows: Sequence[Cells], shared: Sequence[str]) -> list[str]:
    """Say what holds for the whole table: which numbers can only be quoted, and the floors of its metrics."""
    reasons: dict[str, list[str]] = {}
    names = [(column.quoted, column.name) for column in table.spec.columns]
    for reason, name in [*names, *((row.quoted, row.labels[0]) for row in table.spec.rows)]:
        if reason is not None:
            reasons.setdefault(reason, []).append(name)
    why = "; ".join(f"{', '.join(what)}: {reason}" for reason, what in reasons.items())
    quoted = [f"{DASH} quoted only, not measured here ({why})."] if why and table.measured_on.home else []
    remarks = table.spec.remarks if table.measured_on.home or not table.spec.of_a_paper else ()
    paper = [f"Paper: {table.spec.source}."] if table.beside_paper else []
    said = [f"All measured: {'; '.join(shared)}."] if shared else []
    ours = [SHIPPED] if any(cell["shipped"] for row in rows for cell in row) else []
    return [*quoted, *_floors(table, rows), *remarks, *paper, *said, *ours]


def _floors(table: BuiltTable, rows: Sequence[Cells]) -> list[str]:
    """State the floors: the data set's alone, or a range where they take the judged model's own classes."""
    said = []
    for column in table.spec.columns:
        pairs = [pair for row in rows for cell in row if cell["key"] == column.key for pair in cell["floors"]]
        if pairs:
            full, centred = (
                " to ".join(dict.fromkeys(f"{value:.{column.decimals}f}" for value in (min(values), max(values))))
                for values in zip(*pairs, strict=True)
            )
            name = f"{column.name} of " if len(table.spec.columns) > 1 else ""
            said.append(f"Floors: {name}{full} (full image), {centred} (centred box).")
    return said
