"""Where boxes come from without a network: predictions as recorded, or maps cut anew. No torch.

Cut anew means: another box rule, more boxes per class or a smallest area, found on exactly the arrays that
``localize`` saved, so the same rule gives the same boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from gwapctl import boxes
from gwapctl.datasets.base import ClassName
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.errors import DataError, GwapctlError, UsageError
from gwapctl.images.decode import image_size, read_image
from gwapctl.predict.images_of_maps import ImageFiles
from gwapctl.predict.map_folder import MAPS, MapFolder, MapImage
from gwapctl.predict.predictions import PREDICTIONS, ImagePrediction, Prediction, PredictionError, read_predictions
from gwapctl.regions import BoxRule, Region, map_to_boxes, parse_box_rule
from gwapctl.regions.rules import DEFAULT_RULE

UNNAMED = "object"  # the class of a map that says no class
NO_FILES: Mapping[str, Path] = MappingProxyType({})


@dataclass(frozen=True)
class Cut:
    """How a map becomes boxes: the rule, at most ``max_boxes`` per class, none under ``min_area`` of the map."""

    rule: BoxRule
    max_boxes: int = 1
    min_area: float = 0.0

    def regions(self, heatmap: npt.NDArray[np.generic], width: int, height: int) -> list[Region]:
        """Return the regions of ``heatmap`` (h, w), their boxes in pixels of the image of ``width x height``."""
        rows, columns = heatmap.shape
        found = map_to_boxes(heatmap, self.rule, max_boxes=self.max_boxes, min_area=self.min_area)
        return [replace(region, box=boxes.scale(region.box, columns, rows, width, height)[0]) for region in found]

    def on_image(self, path: Path | None) -> Cut:
        """Return the cut for the maps of the image at ``path``, which only a rule that needs it reads.

        Raises:
            DataError: it cannot be read.

        """
        if path is None or not self.rule.needs_image:
            return self
        return replace(self, rule=self.rule.on_image(read_image(path)))


def predictions_file(path: Path) -> Path | None:
    """Return the predictions that ``path`` is or holds: a ``.jsonl`` or ``.json`` file, ``OUT`` or ``OUT/maps``."""
    if not path.is_dir():
        return path if path.suffix.lower() in (".jsonl", ".json") else None
    places = [path, path.parent] if path.name == MAPS else [path]
    return next((place / PREDICTIONS for place in places if (place / PREDICTIONS).is_file()), None)


def holds_maps(folder: Path) -> bool:
    """Tell whether there is any ``.npy`` file below ``folder``, but for hidden ones: what a killed writer left."""
    return folder.is_dir() and any(not file.name.startswith(".") for file in folder.rglob("*.npy"))


def recorded(file: Path) -> Iterator[ImagePrediction]:
    """Yield predictions with the boxes that ``localize`` recorded.

    Raises:
        DataError: the file is broken, or holds no image.

    """
    item = None
    for item in read_predictions(file):
        yield item
    if item is None:
        raise DataError(f"{file} holds no image. Make it with: gwapctl localize IMAGES --out OUT.")


def recut(file: Path, maps: MapFolder, cut: Cut, files: Mapping[str, Path] = NO_FILES) -> Iterator[ImagePrediction]:
    """Yield predictions with boxes cut anew from ``maps``; an image whose map cannot be used carries the error.

    ``files`` are the images by id, for a rule that looks at them.
    """
    for item in recorded(file):
        if item.error is None and item.predictions:
            item = replace(item, predictions=_best_of_class(item.predictions))
            try:
                item = with_boxes(item, *_channels(maps, item), cut.on_image(files.get(item.id)))
            except DataError as error:
                item = failed(item, error)
        yield item


def failed(item: ImagePrediction, error: GwapctlError) -> ImagePrediction:
    """Return ``item`` without predictions, saying why."""
    return replace(item, predictions=(), error=PredictionError(type(error).__name__, str(error)))


def with_boxes(
    item: ImagePrediction, heatmaps: npt.NDArray[np.generic], channels: Sequence[int], cut: Cut
) -> ImagePrediction:
    """Return ``item`` with boxes cut from ``heatmaps`` (C, h, w); prediction ``i`` is seen in channel ``channels[i]``.

    The hottest box of a class keeps the class's score, others get the part of it that their mean heat has of the
    hottest's. A class whose map shows nothing stays without a box.
    """
    regions = {channel: cut.regions(heatmaps[channel], item.width, item.height) for channel in set(channels)}
    pairs = zip(item.predictions, channels, strict=True)
    found = [placed for prediction, channel in pairs for placed in _boxes_of(prediction, regions[channel])]
    return replace(item, predictions=tuple(found))


def _best_of_class(predictions: Sequence[Prediction]) -> tuple[Prediction, ...]:
    best: dict[tuple[str, str], Prediction] = {}
    for prediction in sorted(predictions, key=lambda prediction: -prediction.score):
        best.setdefault((prediction.label, prediction.label_id), prediction)
    return tuple(best.values())


def _boxes_of(prediction: Prediction, regions: list[Region]) -> Iterator[Prediction]:
    """Yield ``prediction`` once per region, the hottest first, or without a box if there is none."""
    if not regions:
        yield replace(prediction, box=None)
    hottest = max((region.score for region in regions), default=0.0)
    for region in _hottest_first(regions):
        part = region.score / hottest if hottest > 0 else 1.0
        yield _placed(prediction, region, prediction.score * part)


def _hottest_first(regions: list[Region]) -> list[Region]:
    return sorted(regions, key=lambda region: -region.score)


def _placed(prediction: Prediction, region: Region, score: float) -> Prediction:
    x0, y0, x1, y1 = boxes.to_list(region.box)
    return replace(prediction, box=(x0, y0, x1, y1), score=score)


def _channels(maps: MapFolder, item: ImagePrediction) -> tuple[npt.NDArray[np.generic], list[int]]:
    """Return the maps ``(C, h, w)`` of an image, and for each of its predictions which of them is its own.

    Raises:
        DataError: the map is missing or broken, or none is of that class.

    """
    array = maps.load(item.id)
    heatmaps = array[None] if array.ndim == 2 else array
    if len(heatmaps) == 1:
        return heatmaps, [0] * len(item.predictions)
    about = maps.about(item.id)
    ids = about.label_ids or about.labels
    matcher = ClassMatcher([ClassName(label, label_id) for label, label_id in zip(about.labels, ids, strict=True)])
    channels = [matcher.index(prediction.label, prediction.label_id) for prediction in item.predictions]
    if len(ids) == len(heatmaps) and FOREIGN not in channels:
        return heatmaps, channels
    lost = item.predictions[channels.index(FOREIGN) if FOREIGN in channels else 0]
    raise DataError(
        f"the maps of {item.id!r} in {maps.path} have {len(heatmaps)} channels, and maps.json does not say which "
        f"shows {lost.label!r}. Localize again with --save map."
    )


def from_maps(maps: MapFolder, cut: Cut, images: ImageFiles) -> Iterator[ImagePrediction]:
    """Yield the boxes of maps that come without predictions. A box's score is its mean heat, in 0..1.

    Classes and sizes are those of ``maps.json``; without it a single map shows an ``object``, channel ``i`` shows
    class ``i``, and the size is that of the image among ``images``, or the map's own if no folder of them is given.
    """
    for image_id in maps.ids():
        item = ImagePrediction(image_id, 0, 0, maps.info.model, maps.info.reading.scales)
        try:
            yield _from_map(item, maps, cut, images)
        except DataError as error:
            yield failed(item, error)


def _from_map(item: ImagePrediction, maps: MapFolder, cut: Cut, images: ImageFiles) -> ImagePrediction:
    array = maps.load(item.id)
    channels = array[None] if array.ndim == 2 else array
    about = maps.about(item.id)
    image = images.find(item.id)
    if images.folder is not None and image is None:
        raise DataError(f"no image below the given folder fits the map {item.id!r}.")
    width, height = (about.width, about.height) if about.width else (channels.shape[2], channels.shape[1])
    if image is not None:
        width, height = image_size(image.path)
        item = replace(item, image=image.path.as_posix(), id=image.id)
        cut = cut.on_image(image.path)
    regions = [cut.regions(channel, width, height) for channel in channels]
    predictions = [
        _placed(Prediction(label, label_id, 0.0), region, region.score)
        for label, label_id, channel in _labels(about, len(channels), item.id)
        for region in _hottest_first(regions[channel])
    ]
    return replace(item, width=width, height=height, predictions=tuple(predictions))


def _labels(about: MapImage, channels: int, image_id: str) -> list[tuple[str, str, int]]:
    """Return (label, label id, channel) of every class that the maps of an image show."""
    if not about.labels:
        return [(UNNAMED, UNNAMED, 0)] if channels == 1 else [(str(i), str(i), i) for i in range(channels)]
    if channels not in (1, len(about.labels)):
        raise DataError(f"{image_id!r} has {channels} maps but maps.json names {len(about.labels)} classes for it.")
    ids = about.label_ids or about.labels
    return [
        (label, label_id, min(place, channels - 1))
        for place, (label, label_id) in enumerate(zip(about.labels, ids, strict=True))
    ]


def confident(items: Iterator[ImagePrediction], min_score: float) -> Iterator[ImagePrediction]:
    """Yield the images with those predictions that have at least ``min_score``."""
    for item in items:
        yield replace(item, predictions=tuple(p for p in item.predictions if p.score >= min_score))


@dataclass(frozen=True)
class Source:
    """Images to export: ``items`` come one at a time, ``total`` (None: unknown) of them, made as ``about`` says."""

    items: Iterator[ImagePrediction]
    total: int | None
    about: str
    warning: str = ""


def open_source(
    path: Path,
    *,
    rule: BoxRule | None = None,
    refine: str | None = None,
    max_boxes: int | None = None,
    min_area: float | None = None,
    images: Path | None = None,
) -> Source | None:
    """Find out what ``path`` holds: predictions, whose boxes are cut anew if anything is asked, or maps, or neither.

    None for ``rule`` is the one that was recorded, else ``paper20``; ``refine`` is put on top of it.
    ``images`` is a folder that tells the sizes of maps that come without predictions, and where a rule that looks at
    the images finds them; without it they are where they were when they were localized.

    Raises:
        DataError: ``path`` is a file that does not exist, or boxes are to be cut anew, but there are no maps.
        UsageError: ``path`` is one map, or the rule looks at the images and they are not there.

    """
    if path.suffix.lower() == ".npy" and not path.is_dir():
        raise UsageError(f"{path} is one map. Give the folder of maps that it is in.")
    file = predictions_file(path)
    if file is not None and not file.is_file():
        raise DataError(f"{file} does not exist. Make it with: gwapctl localize IMAGES --out OUT.")
    if file is not None and all(asked is None for asked in (rule, refine, max_boxes, min_area)):
        return Source(recorded(file), _count(file), f"the boxes recorded in {file}")
    folder = path if file is None else file.parent / MAPS
    if not holds_maps(folder):
        if file is None:
            return None
        raise DataError(
            f"{file.parent} holds no maps to cut boxes from. Localize again with --save map, or leave out --box-rule, "
            "--threshold, --refine, --max-boxes and --min-area."
        )
    maps = MapFolder(folder)
    rule = parse_box_rule(rule, refine=refine, default=maps.info.box_rule or DEFAULT_RULE)
    cut = Cut(rule, max_boxes or 1, min_area or 0.0)
    about = f"boxes by {rule.name} from the maps of {maps.path}"
    below = ImageFiles(images)
    if file is not None:
        files = below.needed(_places(file), rule.name) if rule.needs_image else NO_FILES
        return Source(recut(file, maps, cut, files), _count(file), about)
    if rule.needs_image:
        below.needed(((image_id, "") for image_id in maps.ids()), rule.name)
    known = images is not None or bool(maps.info.images)
    warning = "" if known else f"{maps.path} does not say how large its images are: boxes are in pixels of the maps."
    return Source(from_maps(maps, cut, below), len(maps.ids()), about, warning)


def _places(file: Path) -> Iterator[tuple[str, str]]:
    """Yield id and recorded path of every image in which something was found."""
    return ((item.id, item.image) for item in recorded(file) if item.error is None and item.predictions)


def _count(file: Path) -> int | None:
    if file.suffix.lower() == ".json":
        return None
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())
