"""``gwapctl reproduce``: a paper's table from nothing but data: train, evaluate, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gwapctl.cli import console, options
from gwapctl.cli.options import DATA, MODEL, OUTPUT, argument, option
from gwapctl.config.settings import all_settings, parse_changes
from gwapctl.errors import GwapctlError, UsageError, unknown_name

if TYPE_CHECKING:
    from gwapctl.paper.reproduce import Plan, Work
    from gwapctl.paper.specification import TableSpec

SOME_FAILED = 3

Table = Annotated[str, argument("TABLE", "A table: i, ii, iii, iv, v, cam, dgl, ... or all.")]
ProfileName = Annotated[str, option("--profile", "paper, quick (two CPU cores), or a TOML file.", MODEL)]
DatasetOption = Annotated[
    str | None,
    option("--dataset", "Train and measure on this data set (name or folder).", DATA, "the profile's or the paper's"),
]
Seeds = Annotated[int, option("--seeds", "Train each network with seeds 0 to N-1.", min=1)]
Rows = Annotated[str | None, option("--rows", "Only these rows, by id: googlenet-gap,googlenet-gwap.", unset="all")]
Runs = Annotated[Path, option("--runs", "Folder of the runs, found and new.", OUTPUT)]


def reproduce(
    table: Table,
    profile: ProfileName = "paper",
    dataset: DatasetOption = None,
    root: options.Root = None,
    seeds: Seeds = 1,
    rows: Rows = None,
    changes: options.Changes = None,
    runs: Runs = Path("runs"),
    dry_run: options.DryRun = False,
    device: options.Device = "auto",
    workers: options.Workers = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Train and evaluate every row of a paper's table that has no finished run, then print the table.

    Examples:
      gwapctl reproduce i --profile paper --dry-run
      gwapctl reproduce ii --profile quick --dataset data/fruits-voc --seeds 3

    """
    from gwapctl.cli.train import announce_weights
    from gwapctl.datasets import splits_to_report
    from gwapctl.paper.profile import load_specs, with_settings
    from gwapctl.paper.reproduce import Machine, carry_out, make_plan

    machine = Machine(runs, root, device, workers)
    settings = _settings(changes)
    specs = [with_settings(spec, settings) for spec in load_specs(table, profile)]
    asked = _with_rows(specs, options.listed(rows))
    plans, broken = [], []
    for spec, part in asked:  # one after the other: a later table finds what an earlier one has trained
        plan = make_plan(spec, dataset=dataset, seeds=seeds, rows=part, machine=machine)
        plans.append(plan)
        if dry_run:
            continue
        try:
            options.fetch_dataset(plan.dataset, root, offline)
            options.fetch_dataset(plan.evaluated_on, root, offline, splits_to_report(plan.evaluated_on))
        except GwapctlError as error:
            if len(asked) == 1:
                raise
            broken.append(f"table {spec.name}: {error}")
            continue
        failures = carry_out(
            plan,
            watch=console.progress,
            say=console.note,
            before=lambda config: announce_weights(config, offline, root),
        )
        broken += [f"{', '.join(one.rows)}, seed {one.seed}: {one.what} failed: {one.why}" for one in failures]
    if dry_run:
        _show_plans(plans, json)
        return
    _show_tables(plans, json)
    for text in broken:
        console.error(text)
    if broken:
        raise typer.Exit(SOME_FAILED)


def _with_rows(specs: list[TableSpec], rows: tuple[str, ...]) -> list[tuple[TableSpec, tuple[str, ...]]]:
    """Return each table with its part of ``rows``; of several tables, those that have one."""
    parts = [(spec, tuple(row for row in rows if row in {one.id for one in spec.rows})) for spec in specs]
    if not set(rows) <= {row for _, part in parts for row in part}:
        return [(specs[0], rows)]  # planning it says which row there is not
    return [(spec, part) for spec, part in parts if part or not rows]


def _settings(changes: list[str] | None) -> dict[str, Any]:
    """Return what ``--set`` gives on top of every row's settings."""
    settings = parse_changes(changes or [])
    for key in settings:
        if key not in all_settings():
            raise unknown_name("setting", key, all_settings())
    if "seed" in settings:
        raise UsageError("--set seed: each network is trained with several seeds here. Say how many with --seeds.")
    return settings


def _show_plans(plans: list[Plan], json: bool) -> None:
    """Print what would be trained and evaluated, and what it costs."""
    documents: list[dict[str, Any]] = [
        {
            "table": plan.spec.name,
            "profile": plan.spec.profile or "paper",
            "dataset": plan.dataset,
            "plan": [_as_json(plan, work) for work in plan.works],
        }
        for plan in plans
    ]
    if json:
        console.print_json({"schema_version": 1, "tables": documents})
        return
    for plan, document in zip(plans, documents, strict=True):
        console.print_table(
            ("rows", "seed", "training", "run", "iterations", "images", "images/s", "time", "evaluations"),
            [_cells(row, len(work.readings)) for row, work in zip(document["plan"], plan.works, strict=True)],
            title=f"{plan.spec.number}, profile {document['profile']}, on {plan.dataset}",
        )
        console.note(_total(plan.dataset, document["plan"]))


def _as_json(plan: Plan, work: Work) -> dict[str, Any]:
    cost = plan.cost(work)
    return {
        "rows": list(work.rows),
        "seed": work.config.seed,
        "state": work.state,
        "run": str(plan.folder(work)),
        "iterations": cost.iterations,
        "images": cost.images,
        "images_per_second": cost.images_per_second,
        "seconds": cost.seconds,
        "evaluations_missing": len(plan.missing(work)),
        "images_evaluated": cost.evaluated,
        "config": work.config.model_dump(mode="json"),
    }


def _cells(row: dict[str, Any], evaluations: int) -> tuple[object, ...]:
    return (
        *(row[key] for key in ("rows", "seed", "state", "run")),
        *("?" if row[key] is None else f"{row[key]:,}" for key in ("iterations", "images")),
        "?" if row["images_per_second"] is None else f"{row['images_per_second']:.0f}",
        "?" if row["seconds"] is None else _duration(row["seconds"]),
        f"{row['evaluations_missing']} of {evaluations}",
    )


def _total(dataset: str, rows: list[dict[str, Any]]) -> str:
    """Say the sum, and what it rests on."""
    known = [row["seconds"] for row in rows if row["seconds"] is not None]
    parts = [f"{sum(row['state'] != 'trained' for row in rows)} of {len(rows)} networks to train"]
    if any(row["images"] is None for row in rows):
        parts.append(f"{dataset} is not here, so its images could not be counted")
    else:
        parts.append(f"{sum(row['images'] or 0 for row in rows):,} image presentations in training")
        evaluated = [row["images_evaluated"] for row in rows]
        count = "not counted" if None in evaluated else f"{sum(evaluated):,}"
        parts.append(f"images through a network in evaluation: {count}")
    if sum(known):
        parts.append(f"about {_duration(sum(known))} of training at the speed of earlier runs here")
    if unknown := len(rows) - len(known):
        parts.append(f"no run here says how fast {unknown} of the networks train, so their time is not known")
    return "; ".join(parts) + "."


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _show_tables(plans: list[Plan], json: bool) -> None:
    """Print the tables, each on the data set of its plan."""
    from gwapctl.paper.build import build_table
    from gwapctl.paper.measured import measured_rows
    from gwapctl.paper.tables import render_tables

    tables = []
    for plan in plans:
        runs = plan.machine.runs
        tables += build_table(plan.spec, measured_rows(runs), dataset=plan.evaluated_on, runs=runs)
    console.print_text(render_tables(tables, "json" if json else "table"))
