"""Tables for the terminal: plain text that fits 80 columns, digits below digits, commands that can be pasted."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from gwapctl.paper.build import FilledTable
from gwapctl.paper.grid import Entry, Grid, Note, make_grid, note_mark

WIDTH = 80
GAP = "  "
NARROWEST_HEAD = 10
MANY_HEADS = 7  # from so many columns on, heads are as narrow as their words
NARROWEST_LABEL = 16


@dataclass(frozen=True)
class _Field:
    """A cell in two parts, so that digits stay below digits: the number, then its mark and the place of its note."""

    text: str
    tail: str = ""


@dataclass(frozen=True)
class _Width:
    """How wide a column is: the text and the tail of its cells, and the whole of it with its head."""

    text: int
    tail: int
    whole: int


def render_text(tables: Sequence[FilledTable], width: int = WIDTH) -> str:
    """Draw tables as plain text, at most ``width`` columns wide."""
    return "\n".join(_draw(make_grid(table), width) for table in tables)


def _draw(grid: Grid, width: int) -> str:
    notes = grid.notes()
    rows = [[_field(entry, notes) for entry in row] for row in grid.rows]
    widths = _widths(grid, rows, width)
    rule = "─" * (sum(one.whole for one in widths) + len(GAP) * (len(widths) - 1))
    lines = [*_wrap(f"{grid.title}. {grid.caption}", width), "", *_head_lines(grid, widths), rule]
    for index, row in enumerate(rows):
        lines += [rule] if index in grid.breaks else []
        lines += _row_lines(row, widths, grid.labels)
    lines += [rule, *_foot_lines(grid, notes, width)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _field(entry: Entry, notes: list[Note]) -> _Field:
    mark = "*" if entry.bold else ""
    place = "" if entry.note is None else f"[{note_mark(notes.index(entry.note))}]"
    return _Field(entry.text, f"{mark:1}{place}" if place else mark)


def _widths(grid: Grid, rows: list[list[_Field]], width: int) -> list[_Width]:
    """Measure the columns; the first one of labels gives way where the table would be too wide."""
    widths = []
    for place, head in enumerate(grid.heads):
        text = max((len(row[place].text) for row in rows), default=0)
        tail = max((len(row[place].tail) for row in rows), default=0)
        words = max((len(word) for word in [*head.name.split(), *head.whose.split()]), default=0)
        room = NARROWEST_HEAD if head.name and len(grid.heads) < MANY_HEADS else 0
        floor = len(head.name) if place < grid.labels else max(words, room)
        widths.append(_Width(text, tail, max(text + tail, floor)))
    excess = sum(one.whole for one in widths) + len(GAP) * (len(widths) - 1) - width
    if excess > 0:
        first = max(widths[0].whole - excess, NARROWEST_LABEL)
        widths[0] = _Width(first, 0, first)
    return widths


def _head_lines(grid: Grid, widths: list[_Width]) -> list[str]:
    """Wrap the heads to their columns; they stand on the rule."""
    cells = [
        [part for text in (head.name, head.whose) for part in textwrap.wrap(text, one.whole)]
        for head, one in zip(grid.heads, widths, strict=True)
    ]
    height = max(len(cell) for cell in cells)
    lines = []
    for level in range(height):
        parts = []
        for place, (cell, one) in enumerate(zip(cells, widths, strict=True)):
            text = ([""] * (height - len(cell)) + cell)[level]
            parts.append(
                text.ljust(one.whole) if place < grid.labels else text.rjust(one.whole - one.tail).ljust(one.whole)
            )
        lines.append(GAP.join(parts))
    return lines


def _row_lines(row: list[_Field], widths: list[_Width], labels: int) -> list[str]:
    parts = []
    first, *more = textwrap.wrap(row[0].text, widths[0].whole) or [""]
    for place, (field, one) in enumerate(zip([_Field(first), *row[1:]], widths, strict=True)):
        if place < labels:
            parts.append(field.text.ljust(one.whole))
        else:
            parts.append((field.text.rjust(one.whole - one.tail) + field.tail).ljust(one.whole))
    return [GAP.join(parts), *(f"  {line}" for line in more)]


def _foot_lines(grid: Grid, notes: list[Note], width: int) -> list[str]:
    entries = [entry for row in grid.rows for entry in row]
    said = "bold in the paper; best" if any(entry.kind == "paper" for entry in entries) else "best"
    lines = [f"* {said} of the measured"] if any(entry.bold for entry in entries) else []
    for remark in grid.remarks:
        lines += _wrap(remark, width)
    for place, note in enumerate(notes):
        mark = f"[{note_mark(place)}] "
        if note.kind == "command":
            lines += [f"{mark}empty; to fill it:", *wrap_command(note.text, width, " " * 4)]
        else:
            lines += _wrap(mark + note.text, width, " " * 4)
    return lines


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Wrap text between words: names with hyphens and paths stay whole."""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def wrap_command(command: str, width: int, indent: str) -> list[str]:
    """Break a shell command before its options and ``&&``, with backslashes, so that it can be pasted as it stands."""
    lines = [indent]
    for part in re.split(r" (?=--|&& )", command):
        if len(lines[-1]) > len(indent) and len(lines[-1]) + 1 + len(part) + 2 > width:
            lines[-1] += " \\"
            lines.append(f"{indent}  {part}")
        else:
            lines[-1] += part if lines[-1] == indent else f" {part}"
    return lines
