"""``gwapctl reproduce``: a paper's table from nothing but data: train, evaluate, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gwapctl.cli import complete, console, options, parse
from gwapctl.cli.options import DATA, MODEL, OUTPUT, argument, option
from gwapctl.config.settings import all_settings, parse_changes
from gwapctl.errors import GwapctlError, UsageError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

    from gwapctl.paper.reproduce import Plan, Work
    from gwapctl.paper.specification import TableSpec
    from gwapctl.runs import Run

SOME_FAILED = 3

Table = Annotated[
    str,
    argument(
        "TABLE",
        "A table: i, ii, iii, iv, v, cam, dgl, ... or all.",
        autocompletion=complete.names(complete.tables),
    ),
]
ProfileName = Annotated[str, option("--profile", "paper, real (for two CPU cores), smoke, or a TOML file.", MODEL)]
DatasetOption = Annotated[
    str | None,
    option("--dataset", "Train and measure on this data set (name or folder).", DATA, "the profile's or the paper's"),
]
Seeds = Annotated[
    int | None, option("--seeds", "Train each network with seeds 0 to N-1.", min=1, unset="the profile's, else 1")
]
Rows = Annotated[str | None, option("--rows", "Only these rows, by id: googlenet-gap,googlenet-gwap.", unset="all")]
Runs = Annotated[Path, option("--runs", "Folder of the runs, found and new.", OUTPUT)]
Again = Annotated[bool, option("--again", "Measure also what the shipped results or --record have already.", OUTPUT)]
Record = Annotated[
    Path | None,
    option("--record", "Add each evaluation to a CSV of results as soon as it is done.", OUTPUT, metavar="FILE"),
]


def reproduce(
    table: Table,
    profile: ProfileName = "paper",
    dataset: DatasetOption = None,
    root: options.Root = None,
    seeds: Seeds = None,
    rows: Rows = None,
    changes: options.Changes = None,
    runs: Runs = Path("runs"),
    record: Record = None,
    again: Again = False,
    dry_run: options.DryRun = False,
    device: options.Device = "auto",
    workers: options.Workers = None,
    feature_cache: options.EvaluatedFeatures = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Train and evaluate every row of a paper's table that has no finished run, then print the table.

    What the results have that come with gwapctl, or those of --record, is left out where it was measured on the same
    data.

    Examples:
      gwapctl reproduce i --profile paper --dry-run
      gwapctl reproduce ii --profile real --dataset cub --root data/cub-20 --seeds 3

    """
    from gwapctl.cli.train import require_weights
    from gwapctl.datasets import splits_to_report
    from gwapctl.device import resolve_device
    from gwapctl.paper.profile import load_specs, with_settings
    from gwapctl.paper.reproduce import Machine, carry_out, make_plan

    resolve_device(device)
    options.require_suffix(record, ".csv", name="--record")
    machine = Machine(runs, root, device, workers, feature_cache)
    settings = _settings(changes)
    specs = [with_settings(spec, settings) for spec in load_specs(table, profile)]
    asked = _with_rows(specs, parse.listed(rows))
    plans, broken = [], []
    for spec, part in asked:  # one after the other: a later table finds what an earlier one has trained
        known = None if again else _known_results(record)
        plan = make_plan(spec, dataset=dataset, seeds=seeds, rows=part, machine=machine, results=known)
        plans.append(plan)
        _say_skipped(plan)
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
            before=lambda config: require_weights(config, offline, root),
            keep=lambda run: _record(run, record),
        )
        broken += [f"{', '.join(one.rows)}, seed {one.seed}: {one.what} failed: {one.why}" for one in failures]
    if dry_run:
        _show_plans(plans, json)
        return
    _show_tables(plans, _known_results(record), json)
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


def _known_results(file: Path | None) -> pd.DataFrame:
    """Return what ships with gwapctl and what ``file`` has."""
    import pandas as pd

    from gwapctl.paper.measured import read_results

    return pd.concat([read_results(), *([] if file is None else [read_results(file)])], ignore_index=True)


def _say_skipped(plan: Plan) -> None:
    """Say how much is left out because others measured it."""
    readings = [(work, reading) for work in plan.works for reading in work.readings]
    count = sum(plan.is_recorded(*one) and not plan.is_there(*one) for one in readings)
    if count:
        which = f"{count} of {len(readings)} evaluations of table {plan.spec.name}"
        console.note(f"{which} are among the results already, and are not made again (--again makes them)")


def _record(run: Run, file: Path | None) -> None:
    """Add what was measured of ``run`` to the results in ``file``."""
    from gwapctl.paper.measured import record, run_rows

    if file is not None:
        record(run_rows([run]), file)


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
    rows = [row for document in documents for row in document["plan"]]
    if len(plans) > 1 and (known := [seconds for row in rows if (seconds := _sum(row)) is not None]):
        console.note(
            f"all {len(plans)} tables: about {_duration(sum(known))}, of {len(known)} of {len(rows)} networks."
        )


def _as_json(plan: Plan, work: Work) -> dict[str, Any]:
    cost, missing = plan.cost(work), len(plan.missing(work))
    return {
        "rows": list(work.rows),
        "seed": work.config.seed,
        "state": "recorded" if not missing and work.state != "trained" else work.state,
        "run": str(plan.folder(work)),
        "iterations": cost.iterations,
        "images": cost.images,
        "images_per_second": cost.images_per_second,
        "seconds": cost.seconds,
        "evaluation_seconds": cost.evaluation_seconds,
        "evaluations_missing": missing,
        "images_evaluated": cost.evaluated,
        "config": work.config.model_dump(mode="json"),
    }


def _cells(row: dict[str, Any], evaluations: int) -> tuple[object, ...]:
    return (
        *(row[key] for key in ("rows", "seed", "state", "run")),
        *("?" if row[key] is None else f"{row[key]:,}" for key in ("iterations", "images")),
        "?" if row["images_per_second"] is None else f"{row['images_per_second']:.0f}",
        "?" if (seconds := _sum(row)) is None else _duration(seconds),
        f"{row['evaluations_missing']} of {evaluations}",
    )


def _total(dataset: str, rows: list[dict[str, Any]]) -> str:
    """Say the sum, and what it rests on."""
    training = [row["seconds"] for row in rows if row["seconds"] is not None]
    evaluating = [row["evaluation_seconds"] for row in rows if row["evaluation_seconds"] is not None]
    to_train = sum(row["state"] not in ("trained", "recorded") for row in rows)
    parts = [f"{to_train} of {len(rows)} networks to train"]
    if any(row["images"] is None for row in rows):
        parts.append(f"{dataset} is not here, so its images could not be counted")
    else:
        parts.append(f"{sum(row['images'] or 0 for row in rows):,} image presentations in training")
        evaluated = [row["images_evaluated"] for row in rows]
        count = "not counted" if None in evaluated else f"{sum(evaluated):,}"
        parts.append(f"images through a network in evaluation: {count}")
    for what, known in (("training", training), ("evaluation", evaluating)):
        if sum(known):
            parts.append(f"about {_duration(sum(known))} of {what} at the speed of earlier runs here")
    if unknown := len(rows) - len(training):
        parts.append(f"no run here says how fast {unknown} of the networks train, so their time is not known")
    if unknown := len(rows) - len(evaluating):
        parts.append(f"nor how long the evaluations of {unknown} of them take")
    return "; ".join(parts) + "."


def _sum(row: dict[str, Any]) -> float | None:
    """Return the seconds that a piece of work takes in all, None where a part is not known."""
    parts = row["seconds"], row["evaluation_seconds"]
    return None if None in parts else sum(parts)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _show_tables(plans: list[Plan], results: pd.DataFrame, json: bool) -> None:
    """Print the tables, each on the data set of its plan: what the runs measured, and the results besides."""
    import pandas as pd

    from gwapctl.paper.build import build_table
    from gwapctl.paper.measured import measured_rows
    from gwapctl.paper.tables import measured_tables, render_tables

    tables = []
    for plan in plans:
        runs = plan.machine.runs
        rows = pd.concat([measured_rows(runs), results], ignore_index=True)
        built = build_table(plan.spec, rows, dataset=plan.evaluated_on, runs=runs)
        tables += measured_tables(built) if plan.spec.profile else built
    console.print_text(render_tables(tables, "json" if json else "table"))
