"""Predictions of a classifier or a detector: images through the network once, with the maps that metrics look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import Detections
from gwapctl.datasets.base import BoxedSample, ClassName, without_boxes
from gwapctl.datasets.class_names import FOREIGN
from gwapctl.evaluate.predictions import (
    Predictions,
    boxes_from_maps,
    from_detections,
    match_classes,
    reading_options,
    rule_for,
    spread,
)
from gwapctl.evaluate.result import GroundTruth
from gwapctl.images.decode import image_size, read_image
from gwapctl.metrics.foreground import boxes_mask
from gwapctl.metrics.localization import TOP
from gwapctl.predict.classifier import scale_warning
from gwapctl.predict.cut import Cut
from gwapctl.predict.prediction import ANY, Prediction
from gwapctl.progress import ProgressCallback
from gwapctl.regions import BoxRule

if TYPE_CHECKING:
    from gwapctl.maps.heatmap import PreparedImage
    from gwapctl.maps.localizer import Localizer, MapResult
    from gwapctl.networks.classifier import Classifier
    from gwapctl.networks.heads.base import Head
    from gwapctl.predict.detector import DetectorPredictor
    from gwapctl.train.feature_cache import FeatureCache


@dataclass(frozen=True)
class CachedFeatures:
    """Where the maps lie that a run's last stages read (``folder`` of caches), and who makes those that lack.

    ``model`` is the run's, of whose backbone the ``late`` last stages learned.
    """

    folder: Path
    model: Classifier
    late: int
    workers: int | None = None
    progress: ProgressCallback | None = None

    def of(self, samples: Sequence[BoxedSample], localizer: Localizer) -> CachesBySize | None:
        """Return the maps of ``samples`` at each size of input, None where not all is read from them.

        Equal frozen parts share them.
        """
        from gwapctl.train.feature_cache import FeatureCache
        from gwapctl.train.task import default_workers

        model, plain = self.model.to(localizer.device), [without_boxes(sample) for sample in samples]
        caches = {
            size: FeatureCache(
                self.folder, model, plain, size=size, precision=localizer.precision, mirrored=False, last=self.late
            )
            for size in sorted(localizer.feature_sizes)
        }
        workers = default_workers() if self.workers is None else self.workers
        for cache in caches.values():
            if cache.missing():
                cache.fill(model, workers=workers, progress=self.progress)
        return CachesBySize(caches, self.late) if caches else None


@dataclass(frozen=True)
class CachesBySize:
    """Feature maps of images at each size of input, which the ``late`` last stages of a backbone read."""

    caches: Mapping[tuple[int, int], FeatureCache]
    late: int

    def prepared(self, sample: BoxedSample, localizer: Localizer) -> PreparedImage:
        """Return an image as ``localizer`` takes it, without a look at its pixels."""
        features = {size: cache.read(sample) for size, cache in self.caches.items()}
        return localizer.prepare_features(*image_size(sample.path), features, self.late)


def from_model(
    localizer: Localizer,
    ground_truth: GroundTruth,
    *,
    name: str,
    box_rule: str | BoxRule | None = None,
    refine: str | None = None,
    features: CachedFeatures | None = None,
    workers: int | None = None,
) -> Predictions:
    """Return what a classifier, as ``localizer`` reads it, says of each sample; ``name`` is what the result calls it.

    None for ``box_rule`` is the rule that the model stores. ``features`` take the place of the images where all is read
    from them (``Localizer.feature_sizes``) and no box is refined.

    Raises:
        DataError: model and data set share no classes, or an image cannot be read.

    """
    from gwapctl.predict.threads import chunk_size

    info, reading = localizer.model.info, localizer.reading
    cut = rule_for(ground_truth, box_rule, refine, info.box_rule)
    of_reading = {"scales": list(reading.scales), "resize": reading.resize, "precision": localizer.precision}
    ran = localizer.engine.choice
    if ran.engine != "torch":
        of_reading |= {"engine": ran.engine, "precision": ran.recorded_precision}
    warning = scale_warning(info, reading.scales)
    cache = None
    chunk = chunk_size(len(ground_truth.samples), localizer.batch_size, workers)
    if features is not None and not (cut and cut.rule.needs_image):
        cache = features.of(ground_truth.judged(chunk), localizer)
    if cache is not None:
        of_reading["features"] = "cached"
    notes = [f"head {info.head} sees ground-truth boxes at test time"] if sees_boxes(localizer) else []
    notes += [warning] if warning else []
    items = predictions_from_model(localizer, ground_truth, cut, name=name, cache=cache, workers=workers)
    return Predictions(items, name, {**reading_options(reading, cut), **of_reading}, notes, chunk=chunk)


def predictions_from_model(
    localizer: Localizer,
    ground_truth: GroundTruth,
    cut: Cut | None,
    *,
    name: str = "the model",
    cache: CachesBySize | None = None,
    workers: int | None = None,
) -> Iterator[Prediction]:
    """Yield what the model says of each sample; classes of model and data set are matched by id or name.

    One map per image where it stands for all classes, otherwise those of the classes present and of the five best. A
    head that sees boxes gets the union of all objects of an image, difficult ones included. ``cache``: read that, and
    decode no image. Protocol ``wsoleval`` gets maps of one scale as the network made them: it resizes them itself.
    """
    from gwapctl.predict.threads import chunk_size, in_threads

    dataset, blind = ground_truth.dataset, not sees_boxes(localizer)
    match = _match(localizer.model.info.classes, ground_truth, name)
    resized = ground_truth.protocol != "wsoleval"
    of_model = {int(label): index for index, label in enumerate(match) if label != FOREIGN}

    ids = {label: localizer.model.info.classes[index].id for label, index in of_model.items()}

    def seen(sample: BoxedSample) -> tuple[PreparedImage, Cut | None]:
        if cache is not None:
            return cache.prepared(sample, localizer), cut
        image = read_image(sample.path)
        return localizer.prepare(image), None if cut is None else Cut(cut.rule.on_image(image))

    def work(part: list[BoxedSample]) -> list[Prediction]:
        images, cuts = zip(*(seen(sample) for sample in part), strict=True)
        wanted = [[of_model[label] for label in sample.labels] for sample in part]
        sizes = [(image.width, image.height) for image in images]
        pairs = zip(part, sizes, strict=True)
        regions = None if blind else [boxes_mask(sample.boxes, *size).astype(np.uint8) for sample, size in pairs]
        top_k = 1 if localizer.shared else TOP
        results = localizer.run(images, wanted, top_k=top_k, regions=regions, resized=resized)
        return [prediction(*row) for row in zip(results, cuts, part, sizes, strict=True)]

    def prediction(result: MapResult, seen: Cut | None, sample: BoxedSample, size: tuple[int, int]) -> Prediction:
        labels = [ANY] if result.shared else match[list(result.classes)].tolist()
        maps = {label: result.heatmap(index) for index, label in enumerate(labels) if label != FOREIGN}
        best = np.argsort(-result.probabilities, kind="stable")[:TOP]
        none = localizer.model.info.none_threshold
        return Prediction(
            sample.path.as_posix(),
            *size,
            id=sample.id,
            none=none is not None and bool(result.probabilities.max() < none),
            probabilities=spread(result.probabilities.astype(np.float64), match, len(dataset.classes)),
            ranked=tuple(match[best].tolist()),
            maps_by_class=maps,
            terms_by_class={label: result.terms_of(labels.index(label)) for label in maps},
            boxes_by_class=boxes_from_maps(maps, seen, *size, {label: ids[label] for label in sample.labels}),
        )

    judged = ground_truth.judged(chunk_size(len(ground_truth.samples), localizer.batch_size, workers))
    yield from in_threads(work, judged, chunk=localizer.batch_size, workers=workers)


def _match(classes: Sequence[ClassName], ground_truth: GroundTruth, name: str) -> npt.NDArray[np.int64]:
    """Return the data set's index of each of the model's classes, or ``FOREIGN``."""
    present = {label for sample in ground_truth.samples for label in sample.labels}
    return match_classes(classes, ground_truth.dataset.classes, present, name, ground_truth.dataset.name)


def sees_boxes(localizer: Localizer) -> bool:
    """Tell whether the model's head pools inside ground-truth boxes, so that its numbers are no results of its own."""
    return cast("Head", localizer.model.head).sees_boxes


def from_detector(
    predictor: DetectorPredictor, ground_truth: GroundTruth, *, name: str, workers: int | None = None
) -> Predictions:
    """Return all boxes that a detector finds, whatever their score, after NMS; its ``min_score`` is not looked at.

    Raises:
        DataError: model and data set share no classes, or an image cannot be read.

    """
    from gwapctl.predict.threads import chunk_size, in_threads

    reader, info = predictor.reader, predictor.reader.info
    match = _match(info.classes, ground_truth, name)

    def work(part: list[BoxedSample]) -> list[Detections]:
        images = [read_image(sample.path) for sample in part]
        found = reader.run(images, batch_size=predictor.batch_size, refine=predictor.refine)
        return [Detections(item.boxes, item.scores, match[item.labels]) for item in found]

    options = {
        "short_side": info.short_side,
        "long_side": info.long_side,
        "precision": reader.precision,
        "box_subset": info.provenance.get("box_subset"),  # the images whose boxes it was trained with
    }
    if predictor.refine != "none":
        options["refine"] = predictor.refine
    chunk = chunk_size(len(ground_truth.samples), predictor.batch_size, workers)
    found = in_threads(work, ground_truth.judged(chunk), chunk=predictor.batch_size, workers=workers)
    return replace(from_detections(found, name, options), chunk=chunk)
