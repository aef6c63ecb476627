"""``gwapctl boxes``: predictions, maps or images become boxes in the formats of other tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gwapctl.cli import console, options
from gwapctl.errors import UsageError, any_of
from gwapctl.formats import EXPORTERS
from gwapctl.maps.reading import AS_STORED, MapReading
from gwapctl.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from gwapctl.formats.base import Exporter
    from gwapctl.formats.stored import BoxStream
    from gwapctl.inputs import ImageInput
    from gwapctl.predict.base import Predictor
    from gwapctl.predict.cut import Cut
    from gwapctl.predict.prediction import Prediction
    from gwapctl.regions import BoxRule as Rule

BOXES = "Boxes"

Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="What localize --out wrote, a predictions.jsonl, a folder of .npy maps, or images to localize.",
        show_default=False,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        help=f"{any_of(EXPORTERS)}.",
        rich_help_panel=options.OUTPUT,
        show_default="by the suffix of --out, else csv",
    ),
]
BoxRule = Annotated[
    str | None,
    typer.Option(
        "--box-rule",
        help="Cut boxes anew by this rule: paper20, otsu or fixed:0.3.",
        rich_help_panel=BOXES,
        show_default="as recorded",
    ),
]
Threshold = Annotated[
    str | None,
    typer.Option(
        "--threshold",
        help="Short for a box rule: otsu, or a fraction of the map's range such as 0.2.",
        rich_help_panel=BOXES,
        show_default=False,
    ),
]
Refine = Annotated[
    Literal["grabcut", "none"] | None,
    typer.Option(
        "--refine",
        help="Cut boxes anew; grabcut: they follow the edges of the images. none: those of the maps alone.",
        rich_help_panel=BOXES,
        show_default="as recorded",
    ),
]
MaxBoxes = Annotated[
    int | None,
    typer.Option(
        "--max-boxes",
        min=1,
        help="At most so many boxes per class and image.",
        rich_help_panel=BOXES,
        show_default="as recorded, else 1",
    ),
]
MinArea = Annotated[
    float | None,
    typer.Option(
        "--min-area",
        min=0.0,
        max=1.0,
        help="Smallest area of a region, as a fraction of the image.",
        rich_help_panel=BOXES,
        show_default=False,
    ),
]
MinScore = Annotated[
    float,
    typer.Option("--min-score", min=0.0, max=1.0, help="Leave out what scores less.", rich_help_panel=BOXES),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        help="Text file of class names, one per line: fixes the class numbers of coco and yolo.",
        rich_help_panel=options.OUTPUT,
        show_default="by alphabet",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help="Folder of the images behind maps: for the sizes of somebody else's, and for --refine.",
        rich_help_panel=options.DATA,
        show_default=False,
    ),
]
YoloScores = Annotated[
    bool, typer.Option("--yolo-scores", help="Add the score as a sixth column.", rich_help_panel=options.OUTPUT)
]
ImagePrefix = Annotated[
    str | None,
    typer.Option(
        "--image-prefix",
        help="Address of the image folder as Label Studio sees it.",
        rich_help_panel=options.OUTPUT,
        show_default="/data/local-files/?d=",
    ),
]


TopK = Annotated[
    int, typer.Option("--top-k", min=1, help="Classes per image, for images.", rich_help_panel=options.MODEL)
]


@options.with_reading
def boxes(
    input: Input,
    format: Format = None,
    out: options.Out = None,
    box_rule: BoxRule = None,
    threshold: Threshold = None,
    refine: Refine = None,
    max_boxes: MaxBoxes = None,
    min_area: MinArea = None,
    min_score: MinScore = 0.0,
    classes: Classes = None,
    images: Images = None,
    model: options.ModelSpec = None,
    reading: MapReading = AS_STORED,
    top_k: TopK = 1,
    device: options.Device = "auto",
    yolo_scores: YoloScores = False,
    image_prefix: ImagePrefix = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
) -> None:
    """Write boxes in the formats that other tools label and train with.

    Boxes are those that localize recorded, or cut anew from its maps. No network runs, unless INPUT is images.

    Examples:
      gwapctl boxes out --format coco --out boxes.json
      gwapctl boxes out --threshold 0.3 --max-boxes 5 --format yolo --out yolo
      gwapctl boxes out --refine grabcut --out boxes.json
      gwapctl boxes photos --format label-studio --out tasks.json

    """
    from gwapctl.formats.destination import check_destination, read_class_list

    name, exporter = _exporter(format, out, yolo_scores, image_prefix)
    path = check_destination(name, out, overwrite=overwrite)
    listed = None if classes is None else read_class_list(classes)
    cutting = Cutting(options.asked_rule(box_rule, threshold), refine, max_boxes, min_area)
    network = Network(model, reading, top_k, device)
    source = _from_disk(input, cutting, images, network) or _from_images(input, cutting, network, exporter, min_score)
    if source.warning:
        console.warn(source.warning)
    if dry_run:
        total = "an unknown number of" if source.total is None else source.total
        console.note(f"would write {source.about} ({total} images) as {name} to {path or 'stdout'}")
        return
    tally = _export(exporter, EXPORTERS[name].suffix, source, min_score, path, listed)
    _finish(exporter, tally, path, listed)


@dataclass(frozen=True)
class Cutting:
    """What was asked about cutting boxes; None: nothing."""

    rule: Rule | None
    refine: str | None
    max_boxes: int | None
    min_area: float | None


@dataclass(frozen=True)
class Network:
    """What was asked about the network that images need."""

    model: str | None
    reading: MapReading
    top_k: int
    device: str

    def check_unused(self, text: str) -> None:
        """Refuse options that would have no effect because ``text`` is not images."""
        others = {"--model": self.model is not None, "--top-k": self.top_k > 1}
        given = [*self.reading.flags, *(option for option, is_given in others.items() if is_given)]
        if given:
            names, verb = ", ".join(given), "is" if len(given) == 1 else "are"
            raise UsageError(f"{names} {verb} for images; {text} holds what a network found already. Leave it out.")


def _exporter(name: str | None, out: Path | None, yolo_scores: bool, image_prefix: str | None) -> tuple[str, Exporter]:
    from gwapctl.formats.destination import format_name

    name = format_name(name, out)
    for option, given, wanted in (
        ("--yolo-scores", yolo_scores, "yolo"),
        ("--image-prefix", image_prefix is not None, "label-studio"),
    ):
        if given and name != wanted:
            raise UsageError(f"{option} goes with --format {wanted}, not {name}.")
    chosen: dict[str, Any] = {"scores": True} if yolo_scores else {}
    return name, EXPORTERS[name].build(**chosen, **({} if image_prefix is None else {"image_prefix": image_prefix}))


def _from_disk(text: str, cutting: Cutting, images: Path | None, network: Network) -> BoxStream | None:
    from gwapctl.formats.stored import open_stored

    source = open_stored(
        Path(text),
        rule=cutting.rule,
        refine=cutting.refine,
        max_boxes=cutting.max_boxes,
        min_area=cutting.min_area,
        images=images,
    )
    if source is not None:
        network.check_unused(text)
    return source


def _from_images(text: str, cutting: Cutting, network: Network, exporter: Exporter, min_score: float) -> BoxStream:
    from gwapctl.formats.base import FolderExporter, check_names
    from gwapctl.formats.stored import BoxStream
    from gwapctl.inputs import find_inputs
    from gwapctl.predict.classifier import load_model
    from gwapctl.predict.cut import Cut
    from gwapctl.predict.folder import localize_inputs
    from gwapctl.regions import parse_box_rule

    inputs = find_inputs([text], notice=console.warn)
    if isinstance(exporter, FolderExporter):
        check_names(item.id for item in inputs)
    model = load_model(options.model_or_default(network.model), device=network.device)
    asked: dict[str, Any] = {"reading": network.reading, "top_k": network.top_k}
    if model.detects:  # nothing to cut
        asked |= {"box_rule": cutting.rule, "refine": cutting.refine}
        asked |= {"max_boxes": cutting.max_boxes, "min_area": cutting.min_area}
        found = localize_inputs(model.predictor(**asked, min_score=min_score or None), model.name, inputs)
        return BoxStream(found, len(inputs), f"boxes of detector {model.name}")
    rule = parse_box_rule(cutting.rule, refine=cutting.refine, default=model.info.box_rule)
    cut = Cut(rule, cutting.max_boxes or 1, cutting.min_area or 0.0)
    predictor = model.predictor(**asked, box_rule=rule.without_image())  # the cut comes afterwards
    about = f"boxes by {cut.rule.name} of model {model.name}"
    return BoxStream(_localized(predictor, model.name, inputs, cut), len(inputs), about, predictor.warning or "")


def _localized(predictor: Predictor, model: str, inputs: Sequence[ImageInput], cut: Cut) -> Iterator[Prediction]:
    from gwapctl.formats.stored import failed
    from gwapctl.predict.cut import with_boxes

    results = predictor.stream([item.path for item in inputs])
    for item, found in zip(inputs, results, strict=True):
        image = found.recorded(model=model, scales=predictor.scales, id=item.id)
        shown = [0] * len(found.classes) if found.shared else range(len(found.classes))
        if found.error:
            yield failed(image, found.error)
        else:
            yield with_boxes(image, found.maps, shown, cut.on_image(item.path))


@dataclass
class Tally:
    """What went through: images and boxes written, their classes (label, label id), images that failed."""

    images: int = 0
    boxes: int = 0
    failed: int = 0
    again: int = 0
    ids: set[str] = field(default_factory=set)
    classes: set[tuple[str, str]] = field(default_factory=set)

    def watch(self, items: Iterable[Prediction], total: int | None, progress: ProgressCallback) -> Iterator[Prediction]:
        """Pass ``items`` on, count them, and name those that failed."""
        for item in items:
            if item.error is None:
                self.again += item.id in self.ids
                self.ids.add(item.id)
                self.images = len(self.ids)
                self.boxes += sum(prediction.box is not None for prediction in item.predictions)
                self.classes.update((prediction.label, prediction.label_id) for prediction in item.predictions)
            else:
                self.failed += 1
                console.warn(f"{item.image}: {item.error}")
            progress(Progress(self.images + self.again + self.failed, total, "images"))
            yield item


def _export(
    exporter: Exporter,
    suffix: str,
    source: BoxStream,
    min_score: float,
    path: Path | None,
    listed: list[str] | None,
) -> Tally:
    from gwapctl.formats.base import FileExporter
    from gwapctl.formats.stored import confident

    tally = Tally()
    with console.progress("boxes") as progress:
        items = tally.watch(confident(source.items, min_score), source.total, progress)
        if path is not None:
            exporter.write(path, items, listed)
        elif isinstance(exporter, FileExporter):
            for lines in exporter.text(items, listed):
                console.print_data(lines, suffix)
    return tally


def _finish(exporter: Exporter, tally: Tally, path: Path | None, listed: list[str] | None) -> None:
    """Say what was written and what the reading tool needs, and leave with 3 if images failed."""
    from gwapctl.formats.base import class_table

    setup = exporter.setup(class_table(tally.classes, listed))
    if setup:
        console.note(f"Set the project up with these labels:\n{setup}")
    if path is not None:
        console.note(f"{tally.boxes} boxes of {tally.images} images in {path}")
    if tally.again:
        lines = f"{tally.again} image{'s stand' if tally.again > 1 else ' stands'}"
        console.warn(f"{lines} in the input again: what it says of one image goes together, each box once.")
    if tally.failed:
        console.warn(f"{tally.failed} images failed and are left out.")
        raise typer.Exit(3)
