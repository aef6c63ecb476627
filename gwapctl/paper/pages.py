"""HTML pages: one self-contained file each. No scripts, nothing fetched, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from gwapctl import __version__
from gwapctl.paper.build import FilledTable
from gwapctl.paper.grid import Grid, make_grid, note_mark


def render_page(template: str, **values: Any) -> str:
    """Fill a template of this package; what the templates get is text, never markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gwapctl.paper"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=__version__, **values)


def render_html(tables: Sequence[FilledTable]) -> str:
    """Write tables as one page."""
    numbers = list(dict.fromkeys(table.spec.number for table in tables))
    title = numbers[0] if len(numbers) == 1 else "The papers' tables"
    return render_page("tables.html", title=title, grids=[_view(make_grid(table)) for table in tables])


def _view(grid: Grid) -> dict[str, Any]:
    """Return what the template draws of one table."""
    notes = grid.notes()
    marks = {note: note_mark(place) for place, note in enumerate(notes)}
    rows = [
        {
            "starts_part": index in grid.breaks,
            "cells": [
                {
                    "text": entry.text,
                    "kind": entry.kind,
                    "bold": entry.bold,
                    "mark": marks[entry.note] if entry.note is not None else "",
                    "note": entry.note.text if entry.note is not None else "",
                }
                for entry in row
            ],
        }
        for index, row in enumerate(grid.rows)
    ]
    return {
        "title": grid.title,
        "caption": grid.caption,
        "labels": grid.labels,
        "heads": grid.heads,
        "grouped": any(head.whose for head in grid.heads),
        "names": [(name, len(list(members))) for name, members in groupby(grid.heads, key=lambda head: head.name)],
        "rows": rows,
        "remarks": grid.remarks,
        "notes": [{"mark": marks[note], "kind": note.kind, "text": note.text} for note in notes],
    }
