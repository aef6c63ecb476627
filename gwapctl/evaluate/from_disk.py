"""Predictions from disk: folders of maps and files of boxes, whoever made them. No model, no torch."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path, PurePosixPath

import numpy as np

from gwapctl.boxes import Detections, as_boxes
from gwapctl.datasets.base import BoxedSample, Dataset, Sample
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.errors import DataError, option
from gwapctl.evaluate.ground_truth import true_boxes
from gwapctl.evaluate.predictions import Predictions, boxes_from_maps, reading_options, rule_for, some
from gwapctl.evaluate.result import GroundTruth
from gwapctl.formats.reading import stored_boxes
from gwapctl.images.decode import image_size
from gwapctl.images.files import same_name
from gwapctl.predict.image_index import ImageFiles, ImageIndex
from gwapctl.predict.map_folder import MapFolder, MapImage
from gwapctl.predict.prediction import ANY, Heatmap, Prediction, merge
from gwapctl.predict.predictions import PREDICTIONS, read_predictions
from gwapctl.regions import BoxRule
from gwapctl.regions.rules import DEFAULT_RULE

NOWHERE = as_boxes([])


def from_maps(
    folder: Path,
    ground_truth: GroundTruth,
    *,
    box_rule: str | BoxRule | None = None,
    refine: str | None = None,
    images: Path | None = None,
) -> Predictions:
    """Return what a folder of maps says of each sample; classes are ranked where ``localize`` recorded predictions.

    None for ``box_rule`` is the rule that ``localize`` recorded, else ``paper20``. A rule that needs the images finds
    them below ``images``, else where the data set or the predictions have them.

    Raises:
        DataError: an image has no map, a map cannot be used, or its channels say no class of the data set.
        UsageError: the rule needs the images, and one is not there.

    """
    maps, samples, notes = MapFolder(folder), ground_truth.samples, list[str]()
    cut = rule_for(ground_truth, box_rule, refine, maps.info.box_rule or DEFAULT_RULE)
    classes = ground_truth.dataset.classes
    matcher = ClassMatcher(classes)
    named = {pair for about in maps.info.images.values() for pair in about.classes}
    ids = {matcher.index(name, class_id): class_id for name, class_id in named}  # as whoever made the maps calls them
    file = next((path for beside in (folder, folder.parent) if (path := beside / PREDICTIONS).is_file()), None)
    recorded = {} if file is None else _read_predictions(file, ground_truth, notes)
    stored = _find_maps(samples, maps, none={sample_id for sample_id, found in recorded.items() if found.none})
    files = {} if cut is None or not cut.rule.needs_image else _image_files(file, samples, cut.rule.name, images)

    def prediction(sample: BoxedSample) -> Prediction:
        image_id = stored.get(sample.id)
        if image_id is None:
            return replace(recorded[sample.id], boxes_by_class={ANY: NOWHERE}, detections=None)
        about = maps.about(image_id)
        width, height = _original_size(sample, about.width, about.height)
        by_class = _maps_by_class(maps, image_id, about, matcher)
        seen = None if cut is None else cut.on_image(files.get(sample.id))
        return replace(
            recorded.get(sample.id) or Prediction(sample.id, 0, 0),
            width=width,
            height=height,
            maps_by_class=by_class,
            boxes_by_class=boxes_from_maps(
                by_class, seen, width, height, {label: ids.get(label, classes[label].id) for label in sample.labels}
            ),
            detections=None,
        )

    options = reading_options(maps.info.reading, cut)
    return Predictions(map(prediction, ground_truth.judged()), maps.info.model or str(folder), options, notes)


def from_boxes(file: Path, ground_truth: GroundTruth) -> Predictions:
    """Return what a file of predicted boxes says of each sample; where it has none of a true class, that is a miss.

    It is any file that ``formats.reading`` knows. One with several boxes in an image is also one of detections.

    Raises:
        DataError: the file is broken, or has no image of the samples, or no class of the data set.

    """
    dataset, samples, notes = ground_truth.dataset, ground_truth.samples, list[str]()
    images = _read_predictions(file, ground_truth, notes)
    if not images:
        raise DataError(f"{file} has no image of {dataset.name}: expected names like {samples[0].id!r}.")
    if {label for found in images.values() for label in found.ranked or ()} == {FOREIGN}:
        raise DataError(
            f"{file} and {dataset.name} share no class name or id: {notes[-1]}. {dataset.name} has "
            f"{some(item.name for item in dataset.classes)}. Give the data set that the boxes are for."
        )
    detects = any(found.detections is not None and len(found.detections.boxes) > 1 for found in images.values())
    none = Detections(as_boxes([]), np.zeros(0), np.zeros(0, np.int64))
    nothing = Prediction("", 0, 0, none=True, ranked=(), boxes_by_class={ANY: none.boxes}, detections=none)
    by_id = {sample.id: images.get(sample.id, nothing) for sample in samples}
    missed = {
        sample.id: [one for one in true_boxes(sample) if not _has_box(by_id[sample.id], one)] for sample in samples
    }
    count = sum(map(bool, missed.values()))
    if count:
        first = next(name for name, labels in missed.items() if labels)
        verb = "have" if count > 1 else "has"
        notes.append(
            f"{count} of {len(samples)} images {verb} no box of a class that is there, such as {first!r}: it is a miss"
        )

    def prediction(sample: BoxedSample) -> Prediction:
        found = by_id[sample.id]
        width, height = _original_size(sample, found.width, found.height)
        boxes = {**found.boxes_by_class, **dict.fromkeys(missed[sample.id], none.boxes)}
        seen = found.detections if detects else None
        return replace(found, width=width, height=height, boxes_by_class=boxes, detections=seen)

    return Predictions(map(prediction, ground_truth.judged()), str(file), notes=notes)


def _has_box(found: Prediction, label: int) -> bool:
    boxes = found.boxes_of(label)
    return boxes is not None and len(boxes) > 0


def _find_maps(samples: Sequence[BoxedSample], maps: MapFolder, none: Container[str]) -> dict[str, str]:
    """Return the stored id of each sample by its own; those of ``none`` of the classes need no map."""
    ids = maps.ids()
    index = ImageIndex(ids)
    found = {sample.id: index.find(sample.id, sample.path.as_posix()) for sample in samples}
    missing = [sample_id for sample_id, image_id in found.items() if image_id is None and sample_id not in none]
    if missing:
        example = f"It has {ids[0]!r}, for example." if len(missing) == len(samples) else "Localize the whole split."
        raise DataError(
            f"{maps.path} has no map for {len(missing)} of {len(samples)} images, such as {missing[0]!r}. {example}"
        )
    return {sample_id: image_id for sample_id, image_id in found.items() if image_id is not None}


def _maps_by_class(maps: MapFolder, image_id: str, about: MapImage, matcher: ClassMatcher) -> dict[int, Heatmap]:
    """Load the maps of one image. A single map stands for any class, unless maps.json names the one it is of."""
    channels = maps.channels(image_id)
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


def _original_size(sample: Sample, width: int, height: int) -> tuple[int, int]:
    """Return (width, height) of the upright image: as stored, else as annotated, else from the image's header."""
    return (width, height) if width and height else sample.size or image_size(sample.path)


def _image_files(
    file: Path | None, samples: Sequence[BoxedSample], rule: str, images: Path | None
) -> Mapping[str, Path]:
    """Return the image of each sample by its id: below ``images``, else the data set's, else the one localized."""
    index = ImageIndex(sample.id for sample in samples)
    localized = {} if file is None else {index.find(item.id, item.image): item.image for item in read_predictions(file)}
    paths = {
        sample.id: sample.path if sample.path.is_file() else localized.get(sample.id, sample.path) for sample in samples
    }
    return ImageFiles(images).needed(paths.items(), rule)


def _read_predictions(file: Path, ground_truth: GroundTruth, notes: list[str]) -> dict[str, Prediction]:
    """Return the predictions by sample id, in the data set's classes, of those images that are among the samples."""
    dataset = ground_truth.dataset
    images = stored_images(file, ground_truth.samples, notes)
    for image in images.values():
        if image.error is not None:
            raise DataError(
                f"{file}: {image.image} failed ({image.error}). Localize it again with {option('resume', True)}."
            )
    matcher = ClassMatcher(dataset.classes)
    every = [item for image in images.values() for item in image.predictions]
    labels = {item.label or item.label_id: matcher.index(item.label, item.label_id) for item in every}
    foreign = sorted(label for label, index in labels.items() if index == FOREIGN)
    if foreign:
        notes.append(f"{file} has boxes of classes that {dataset.name} lacks, which count as wrong: {some(foreign)}")
    return {sample_id: _in_classes_of(dataset, image, matcher) for sample_id, image in images.items()}


def stored_images(file: Path, samples: Sequence[Sample], notes: list[str]) -> dict[str, Prediction]:
    """Return what the file says by sample id, what it says of an image in several places together.

    Of two images that fit a sample, such as ``train/a.jpg`` and ``val/a.jpg``, the one more like its path is it.
    """
    index = ImageIndex(sample.id for sample in samples)
    paths = {sample.id: sample.path.as_posix() for sample in samples}
    by_id = {sample.id: sample for sample in samples}
    found: dict[str, list[Prediction]] = {}

    def size_of(name: str) -> tuple[int, int] | None:
        sample = by_id.get(index.find(name) or "")
        return None if sample is None else _original_size(sample, 0, 0)

    for image in stored_boxes(file, size_of):
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

    def likeness(name: str) -> tuple[bool, int]:
        backwards = (reversed(PurePosixPath(same_name(text)).parts) for text in (name, path))
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(*backwards, strict=False))
        return same_name(name) == same_name(sample_id), sum(1 for _ in alike)

    if likeness(image.id) == likeness(other.id):
        raise DataError(
            f"{file} has {other.image!r} and {image.image!r}, and both fit {path}. Write more of their folders."
        )
    return likeness(image.id) > likeness(other.id)


def _in_classes_of(dataset: Dataset, image: Prediction, matcher: ClassMatcher) -> Prediction:
    """Turn one line of predictions, best first, into numbers of the data set's classes."""
    predictions = sorted(image.predictions, key=lambda item: -item.score)
    labels = [matcher.index(item.label, item.label_id) for item in predictions]
    rows = list(zip(labels, predictions, strict=True))
    located = [(label, item.box, item.score) for label, item in rows if item.box is not None]
    scores = np.full(len(dataset.classes), np.nan)
    for label, item in reversed(rows):  # of several the best counts
        if label != FOREIGN:
            scores[label] = item.score
    known = dict.fromkeys(label for label in labels if label != FOREIGN)
    return replace(
        image,
        none=not predictions,
        predictions=(),
        probabilities=None if np.isnan(scores).any() else scores,
        ranked=tuple(label for index, label in enumerate(labels) if label == FOREIGN or label not in labels[:index]),
        boxes_by_class={label: as_boxes([box for other, box, _ in located if other == label]) for label in known},
        detections=Detections(
            as_boxes([box for _, box, _ in located]),
            np.array([score for _, _, score in located], np.float64),
            np.array([label for label, _, _ in located], np.int64),
        ),
    )
