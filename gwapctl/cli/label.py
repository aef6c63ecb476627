"""``gwapctl label``: from a labelled folder to boxes, a page to check them on, and a detector."""

from __future__ import annotations

import shlex
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gwapctl.cli import complete, console, options
from gwapctl.cli.options import OUTPUT, argument, option
from gwapctl.config.settings import parse_changes
from gwapctl.datasets.layouts import folder_layouts
from gwapctl.errors import UsageError, any_of, counted
from gwapctl.formats import EXPORTERS

if TYPE_CHECKING:
    from gwapctl.label import Plan, Step, Summary

SOME_FAILED = 3
PARTS = ("classifier", "detector")

Folder = Annotated[str, argument("FOLDER", f"Labelled images: {folder_layouts()}. Images of nothing lie in _none.")]
Out = Annotated[Path, option("--out -o", "Where to write.", OUTPUT)]
Format = Annotated[
    str,
    option(
        "--format -f",
        f"{any_of(name for name in EXPORTERS if name != 'png')}; COCO is written in any case.",
        OUTPUT,
        autocompletion=complete.entries(EXPORTERS),
    ),
]
Changes = Annotated[
    list[str] | None,
    option(
        "--set",
        "A setting of one of the trainings, such as classifier.epochs=40 or detector.iterations=800. Repeatable.",
        options.SETTINGS,
        metavar="PART.KEY=VALUE",
    ),
]


def label(
    folder: Folder,
    out: Out = Path("labelled"),
    format: Format = "coco",
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    seed: options.Seed = 0,
    changes: Changes = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    feature_cache: options.FeatureCache = None,
    offline: options.Offline = False,
) -> None:
    """From images whose classes you know to boxes: check, train, find, review, in one go.

    A classifier learns from your labels and shows where it looked; a detector
    learns from the boxes that this gives, and finds the objects; a page in the
    browser shows them for checking, the most doubtful first. Every step is
    printed as the command that does the same by hand. Ctrl-C is safe: the same
    command with --resume goes on.

    Examples:
      gwapctl label photos --dry-run
      gwapctl label photos --out labelled
      gwapctl label photos --out labelled --resume
      gwapctl label photos.csv --out labelled --format label-studio

    """
    from gwapctl.device import resolve_device
    from gwapctl.label import Asked, Ears, Machine, carry_out, check_folder, make_plan, prepare_folder, summary
    from gwapctl.lock import locked

    if resume and overwrite:
        raise UsageError("--resume continues and --overwrite begins anew. Give one of them.")
    resolve_device(device)
    plan = make_plan(
        Asked(folder, out, format, seed, **_settings(changes)),
        Machine(device, workers, feature_cache),
    )
    check_folder(plan, resume=resume, overwrite=overwrite or dry_run)
    for remark in plan.remarks:
        console.warn(remark)
    if dry_run and json:
        console.print_json(plan.to_json() | {"seconds": [round(plan.seconds(step)) for step in plan.steps]})
        return
    for line in plan_lines(plan, afresh=overwrite):
        (console.print_text if dry_run else console.note)(line)
    if dry_run:
        for step in plan.steps:
            console.print_text(f"$ {typed(step)}")
        return
    start = time.monotonic()
    try:
        with locked(out, console.warn):
            prepare_folder(plan, resume=resume, overwrite=overwrite)
            carry_out(plan, Ears(console.progress, console.note, console.warn), _announce)
    except KeyboardInterrupt:
        console.note(f"go on with: {_again(plan)}")
        raise
    said = summary(plan)
    console.note(f"\nall steps took {duration(time.monotonic() - start)}")
    _show(plan, said, json)
    if said.failed:
        console.warn(f"{said.failed} of {counted(len(plan.samples), 'image')} could not be read and have no boxes.")
        raise typer.Exit(SOME_FAILED)


def _settings(changes: list[str] | None) -> dict[str, dict[str, Any]]:
    """Return what ``--set`` changes of each of the two trainings."""
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    for text in changes or []:
        part, dot, change = text.partition(".")
        if not dot or part not in PARTS:
            raise UsageError(f"--set {text!r} does not say whose. Write it like classifier.epochs=40.")
        found[part].append(change)
    return {part: parse_changes(texts) for part, texts in found.items()}


def plan_lines(plan: Plan, *, afresh: bool = False) -> list[str]:
    """Return the plan for a person: the folder, the network and why, and every step with about how long it takes."""
    some = f", {plan.nothing:,} of none of them" if plan.nothing else ""
    seconds = [plan.seconds(step, afresh=afresh) for step in plan.steps]
    lines = [
        f"{plan.asked.folder}: {counted(len(plan.samples), 'image')} of {len(plan.classes)} "
        f"class{'es' * (len(plan.classes) != 1)}{some}",
        *textwrap.wrap(f"{plan.network.name}: {plan.network.why}", 78),
    ]
    for number, (step, one) in enumerate(zip(plan.steps, seconds, strict=True), start=1):
        took = "done" if one == 0 else f"about {duration(one)}"
        lines.append(f"{number:>3}. {step.title:<50} {took:>16}")
    whole = f"about {duration(sum(seconds))}" if any(seconds) else "done"
    return [*lines, f"     {'in all':<50} {whole:>16}"]


def duration(seconds: float) -> str:
    """Write a time for a person.

    >>> duration(3), duration(50), duration(400), duration(9000)
    ('5 s', '50 s', '7 min', '2 h 30 min')
    """
    if seconds < 58:
        return f"{max(5, round(seconds / 5) * 5)} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def typed(step: Step) -> str:
    """Return the command line of a step, as a shell takes it."""
    return shlex.join(["gwapctl", *step.words])


def _announce(number: int, step: Step, done: bool) -> None:
    console.note(f"{number}. {step.title}: done before" if done else f"\n{number}. {step.title}\n$ {typed(step)}")


def _again(plan: Plan) -> str:
    """Return the command that continues."""
    from gwapctl.config.settings import all_settings

    asked, words = plan.asked, list[str]()
    for part in PARTS:
        for key, value in getattr(asked, part).items():
            words += ["--set", f"{part}.{key}={all_settings()[key].write(value)}"]
    words += ["--format", asked.format] * (asked.format != "coco") + ["--seed", str(asked.seed)] * (asked.seed != 0)
    words += plan.machine.words("device", "workers", "feature_cache")
    return shlex.join(["gwapctl", "label", asked.folder, "--out", str(asked.out), *words, "--resume"])


def _show(plan: Plan, said: Summary, json: bool) -> None:
    """Print what came of it, and what to do next."""
    if json:
        console.print_json(said.to_json())
    else:
        print_measured(said)
        for line in summary_lines(said):
            console.print_text(line)
    out = plan.asked.out
    boxes = shlex.join(
        ["gwapctl", "boxes", f"{out}/found", "--apply", "decisions.json", "--out", f"{out}/checked.json"]
    )
    train = shlex.join(["gwapctl", "train", plan.asked.folder, "--detector", "rfcn", "--boxes-from", "decisions.json"])
    console.note(f"next: open {said.review} in a browser; Download: decisions.json")
    console.note(f"next: {boxes}")
    console.note(f"next: {train} --out {shlex.quote(f'{out}/detector-2')}")


def print_measured(said: Summary) -> None:
    """Print what boxes are worth where the data set has true ones, which nothing has learned from."""
    from gwapctl.label.summary import MEASURED
    from gwapctl.metrics import METRICS

    keys = [key for key in MEASURED if any(row[key] is not None for row in said.measured)]
    rows = [
        (row["split"], row["n"], row["boxes"], *(METRICS[key].unit.text(row[key]) for key in keys))
        for row in said.measured
    ]
    if rows:
        titles = [METRICS[key].title for key in keys]
        console.print_table(
            ("split", "images", "boxes of", *titles), rows, title="by true boxes, which nothing learned from"
        )


def summary_lines(said: Summary) -> list[str]:
    """Return the counts for a person."""
    lines = [
        f"{said.boxes:,} box{'es' * (said.boxes != 1)} in {counted(said.images, 'image')}, "
        f"{said.doubtful:,} of them doubtful (score 0.5 or less)"
    ]
    if said.empty:
        lines.append(f"{counted(said.empty, 'image')} with a label and without a box")
    if said.none:
        lines.append(f"{counted(said.none, 'image')} of none of the classes")
    return [*lines, f"review page: {said.review}"]
