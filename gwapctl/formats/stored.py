"""Where boxes come from without a network: predictions as recorded, or maps cut anew. No torch.

Cut anew means: another box rule, more boxes per class or a smallest area, found on exactly the arrays that
``localize`` saved, so the same rule gives the same boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from gwapctl.datasets.base import ClassName
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.errors import DataError, GwapctlError, UsageError, any_of, option
from gwapctl.formats import read_suffixes
from gwapctl.formats.reading import stored_boxes
from gwapctl.images.decode import image_size
from gwapctl.predict.cut import AS_RECORDED, Cut, Cutting, boxed_by, with_boxes
from gwapctl.predict.image_index import ImageFiles
from gwapctl.predict.map_folder import MAPS, MapFolder
from gwapctl.predict.prediction import ClassPrediction, Heatmap, Prediction
from gwapctl.predict.predictions import PREDICTIONS
from gwapctl.predict.shards import Part, Shard
from gwapctl.regions.rules import DEFAULT_RULE

UNNAMED = "object"  # the class of a map that says no class
CUTTING = ("box_rule", "threshold", "refine", "split", "max_boxes", "min_area", "masks")  # what is asked by name


def predictions_file(path: Path) -> Path | None:
    """Return the predictions that ``path`` is or holds: a file of boxes (``READERS``), ``OUT`` or ``OUT/maps``."""
    if not path.is_dir():
        return path if path.suffix.lower() in read_suffixes() else None
    folders = [path, path.parent] if path.name == MAPS else [path]
    return next((folder / PREDICTIONS for folder in folders if (folder / PREDICTIONS).is_file()), None)


def holds_maps(folder: Path) -> bool:
    """Tell whether there is any ``.npy`` file below ``folder``, but for hidden ones: what a killed writer left."""
    return folder.is_dir() and any(folder.rglob("[!.]*.npy"))


def maps_of(path: Path) -> MapFolder | None:
    """Return the maps that ``path`` is, holds, or has beside it; None where there are none."""
    file = predictions_file(path)
    folder = path if file is None else file.parent / MAPS
    return MapFolder(folder) if holds_maps(folder) else None


def recorded(file: Path) -> Iterator[Prediction]:
    """Yield predictions with the boxes that ``localize``, or a labelling tool, recorded.

    Raises:
        DataError: the file is broken, or holds no image.

    """
    item = None
    for item in stored_boxes(file):
        yield item
    if item is None:
        raise DataError(f"{file} holds no image. Make it with: gwapctl localize IMAGES --out OUT.")


def failed(item: Prediction, error: GwapctlError) -> Prediction:
    """Return ``item`` without predictions, saying why."""
    return replace(item, predictions=(), error=error)


def _each(items: Iterable[Prediction], cut_anew: Callable[[Prediction], Prediction]) -> Iterator[Prediction]:
    """Yield images with boxes cut anew; one whose map cannot be used carries the error."""
    for item in items:
        try:
            yield cut_anew(item)
        except DataError as error:
            yield failed(item, error)


def _recut(item: Prediction, maps: MapFolder, cut: Cut, files: Mapping[str, Path]) -> Prediction:
    """Return an image with the best prediction of each class boxed anew; ``files`` are for a rule that sees images."""
    if item.error is not None or not item.predictions:
        return item
    best: dict[tuple[str, str], ClassPrediction] = {}
    for prediction in sorted(item.predictions, key=lambda prediction: -prediction.score):
        best.setdefault((prediction.label, prediction.label_id), prediction)
    item = replace(item, predictions=tuple(best.values()))
    heatmaps, channels = _channels(maps, item)
    return with_boxes(item, heatmaps, channels, cut.on_image(files.get(item.id)))


def _channels(maps: MapFolder, item: Prediction) -> tuple[Heatmap, list[int]]:
    """Return the maps ``(C, h, w)`` of an image, and for each of its predictions which of them is its own."""
    heatmaps = maps.channels(item.id)
    if len(heatmaps) == 1:
        return heatmaps, [0] * len(item.predictions)
    classes = maps.about(item.id).classes
    matcher = ClassMatcher([ClassName(label, label_id) for label, label_id in classes])
    channels = [matcher.index(prediction.label, prediction.label_id) for prediction in item.predictions]
    if len(classes) == len(heatmaps) and FOREIGN not in channels:
        return heatmaps, channels
    lost = item.predictions[channels.index(FOREIGN) if FOREIGN in channels else 0]
    raise DataError(
        f"the maps of {item.id!r} in {maps.path} have {len(heatmaps)} channels, and maps.json does not say which "
        f"shows {lost.label!r}. Localize again with {option('save', 'map')}."
    )


def _from_map(item: Prediction, maps: MapFolder, cut: Cut, images: ImageFiles) -> Prediction:
    """Return the boxes of a map that comes without predictions. A box's score is its mean heat, in 0..1.

    Classes and size are those of ``maps.json``; without it a single map shows an ``object``, channel ``i`` shows class
    ``i``, and the size is that of the image among ``images``, or the map's own if no folder of them is given.
    """
    heatmaps = maps.channels(item.id)
    about = maps.about(item.id)
    image = images.find(item.id)
    if images.folder is not None and image is None:
        raise DataError(f"no image below the given folder fits the map {item.id!r}.")
    width, height = (about.width, about.height) if about.width else (heatmaps.shape[2], heatmaps.shape[1])
    if image is not None:
        width, height = image_size(image.path)
        item = replace(item, image=image.path.as_posix(), id=image.id)
        cut = cut.on_image(image.path)
    count, classes = len(heatmaps), about.classes
    if not classes:
        classes = ((UNNAMED, UNNAMED),) if count == 1 else tuple((str(i), str(i)) for i in range(count))
    if count not in (1, len(classes)):
        raise DataError(f"{item.id!r} has {count} maps but maps.json names {len(classes)} classes for it.")
    found = [cut.boxes(heatmap, width, height) for heatmap in heatmaps]
    predictions = [
        boxed_by(ClassPrediction(label, label_id, 0.0), box, box.region.score)
        for index, (label, label_id) in enumerate(classes)
        for box in found[min(index, count - 1)]
    ]
    return replace(item, width=width, height=height, predictions=tuple(predictions))


def confident(items: Iterator[Prediction], min_score: float) -> Iterator[Prediction]:
    """Yield the images with those predictions that have at least ``min_score``."""
    for item in items:
        yield replace(item, predictions=tuple(p for p in item.predictions if p.score >= min_score))


@dataclass(frozen=True)
class BoxStream:
    """Images to export: ``items`` come one at a time, ``total`` (None: unknown) of them, made as ``about`` says.

    Of a shard, ``ids`` are those of its images, and ``settings`` are what all shards must agree on.
    """

    items: Iterator[Prediction]
    total: int | None
    about: str
    warning: str = ""
    ids: Part[str] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def open_stored(
    path: Path,
    asked: Cutting = AS_RECORDED,
    images: Path | None = None,
    shard: Shard | None = None,
) -> BoxStream | None:
    """Find out what ``path`` holds: predictions, whose boxes are cut anew if anything is asked, or maps, or neither.

    What is not asked is as it was recorded; maps of others are cut by ``paper20``.
    ``images`` is a folder that tells the sizes of maps that come without predictions, and where a rule that looks at
    the images finds them; without it they are where they were when they were localized. ``shard``: its images alone.

    Raises:
        DataError: ``path`` is a file that does not exist, or boxes are to be cut anew, but there are no maps.
        UsageError: ``path`` is one map, or the rule looks at the images and they are not there.

    """
    if path.suffix.lower() == ".npy" and not path.is_dir():
        raise UsageError(f"{path} is one map. Give the folder of maps that it is in.")
    file = predictions_file(path)
    if file is not None and not file.is_file():
        raise DataError(f"{file} does not exist. Make it with: gwapctl localize IMAGES --out OUT.")
    if file is not None and asked == AS_RECORDED:
        items, total, part = _part(file, shard)
        return BoxStream(items, total, f"the boxes recorded in {file}", ids=part)
    folder = path if file is None else file.parent / MAPS
    if not holds_maps(folder):
        if file is None:
            return None
        cutting = any_of(map(option, CUTTING), "and")
        raise DataError(
            f"{file.parent} holds no maps to cut boxes from. Localize again with {option('save', 'map')}, or leave out "
            f"{cutting}."
        )
    maps = MapFolder(folder)
    cut = asked.cut(maps.info.box_rule or DEFAULT_RULE)
    rule = cut.rule
    about = f"boxes by {rule.name} from the maps of {maps.path}"
    below = ImageFiles(images)
    if file is not None:
        seen = ((item.id, item.image) for item in recorded(file) if item.error is None and item.predictions)
        files = below.needed(seen, rule.name) if rule.needs_image else {}
        items, total, part = _part(file, shard)
        return BoxStream(_each(items, lambda item: _recut(item, maps, cut, files)), total, about, ids=part)
    if rule.needs_image:
        below.needed(((image_id, "") for image_id in maps.ids()), rule.name)
    known = images is not None or bool(maps.info.images)
    warning = "" if known else f"{maps.path} does not say how large its images are: boxes are in pixels of the maps."
    info = maps.info
    ids = maps.ids() if shard is None else shard.of(maps.ids())
    of_shard = ids if isinstance(ids, Part) else None
    items = (Prediction(image_id, 0, 0, info.model, info.reading.scales) for image_id in ids)
    return BoxStream(_each(items, lambda item: _from_map(item, maps, cut, below)), len(ids), about, warning, of_shard)


def _part(file: Path, shard: Shard | None) -> tuple[Iterator[Prediction], int | None, Part[str] | None]:
    """Return the recorded images, or those of a shard with their ids, and how many they are."""
    if shard is None:
        return recorded(file), _count(file), None
    part = shard.of([item.id for item in recorded(file)])
    span = shard.span(len(part.items))
    return islice(recorded(file), span.start, span.stop), len(part), part


def _count(file: Path) -> int | None:
    if file.suffix.lower() != ".jsonl":
        return None
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())
