"""``gwapctl reproduce``: a paper's table from nothing but data: train, evaluate, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gwapctl.cli import console, options
from gwapctl.config.settings import all_settings, parse_changes
from gwapctl.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from gwapctl.paper.reproduce import Cost, Failure, Plan, Work
    from gwapctl.paper.specification import TableSpec

SOME_FAILED = 3

Table = Annotated[
    str, typer.Argument(metavar="TABLE", help="A table: i, ii, iii, iv, v, cam, dgl, ... or all.", show_default=False)
]
ProfileName = Annotated[
    str, typer.Option("--profile", help="paper, quick (two CPU cores), or a TOML file.", rich_help_panel=options.MODEL)
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Train and measure on this data set (name or folder).",
        rich_help_panel=options.DATA,
        show_default="the profile's or the paper's",
    ),
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Train each network with seeds 0 to N-1.")]
Rows = Annotated[
    str | None, typer.Option("--rows", help="Only these rows, by id: googlenet-gap,googlenet-gwap.", show_default="all")
]
Runs = Annotated[
    Path, typer.Option("--runs", help="Folder of the runs, found and new.", rich_help_panel=options.OUTPUT)
]


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
    from gwapctl.errors import GwapctlError
    from gwapctl.paper.profile import load_specs, with_settings
    from gwapctl.paper.reproduce import Machine, carry_out, make_plan

    machine = Machine(runs, root, device, workers)
    settings = _settings(changes)
    specs = [with_settings(spec, settings) for spec in load_specs(table, profile)]
    asked = _with_rows(specs, _names(rows))
    plans, broken = [], []
    for spec, part in asked:  # one after the other: a later table finds what an earlier one has trained
        plan = make_plan(spec, dataset=dataset, seeds=seeds, rows=part, machine=machine)
        plans.append(plan)
        if dry_run:
            continue
        try:
            _fetch(plan, offline)
        except GwapctlError as error:
            if len(asked) == 1:
                raise
            broken.append(f"table {spec.name}: {error}")
            continue
        failures = carry_out(
            plan, watch=console.progress, say=console.note, before=lambda config: _announce_weights(config, offline)
        )
        broken += [_failure(failure) for failure in failures]
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


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _settings(changes: list[str] | None) -> dict[str, Any]:
    """Return what ``--set`` gives on top of every row's settings."""
    settings = parse_changes(changes or [])
    for key in settings:
        if key not in all_settings():
            raise unknown_name("setting", key, all_settings())
    if "seed" in settings:
        raise UsageError("--set seed: each network is trained with several seeds here. Say how many with --seeds.")
    return settings


def _fetch(plan: Plan, offline: bool) -> None:
    """Download the data sets if they are ones that come by themselves and are not here."""
    from gwapctl.datasets.download import ensure_dataset

    for name in dict.fromkeys((plan.dataset, plan.evaluated_on)):
        with console.progress("downloading") as fetched:
            ensure_dataset(name, plan.machine.root, offline=offline, progress=fetched, announce=console.note)


def _announce_weights(config: Any, offline: bool) -> None:
    from gwapctl.cli.train import announce_weights

    announce_weights(config, offline)


def _show_plans(plans: list[Plan], json: bool) -> None:
    """Print what would be trained and evaluated, and what it costs."""
    if json:
        console.print_json({"schema_version": 1, "tables": [_as_json(plan) for plan in plans]})
        return
    for plan in plans:
        costs = [plan.cost(work) for work in plan.works]
        console.print_table(
            ("rows", "seed", "training", "run", "iterations", "images", "images/s", "time", "evaluations"),
            [_line(plan, work, cost) for work, cost in zip(plan.works, costs, strict=True)],
            title=f"{plan.spec.number}, profile {plan.spec.profile or 'paper'}, on {plan.dataset}",
        )
        console.note(_total(plan, costs))


def _line(plan: Plan, work: Work, cost: Cost) -> tuple[object, ...]:
    return (
        ", ".join(work.rows),
        work.config.seed,
        work.state,
        plan.folder(work),
        _count(cost.iterations),
        _count(cost.images),
        "?" if cost.images_per_second is None else f"{cost.images_per_second:.0f}",
        _duration(cost.seconds),
        f"{len(plan.missing(work))} of {len(work.readings)}",
    )


def _as_json(plan: Plan) -> dict[str, Any]:
    return {
        "table": plan.spec.name,
        "profile": plan.spec.profile or "paper",
        "dataset": plan.dataset,
        "plan": [_work_as_json(plan, work, plan.cost(work)) for work in plan.works],
    }


def _work_as_json(plan: Plan, work: Work, cost: Cost) -> dict[str, Any]:
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


def _total(plan: Plan, costs: list[Cost]) -> str:
    """Say the sum, and what it rests on."""
    trained = [work for work in plan.works if work.state != "trained"]
    known = [cost.seconds for cost in costs if cost.seconds is not None]
    parts = [f"{len(trained)} of {len(plan.works)} networks to train"]
    if any(cost.images is None for cost in costs):
        parts.append(f"{plan.dataset} is not here, so its images could not be counted")
    else:
        parts.append(f"{sum(cost.images or 0 for cost in costs):,} image presentations in training")
        parts.append(f"{sum(cost.evaluated or 0 for cost in costs):,} images through a network in evaluation")
    if known and sum(known):
        parts.append(f"about {_duration(sum(known))} of training at the speed of earlier runs here")
    unknown = sum(cost.seconds is None for cost in costs)
    if unknown:
        parts.append(f"no run here says how fast {unknown} of the networks train, so their time is not known")
    return "; ".join(parts) + "."


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
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


def _failure(failure: Failure) -> str:
    return f"{', '.join(failure.rows)}, seed {failure.seed}: {failure.what} failed: {failure.why}"
