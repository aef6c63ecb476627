"""The papers' tables, from specification and measured rows to text: what ``gwapctl report --table`` calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gwapctl.errors import UsageError, option, unknown_name
from gwapctl.paper.build import BuiltTable, build_table
from gwapctl.paper.measured import measured_rows, read_results
from gwapctl.paper.profile import PAPER, apply_profile, load_profile, load_specs, profile_names
from gwapctl.paper.render import render_csv, render_html, render_json, render_latex, render_markdown, render_text

FORMATS: dict[str, Callable[..., str]] = {
    "table": render_text,
    "markdown": render_markdown,
    "latex": render_latex,
    "csv": render_csv,
    "json": render_json,
    "html": render_html,
}

DEFAULT_RUNS = Path("runs")


def build_tables(
    name: str,
    *,
    runs: Path | None = None,
    dataset: str | None = None,
    profile: str = PAPER,
    shipped: bool = False,
) -> list[BuiltTable]:
    """Return a paper's table (or ``all`` of them) with what the finished runs below ``runs`` measured.

    Each is followed by a table per other data set that was measured on; ``dataset`` asks for that one alone. Below the
    paper's table stands what other profiles measured in its stead, on other data; ``shipped`` adds the numbers that
    come with gwapctl. In a ``profile`` only its runs count, and of ``all`` tables those that it has.

    Raises:
        UsageError: no such table or profile, or ``runs`` was given and is not a folder.
        DataError: a run's documents are broken.

    """
    import pandas as pd

    specs = load_specs(name, profile)
    if runs is not None and not runs.is_dir():
        raise UsageError(
            f"{option('runs', str(runs))} is not a folder. Give the folder that holds the runs of gwapctl train."
        )
    folder = DEFAULT_RUNS if runs is None else runs
    rows = measured_rows(folder)
    rows = pd.concat([rows, read_results()], ignore_index=True) if shipped else rows
    budgets = [load_profile(one) for one in profile_names()[1:]] if profile == PAPER else []
    tables = []
    for spec in specs:
        stand_ins = []  # the paper's table as every profile measured it, on other data than the paper's
        for budget in budgets:
            if budget is not None and spec.name in budget.tables:
                built = build_table(apply_profile(spec, budget), rows, dataset=dataset, runs=folder, others=False)
                stand_ins += [one for one in built if one.runs() and not one.beside_paper]
        placed = {run for table in stand_ins for run in table.runs()}
        left = rows[~rows["run"].isin(placed)]
        own = build_table(spec, left, dataset=dataset, runs=folder)
        if profile != PAPER and not any(table.runs() for table in own):
            own = build_table(spec, left.iloc[:0], dataset=dataset or spec.default_dataset, runs=folder)
        elif profile != PAPER:
            own = measured_tables(own)
        if stand_ins and not spec.of_a_paper:  # nobody has an own number beside which ours must not stand
            own = [table for table in own if table.runs()]
        tables += [*own, *stand_ins]
    return tables


def measured_tables(tables: Sequence[BuiltTable]) -> list[BuiltTable]:
    """Return those of a profile's tables that hold a number, or all: beside the paper's there is rarely one."""
    return [table for table in tables if table.runs()] or [*tables]


def render_tables(tables: Sequence[BuiltTable], kind: str, *, commands: bool = False) -> str:
    """Return tables as text of format ``kind``; ``commands`` gives one for each empty cell where people read.

    >>> print(render_tables(build_tables("v", runs=None), "csv").splitlines()[1])
    v,rfcn,R-FCN,0.01,det_map_11pt,paper,29.89,,False,voc,test,,,,,voc-resnet50-rfcn,
    """
    if kind not in FORMATS:
        raise unknown_name("format", kind, FORMATS)
    if kind in ("csv", "json"):  # which carry every command anyway
        return FORMATS[kind](tables)
    return FORMATS[kind](tables, commands=commands)
