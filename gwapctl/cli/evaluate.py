"""``gwapctl evaluate``: numbers for a run, a model, maps or boxes, with the floors beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gwapctl.cli import complete, console, engines, on_ray, options, sharding
from gwapctl.cli.options import DATA, argument, option
from gwapctl.datasets import DATASETS
from gwapctl.errors import UsageError, counted, unknown_name
from gwapctl.formats import READERS
from gwapctl.maps.reading import AS_STORED, MapReading
from gwapctl.metrics import METRICS, PERCENT

if TYPE_CHECKING:
    from gwapctl.evaluate import Options

GUESSING = "Five guesses"
THRESHOLDS = "Box thresholds chosen by images"
GATE_NOT_MET = 10

# what help names: the metrics that masks add, and those that a gate can be set on
MASKED = [key for key, metric in METRICS.items() if metric.on_pages and "masks" in metric.needs]
GATES = {
    best: ", ".join(key for key, metric in METRICS.items() if metric.on_pages and metric.direction == best)
    for best in ("lowest", "highest")
}

Subject = Annotated[
    str,
    argument(
        "SUBJECT",
        "A run, a model (folder or zoo entry), a folder of maps, or boxes in files: "
        f"{', '.join(dict.fromkeys(entry.label for entry in READERS.values()))}.",
        autocompletion=complete.names(complete.models),
    ),
]
Dataset = Annotated[
    str | None,
    option(
        "--dataset",
        "A data set's name or folder, or a metadata folder of wsolevaluation.",
        DATA,
        "the run's own",
        autocompletion=complete.entries(DATASETS),
    ),
]
Split = Annotated[
    str | None,
    option(
        "--split",
        "Split to measure on; held-out: the images that the run kept out of its training.",
        DATA,
        "the reported one",
    ),
]
Masks = Annotated[
    Path | None,
    option("--masks", f"Folder of masks, <image id>.png: adds {' and '.join(MASKED)}.", DATA, "the data set's own"),
]
Boxes = Annotated[
    Path | None,
    option(
        "--boxes",
        "True boxes of images that a person checked, in place of the data set's: decisions.json of boxes --review, or "
        "what Label Studio or CVAT exports. Only these images count, and --calibrate chooses on them.",
        DATA,
        "the data set's own",
    ),
]
Images = Annotated[
    Path | None, option("--images", "Folder of the images behind maps, for --refine.", DATA, "the data set's own")
]
Protocol = Annotated[
    Literal["paper", "wsoleval"],
    option("--protocol", "paper: original pixels, largest component. wsoleval: as clovaai/wsolevaluation."),
]
Calibrate = Annotated[
    bool,
    option(
        "--calibrate",
        "First choose the box threshold on the run's held-out images, and store it in the run where it is better than "
        "the stored rule beyond chance (cross-validated): localize and boxes then use it.",
        THRESHOLDS,
    ),
]
Force = Annotated[bool, option("--force", "With --calibrate: also by fewer than 50 images with boxes.", THRESHOLDS)]
Undo = Annotated[bool, option("--undo", "First put back the box rule that the last --calibrate replaced.", THRESHOLDS)]
CalibrateOn = Annotated[
    str | None,
    option(
        "--calibrate-on",
        "Store nothing, report in addition: what boxes are worth at a threshold that other images with boxes choose, "
        "those of a split, or halves: one half of the reported images for the other.",
        THRESHOLDS,
        metavar="SPLIT|halves",
    ),
]
CalibrateLimit = Annotated[
    int,
    option(
        "--calibrate-limit",
        "With --calibrate-on: at most so many images of that split, evenly spaced.",
        THRESHOLDS,
        min=1,
    ),
]
Guesses = Annotated[
    Literal["five"] | None,
    option(
        "--guesses",
        "five: the top-5 localization error by CAM's heuristic, tight and loose boxes of the best classes.",
        GUESSING,
    ),
]
Tight = Annotated[str, option("--tight", "Threshold of the tight boxes, or otsu (ours).", GUESSING)]
Loose = Annotated[str, option("--loose", "Threshold of the loose boxes, or otsu (ours).", GUESSING)]
Timing = Annotated[bool, typer.Option("--timing", hidden=True)]  # of version 0.1.0
FailUnder = Annotated[
    list[str] | None,
    option(
        "--fail-under",
        "Exit with 10 if the metric is worse than that. Can be repeated. "
        f"Worse is above it for {GATES['lowest']}; below it for {GATES['highest']}.",
        metavar="METRIC=VALUE",
        autocompletion=complete.names(complete.gates),
    ),
]


@options.with_reading
def evaluate(
    subject: Subject,
    dataset: Dataset = None,
    root: options.Root = None,
    offline: options.Offline = False,
    split: Split = None,
    masks: Masks = None,
    boxes: Boxes = None,
    images: Images = None,
    limit: options.Limit = None,
    protocol: Protocol = "paper",
    calibrate: Calibrate = False,
    force: Force = False,
    undo: Undo = False,
    calibrate_on: CalibrateOn = None,
    calibrate_limit: CalibrateLimit = 500,
    reading: MapReading = AS_STORED,
    box_rule: options.BoxRule = None,
    threshold: options.Threshold = None,
    refine: options.Refine = None,
    guesses: Guesses = None,
    tight: Tight = "0.5",
    loose: Loose = "0.2",
    engine: engines.Engine = "torch",
    precision: engines.Precision = "fp32",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    feature_cache: options.EvaluatedFeatures = None,
    shard: sharding.Shard = None,
    on: on_ray.On = "local",
    actors: on_ray.Actors = None,
    shard_size: on_ray.ShardSize = on_ray.IMAGES,
    resume: options.Resume = False,
    timing: Timing = False,
    fail_under: FailUnder = None,
    json: options.Json = False,
    out: options.Out = None,
) -> None:
    """Measure classification and localization, beside two floors that never look at the image.

    Examples:
      gwapctl evaluate runs/a --scales 224,448,672
      gwapctl evaluate maps/ --dataset metadata/CUB/test --protocol wsoleval --json
      gwapctl evaluate runs/a --shard 0/4 --out s0
      gwapctl evaluate runs/a --on ray --out r

    """
    from gwapctl import evaluate as verb
    from gwapctl.evaluate.subject import dataset_name, splits_needed

    if timing:
        raise UsageError("--timing has moved: run `python benchmarks/map_cost.py MODEL` in a checkout of gwapctl.")
    gates = [_gate(text) for text in fail_under or ()]
    way = on_ray.Asked(out, resume, actors, shard_size)
    on_cluster = on_ray.check(way, on, {"--shard": shard, "--fail-under": gates, "--json": json})
    own = sharding.parse_shard("0/1" if on_cluster else shard)  # Ray's first stands for all when options are checked
    if own is None:
        options.require_suffix(out, ".json")
    elif out is None or gates or json:
        raise UsageError("--shard counts for gwapctl merge: give a folder with --out, without --json and --fail-under.")
    asked = verb.Options(
        dataset=dataset,
        root=root,
        split=split,
        protocol=protocol,
        masks=masks,
        boxes=boxes,
        reading=reading,
        box_rule=options.asked_rule(box_rule, threshold),
        refine=refine,
        images=images,
        guesses=guesses,
        tight=tight,
        loose=loose,
        calibrate=calibrate,
        force=force,
        undo=undo,
        calibrate_on=calibrate_on,
        calibrate_limit=calibrate_limit,
        limit=limit,
        precision=precision,
        engine=engine,
        device=device,
        batch_size=batch_size,
        workers=workers,
        feature_cache=feature_cache,
        shard=own,
    )
    verb.check(subject, asked)
    if (name := dataset_name(subject, dataset)) is not None:
        options.fetch_dataset(name, root, offline, splits_needed(name, split))
    if on_cluster:
        _on_ray(way, subject, asked)
        return
    if own is not None and out is not None:
        with console.progress("evaluate") as progress:
            count = verb.Shards(subject, asked, progress).write(own, out)
        console.note(f"shard {own}: {counted(count, 'image')} counted in {out}. next: gwapctl merge, with all shards")
        return
    with console.progress("evaluate") as progress:
        required = [key for key, _ in gates]
        document = verb.evaluate(subject, asked, required=required, out=out, progress=progress).to_json()
    console.print_json(document) if json else print_document(document)
    missed = list(_missed(gates, document["metrics"]))
    for text in missed:
        console.error(text)
    if missed:
        raise typer.Exit(GATE_NOT_MET)


def _on_ray(way: on_ray.Asked, subject: str, asked: Options) -> None:
    """Do the work in shards on Ray."""
    import torch

    from gwapctl.cluster.work import Evaluating, tasks_for
    from gwapctl.evaluate import Shards

    shards = Shards(subject, asked)
    tasks = tasks_for([sample.id for sample in shards.samples], way.shard_size)
    threads = asked.workers or torch.get_num_threads()
    on_ray.start("evaluate", way, Evaluating(subject, asked), tasks, shards.settings, threads)


def _gate(text: str) -> tuple[str, float]:
    """Read ``METRIC=VALUE``."""
    key, _, value = (part.strip() for part in text.partition("="))
    try:
        bound = float(value)
    except ValueError:
        bound = math.nan
    if math.isnan(bound):  # everything would pass
        raise UsageError(f"--fail-under {text!r} is not METRIC=VALUE. Write it like gt_known_error=45.")
    if key not in METRICS:
        raise unknown_name("metric", key, [key for key, metric in METRICS.items() if metric.has_gate])
    if not METRICS[key].has_gate:
        why = "only of single classes" if METRICS[key].shown == "class" else "neither better high nor low"
        raise UsageError(f"--fail-under: {key} is {why}. Set the gate on another metric.")
    return key, bound


def _missed(gates: list[tuple[str, float]], metrics: dict[str, float]) -> Iterator[str]:
    """Yield what to say of each gate that is not met."""
    for key, bound in gates:
        value = metrics.get(key)
        if value is None:
            raise UsageError(f"--fail-under: {key!r} was not measured. Measured: {', '.join(metrics)}.")
        if METRICS[key].is_worse(value, bound):
            side = "above the allowed" if value > bound else "below the required"
            yield f"{key} is {value:.4g}, {side} {bound:g}."


def _print_by_area(rows: list[dict[str, Any]]) -> None:
    """Show how often boxes are right, and by how much more than the better floor's, by the size of the object."""
    rows = [row for row in rows if row["n"]]
    if not rows:
        return
    names = (("gt_known", "right"), ("margin", "margin"), ("gt_known_calibrated", "calibrated"))
    shown = {key: name for key, name in (*names, ("margin_calibrated", "margin")) if key in rows[0]}
    shown |= {floor: floor.replace("_", " ") for floor in rows[0]["floors"]}
    cells = [row | row["floors"] for row in rows]
    console.print_table(
        ("object", "n", *shown.values()),
        [
            (f"{100 * row['from']:.0f}-{100 * row['to']:.0f} %", row["n"], *(PERCENT.text(row[key]) for key in shown))
            for row in cells
        ],
        title="\nboxes that are right, in percent, by the object's share of the image",
    )


def print_document(document: dict[str, Any]) -> None:
    """Show the document as tables of at most 80 columns, with the verdict below, and what was left out on stderr."""
    from gwapctl.metrics.shown import FLOOR_NAMES, groups
    from gwapctl.metrics.verdict import find_verdict

    used = {key: ",".join(map(str, v)) if isinstance(v, list) else v for key, v in document["options"].items()}
    said = [f"protocol {document['protocol']}", *(f"{key} {value}" for key, value in used.items())]
    said.append(f"{document['n_degenerate']} images without a box")
    console.print_text(f"{document['model']} on {document['dataset']} {document['split']}: {document['n']:,} images")
    for group in groups(document):
        heads = ("metric", "value", *(FLOOR_NAMES.get(floor, floor) for floor in group.floors))
        console.print_table(heads, group.rows(document), title=f"\n{group.title}")
    console.print_text("\n" + "; ".join(said))
    _print_by_area(document.get("by_area", []))
    if (verdict := find_verdict(document)) is not None:
        console.print_text(f"\n{verdict.text()}")
    chosen = document.get("calibration", {})
    for key, values in chosen.get("thresholds", {}).items():
        each = " and ".join(f"{value:.3f}" for value in values)
        where = f"the other half of {chosen['split']}" if len(values) > 1 else chosen["split"]
        console.note(f"{key}: box threshold {each}, chosen on {where} ({chosen['n']} images).")
    if "box_rule" in chosen:
        console.note(_stored_rule(chosen))
    for text in document["notes"]:
        console.warn(text)


def _stored_rule(chosen: dict[str, Any]) -> str:
    """Say whether a run stores another box rule now, and why."""
    from gwapctl.metrics.verdict import Interval

    difference = Interval(chosen["difference"], *chosen["interval"]).text()
    on = f"{chosen['n']} images of {chosen['split']}"
    if not chosen["stored"]:
        return (
            f"box rule stays {chosen['before']}: cross-validated on {on}, {chosen['tried']} is {difference}, "
            "not better beyond chance. More images with boxes can tell."
        )
    return (
        f"box rule {chosen['box_rule']} stored in place of {chosen['before']}: cross-validated on {on}, "
        f"{chosen['accuracy']:.1f} % right, {difference}. Here {chosen['transferred']:.1f} % (at the best "
        f"threshold for these images {chosen['oracle']:.1f} %). Put the old one back with --undo."
    )
