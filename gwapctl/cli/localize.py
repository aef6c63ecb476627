"""``gwapctl localize``: images in; classes, boxes and maps out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gwapctl.cli import console, engines, on_ray, options, parse, sharding
from gwapctl.cli.inputs import find_images
from gwapctl.cli.options import DATA, MODEL, OUTPUT, argument, option
from gwapctl.engines import AUTO
from gwapctl.errors import MissingReaderError, UsageError, counted
from gwapctl.files import json_text
from gwapctl.maps.reading import AS_STORED, MapReading

if TYPE_CHECKING:
    from gwapctl.predict.prediction import Prediction

SAVES = ("overlay", "map", "mask")
SOME_FAILED = 3
DEFAULT_MIN_SCORE = 0.3
ROWS_PER_TABLE = 1000  # so that any number of images fits into memory

Inputs = Annotated[
    list[str], argument("INPUT...", "Images, folders, globs, .txt lists of paths, or - for paths on standard input.")
]
TopK = Annotated[int, option("--top-k", "Classes per image.", MODEL, min=1)]
MinScore = Annotated[
    float | None,
    option(
        "--min-score",
        "Classes or a detector's boxes from this score on.",
        MODEL,
        f"{DEFAULT_MIN_SCORE:g} of a detector",
        min=0,
        max=1,
    ),
]
Save = Annotated[
    str | None, option("--save", "What to write below --out, of overlay, map and mask.", OUTPUT, "all three")
]
Format = Annotated[Literal["table", "json", "jsonl"], option("--format -f", "What to print.", OUTPUT)]
Recursive = Annotated[bool, option("--recursive/--no-recursive", "Look into subfolders.", DATA)]


@options.with_reading
def localize(
    inputs: Inputs,
    model: options.ModelSpec = None,
    reading: MapReading = AS_STORED,
    box_rule: options.BoxRule = None,
    threshold: options.Threshold = None,
    refine: options.Refine = None,
    top_k: TopK = 1,
    labels: options.Labels = None,
    min_score: MinScore = None,
    save: Save = None,
    out: options.Out = None,
    format: Format = "table",
    json: options.Json = False,
    recursive: Recursive = True,
    limit: options.Limit = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    shard: sharding.Shard = None,
    on: on_ray.On = "local",
    actors: on_ray.Actors = None,
    shard_size: on_ray.ShardSize = on_ray.IMAGES,
    rows: on_ray.Rows = "jsonl",
    dry_run: options.DryRun = False,
    device: options.Device = "auto",
    engine: engines.Engine = AUTO,
    precision: engines.Precision = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    offline: options.Offline = False,
) -> None:
    """Find where the classes of a model are in images: classes, boxes and heatmaps.

    Examples:
      gwapctl localize image.jpg --scales 224,448,672
      gwapctl localize photos --model runs/a --format jsonl > boxes.jsonl
      gwapctl localize photos --map dgl --layer 3 --close 5% --out found
      gwapctl localize photos --threshold otsu --refine grabcut --out found
      gwapctl localize data/fruits --model runs/a --labels from-dataset --out found
      gwapctl localize photos --model runs/detector --min-score 0.5
      gwapctl localize photos --shard 0/4 --out s0
      gwapctl localize photos --on ray --out r
      gwapctl localize photos --engine openvino --precision int8 --out found

    """
    from gwapctl.lock import locked
    from gwapctl.predict.classifier import load_model
    from gwapctl.predict.folder import localize_inputs, without_own
    from gwapctl.predict.threads import chunk_size

    if json and format == "jsonl":
        raise UsageError("--json and --format jsonl are two forms. Give one of them.")
    way = on_ray.Asked(out, resume, actors, shard_size, rows, dry_run)
    printed = {"--json": json, "--format": format != "table", "--engine": engine not in (AUTO, "torch")}
    others = {"--shard": shard, "--overwrite": overwrite, **printed}
    on_cluster = on_ray.check(way, on, others, resumes=True)
    saved = _saved(save, out, resume, overwrite, shard)
    own = sharding.parse_shard(shard)
    rule = options.asked_rule(box_rule, threshold)
    asked: dict[str, Any] = {"reading": reading, "box_rule": rule, "refine": refine, "top_k": top_k}
    asked |= {"min_score": min_score, "batch_size": batch_size}
    if on_cluster:
        from gwapctl.cluster.work import Localizing

        spec = options.model_or_default(model)
        sources, known = on_ray.images_anywhere(inputs, labels, recursive=recursive)
        work = Localizing(spec, spec, device, precision, {**asked, "labels": known}, saved)
        on_ray.of_images("localize", way, work, sources[:limit], workers)
        return
    images, known = find_images(inputs, labels, recursive=recursive)
    images = (images if out is None else without_own(images, out))[:limit]
    loaded = load_model(options.model_or_default(model), device=device, precision=precision, engine=engine)
    predictor = loaded.predictor(**asked, labels=known)
    if own is not None:
        images = own.of(images, chunk_size(len(images), predictor.batch_size, workers))
    where = f", {', '.join(('predictions', *saved))} to {out}" if out else ""
    say = console.note if dry_run else console.detail
    say(f"{counted(len(images), 'image')}, {predictor.summary(loaded.name)} on {predictor.device}{where}")
    if predictor.warning:
        console.warn(predictor.warning)
    if dry_run:
        return
    tally = Tally()
    predictor.notice = console.detail
    lock = locked(out, console.warn) if out else nullcontext()
    again = f"the same command with --resume{' in place of --overwrite' if overwrite else ''}"
    with console.resumable(out, again), lock, console.progress("localize") as progress:
        found = localize_inputs(
            predictor,
            loaded.name,
            images,
            out=out,
            save=saved,
            resume=resume,
            overwrite=overwrite,
            workers=workers,
            progress=progress,
        )
        PRINTERS["json" if json else format](tally.watch(found))
    _finish(tally, len(images), out)


def _saved(save: str | None, out: Path | None, resume: bool, overwrite: bool, shard: str | None) -> tuple[str, ...]:
    """Return what to write below ``--out``; options that need ``--out`` do not go without it."""
    asked = {"--save": save, "--resume": resume, "--overwrite": overwrite, "--shard": shard}
    needs_out = [name for name, given in asked.items() if given]
    if out is None and needs_out:
        raise UsageError(f"{needs_out[0]} needs a folder. Give one with --out.")
    return SAVES if save is None else parse.parse_names(save, "--save", SAVES)


@dataclass
class Tally:
    """How many images went through, how many of them failed, and in how many nothing was found."""

    done: int = 0
    failed: int = 0
    empty: int = 0
    none: int = 0  # of these, those that show none of the model's classes
    lacking: int = 0  # of those that failed: for want of an extra

    def watch(self, images: Iterable[Prediction]) -> Iterator[Prediction]:
        """Pass ``images`` on, count them, and name those that failed."""
        for image in images:
            self.done += 1
            if image.error is not None:
                self.failed += 1
                self.lacking += isinstance(image.error, MissingReaderError)
                console.warn(str(image.error))
            elif not image.predictions:
                self.empty += 1
                self.none += image.none
            yield image


def _print_jsonl(images: Iterable[Prediction]) -> None:
    for image in images:
        console.print_jsonl(image.to_json())


def _print_json(images: Iterable[Prediction]) -> None:
    """Write one document, piece by piece: it may be longer than memory."""
    separator = '{"schema_version": 1, "images": [\n'
    for image in images:
        console.print_data(separator + json_text(image.to_json()), ".json")
        separator = ","
    console.print_text("]}" if separator == "," else separator + "]}")


def _print_table(images: Iterable[Prediction]) -> None:
    stream = iter(images)
    while part := list(islice(stream, ROWS_PER_TABLE)):
        rows = [row for image in part for row in _rows(image)]
        console.print_table(("image", "class", "score", "x0", "y0", "x1", "y1", "doubt"), rows)


def _rows(image: Prediction) -> Iterator[tuple[str, ...]]:
    if image.none:
        yield (image.id, "(none)", *("",) * 6)
    for item in image.predictions:
        corners = ("",) * 4 if item.box is None else tuple(f"{value:.1f}" for value in item.box)
        yield (image.id, item.label, f"{item.score:.3f}", *corners, "" if item.doubt is None else f"{item.doubt:.2f}")


PRINTERS: dict[str, Callable[[Iterable[Prediction]], None]] = {
    "table": _print_table,
    "json": _print_json,
    "jsonl": _print_jsonl,
}


def _finish(tally: Tally, total: int, out: Path | None) -> None:
    """Say what was done, and leave with 3 if images failed."""
    if out is not None:
        earlier = f" ({total - tally.done} were done before)" if tally.done < total else ""
        console.note(f"{counted(tally.done - tally.failed, 'image')} in {out}{earlier}")
    if tally.empty:
        what = "without any of the classes" if tally.none else "without any object"
        console.note(f"{counted(tally.empty, 'image')} {what}; a lower --min-score shows what is less sure")
    if tally.failed:
        console.warn(f"{tally.failed} of {counted(tally.done, 'image')} failed.")
        raise typer.Exit(MissingReaderError.exit_code if tally.lacking == tally.done else SOME_FAILED)
