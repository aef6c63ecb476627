"""The model as Python sees it: three lines from images to boxes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import numpy.typing as npt

from gwapctl.errors import unknown_name
from gwapctl.images.decode import read_reduced
from gwapctl.maps.reading import AS_STORED, READING_OPTIONS, MapReading, ReadingOptions, split_options
from gwapctl.predict.base import (
    LocalizingModel,
    Precision,
    Predictor,
    checked_area,
    checked_score,
    require_whole,
    source_name,
)
from gwapctl.predict.cut import Cut, with_boxes
from gwapctl.predict.detector import DetectorModel
from gwapctl.predict.labelled import Labels, indices_of
from gwapctl.predict.map_folder import MapsInfo
from gwapctl.predict.prediction import ClassPrediction, ImageArray, Prediction, Source, load
from gwapctl.predict.shards import weights_digest
from gwapctl.regions import BoxRule, parse_box_rule

if TYPE_CHECKING:
    from gwapctl.maps.heatmap import PreparedImage
    from gwapctl.maps.localizer import Localizer, MapResult
    from gwapctl.networks.classifier import Classifier, ModelInfo


def load_model(
    spec: str | Path | None = None, *, device: str = "auto", precision: Precision = "auto"
) -> Model | DetectorModel:
    """Load a model: a run folder, a zoo entry's name, a folder with ``model.json``; None is the default, 1,000 classes.

    A detector gives a ``DetectorModel``: its results have as many boxes as it finds, and it takes other options.

    ``precision``: ``fp32``, ``bf16``, or ``auto``: bf16 where the processor computes it natively.

    >>> model = load_model("resnet-s-gwap-tiny-imagenet", device="cpu")
    >>> (found,) = model.localize(np.full((48, 64, 3), 127, np.uint8), map="class", top_k=3)
    >>> len(model.classes), found.scores.shape, found.boxes.shape, found.maps.shape
    (200, (3,), (3, 4), (3, 48, 64))

    Raises:
        UsageError: nothing has that name.
        ModelError: the files are missing or broken.
        MissingDependencyError: ``device`` is not there.

    """
    from gwapctl.networks.zoo import default_model, is_detector, resolve_model

    if spec is None:
        spec, stand_in = default_model()
        if stand_in:
            warnings.warn(stand_in, stacklevel=2)
    folder = resolve_model(str(spec))  # before torch: a wrong name fails at once
    from gwapctl.device import resolve_device
    from gwapctl.networks.classifier import load_classifier

    resolve_device(device)
    name = str(spec)
    if is_detector(folder):
        from gwapctl.networks.rfcn.inference import DetectorReader
        from gwapctl.networks.rfcn.store import load_detector

        return DetectorModel(DetectorReader(load_detector(folder), precision=precision, device=device), name)
    return Model(load_classifier(folder), name, device=device, precision=precision)


class Model(LocalizingModel):
    """A trained classifier that localizes. Made by ``gwapctl.load_model``."""

    detects: Literal[False] = False  # boxes are cut from maps; a detector's come from the network, each with its score

    def __init__(self, classifier: Classifier, name: str, *, device: str = "auto", precision: str = "auto") -> None:
        self.classifier = classifier
        self.name = name
        self.device = device
        self.precision = precision

    @property
    def info(self) -> ModelInfo:
        """Classes, input size, and the scales, map and box rule that are used unless told otherwise."""
        return self.classifier.info

    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know of the model; ``layers`` are its convolutions in order, by name."""
        from gwapctl.networks.classifier import describe_network

        return describe_network(self.classifier, self.info, self.classifier.backbone)

    def facts(self) -> dict[str, object]:
        """Return the network, its classes and input, and how its maps are read."""
        info = self.info
        return {
            "network": f"{info.backbone} + {info.head}",
            "classes": f"{len(info.classes):,}",
            "input": "{} x {}".format(*info.input_size),
            "map": info.map,
            "scales": ", ".join(map(str, info.scales)),
            "box rule": info.box_rule,
        }

    def predictor(
        self,
        *,
        reading: MapReading = AS_STORED,
        box_rule: str | BoxRule | None = None,
        refine: str | None = None,
        max_boxes: int = 1,
        min_area: float = 0.0,
        masks: bool = False,
        labels: Labels | None = None,
        top_k: int = 1,
        min_score: float | None = None,
        batch_size: int | None = None,
        **options: Unpack[ReadingOptions],
    ) -> ClassifierPredictor:
        """Return the object that does the work, every option checked.

        Args:
            reading: how maps are read, as one value.
            box_rule: ``paper20``, ``otsu`` or ``fixed:0.3``; ``otsu+split+grabcut`` takes objects that touch apart and
                names a refinement as well. None: what the model stores.
            refine: ``grabcut`` on top of the box rule (boxes follow the image's edges), or ``none``.
            max_boxes: boxes per class and image, at most.
            min_area: the smallest region, as a fraction of the map.
            masks: whether predictions carry the pixels of their objects.
            labels: the classes of each image by its path, as it is given; an image that is not named has none. None:
                the ``top_k`` most probable ones.
            top_k: how many classes per image.
            min_score: classes that score less are left out, and an image of which none is left is ``none`` of them.
                None: what training chose on images that show none of the classes, if it saw any; else 0.
            batch_size: images per forward pass.
            options: fields of ``MapReading`` by name, ``map`` for its method: they replace those of ``reading``.

        Raises:
            UsageError: there is no such option, or a value does not do.
            DataError: the model does not know one of the classes in ``labels``.

        """
        from gwapctl.maps.localizer import Localizer

        reading, others = split_options(options, reading)
        if others:
            own = inspect.signature(Model.stream).parameters.keys() | inspect.signature(Model.predictor).parameters
            raise unknown_name("option", next(iter(others)), {*READING_OPTIONS, *own} - {"self", "images", "options"})
        require_whole("top_k", top_k, 1)
        require_whole("max_boxes", max_boxes, 1)
        require_whole("batch_size", batch_size, 1)
        least = (self.info.none_threshold or 0.0) if min_score is None else checked_score(min_score)
        rule = parse_box_rule(box_rule, refine=refine, default=self.info.box_rule)
        localizer = Localizer(
            self.classifier, reading, precision=self.precision, device=self.device, batch_size=batch_size
        )
        known = None if labels is None else indices_of(labels, self.info.classes, self.name)
        cut = Cut(rule, max_boxes, checked_area(min_area), masks)
        return ClassifierPredictor(self.info, localizer, cut, top_k, known, least)


class ClassifierPredictor(Predictor):
    """From images to boxes of classes that score at least ``min_score``: localizer, cut and class names in one object.

    ``known`` are the classes of each image by its path, where nobody needs to ask the model.
    """

    def __init__(
        self,
        info: ModelInfo,
        localizer: Localizer,
        cut: Cut,
        top_k: int,
        known: Mapping[str, tuple[int, ...]] | None,
        min_score: float = 0.0,
    ) -> None:
        scales = localizer.reading.scales
        super().__init__(localizer.batch_size, scales, localizer.device, scale_warning(info, scales))
        self.info = info
        self.localizer = localizer
        self.cut = cut
        self.top_k = top_k
        self.known = known
        self.min_score = min_score

    def summary(self, model_name: str) -> str:
        """Say in a few words how objects are found."""
        sizes = ",".join(str(scale) for scale in self.scales) or "x".join(str(side) for side in self.info.input_size)
        none = f", none of the classes below {self.min_score:.2f}" if self.min_score else ""
        reading = f"map {self.localizer.reading.method}, scales {sizes}, box rule {self.cut.rule.name}"
        return f"model {model_name}, {reading}{none}"

    def describe(self, model_name: str) -> MapsInfo:
        """Say how the maps are made, and the boxes from them."""
        made = self.localizer
        return MapsInfo(made.reading, model_name, made.values, made.shared, self.cut.rule.name, self.min_score)

    def settings(self, model_name: str) -> dict[str, Any]:
        """Return all that processes which share one work must agree on."""
        chosen = {"max_boxes": self.cut.max_boxes, "min_area": self.cut.min_area, "masks": self.cut.masks}
        known = {"labels": None if self.known is None else "from-dataset", "precision": self.localizer.precision}
        return {**super().settings(model_name), **chosen, **known, "weights": weights_digest(self.localizer.model)}

    def mask(self, found: Prediction) -> npt.NDArray[np.bool_]:
        """Return the foreground of the best class's map by the box rule, or the object that it found in the image."""
        rule = self.cut.rule.of_class(found.class_ids[0]).without_image()
        return rule.mask(found.heatmap(0)) if found.mask is None else found.mask

    def _read(self, source: Source) -> tuple[PreparedImage, Cut]:
        """Read a file with no more pixels than are looked at, where that is the whole of it, warped."""
        reading = self.localizer.reading
        warped = reading.resize == "warp" or not reading.scales
        other = self.cut.rule.needs_image or reading.crops != "none" or reading.backprop_seg != "none"
        if other or not warped or not isinstance(source, str | Path):
            return self._prepare(load(source))
        width, height = self.info.input_size
        most = max(reading.scales, default=0)
        image, (width, height) = read_reduced(Path(source), (max(width, most), max(height, most)))
        prepared, cut = self._prepare(image)
        return replace(prepared, width=width, height=height), cut

    def _prepare(self, image: ImageArray) -> tuple[PreparedImage, Cut]:
        """Return what is kept of an image: the network's inputs, and the box rule that has seen it."""
        rule = self.cut.rule.on_image(image) if self.cut.rule.needs_image else self.cut.rule
        return self.localizer.prepare(image), replace(self.cut, rule=rule)

    def _predict(self, images: Sequence[tuple[Source, tuple[PreparedImage, Cut]]]) -> Iterable[Prediction]:
        if self.known is None:
            results = self.localizer.run([image for _, (image, _) in images], top_k=self.top_k)
            for (source, (image, cut)), result in zip(images, results, strict=True):
                yield self._named(source, image, cut, result)
            return
        wanted = [self.known.get(source_name(source), ()) for source, _ in images]
        labelled = [(image, classes) for (_, (image, _)), classes in zip(images, wanted, strict=True) if classes]
        inputs, asked = [image for image, _ in labelled], [classes for _, classes in labelled]
        found = iter(self.localizer.run(inputs, asked, top_k=0))
        for (source, (image, cut)), classes in zip(images, wanted, strict=True):
            if classes:
                yield self._named(source, image, cut, next(found))
            else:
                yield Prediction(source_name(source), image.width, image.height, source=source)

    def _named(self, source: Source, image: PreparedImage, cut: Cut, result: MapResult) -> Prediction:
        size = image.width, image.height
        scores = result.probabilities[list(result.classes)].tolist()  # the best first
        count = len(scores) if self.known is not None else sum(score >= self.min_score for score in scores)
        if not count:
            return Prediction(source_name(source), *size, none=True, source=source)
        classes = [self.info.classes[index] for index in result.classes[:count]]
        channels = [0 if result.shared else index for index in range(count)]
        kept = slice(1 if result.shared else count)
        item = Prediction(
            source_name(source),
            *size,
            predictions=tuple(
                ClassPrediction(one.name, one.id, score) for one, score in zip(classes, scores[:count], strict=True)
            ),
            maps=np.broadcast_to(result.heatmaps[kept], (count, *result.heatmaps.shape[1:])),
            ranges=np.broadcast_to(result.ranges[kept], (count, 2)),
            shared=result.shared,
            source=source,
        )
        heatmaps = {channel: result.heatmap(channel) for channel in channels}
        return with_boxes(item, heatmaps, channels, cut, {channel: result.terms_of(channel) for channel in channels})


def scale_warning(info: ModelInfo, scales: Sequence[int]) -> str | None:
    """Return a warning where a scale is more than three times the largest size that the model was trained with."""
    trained = info.train_sizes[1]
    foreign = ", ".join(str(scale) for scale in scales if scale > 3 * trained)  # the papers go from 224 to 672
    if not foreign:
        return None
    return f"scale {foreign} is more than three times the largest size in training, {trained} px: maps may be poor."
