"""A filled table as a grid of short texts with notes: what the terminal, markdown, LaTeX and HTML all draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gwapctl.paper.build import Cell, FilledRow, FilledTable, Measured
from gwapctl.paper.lookup import departures
from gwapctl.paper.specification import Column

WIDE_FROM = 3  # columns of numbers: measured ones stand below the paper's instead of beside them
DASH = "–"


@dataclass(frozen=True)
class Note:
    """What stands below the table about a cell: where a measured number comes from, or the command that makes it."""

    kind: Literal["measured", "command"]
    text: str


@dataclass(frozen=True)
class Entry:
    """One cell to draw."""

    text: str = ""
    bold: bool = False
    kind: Literal["label", "paper", "measured", "empty", "quoted"] = "label"
    note: Note | None = None


@dataclass(frozen=True)
class Head:
    """One column head: the column's name, and whose numbers stand below it (empty for labels)."""

    name: str
    whose: str = ""


@dataclass(frozen=True)
class Grid:
    """A table to draw: ``labels`` leading columns of text, then columns of numbers; ``remarks`` on the whole table.

    ``breaks`` are the rows above which a thin line belongs.
    """

    title: str
    caption: str
    heads: tuple[Head, ...]
    labels: int
    rows: tuple[tuple[Entry, ...], ...]
    breaks: frozenset[int]
    remarks: tuple[str, ...]

    def notes(self) -> list[Note]:
        """Return the distinct notes in the order of the cells."""
        return list(dict.fromkeys(entry.note for row in self.rows for entry in row if entry.note is not None))


def make_grid(table: FilledTable) -> Grid:
    """Lay a filled table out: measured numbers beside the paper's, or below them where there are many columns."""
    stacked = _beside_paper(table) and _wide(table)
    labels = [Head(name) for name in table.spec.label_columns]
    heads = _stacked_heads(table) if stacked else _heads(table)
    rows: list[tuple[Entry, ...]] = []
    breaks: set[int] = set()
    for index, row in enumerate(table.rows):
        if index and _starts_group(table, index):
            breaks.add(len(rows))
        rows += _stacked_rows(table, row) if stacked else [_row(table, row)]
    return Grid(
        title=table.title,
        caption=table.caption,
        heads=(*labels, *heads),
        labels=len(labels) + stacked,
        rows=tuple(rows),
        breaks=frozenset(breaks),
        remarks=tuple(_remarks(table)),
    )


def note_mark(place: int) -> str:
    """Return the letters of the ``place``-th note, from 0: a to z, then aa. Letters, because [6] is a citation."""
    return (note_mark(place // 26 - 1) if place >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[place % 26]


def _starts_group(table: FilledTable, index: int) -> bool:
    """Tell whether a row starts a part of the table: another network's rows, or rows that the paper does not have."""
    row, above = table.rows[index], table.rows[index - 1]
    if not table.spec.of_a_paper:
        return row.recipe != above.recipe
    return row.extra != above.extra or (not row.extra and len(row.labels) > 1 and row.labels[1] != above.labels[1])


def _wide(table: FilledTable) -> bool:
    return len(table.spec.columns) >= WIDE_FROM


def _beside_paper(table: FilledTable) -> bool:
    """Tell whether the table has numbers of a paper, measured on the same data."""
    return table.ground.home and table.spec.of_a_paper


def _heads(table: FilledTable) -> list[Head]:
    if not table.spec.of_a_paper:
        return [Head(column.name) for column in table.spec.columns]
    if not table.ground.home:
        named = "" if _wide(table) else _measured_on(table)  # the title says it, too
        return [Head(column.name, named) for column in table.spec.columns]
    return [Head(column.name, whose) for column in table.spec.columns for whose in ("paper", "measured")]


def _measured_on(table: FilledTable) -> str:
    """Name the data of another table than the paper's; a part of the paper's own split is told apart by its count."""
    spec, ground = table.spec, table.ground
    if (ground.dataset, ground.split) == (spec.dataset, spec.split):
        return ground.name
    return f"{ground.dataset} {ground.split or ''}".strip()


def _stacked_heads(table: FilledTable) -> list[Head]:
    return [Head(""), *[Head(column.name) for column in table.spec.columns]]


def _row(table: FilledTable, row: FilledRow) -> tuple[Entry, ...]:
    entries = [Entry(label) for label in row.labels]
    for column, cell in zip(table.spec.columns, row.cells, strict=True):
        entries += [_paper(column, cell)] if _beside_paper(table) else []
        entries.append(_measured(table, row, column, cell))
    shared = not table.spec.of_a_paper or (_wide(table) and not _beside_paper(table))
    return _noted_once(entries) if shared else tuple(entries)


def _noted_once(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Leave a note that several cells of a row share at the last of them alone: many columns, one origin."""
    later = [{one.note for one in entries[place + 1 :]} for place in range(len(entries))]
    return tuple(
        replace(entry, note=None) if entry.note in after else entry for entry, after in zip(entries, later, strict=True)
    )


def _stacked_rows(table: FilledTable, row: FilledRow) -> list[tuple[Entry, ...]]:
    pairs = list(zip(table.spec.columns, row.cells, strict=True))
    paper = [_paper(column, cell) for column, cell in pairs]
    measured = [_measured(table, row, column, cell) for column, cell in pairs]
    labels = [Entry(label) for label in row.labels]
    rows = [(*labels, Entry("paper"), *paper)] if any(entry.text for entry in paper) else []
    if any(entry.kind in ("measured", "empty") for entry in measured):
        rows.append((*([Entry()] * len(labels) if rows else labels), Entry("measured"), *measured))
    return rows


def _paper(column: Column, cell: Cell) -> Entry:
    if cell.paper is None:
        return Entry(kind="paper")
    return Entry(f"{cell.paper:.{column.decimals}f}", cell.paper_bold, "paper")


def _measured(table: FilledTable, row: FilledRow, column: Column, cell: Cell) -> Entry:
    if cell.measured is not None:
        text = number(cell.measured, column.decimals)
        return Entry(
            text, cell.measured_bold, "measured", Note("measured", provenance(cell.measured, row, column, table))
        )
    if cell.command is not None:
        return Entry(DASH, False, "empty", Note("command", cell.command))
    return Entry(DASH if cell.quoted else "", False, "quoted")


def number(measured: Measured, decimals: int) -> str:
    """Write a measured number with the decimals of the paper's column."""
    mean = f"{measured.value:.{decimals}f}"
    return mean if measured.sd is None else f"{mean} ± {measured.sd:.{decimals}f}"


def provenance(measured: Measured, row: FilledRow, column: Column, table: FilledTable) -> str:
    """Say where a measured number comes from: runs, data set, split, images, seeds, date, and what to know besides."""
    first, count = measured.results[0], len(measured.results)
    dates = sorted({result.date for result in measured.results})
    date = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    seeds = ", ".join("?" if result.seed is None else str(result.seed) for result in measured.results)
    parts = [
        ", ".join(result.run for result in measured.results),
        f"{first.dataset} {first.split}, n = {first.n:,}, seed{'s' * (count > 1)} {seeds}, {date}",
        *([f"mean ± standard deviation of {count} seeds"] if count > 1 else []),
        *_besides(measured, row, column, table),
    ]
    return "; ".join(parts)


def _besides(measured: Measured, row: FilledRow, column: Column, table: FilledTable) -> list[str]:
    """Say what sets the run apart from what the row asks for."""
    first, said = measured.results[0], []
    asked = next((one for one in table.spec.rows if one.id == row.id), None)
    if asked is not None and asked.config.get("backbone", first.backbone) != first.backbone:
        said.append(f"{first.backbone} stands in for {asked.config['backbone']}")
    if asked is not None and _beside_paper(table):
        different = departures(table.spec, asked, column, first)
        said += [f"departs from the paper's settings: {', '.join(different)}"] if different else []
    if measured.others:
        said.append(f"{measured.others} older experiment{'s' * (measured.others > 1)} not shown")
    return said


def _remarks(table: FilledTable) -> list[str]:
    """Say what holds for the whole table: which numbers can only be quoted, and the floors of its metrics."""
    reasons: dict[str, list[str]] = {}
    for column in table.spec.columns:
        if column.quoted is not None:
            reasons.setdefault(column.quoted, []).append(column.name)
    for row in table.spec.rows:
        if row.quoted is not None:
            reasons.setdefault(row.quoted, []).append(row.labels[0])
    said = "; ".join(f"{', '.join(what)}: {reason}" for reason, what in reasons.items())
    quoted = [f"{DASH} quoted only, not measured here ({said})."] if said and table.ground.home else []
    remarks = table.spec.remarks if table.ground.home or not table.spec.of_a_paper else ()
    paper = [f"Paper: {table.spec.source}."] if _beside_paper(table) else []
    return [*quoted, *_floors(table), *remarks, *paper]


def _floors(table: FilledTable) -> list[str]:
    """State the floors: the data set's alone, or a range where they take the judged model's own classes."""
    said = []
    for column in table.spec.columns:
        pairs = [
            (column.value(result.floors["full_image"]), column.value(result.floors["centred_box"]))
            for result in table.results()
            if column.metric is not None and all(column.metric in floor for floor in result.floors.values())
            if {"full_image", "centred_box"} <= set(result.floors)
        ]
        if pairs:
            full, centred = (
                _range([value for value in side if value is not None], column) for side in zip(*pairs, strict=True)
            )
            name = f"{column.name} of " if len(table.spec.columns) > 1 else ""
            said.append(f"Floors: {name}{full} (full image), {centred} (centred box).")
    return said


def _range(values: Sequence[float], column: Column) -> str:
    """Write one number, or the smallest and the largest."""
    texts = [f"{value:.{column.decimals}f}" for value in (min(values), max(values))]
    return " to ".join(dict.fromkeys(texts))
