"""Tables for the terminal: plain text that fits 80 columns, digits below digits, commands that can be pasted."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gwapctl.paper.build import BuiltTable
from gwapctl.paper.grid import Grid, make_grid

WIDTH = 80
GAP = "  "
NARROWEST_HEAD = 10
MANY_HEADS = 7  # from so many columns on, heads are as narrow as their words
NARROWEST_LABEL = 16


def render_text(tables: Sequence[BuiltTable], *, commands: bool = False, width: int = WIDTH) -> str:
    """Draw tables as plain text, at most ``width`` columns wide."""
    return "\n".join(_draw(make_grid(table, commands=commands), width) for table in tables)


@dataclass
class _Column:
    """A column to draw. A number is followed by its mark and note, so that digits stay below digits."""

    head: tuple[str, str]
    texts: list[str]
    tails: list[str]
    is_label: bool
    width: int

    def heads(self) -> list[str]:
        """Return the lines of the head."""
        return [line for text in self.head for line in textwrap.wrap(text, self.width)]

    def cell(self, text: str, tail: str = "") -> str:
        """Return ``text`` as wide as the column."""
        room = self.width - max(map(len, self.tails), default=0)
        return (text if self.is_label else text.rjust(room) + tail).ljust(self.width)


def _column(grid: Grid, index: int) -> _Column:
    entries, head, is_label = [row[index] for row in grid.rows], grid.heads[index], index < grid.labels
    marks = [("*" if one.bold else "", f"[{one.mark}]" if one.mark else "") for one in entries]
    tails = [f"{star:1}{note}" if note else star for star, note in marks]
    room = 0 if is_label or len(grid.heads) >= MANY_HEADS else NARROWEST_HEAD
    words = [head[0]] if is_label else " ".join(head).split()
    texts = [entry.text for entry in entries]
    width = max([room, *map(len, words), *(len(text) + max(map(len, tails)) for text in texts)])
    return _Column(head, texts, tails, is_label, width)


def _draw(grid: Grid, width: int) -> str:
    columns = [_column(grid, index) for index in range(len(grid.heads))]
    whole = sum(column.width for column in columns)
    gap = " " if whole + len(GAP) * (len(columns) - 1) > width else GAP
    excess, first = whole + len(gap) * (len(columns) - 1) - width, columns[0]
    if excess > 0:  # the first column of labels gives way
        first.width = max(first.width - excess, min(first.width, NARROWEST_LABEL))
    labels, blocks = columns[: grid.labels], [columns[: grid.labels]]
    for column in columns[grid.labels :]:  # what does not fit beside them follows below
        if sum(one.width + len(gap) for one in [*blocks[-1], column]) - len(gap) > width:
            blocks.append([*labels])
        blocks[-1].append(column)
    lines = [*_wrap(f"{grid.title}. {grid.caption}", width), ""]
    for block in blocks:
        lines += _block(block, gap, grid.breaks)
    return "\n".join([*lines, *_foot(grid, width)]) + "\n"


def _block(columns: Sequence[_Column], gap: str, breaks: Collection[int]) -> list[str]:
    """Draw columns side by side; their heads stand on the rule."""
    rule = "─" * (sum(one.width for one in columns) + len(gap) * (len(columns) - 1))
    height = max(len(one.heads()) for one in columns)
    heads = [[""] * (height - len(one.heads())) + one.heads() for one in columns]
    rows = [[one.cell(head[level]) for one, head in zip(columns, heads, strict=True)] for level in range(height)]
    lines = [gap.join(row).rstrip() for row in rows] + [rule]
    for index in range(len(columns[0].texts)):
        first, *more = textwrap.wrap(columns[0].texts[index], columns[0].width) or [""]
        cells = [columns[0].cell(first), *(one.cell(one.texts[index], one.tails[index]) for one in columns[1:])]
        lines += [*([rule] if index in breaks else []), gap.join(cells).rstrip(), *(f"  {line}" for line in more)]
    return [*lines, rule]


def _foot(grid: Grid, width: int) -> list[str]:
    entries = [entry for row in grid.rows for entry in row]
    said = "bold in the paper; best" if any(entry.kind == "paper" for entry in entries) else "best"
    lines = [f"* {said} of the measured"] if any(entry.bold for entry in entries) else []
    for remark in grid.remarks:
        lines += _wrap(remark, width)
    for note in grid.notes:
        if note.is_command:
            lines += [f"[{note.mark}] empty; to fill it:", *wrap_command(note.text, width, " " * 4)]
        else:
            lines += _wrap(f"[{note.mark}] {note.text}", width, " " * 4)
    return lines


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Wrap text between words: names with hyphens and paths stay whole."""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def wrap_command(command: str, width: int, indent: str) -> list[str]:
    r"""Break a shell command before its options and ``&&``, with backslashes, so that it can be pasted as it stands.

    >>> wrap_command("gwapctl train voc --out runs/a", 24, "")
    ['gwapctl train voc \\', '  --out runs/a']
    """
    lines = [indent]
    for part in re.split(r" (?=--|&& )", command):
        if len(lines[-1]) > len(indent) and len(lines[-1]) + 1 + len(part) + 2 > width:
            lines[-1] += " \\"
            lines.append(f"{indent}  {part}")
        else:
            lines[-1] += part if lines[-1] == indent else f" {part}"
    return lines
