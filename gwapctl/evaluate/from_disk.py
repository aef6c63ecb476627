"""Predictions from disk: folders of maps and files of boxes, whoever made them. No model, no torch."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np

from gwapctl.boxes import Detections, FloatArray, as_boxes
from gwapctl.datasets.base import BoxedSample, Dataset
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.errors import DataError
from gwapctl.evaluate.predictions import boxes_from_maps, some
from gwapctl.files import open_text
from gwapctl.formats.tables import COLUMNS
from gwapctl.images.decode import image_size, read_image
from gwapctl.images.files import same_name
from gwapctl.predict.image_index import ImageIndex
from gwapctl.predict.images_of_maps import ImageFiles
from gwapctl.predict.map_folder import MapFolder, MapImage
from gwapctl.predict.prediction import ANY, Box, ClassPrediction, Heatmap, Prediction, merge
from gwapctl.predict.predictions import PREDICTIONS, read_predictions
from gwapctl.regions import BoxRule


def predictions_from_maps(
    folder: Path,
    dataset: Dataset,
    samples: Sequence[BoxedSample],
    rule: BoxRule | None,
    notes: list[str],
    images: Path | None = None,
) -> Iterator[Prediction]:
    """Yield what a folder of maps says of each of ``samples``; classes are ranked where it holds predictions.

    A rule that needs the images finds them below ``images``, else where the data set or the predictions have them.
    ``notes`` get what a reader of the result must know, such as predictions of classes that the data set lacks.

    Raises:
        DataError: an image has no map, a map cannot be used, or its channels say no class of the data set.
        UsageError: the rule needs the images, and one is not there.

    """
    maps = MapFolder(folder)
    stored = find_images(samples, maps.ids(), str(maps.path), "map")
    matcher = ClassMatcher(dataset.classes)
    predictions = _stored_predictions(folder, dataset, samples, notes)
    files = _image_files(folder, samples, rule.name, images) if rule is not None and rule.needs_image else {}
    for sample, image_id in zip(samples, stored, strict=True):
        about = maps.about(image_id)
        width, height = _original_size(sample, about.width, about.height)
        by_class = _maps_by_class(maps, image_id, about, matcher)
        seen = rule.on_image(read_image(files[sample.id])) if rule is not None and files else rule
        boxes = boxes_from_maps(by_class, seen, width, height, sample.labels)
        yield replace(
            predictions[sample.id],
            width=width,
            height=height,
            maps_by_class=by_class,
            boxes_by_class=boxes,
            detections=None,
        )


def predictions_from_boxes(
    file: Path, dataset: Dataset, samples: Sequence[BoxedSample], notes: list[str]
) -> Iterator[Prediction]:
    """Yield what a file of predicted boxes says of each of ``samples``; an image it leaves out has no box.

    A file with several boxes in an image is also one of detections. ``notes`` get what a reader of the result must
    know: lines that the file has twice, classes that the data set lacks.

    Raises:
        DataError: the file is broken, or has no image of ``samples``, or no class of the data set.

    """
    images = _read_predictions(file, dataset, samples, notes)
    if not images:
        raise DataError(f"{file} has no image of {dataset.name}: expected names like {samples[0].id!r}.")
    if {label for found in images.values() for label in found.ranked or ()} == {FOREIGN}:
        raise DataError(
            f"{file} and {dataset.name} share no class name or id: {notes[-1]}. {dataset.name} has "
            f"{some(item.name for item in dataset.classes)}. Give the data set that the boxes are for."
        )
    detects = any(found.detections is not None and len(found.detections.boxes) > 1 for found in images.values())
    for sample in samples:
        found = images.get(sample.id) or _nothing_in(sample)
        width, height = _original_size(sample, found.width, found.height)
        yield replace(found, width=width, height=height, detections=found.detections if detects else None)


def _nothing_in(sample: BoxedSample) -> Prediction:
    nothing = Detections(as_boxes([]), np.zeros(0), np.zeros(0, np.int64))
    return Prediction(sample.id, 0, 0, ranked=(), boxes_by_class={ANY: nothing.boxes}, detections=nothing)


def find_images(samples: Sequence[BoxedSample], ids: Sequence[str], source: str, what: str) -> list[str]:
    """Return the stored id of each sample.

    Raises:
        DataError: some samples are not there; the message counts and names them.

    """
    index = ImageIndex(ids)
    found = [index.find(sample.id, sample.path.as_posix()) for sample in samples]
    missing = [sample.id for sample, image_id in zip(samples, found, strict=True) if image_id is None]
    if missing:
        example = f"It has {ids[0]!r}, for example." if len(missing) == len(samples) else "Localize the whole split."
        raise DataError(
            f"{source} has no {what} for {len(missing)} of {len(samples)} images, such as {missing[0]!r}. {example}"
        )
    return [image_id for image_id in found if image_id is not None]


def _maps_by_class(maps: MapFolder, image_id: str, about: MapImage, matcher: ClassMatcher) -> dict[int, Heatmap]:
    """Load the maps of one image. A single map stands for any class, unless maps.json names the one it is of."""
    array = maps.load(image_id)
    channels = array[None] if array.ndim == 2 else array
    if len(channels) == 1 and (maps.info.class_agnostic or not about.labels):
        return {ANY: channels[0]}
    if len(channels) != len(about.labels):
        raise DataError(
            f"the maps of {image_id!r} in {maps.path} have {len(channels)} channels but maps.json names "
            f"{len(about.labels)} classes for them. Save one map per image, or name the class of every channel."
        )
    ids = about.label_ids or ("",) * len(about.labels)
    labels = [matcher.index(name, class_id) for name, class_id in zip(about.labels, ids, strict=True)]
    return {label: heatmap for label, heatmap in zip(labels, channels, strict=True) if label != FOREIGN}


def _original_size(sample: BoxedSample, width: int, height: int) -> tuple[int, int]:
    """Return (width, height) of the upright image: as stored, else as annotated, else from the image's header."""
    return (width, height) if width and height else sample.size or image_size(sample.path)


def _predictions_beside(folder: Path) -> Path | None:
    """Return the ``predictions.jsonl`` that ``localize`` wrote beside its maps, if there is one."""
    files = (folder / PREDICTIONS, folder.parent / PREDICTIONS)
    return next((file for file in files if file.is_file()), None)


def _stored_predictions(
    folder: Path, dataset: Dataset, samples: Sequence[BoxedSample], notes: list[str]
) -> Mapping[str, Prediction]:
    """Return the predictions beside the maps by sample id; empty without them."""
    file = _predictions_beside(folder)
    found = {} if file is None else _read_predictions(file, dataset, samples, notes)
    return {sample.id: found.get(sample.id, Prediction(sample.id, 0, 0)) for sample in samples}


def _image_files(folder: Path, samples: Sequence[BoxedSample], rule: str, images: Path | None) -> Mapping[str, Path]:
    """Return the image of each sample by its id: below ``images``, else the data set's, else the one localized."""
    file, index = _predictions_beside(folder), ImageIndex(sample.id for sample in samples)
    localized = {} if file is None else {index.find(item.id, item.image): item.image for item in read_predictions(file)}
    paths = {
        sample.id: sample.path if sample.path.is_file() else localized.get(sample.id, sample.path) for sample in samples
    }
    return ImageFiles(images).needed(paths.items(), rule)


def _read_predictions(
    file: Path, dataset: Dataset, samples: Sequence[BoxedSample], notes: list[str]
) -> dict[str, Prediction]:
    """Return the predictions by sample id, in the data set's classes, of those images that are among ``samples``.

    Raises:
        DataError: an image failed, or two images fit one sample.

    """
    images = _stored_images(file, samples, notes)
    for image in images.values():
        if image.error is not None:
            raise DataError(f"{file}: {image.image} failed ({image.error}). Localize it again with --resume.")
    matcher = ClassMatcher(dataset.classes)
    foreign = _foreign_classes(images.values(), matcher)
    if foreign:
        notes.append(f"{file} has boxes of classes that {dataset.name} lacks, which count as wrong: {some(foreign)}")
    return {sample_id: _in_classes_of(dataset, image, matcher) for sample_id, image in images.items()}


def _foreign_classes(images: Iterable[Prediction], matcher: ClassMatcher) -> list[str]:
    labels = {item.label or item.label_id: _index(item, matcher) for image in images for item in image.predictions}
    return sorted(label for label, index in labels.items() if index == FOREIGN)


def _index(item: ClassPrediction, matcher: ClassMatcher) -> int:
    return matcher.index(item.label, item.label_id)


def _stored_images(file: Path, samples: Sequence[BoxedSample], notes: list[str]) -> dict[str, Prediction]:
    """Return what the file says by sample id, what it says of an image in several places together.

    Of two images that fit a sample, such as ``train/a.jpg`` and ``val/a.jpg``, the one more like its path is it.
    """
    index = ImageIndex(sample.id for sample in samples)
    paths = {sample.id: sample.path.as_posix() for sample in samples}
    found: dict[str, list[Prediction]] = {}
    for image in _read_csv(file) if file.suffix.lower() == ".csv" else read_predictions(file):
        sample_id = index.find(image.id, image.image)
        if sample_id is None:
            continue
        parts = found.setdefault(sample_id, [])
        if not parts or same_name(parts[0].id) == same_name(image.id):
            parts.append(image)
        elif _is_nearer(image, parts[0], sample_id, paths[sample_id], file):
            found[sample_id] = [image]
    merged = {sample_id: parts[0] if len(parts) == 1 else merge(parts, str(file)) for sample_id, parts in found.items()}
    given = sum(len(part.predictions) for parts in found.values() for part in parts if part.error is None)
    twice = given - sum(len(image.predictions) for image in merged.values())
    if twice:
        notes.append(f"{file} has {twice} prediction{'s' if twice > 1 else ''} twice; each counts once")
    return merged


def _is_nearer(image: Prediction, other: Prediction, sample_id: str, path: str, file: Path) -> bool:
    """Tell which of two images a sample is: the one of its very id, else the one that shares more folders with it."""
    alike, alike_other = (
        (same_name(item.id) == same_name(sample_id), _parts_alike(item.id, path)) for item in (image, other)
    )
    if alike == alike_other:
        raise DataError(
            f"{file} has {other.image!r} and {image.image!r}, and both fit {path}. Write more of their folders."
        )
    return alike > alike_other


def _parts_alike(name: str, path: str) -> int:
    """Count the parts at the end of two paths that are equal."""
    backwards = (reversed(PurePosixPath(same_name(text)).parts) for text in (name, path))
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*backwards, strict=False)))


def _in_classes_of(dataset: Dataset, image: Prediction, matcher: ClassMatcher) -> Prediction:
    """Turn one line of predictions, best first, into numbers of the data set's classes."""
    predictions = sorted(image.predictions, key=lambda item: -item.score)
    labels = [_index(item, matcher) for item in predictions]
    boxes: dict[int, list[FloatArray]] = {label: [] for label in labels if label != FOREIGN}
    scores = np.full(len(dataset.classes), np.nan)
    for label, item in zip(reversed(labels), reversed(predictions), strict=True):
        if label != FOREIGN:
            scores[label] = item.score
    for label, item in zip(labels, predictions, strict=True):
        if label != FOREIGN and item.box is not None:
            boxes[label].append(as_boxes(item.box))
    located = [(item.box, item.score, label) for label, item in zip(labels, predictions, strict=True) if item.box]
    return replace(
        image,
        predictions=(),
        probabilities=None if np.isnan(scores).any() else scores,
        ranked=tuple(label for index, label in enumerate(labels) if label == FOREIGN or label not in labels[:index]),
        boxes_by_class={label: np.concatenate([as_boxes([]), *found]) for label, found in boxes.items()},
        detections=Detections(
            as_boxes([box for box, _, _ in located]),
            np.array([score for _, score, _ in located], np.float64),
            np.array([label for _, _, label in located], np.int64),
        ),
    )


def _read_csv(file: Path) -> Iterator[Prediction]:
    """Yield the images of a table of boxes as ``gwapctl boxes --format csv`` writes it, one image per row.

    Raises:
        DataError: a column is missing, or a cell is not a number.

    """
    with open_text(file, newline="") as lines:
        rows = csv.DictReader(lines)
        try:
            missing = set(COLUMNS) - set(rows.fieldnames or ())
            if missing:
                raise DataError(f"{file} lacks the columns {', '.join(sorted(missing))}. Write it with gwapctl boxes.")
            for row in rows:
                yield _image_of(row)
        except (ValueError, csv.Error) as error:
            raise DataError(f"cannot read {file}, line {rows.line_num}: {error}.") from error


def _image_of(row: Mapping[str, str]) -> Prediction:
    if None in row or None in row.values():
        raise ValueError("the row has not as many cells as the header")
    found = []
    if row["label"] or row["label_id"]:  # an image without any class keeps a row with empty cells
        box = None if not row["x0"] else tuple(float(row[key]) for key in ("x0", "y0", "x1", "y1"))
        found.append(ClassPrediction(row["label"], row["label_id"], float(row["score"]), cast(Box | None, box)))
    elif row["x0"]:
        raise ValueError("there is a box, but no label")
    return Prediction(row["image"], _pixels(row["width"]), _pixels(row["height"]), predictions=tuple(found))


def _pixels(cell: str) -> int:
    """Read a width or height; empty: unknown. Spreadsheets write whole numbers as ``80.0``."""
    return int(float(cell)) if cell else 0
