"""The model as Python sees it: three lines from images to boxes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import numpy.typing as npt

from gwapctl.errors import UsageError, option, unknown_name
from gwapctl.maps.reading import AS_STORED, READING_OPTIONS, MapReading, ReadingOptions, split_options
from gwapctl.predict.base import LocalizingModel, Precision, Predictor, require_whole, source_name
from gwapctl.predict.cut import Cut
from gwapctl.predict.detector import DetectorModel
from gwapctl.predict.map_folder import MapsInfo
from gwapctl.predict.prediction import ClassPrediction, ImageArray, Prediction, Source
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
        top_k: int = 1,
        min_score: float | None = None,
        batch_size: int | None = None,
        **options: Unpack[ReadingOptions],
    ) -> ClassifierPredictor:
        """Return the object that does the work, every option checked.

        Args:
            reading: how maps are read, as one value.
            box_rule: ``paper20``, ``otsu`` or ``fixed:0.3``; ``otsu+grabcut`` names a refinement as well. None: what
                the model stores.
            refine: ``grabcut`` on top of the box rule (boxes follow the image's edges), or ``none``.
            top_k: how many classes per image.
            min_score: a detector's.
            batch_size: images per forward pass.
            options: fields of ``MapReading`` by name, ``map`` for its method: they replace those of ``reading``.

        Raises:
            UsageError: there is no such option, or a value does not do; or ``min_score`` is given.

        """
        from gwapctl.maps.localizer import Localizer

        if min_score is not None:
            raise UsageError(f"{option('min_score')} is for a detector's boxes, and {self.name} is a classifier.")
        reading, others = split_options(options, reading)
        if others:
            own = inspect.signature(Model.stream).parameters.keys() | inspect.signature(Model.predictor).parameters
            raise unknown_name("option", next(iter(others)), {*READING_OPTIONS, *own} - {"self", "images", "options"})
        require_whole("top_k", top_k, 1)
        require_whole("batch_size", batch_size, 1)
        rule = parse_box_rule(box_rule, refine=refine, default=self.info.box_rule)
        localizer = Localizer(
            self.classifier, reading, precision=self.precision, device=self.device, batch_size=batch_size
        )
        return ClassifierPredictor(self.info, localizer, rule, top_k)


class ClassifierPredictor(Predictor):
    """From images to boxes: the localizer, the box rule and the class names in one object."""

    def __init__(self, info: ModelInfo, localizer: Localizer, rule: BoxRule, top_k: int) -> None:
        scales = localizer.reading.scales
        super().__init__(localizer.batch_size, scales, localizer.device, scale_warning(info, scales))
        self.info = info
        self.localizer = localizer
        self.rule = rule
        self.top_k = top_k

    def summary(self, model_name: str) -> str:
        """Say in a few words how objects are found."""
        sizes = ",".join(str(scale) for scale in self.scales) or "x".join(str(side) for side in self.info.input_size)
        return f"model {model_name}, map {self.localizer.reading.method}, scales {sizes}, box rule {self.rule.name}"

    def describe(self, model_name: str) -> MapsInfo:
        """Say how the maps are made, and the boxes from them."""
        made = self.localizer
        return MapsInfo(made.reading, model_name, made.values, made.shared, self.rule.name)

    def mask(self, found: Prediction) -> npt.NDArray[np.bool_]:
        """Return the foreground of the best class's map by the box rule, or the object that it found in the image."""
        return self.rule.without_image().mask(found.heatmap(0)) if found.mask is None else found.mask

    def _prepare(self, image: ImageArray) -> tuple[PreparedImage, Cut]:
        """Return what is kept of an image: the network's inputs, and the box rule that has seen it."""
        return self.localizer.prepare(image), Cut(self.rule.on_image(image))

    def _predict(self, images: Sequence[tuple[Source, tuple[PreparedImage, Cut]]]) -> Iterable[Prediction]:
        results = self.localizer.run([image for _, (image, _) in images], top_k=self.top_k)
        for (source, (image, cut)), result in zip(images, results, strict=True):
            yield self._named(source, image, cut, result)

    def _named(self, source: Source, image: PreparedImage, cut: Cut, result: MapResult) -> Prediction:
        size = (image.width, image.height)
        regions = [next(iter(cut.regions(result.heatmap(index), *size)), None) for index in range(len(result.heatmaps))]
        boxes = [None if region is None else tuple(region.box.tolist()) for region in regions]
        count = len(result.classes)
        return Prediction(
            source_name(source),
            *size,
            predictions=tuple(
                ClassPrediction(self.info.classes[index].name, self.info.classes[index].id, score, box)
                for index, score, box in zip(
                    result.classes,
                    result.probabilities[list(result.classes)].tolist(),
                    boxes * count if result.shared else boxes,
                    strict=True,
                )
            ),
            maps=np.broadcast_to(result.heatmaps, (count, *result.heatmaps.shape[1:])),
            ranges=np.broadcast_to(result.ranges, (count, 2)),
            shared=result.shared,
            mask=None if not regions or regions[0] is None else regions[0].mask,
            source=source,
        )


def scale_warning(info: ModelInfo, scales: Sequence[int]) -> str | None:
    """Return a warning where a scale is more than three times the largest size that the model was trained with."""
    trained = info.train_sizes[1]
    foreign = ", ".join(str(scale) for scale in scales if scale > 3 * trained)  # the papers go from 224 to 672
    if not foreign:
        return None
    return f"scale {foreign} is more than three times the largest size in training, {trained} px: maps may be poor."
