"""Built tables in every format."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from gwapctl.paper.build import BuiltTable
from gwapctl.paper.grid import Entry, Grid, make_grid
from gwapctl.paper.measured import Record
from gwapctl.paper.pages import render_page
from gwapctl.paper.specification import Column

# --- the terminal: at most 80 columns, digits below digits, commands that can be pasted -------------------------------

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


# --- markdown, HTML and LaTeX ----------------------------------------------------------------------------------------


def render_markdown(tables: Sequence[BuiltTable], *, commands: bool = False) -> str:
    """Write tables as GitHub markdown."""
    return "\n".join(_markdown(make_grid(table, commands=commands)) for table in tables)


def _markdown(grid: Grid) -> str:
    heads = [_md(" ".join(filter(None, (name, f"({whose})" if whose else "")))) for name, whose in grid.heads]
    rules = [":---" if index < grid.labels else "---:" for index in range(len(heads))]
    body = [heads, rules, *([_md_entry(entry) for entry in row] for row in grid.rows)]
    lines = [f"**{_md(grid.title)}.** {_md(grid.caption)}", "", *(f"| {' | '.join(cells)} |" for cells in body), ""]
    lines += [f"{_md(remark)}\n" for remark in grid.remarks]
    for note in grid.notes:
        lines.append(f"- [{note.mark}] " + (f"empty; to fill it: `{note.text}`" if note.is_command else _md(note.text)))
    return "\n".join(lines).rstrip() + "\n"


def _md_entry(entry: Entry) -> str:
    text = f"**{_md(entry.text)}**" if entry.bold else _md(entry.text)
    return f"{text} [{entry.mark}]" if entry.mark else text


def _md(text: str) -> str:
    """Escape what markdown would read as markup, but for code."""
    parts = text.split("`")
    for index in range(0, len(parts), 2):
        for sign in "\\*_[]<>|":
            parts[index] = parts[index].replace(sign, f"\\{sign}")
    return "`".join(parts)


def render_html(tables: Sequence[BuiltTable], *, commands: bool = False) -> str:
    """Write tables as one page."""
    numbers = list(dict.fromkeys(table.spec.number for table in tables))
    title = numbers[0] if len(numbers) == 1 else "The papers' tables"
    grids = [make_grid(table, commands=commands) for table in tables]
    names = [[(name, len([*members])) for name, members in groupby(name for name, _ in grid.heads)] for grid in grids]
    return render_page("tables.html", title=title, grids=[*zip(grids, names, strict=True)])


LATEX = {
    **{sign: f"\\{sign}" for sign in "{}$&%#_"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"},
    **{">": r"\textgreater{}", "σ": r"$\sigma$", "α": r"$\alpha$", "±": r"$\pm$", "–": "--", "…": r"\ldots{}"},
}


def render_latex(tables: Sequence[BuiltTable], *, commands: bool = False) -> str:
    r"""Write tables as LaTeX floats for ``\usepackage{booktabs}``; commands of empty cells stand in comments."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(table, commands) for table in tables)


def _latex(table: BuiltTable, commands: bool) -> str:
    import pandas as pd

    grid = make_grid(table, commands=commands)
    of_commands = {note.mark for note in grid.notes if note.is_command}
    both = pd.MultiIndex.from_tuples([(tex(name), tex(whose)) for name, whose in grid.heads])
    heads = both if any(whose for _, whose in grid.heads) else both.get_level_values(0)
    kinds = "l" * grid.labels + "r" * (len(grid.heads) - grid.labels)
    frame = pd.DataFrame([[_tex_entry(entry, of_commands) for entry in row] for row in grid.rows], columns=heads)
    text = frame.to_latex(index=False, escape=False, column_format=kinds, multicolumn_format="c")
    head, body = text.split("\\midrule\n")
    lines = body.splitlines()
    for index, row in enumerate(grid.rows):
        wanted = [entry.note for entry in row if entry.mark and entry.kind == "empty"]
        above = (["\\midrule"] if index in grid.breaks else []) + [f"% empty; to fill it: {one}" for one in wanted]
        lines[index] = "\n".join([*dict.fromkeys(above), lines[index]])
    about = "" if table.measured_on.home else f"-{table.measured_on.name}-{table.spec.profile or ''}".rstrip("-")
    label = "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in about)
    below = [tex(remark).replace("`", "") for remark in grid.remarks]
    below += [rf"\textsuperscript{{{note.mark}}} {tex(note.text)}" for note in grid.notes if not note.is_command]
    return "\n".join(
        [
            "\\begin{table}[t]",
            "\\centering",
            f"\\caption{{{tex(grid.caption)}}}",
            f"\\label{{tab:{table.spec.name}{label}}}",
            *_with_rules(head.splitlines(), grid),
            "\\midrule",
            *lines,
            *([r"\par\smallskip", *(rf"{{\footnotesize {one}\par}}" for one in below)] if below else []),
            "\\end{table}\n",
        ]
    )


def _with_rules(lines: list[str], grid: Grid) -> list[str]:
    """Put a thin line below a name that the paper's and the measured column share; pandas draws none."""
    rules, first = [], 1
    for _, members in groupby(grid.heads, key=itemgetter(0)):
        whose = [one for _, one in members]
        rules += [rf"\cmidrule(lr){{{first}-{first + len(whose) - 1}}}"] if len(whose) > 1 and any(whose) else []
        first += len(whose)
    return [*lines[:3], *rules, *lines[3:]]


def _tex_entry(entry: Entry, of_commands: set[str]) -> str:
    text = rf"\textbf{{{tex(entry.text)}}}" if entry.bold else tex(entry.text)
    return text if entry.mark in {"", *of_commands} else rf"{text}\textsuperscript{{{entry.mark}}}"


def tex(text: str) -> str:
    """Escape ``text`` for LaTeX."""
    return "".join(LATEX.get(sign, sign) for sign in text)


# --- what machines read ---------------------------------------------------------------------------------------------

CSV_COLUMNS = (
    *("table", "row", "labels", "column", "metric", "kind", "value", "sd", "bold"),
    *("dataset", "split", "n", "seeds", "date", "runs", "recipe", "command"),
)


def render_csv(tables: Sequence[BuiltTable]) -> str:
    """Write one line per number, the paper's or measured, and one per cell that waits for its command."""
    import pandas as pd

    lines = []
    for table in tables:
        for row in _rows(table):
            common = {"table": table.spec.name, "row": row["id"], "labels": " / ".join(row["labels"])}
            for number in row["cells"]:
                sources = number.pop("runs", [])
                if sources:
                    number["seeds"] = " ".join(str(source["seed"]) for source in sources)
                    number["date"] = max(source["date"] for source in sources)
                    number["runs"] = " ".join(source["run"] for source in sources)
                lines.append({**common, "recipe": row["recipe"], **number})
    return pd.DataFrame(lines, columns=[*CSV_COLUMNS], dtype=object).to_csv(index=False, lineterminator="\n")


def render_json(tables: Sequence[BuiltTable]) -> str:
    """Write the whole of the tables as one JSON document; every number says whether it is the paper's or measured."""
    document = {"schema_version": 1, "tables": [_document(table) for table in tables]}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _document(table: BuiltTable) -> dict[str, Any]:
    spec, measured_on = table.spec, table.measured_on
    return {
        "table": spec.name,
        "number": spec.number,
        "caption": table.caption,
        "source": spec.source,
        "profile": spec.profile or "paper",
        "dataset": measured_on.dataset,
        "split": measured_on.split,
        "paper_dataset": measured_on.home,
        "label_columns": list(spec.label_columns),
        "columns": [{"key": c.key, "name": c.name, "metric": c.metric, "best": c.best} for c in spec.columns],
        "rows": _rows(table),
    }


def _rows(table: BuiltTable) -> list[dict[str, Any]]:
    """Return the rows with their numbers, and the commands for what is missing, as plain dicts."""
    rows = []
    for cells in table.rows():
        pairs = zip(table.spec.columns, cells, strict=True)
        numbers = [number for column, cell in pairs for number in _numbers(table, column, cell)]
        about = {"id": cells[0]["id"], "labels": list(cells[0]["labels"]), "recipe": cells[0]["recipe"]}
        rows.append({**about, "cells": numbers})
    return rows


def _numbers(table: BuiltTable, column: Column, cell: Record) -> list[dict[str, Any]]:
    """Return the numbers of a cell: the paper's, and the measured one or the command that makes it."""
    common, found = {"column": column.name, "metric": column.metric}, []
    if cell["paper"] is not None:
        where = {"dataset": table.spec.dataset, "split": table.spec.split}
        found.append({**common, "kind": "paper", "value": cell["paper"], "bold": cell["paper_bold"], **where})
    here = {"dataset": table.measured_on.dataset, "split": table.measured_on.split}
    if cell["sources"]:
        number = {"value": cell["value"], "sd": cell["sd"], "bold": cell["bold"], **here, "n": cell["n"]}
        found.append({**common, "kind": "measured", **number, "runs": cell["sources"]})
    elif cell["command"]:
        found.append({**common, "kind": "measured", "value": None, **here, "command": cell["command"]})
    return found
