"""The papers' tables, from specification and runs to text: what ``gwapctl report --table`` calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gwapctl.errors import UsageError, unknown_name
from gwapctl.paper.build import FilledTable, fill_table
from gwapctl.paper.pages import render_html
from gwapctl.paper.profile import PAPER, load_specs
from gwapctl.paper.render import render_csv, render_json, render_latex, render_markdown
from gwapctl.paper.results import collect_results
from gwapctl.paper.text import render_text

FORMATS: dict[str, Callable[[Sequence[FilledTable]], str]] = {
    "table": render_text,
    "markdown": render_markdown,
    "latex": render_latex,
    "csv": render_csv,
    "json": render_json,
    "html": render_html,
}

DEFAULT_RUNS = Path("runs")


def build_tables(
    name: str, *, runs: Path | None = None, dataset: str | None = None, profile: str = PAPER
) -> list[FilledTable]:
    """Return a paper's table (or ``all`` of them) filled from the finished runs below ``runs``.

    Each is followed by a table per other data set that the runs were measured on; ``dataset`` asks for that one alone.
    In a ``profile`` only its runs count, and of ``all`` tables those that it has.

    Raises:
        UsageError: no such table or profile, or ``runs`` was given and is not a folder.
        DataError: a run's documents are broken.

    """
    specs = load_specs(name, profile)
    if runs is not None and not runs.is_dir():
        raise UsageError(f"--runs {runs} is not a folder. Give the folder that holds the runs of gwapctl train.")
    folder = DEFAULT_RUNS if runs is None else runs
    results = collect_results(folder)
    tables = []
    for spec in specs:
        tables += fill_table(spec, results, dataset=dataset or spec.default_dataset, runs=folder)
    return tables


def render_tables(tables: Sequence[FilledTable], kind: str) -> str:
    """Return tables as text of format ``kind``.

    Raises:
        UsageError: there is no such format.

    """
    if kind not in FORMATS:
        raise unknown_name("format", kind, FORMATS)
    return FORMATS[kind](tables)
