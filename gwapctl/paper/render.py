"""Filled tables in every format but HTML (``html.py``) and the terminal's (``text.py``)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from gwapctl.paper.build import Cell, FilledRow, FilledTable
from gwapctl.paper.grid import Entry, Grid, Note, make_grid, note_mark
from gwapctl.paper.specification import Column

# --- markdown -------------------------------------------------------------------------------------------------------


def render_markdown(tables: Sequence[FilledTable]) -> str:
    """Write tables as GitHub markdown."""
    return "\n".join(_markdown(make_grid(table)) for table in tables)


def _markdown(grid: Grid) -> str:
    notes = grid.notes()
    heads = [
        " ".join(part for part in (head.name, f"({head.whose})" if head.whose else "") if part) for head in grid.heads
    ]
    lines = [f"**{_md(grid.title)}.** {_md(grid.caption)}", "", _md_row([_md(head) for head in heads])]
    lines.append(_md_row([":---" if place < grid.labels else "---:" for place in range(len(heads))]))
    lines += [_md_row([_md_entry(entry, notes) for entry in row]) for row in grid.rows]
    lines += ["", *[f"{_md(remark)}\n" for remark in grid.remarks]]
    for place, note in enumerate(notes):
        text = f"empty; to fill it: `{note.text}`" if note.kind == "command" else _md(note.text)
        lines.append(f"- [{note_mark(place)}] {text}")
    return "\n".join(lines).rstrip() + "\n"


def _md_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _md_entry(entry: Entry, notes: list[Note]) -> str:
    text = _md(entry.text)
    text = f"**{text}**" if entry.bold else text
    return text if entry.note is None else f"{text} [{note_mark(notes.index(entry.note))}]"


def _md(text: str) -> str:
    """Escape what markdown would read as markup."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return text


# --- LaTeX ----------------------------------------------------------------------------------------------------------

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "σ": r"$\sigma$",
    "α": r"$\alpha$",
    "±": r"$\pm$",
    "–": "--",
}


def render_latex(tables: Sequence[FilledTable]) -> str:
    r"""Write tables as LaTeX floats for ``\usepackage{booktabs}``; commands of empty cells stand in comments."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(table) for table in tables)


def _latex(table: FilledTable) -> str:
    grid = make_grid(table)
    notes = [note for note in grid.notes() if note.kind == "measured"]
    ground = "" if table.ground.home else f"-{table.ground.name}".replace(" ", "-")
    columns = "l" * grid.labels + "r" * (len(grid.heads) - grid.labels)
    lines = [
        "\\begin{table}[t]",
        "\\centering",
        f"\\caption{{{tex(grid.caption)}}}",
        f"\\label{{tab:{table.spec.name}{_label(ground)}}}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        *_latex_heads(grid),
        "\\midrule",
    ]
    for index, row in enumerate(grid.rows):
        lines += ["\\midrule"] if index in grid.breaks else []
        commands = [entry.note.text for entry in row if entry.note is not None and entry.note.kind == "command"]
        lines += [f"% empty; to fill it: {command}" for command in dict.fromkeys(commands)]
        lines.append(" & ".join(_tex_entry(entry, notes) for entry in row) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    below = [tex(remark) for remark in grid.remarks]
    below += [rf"\textsuperscript{{{note_mark(place)}}} {tex(note.text)}" for place, note in enumerate(notes)]
    lines += [r"\par\smallskip", *(rf"{{\footnotesize {text}\par}}" for text in below)] if below else []
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def _latex_heads(grid: Grid) -> list[str]:
    """Write the heads; the paper's and the measured column of one number share their name above a thin line."""
    if not any(head.whose for head in grid.heads):
        return [" & ".join(tex(head.name) for head in grid.heads) + r" \\"]
    names, lines, place = [], [], 1
    for name, members in groupby(grid.heads, key=lambda head: head.name):
        count = len(list(members))
        names.append(tex(name) if count == 1 else rf"\multicolumn{{{count}}}{{c}}{{{tex(name)}}}")
        lines += [] if count == 1 else [rf"\cmidrule(lr){{{place}-{place + count - 1}}}"]
        place += count
    whose = " & ".join(tex(head.whose) for head in grid.heads)
    return [rf"{' & '.join(names)} \\", *lines, rf"{whose} \\"]


def _tex_entry(entry: Entry, notes: list[Note]) -> str:
    text = rf"\textbf{{{tex(entry.text)}}}" if entry.bold else tex(entry.text)
    return text + (rf"\textsuperscript{{{note_mark(notes.index(entry.note))}}}" if entry.note in notes else "")


def _label(text: str) -> str:
    return "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in text)


def tex(text: str) -> str:
    """Escape ``text`` for LaTeX."""
    return "".join(LATEX.get(sign, sign) for sign in text)


# --- what machines read ---------------------------------------------------------------------------------------------

CSV_COLUMNS = (
    *("table", "row", "labels", "column", "metric", "kind", "value", "sd", "bold"),
    *("dataset", "split", "n", "seeds", "date", "runs", "recipe", "command"),
)


def render_csv(tables: Sequence[FilledTable]) -> str:
    """Write one line per number, the paper's or measured, and one per cell that waits for its command."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table.rows:
            common = {"table": table.spec.name, "row": row.id, "labels": " / ".join(row.labels), "recipe": row.recipe}
            writer.writerows({**common, **_csv_number(number)} for number in _numbers(table, row))
    return buffer.getvalue()


def _csv_number(number: dict[str, Any]) -> dict[str, Any]:
    sources = number.pop("runs", [])
    if sources:
        number["seeds"] = " ".join(str(source["seed"]) for source in sources)
        number["date"] = max(source["date"] for source in sources)
        number["runs"] = " ".join(source["run"] for source in sources)
    return number


def render_json(tables: Sequence[FilledTable]) -> str:
    """Write the whole of the tables as one JSON document."""
    return json.dumps(document(tables), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def document(tables: Sequence[FilledTable]) -> dict[str, Any]:
    """Return tables as a JSON document; every number says whether it is the paper's or measured."""
    return {"schema_version": 1, "tables": [_document(table) for table in tables]}


def _document(table: FilledTable) -> dict[str, Any]:
    spec, ground = table.spec, table.ground
    return {
        "table": spec.name,
        "number": spec.number,
        "caption": table.caption,
        "source": spec.source,
        "dataset": ground.dataset,
        "split": ground.split,
        "paper_dataset": ground.home,
        "label_columns": list(spec.label_columns),
        "columns": [{"key": c.key, "name": c.name, "metric": c.metric, "best": c.best} for c in spec.columns],
        "rows": [
            {"id": row.id, "labels": list(row.labels), "recipe": row.recipe, "cells": list(_numbers(table, row))}
            for row in table.rows
        ],
    }


def _numbers(table: FilledTable, row: FilledRow) -> list[dict[str, Any]]:
    """Return the numbers of a row, and the commands that would fill what is missing, as plain dicts."""
    found = []
    for column, cell in zip(table.spec.columns, row.cells, strict=True):
        common = {"column": column.name, "metric": column.metric}
        numbers = (_paper_number(table, cell), _measured_number(table, column, cell))
        found += [common | number for number in numbers if number is not None]
    return found


def _paper_number(table: FilledTable, cell: Cell) -> dict[str, Any] | None:
    if cell.paper is None:
        return None
    spec = table.spec
    return {"kind": "paper", "value": cell.paper, "bold": cell.paper_bold, "dataset": spec.dataset, "split": spec.split}


def _measured_number(table: FilledTable, column: Column, cell: Cell) -> dict[str, Any] | None:
    where = {"dataset": table.ground.dataset, "split": table.ground.split}
    measured = cell.measured
    if measured is None:
        empty = {"kind": "measured", "value": None, **where, "command": cell.command}
        return None if cell.command is None else empty
    sources = [
        {"run": result.run, "seed": result.seed, "date": result.date, "value": column.value(result.metrics)}
        for result in measured.results
    ]
    number = {"kind": "measured", "value": measured.value, "sd": measured.sd, "bold": cell.measured_bold}
    return {**number, **where, "n": measured.results[0].n, "runs": sources}
