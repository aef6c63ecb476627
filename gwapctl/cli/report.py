"""``gwapctl report``: the papers' tables beside what was measured, and a page per run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gwapctl.cli import console, options
from gwapctl.errors import UsageError

FORMATS = ("table", "markdown", "latex", "csv", "json", "html")
SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json", ".html": "html"}


def report(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run folder: write its page.", show_default=False)
    ] = None,
    table: Annotated[
        str | None,
        typer.Option("--table", "-t", help="A paper's table: i, ii, iii, iv, v, cam or all.", show_default=False),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(
            "--runs", help="Folder whose runs fill the table.", rich_help_panel=options.DATA, show_default="runs"
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="Show the table's rows measured on this data set (name or folder) instead of the paper's.",
            rich_help_panel=options.DATA,
            show_default=False,
        ),
    ] = None,
    root: options.Root = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"{', '.join(FORMATS)}.",
            rich_help_panel=options.OUTPUT,
            show_default="by --out, else table",
        ),
    ] = None,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Print the papers' tables with measured numbers beside them, or write one self-contained HTML page for a run.

    Examples:
      gwapctl report runs/a
      gwapctl report --table ii
      gwapctl report --table all --format markdown

    """
    from gwapctl.report.output import write_report
    from gwapctl.report.run_page import write_run_page
    from gwapctl.report.tables import build_tables, render_tables

    if run is not None and table is None:
        console.print_text(str(write_run_page(run, out, root=root, overwrite=overwrite)))
    elif table is not None and run is None:
        kind = format or SUFFIXES.get(out.suffix.lower() if out else "", "table")
        text = render_tables(build_tables(table, runs=runs, dataset=dataset), kind)
        if out is None:
            console.print_text(text)
        else:
            write_report(out, lambda: text, overwrite=overwrite)
            console.note(f"wrote {out}")
    else:
        raise UsageError(
            "give a run for its page (gwapctl report runs/a) or a table (gwapctl report --table i, or all)."
        )
