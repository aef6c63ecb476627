"""``gwapctl boxes``: predictions, maps or images become boxes in the formats of other tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from gwapctl.cli import accepting, box_source, complete, console, engines, on_ray, options, sharding
from gwapctl.cli.options import DATA, MODEL, OUTPUT, argument, option
from gwapctl.cli.tally import Tally, finish
from gwapctl.engines import AUTO
from gwapctl.errors import UsageError, any_of
from gwapctl.formats import EXPORTERS
from gwapctl.maps.reading import AS_STORED, MapReading

if TYPE_CHECKING:
    from gwapctl.formats.reading import Corrections
    from gwapctl.formats.review import Review
    from gwapctl.regions import BoxRule

BOXES = "Boxes"

Input = Annotated[
    str | None,
    argument(
        "INPUT",
        "What localize --out wrote, a file of boxes of gwapctl, Label Studio or CVAT, a folder of .npy maps, or images "
        "to localize.",
    ),
]
Format = Annotated[
    str | None,
    option(
        "--format -f",
        f"{any_of(EXPORTERS)}.",
        OUTPUT,
        "by the suffix of --out, else csv",
        autocompletion=complete.entries(EXPORTERS),
    ),
]
Rule = Annotated[
    str | None, option("--box-rule", "Cut boxes anew by this rule: paper20, otsu or fixed:0.3.", BOXES, "as recorded")
]
Threshold = Annotated[
    str | None,
    option("--threshold", "Short for a box rule: otsu, or a fraction of the map's range such as 0.2.", BOXES),
]
Refine = Annotated[
    Literal["grabcut", "none"] | None,
    option(
        "--refine",
        "Cut boxes anew; grabcut: they follow the edges of the images. none: those of the maps alone.",
        BOXES,
        "as recorded",
    ),
]
Split = Annotated[
    bool | None,
    option(
        "--split/--single",
        "Cut boxes anew: objects that touch come apart; or one box per class, the largest region, as the papers do.",
        BOXES,
        "as recorded",
    ),
]
MaxBoxes = Annotated[
    int | None,
    option("--max-boxes", "At most so many boxes per class and image.", BOXES, "1; 10 where objects split", min=1),
]
MinArea = Annotated[
    float | None,
    option("--min-area", "Smallest area of a region, as a fraction of the image.", BOXES, min=0.0, max=1.0),
]
MinScore = Annotated[float, option("--min-score", "Leave out what scores less.", BOXES, min=0.0, max=1.0)]
Masks = Annotated[
    Literal["rle", "polygons"] | None,
    option("--masks", "The pixels of the objects as well, exactly or as outlines.", BOXES, "boxes alone"),
]
Classes = Annotated[
    Path | None,
    option(
        "--classes",
        "Text file of class names, one per line: fixes the class numbers of coco and yolo.",
        OUTPUT,
        "by alphabet",
    ),
]
Images = Annotated[
    Path | None,
    option(
        "--images",
        "Folder of the images behind maps: for the sizes of somebody else's, for --refine and --review.",
        DATA,
    ),
]
YoloScores = Annotated[bool, option("--yolo-scores", "Add the score as a sixth column.", OUTPUT)]
ImagePrefix = Annotated[
    str | None,
    option("--image-prefix", "Address of the image folder as Label Studio sees it.", OUTPUT, "/data/local-files/?d="),
]
ReviewFolder = Annotated[
    Path | None,
    option("--review", "Folder for a page on which a person looks the boxes over, offline, in the browser.", OUTPUT),
]
Apply = Annotated[
    Path | None,
    option(
        "--apply",
        "Put in what was checked: decisions.json of --review, or what Label Studio (JSON, COCO) or CVAT (XML, COCO) "
        "exports.",
        BOXES,
    ),
]
TopK = Annotated[int, option("--top-k", "Classes per image, for images.", MODEL, min=1)]


@options.with_reading
def boxes(
    input: Input = None,
    format: Format = None,
    out: options.Out = None,
    box_rule: Rule = None,
    threshold: Threshold = None,
    refine: Refine = None,
    split: Split = None,
    max_boxes: MaxBoxes = None,
    min_area: MinArea = None,
    min_score: MinScore = 0.0,
    masks: Masks = None,
    labels: options.Labels = None,
    accept_error: accepting.AcceptError = None,
    calibrated_on: accepting.CalibratedOn = None,
    root: options.Root = None,
    apply: Apply = None,
    review: ReviewFolder = None,
    classes: Classes = None,
    images: Images = None,
    model: options.ModelSpec = None,
    reading: MapReading = AS_STORED,
    top_k: TopK = 1,
    device: options.Device = "auto",
    engine: engines.Engine = AUTO,
    precision: engines.Precision = "auto",
    yolo_scores: YoloScores = False,
    image_prefix: ImagePrefix = None,
    shard: sharding.Shard = None,
    on: on_ray.On = "local",
    actors: on_ray.Actors = None,
    shard_size: on_ray.ShardSize = on_ray.IMAGES,
    rows: on_ray.Rows = "jsonl",
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
) -> None:
    """Write boxes in the formats that other tools label and train with.

    Boxes are those that localize recorded, or cut anew from its maps. No network runs, unless INPUT is images.

    Examples:
      gwapctl boxes out --format coco --out boxes.json
      gwapctl boxes out --threshold 0.3 --max-boxes 5 --format yolo --out yolo
      gwapctl boxes out --refine grabcut --masks rle --out boxes.json
      gwapctl boxes photos --labels from-dataset --split --out boxes.json
      gwapctl boxes photos --format label-studio --out tasks.json
      gwapctl boxes out --accept-error 5% --calibrated-on decisions.json
      gwapctl boxes photos --on ray --format coco --out r
      gwapctl boxes out --review review
      gwapctl boxes out --apply decisions.json --out checked.json

    """
    from gwapctl.formats.base import FileExporter, said_by
    from gwapctl.formats.destination import check_destination, format_name, read_class_list
    from gwapctl.formats.reading import Corrections
    from gwapctl.formats.shards import write_shard
    from gwapctl.formats.stored import confident, open_stored
    from gwapctl.predict.cut import Cutting

    if split is False and max_boxes is not None:
        raise UsageError("--single is one box per class. Leave out --max-boxes.")
    error = accepting.accepted_error(accept_error, calibrated_on, apply)
    name = format_name(format, out)
    chosen = _chosen(name, yolo_scores, image_prefix, masks)
    exporter = EXPORTERS[name].build(**chosen)
    listed = None if classes is None else read_class_list(classes)
    corrections = None if apply is None or input is None else Corrections(apply)
    input = input if input is not None else _checked_alone(apply)
    rule, several = options.asked_rule(box_rule, threshold), 1 if split is False else max_boxes
    cutting = Cutting(rule, refine, split, several, min_area, masks is not None or name == "png")
    asked = {"reading": reading, "top_k": top_k, "min_score": min_score or None}
    machine = {"device": device, "engine": engine, "precision": precision}
    said = {"format": name, "exporter": chosen, "classes": listed, "cutting": str(cutting), "min_score": min_score}
    of_all = {"--accept-error": accept_error, "--apply": apply, "--review": review}
    way = on_ray.Asked(out, resume, actors, shard_size, rows, dry_run)
    others = {**of_all, "--shard": shard, "--overwrite": overwrite, "--engine": engine not in (AUTO, "torch")}
    if on_ray.check(way, on, others):
        box_source.start_on_ray(way, input, labels, cutting, images, said, model, machine, asked)
        return
    own = sharding.of_boxes(shard, out, of_all)
    path = out if own is not None else check_destination(name, out, overwrite=overwrite)
    found = None if labels is not None else open_stored(Path(input), cutting, images, own)
    if found is None:
        found = box_source.from_images(
            input, exporter, model, machine, cutting, asked, labels, own, keep_maps=review is not None
        )
    else:
        box_source.check_unused(input, model, machine, asked)
    if found.warning:
        console.warn(found.warning)
    if dry_run:
        total = "an unknown number of" if found.total is None else found.total
        alone = review is not None and path is None and format is None
        where = f"a page to {review}" if alone else f"{name} to {path or 'stdout'}"
        console.note(f"would write {found.about} ({total} images) as {where}")
        return
    tally = Tally()
    page = None if review is None else _page(review, input, images, listed, rule, overwrite)
    folders = [*([path] if path and not EXPORTERS[name].filename else []), *([review] if review else [])]
    with _alone(folders), console.progress("boxes") as progress, said_by(input):
        items = confident(found.items, min_score)
        items = tally.watch(items if corrections is None else corrections.apply(items), found.total, progress)
        if error is not None:
            kept = accepting.accepted(list(items), str(calibrated_on), root, error)
            tally = Tally(failed=tally.failed)
            items = tally.watch(kept, len(kept), progress)
        items = items if page is None else page.watch(items)
        if own is not None and path is not None and found.ids is not None:
            write_shard(path, items, found.ids, {**said, **found.settings}, overwrite=overwrite)
        elif path is not None:
            exporter.write(path, items, listed)
        elif page is not None and format is None:
            for _ in items:
                pass
        elif isinstance(exporter, FileExporter):
            for lines in exporter.text(items, listed):
                console.print_data(lines, EXPORTERS[name].suffix)
    if corrections is not None:
        _say_applied(corrections)
    if page is not None:
        _finish_page(page, input)
    finish(exporter, tally, path, listed)


@contextmanager
def _alone(folders: Iterable[Path]) -> Iterator[None]:
    """Keep others from writing the folders, and say where one that stopped without an end had begun."""
    from gwapctl.lock import locked

    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(locked(folder, console.warn))
        yield


def _checked_alone(apply: Path | None) -> str:
    """Return what is read where no INPUT is given: the checked boxes themselves."""
    if apply is None:
        raise UsageError(
            "there is nothing to read boxes from. Give INPUT: what localize --out wrote, or a file of boxes."
        )
    return str(apply)


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


def _say_applied(corrections: Corrections) -> None:
    """Say how many images were checked, and warn of those that the input lacks."""
    rejected = f"; {corrections.left_out} rejected and left out" if corrections.left_out else ""
    console.note(f"as {corrections.file} has them: {_images(corrections.applied)}{rejected}")
    unknown = list(corrections.unknown)
    if unknown:
        console.warn(f"not in the input: {_images(len(unknown))} of {corrections.file}, such as {unknown[0]!r}.")


def _page(
    folder: Path, text: str, images: Path | None, classes: list[str] | None, rule: BoxRule | None, overwrite: bool
) -> Review:
    """Return the review page, which finds maps and images where the boxes come from."""
    from gwapctl.formats.review import Review
    from gwapctl.formats.stored import maps_of
    from gwapctl.predict.image_index import ImageFiles
    from gwapctl.regions import parse_box_rule
    from gwapctl.regions.rules import DEFAULT_RULE

    maps = maps_of(Path(text))
    default = (maps and maps.info.box_rule) or DEFAULT_RULE
    rule = parse_box_rule(rule, default=default)
    return Review(folder, images=ImageFiles(images), maps=maps, rule=rule, classes=classes or (), overwrite=overwrite)


def _finish_page(page: Review, text: str) -> None:
    path = page.finish(f"Review of {Path(text).name or text}")
    if page.missing:
        console.warn(
            f"not there, so not on the page: {_images(len(page.missing))}, such as {page.missing[0]!r}. Give their "
            "folder with --images."
        )
    console.note(f"the page is {path}: open it in a browser. next: gwapctl boxes --apply decisions.json")


def _chosen(name: str, yolo_scores: bool, image_prefix: str | None, masks: str | None) -> dict[str, Any]:
    """Return the options of the exporter; those of another format are a mistake."""
    chosen: dict[str, Any] = {}
    if masks is not None and masks not in EXPORTERS[name].masks:
        formats = any_of(key for key, entry in EXPORTERS.items() if masks in entry.masks)
        raise UsageError(f"--masks {masks} does not go with --format {name}. Choose {formats}.")
    if masks is not None and len(EXPORTERS[name].masks) > 1:  # its exporter knows several ways
        chosen["masks"] = masks
    for words, wanted, key, value in (
        ("--yolo-scores", "yolo", "scores", yolo_scores or None),
        ("--image-prefix", "label-studio", "image_prefix", image_prefix),
    ):
        if value is None:
            continue
        if name != wanted:
            raise UsageError(f"{words} goes with --format {wanted}, not {name}.")
        chosen[key] = value
    return chosen
