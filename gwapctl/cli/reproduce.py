"""``gwapctl reproduce``: a paper's table from nothing but data: train, evaluate, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gwapctl.cli import console, options

if TYPE_CHECKING:
    from gwapctl.reproduce import Cost, Failure, Plan, Work

SOME_FAILED = 3

Table = Annotated[
    str, typer.Argument(metavar="TABLE", help="A paper's table: i, ii, iii, iv, v, cam, ...", show_default=False)
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
    from gwapctl.report.profile import apply_profile, load_profile
    from gwapctl.report.spec import load_table
    from gwapctl.reproduce import Machine, carry_out, make_plan

    spec = apply_profile(load_table(table), load_profile(profile))
    machine = Machine(runs, root, device, workers)
    plan = make_plan(spec, dataset=dataset, seeds=seeds, rows=_names(rows), machine=machine)
    if dry_run:
        _show_plan(plan, json)
        return
    _fetch(plan, offline)
    failures = carry_out(
        plan, watch=console.progress, say=console.note, before=lambda config: _announce_weights(config, offline)
    )
    _show_table(table, plan, profile, json)
    _show_failures(failures)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _fetch(plan: Plan, offline: bool) -> None:
    """Download the data sets if they are ones that come by themselves and are not here."""
    from gwapctl.datasets.download import ensure_dataset

    for name in dict.fromkeys((plan.dataset, plan.evaluated_on)):
        with console.progress("downloading") as fetched:
            ensure_dataset(name, plan.machine.root, offline=offline, progress=fetched, announce=console.note)


def _announce_weights(config: Any, offline: bool) -> None:
    from gwapctl.cli.train import announce_weights

    announce_weights(config, offline)


def _show_plan(plan: Plan, json: bool) -> None:
    """Print what would be trained and evaluated, and what it costs."""
    costs = [plan.cost(work) for work in plan.works]
    if json:
        console.print_json(
            {
                "schema_version": 1,
                "table": plan.spec.name,
                "profile": plan.spec.profile or "paper",
                "dataset": plan.dataset,
                "plan": [_as_json(plan, work, cost) for work, cost in zip(plan.works, costs, strict=True)],
            }
        )
        return
    console.print_table(
        ("rows", "seed", "training", "run", "iterations", "images", "images/s", "time", "evaluations"),
        [_line(plan, work, cost) for work, cost in zip(plan.works, costs, strict=True)],
        title=f"{plan.spec.number}, profile {plan.spec.profile or 'paper'}, on {plan.dataset}",
    )
    console.note(_total(plan, costs))


def _line(plan: Plan, work: Work, cost: Cost) -> tuple[object, ...]:
    return (
        ", ".join(dict.fromkeys(reading.row.id for reading in work.readings)),
        work.config.seed,
        work.state,
        plan.folder(work),
        _count(cost.iterations),
        _count(cost.images),
        "?" if cost.images_per_second is None else f"{cost.images_per_second:.0f}",
        _duration(cost.seconds),
        f"{len(plan.missing(work))} of {len(work.readings)}",
    )


def _as_json(plan: Plan, work: Work, cost: Cost) -> dict[str, Any]:
    return {
        "rows": list(dict.fromkeys(reading.row.id for reading in work.readings)),
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


def _show_table(table: str, plan: Plan, profile: str, json: bool) -> None:
    from gwapctl.report.tables import build_tables, render_tables

    runs = plan.machine.runs if plan.machine.runs.is_dir() else None
    dataset = None if plan.dataset == plan.spec.train_dataset else plan.dataset
    tables = build_tables(table, runs=runs, dataset=dataset, profile=profile)
    console.print_text(render_tables(tables, "json" if json else "table"))


def _show_failures(failures: list[Failure]) -> None:
    """Say what is missing and why.

    Raises:
        typer.Exit: something is.

    """
    for failure in failures:
        console.error(f"{', '.join(failure.rows)}, seed {failure.seed}: {failure.what} failed: {failure.why}")
    if failures:
        raise typer.Exit(SOME_FAILED)
