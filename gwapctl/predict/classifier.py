"""The model as Python sees it: three lines from images to boxes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gwapctl.errors import DataError, UsageError
from gwapctl.predict.detector import DetectorModel
from gwapctl.predict.map_folder import MapsInfo, maps_info
from gwapctl.predict.prediction import Box, ClassPrediction, Prediction, Source, load
from gwapctl.predict.sources import OnError, checked, source_name, sources
from gwapctl.regions import BoxRule, Region, map_to_boxes, parse_box_rule, refined

if TYPE_CHECKING:
    import torch

    from gwapctl.maps import Localizer, MapResult
    from gwapctl.maps.heatmap import FloatArray as FloatMap
    from gwapctl.maps.heatmap import PreparedImage
    from gwapctl.networks.classifier import Classifier, ModelInfo


def load_model(
    spec: str | Path | None = None, *, device: str = "auto", precision: str = "auto"
) -> Model | DetectorModel:
    """Load a model: a run folder, a zoo entry's name, a folder with ``model.json``; None is the default, 1,000 classes.

    A detector gives a ``DetectorModel``: its results have as many boxes as it finds, and it takes other options.

    ``precision``: ``fp32``, ``bf16``, or ``auto``: bf16 where the processor computes it natively.

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
        from gwapctl.networks.rfcn import load_detector
        from gwapctl.networks.rfcn.inference import DetectorReader

        return DetectorModel(DetectorReader(load_detector(folder), precision=precision, device=device), name)
    return Model(load_classifier(folder), name, device=device, precision=precision)


class Model:
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

    @property
    def classes(self) -> tuple[str, ...]:
        """The readable names of all classes."""
        return tuple(item.name for item in self.info.classes)

    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know of the model; ``layers`` are its convolutions in order, by name."""
        from gwapctl.networks.classifier import describe_network

        return describe_network(self.classifier, self.info, self.classifier.backbone)

    def localize(
        self, images: Source | Iterable[Source], *, on_error: OnError = "raise", **options: Any
    ) -> list[Prediction]:
        """Localize one or many images and return the results in order. See ``stream`` for the options.

        Raises:
            DataError: an image cannot be read; with ``on_error="keep"`` its result says so in ``error`` instead.
            UsageError: an option's value is unknown.

        """
        return list(self.stream(images, on_error=on_error, **options))

    def stream(
        self,
        images: Source | Iterable[Source],
        *,
        scales: Sequence[int] | None = None,
        map: str | None = None,
        box_rule: str | None = None,
        refine: str | None = None,
        top_k: int = 1,
        flip: bool = False,
        resize: str | None = None,
        layer: Sequence[str | int] | None = None,
        fuse: str | None = None,
        close: float | None = None,
        crops: str = "none",
        backprop_seg: str = "none",
        batch_size: int | None = None,
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> Iterator[Prediction]:
        """Yield one result per image, in order, while later images are worked on; memory stays flat.

        Args:
            images: a path, a folder (its images, sorted), an array ``(H, W, 3)`` uint8 RGB, or an iterable of these.
            scales: input sizes whose maps are averaged. None, here and below: what the model stores.
            map: ``weight``, ``class``, ``fused``, or another of ``gwapctl.maps.MAPS``.
            box_rule: ``paper20``, ``otsu`` or ``fixed:0.3``; ``otsu+grabcut`` names a refinement as well.
            refine: ``grabcut`` on top of the box rule (boxes follow the image's edges), or ``none``.
            top_k: how many classes per image.
            flip: average over the mirrored image, too.
            resize: ``warp`` each image to a square, or ``keep`` its aspect ratio (the shorter side gets the size).
            layer: names or numbers of the convolutions that ``gradcam``, ``layercam`` and ``dgl`` are read at.
            fuse: how maps of several layers become one: ``mean``, ``max`` or ``product``.
            close: share of the shorter side up to which gaps in a map are closed, such as 0.05.
            crops: ``ten``: CAM's ten crops, in place of scales.
            backprop_seg: ``mean`` or ``grabcut``: cut the map of ``backprop`` into object and rest.
            batch_size: images per forward pass.
            workers: threads; None: one per core; 0: none.
            on_error: whether an image that cannot be read raises, or is kept as a result with ``error``.

        """
        finder = self.finder(
            scales=scales,
            map=map,
            box_rule=box_rule,
            refine=refine,
            top_k=top_k,
            flip=flip,
            resize=resize,
            layer=layer,
            fuse=fuse,
            close=close,
            crops=crops,
            backprop_seg=backprop_seg,
            batch_size=batch_size,
        )
        if warning := finder.warning:
            warnings.warn(warning, stacklevel=2)
        return checked(finder.stream(sources(images), workers), on_error)

    def finder(
        self,
        *,
        scales: Sequence[int] | None = None,
        map: str | None = None,
        box_rule: str | None = None,
        refine: str | None = None,
        top_k: int = 1,
        flip: bool = False,
        resize: str | None = None,
        layer: Sequence[str | int] | None = None,
        fuse: str | None = None,
        close: float | None = None,
        crops: str = "none",
        backprop_seg: str = "none",
        min_score: float | None = None,
        batch_size: int | None = None,
    ) -> Finder:
        """Return the object that does the work, every option checked; they mean what they mean in ``stream``.

        Raises:
            UsageError: a value is unknown; or ``min_score``, which is a detector's.

        """
        from gwapctl.maps import Localizer

        if min_score is not None:
            raise UsageError(f"--min-score is for a detector's boxes, and {self.name} is a classifier.")
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}. Ask for at least one class.")
        rule = refined(parse_box_rule(box_rule or self.info.box_rule), refine)
        localizer = Localizer(
            self.classifier,
            scales=scales,
            map_method=map,
            layer=layer,
            fuse=fuse,
            flip=flip,
            resize=resize,
            close=close,
            crops=crops,
            backprop_seg=backprop_seg,
            precision=self.precision,
            device=self.device,
            batch_size=batch_size,
        )
        return Finder(self.info, localizer, rule, top_k)


@dataclass(frozen=True)
class Finder:
    """From images to boxes: the localizer, the box rule and the class names in one place. Threads may share it."""

    info: ModelInfo
    localizer: Localizer
    rule: BoxRule
    top_k: int

    @property
    def batch_size(self) -> int:
        """Images per forward pass."""
        return self.localizer.batch_size

    @property
    def scales(self) -> tuple[int, ...]:
        """The input sizes whose maps are averaged."""
        return self.localizer.scales

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.localizer.device

    @property
    def warning(self) -> str | None:
        """What makes its results doubtful: scales far above those of training."""
        return scale_warning(self.info, self.scales)

    def summary(self, model_name: str) -> str:
        """Say in a few words how objects are found."""
        sizes = ",".join(str(scale) for scale in self.scales) or "x".join(str(side) for side in self.info.input_size)
        return f"model {model_name}, map {self.localizer.map_method}, scales {sizes}, box rule {self.rule.name}"

    def describe(self, model_name: str) -> MapsInfo:
        """Say how the maps are made, and the boxes from them."""
        return maps_info(self.localizer, model_name, self.rule.name)

    def mask(self, found: Prediction) -> npt.NDArray[np.bool_]:
        """Return the foreground of the best class's map by the box rule, or the object that it found in the image."""
        return self.rule.without_image().mask(found.maps[0]) if found.mask is None else found.mask

    def stream(self, sources: Iterable[Source], workers: int | None = None) -> Iterator[Prediction]:
        """Yield the results of ``sources`` in order; images that cannot be read carry an ``error``."""
        from gwapctl.predict.threads import in_threads

        return in_threads(self.find, sources, chunk=self.localizer.batch_size, workers=workers)

    def find(self, sources: Sequence[Source]) -> list[Prediction]:
        """Return the results of a few images, in order; those that cannot be read carry an ``error``."""
        prepared = [self._prepare(source) for source in sources]
        readable = [item[0] for item in prepared if not isinstance(item, DataError)]
        results = iter(self.localizer.run(readable, top_k=self.top_k))
        return [
            Prediction(source_name(source), 0, 0, error=item, source=source)
            if isinstance(item, DataError)
            else self._describe(source, *item, next(results))
            for source, item in zip(sources, prepared, strict=True)
        ]

    def _prepare(self, source: Source) -> tuple[PreparedImage, BoxRule] | DataError:
        """Return what is kept of an image: the network's inputs, and the box rule that has seen it."""
        try:
            image = load(source)
            return self.localizer.prepare(image), self.rule.on_image(image)
        except DataError as error:
            return error

    def _describe(self, source: Source, image: PreparedImage, rule: BoxRule, result: MapResult) -> Prediction:
        size = (image.width, image.height)
        heatmaps = [result.heatmap(index) for index in range(len(result.heatmaps))]
        regions = [next(iter(map_to_boxes(heatmap, rule)), None) for heatmap in heatmaps]
        boxes = [_in_image(region, heatmap, *size) for region, heatmap in zip(regions, heatmaps, strict=True)]
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
            shared=result.shared,
            mask=None if not regions or regions[0] is None else regions[0].mask,
            source=source,
        )


def _in_image(region: Region | None, heatmap: FloatMap, width: int, height: int) -> Box | None:
    """Return the box of a region of ``heatmap`` (h, w) in original pixels; None where there is none."""
    if region is None:
        return None
    rows, columns = heatmap.shape
    x0, y0, x1, y1 = (region.box * [width / columns, height / rows, width / columns, height / rows]).tolist()
    return x0, y0, x1, y1


def scale_warning(info: ModelInfo, scales: Sequence[int]) -> str | None:
    """Return a warning where a scale is more than three times the largest size that the model was trained with."""
    trained = info.train_sizes[1]
    foreign = ", ".join(str(scale) for scale in scales if scale > 3 * trained)  # the papers go from 224 to 672
    if not foreign:
        return None
    return f"scale {foreign} is more than three times the largest size in training, {trained} px: maps may be poor."
