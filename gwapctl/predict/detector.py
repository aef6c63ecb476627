"""A detector as Python sees it: the same three lines as a classifier's, with as many boxes as it finds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import Detections
from gwapctl.errors import DataError, UsageError
from gwapctl.maps.reading import AS_STORED, MapReading, ResolvedReading, split_options
from gwapctl.predict.map_folder import MapsInfo
from gwapctl.predict.prediction import ClassPrediction, Prediction, Source, load
from gwapctl.predict.sources import OnError, checked, source_name, sources
from gwapctl.regions import parse_box_rule, resize_map

if TYPE_CHECKING:
    import torch

    from gwapctl.images.decode import ImageArray
    from gwapctl.networks.rfcn.base import DetectorInfo
    from gwapctl.networks.rfcn.inference import DetectorReader

MIN_SCORE = 0.3  # what people want to see; measuring takes every box
MASK_RULE = parse_box_rule()


class DetectorModel:
    """A trained detector. Made by ``gwapctl.load_model``, as ``Model`` is; results have one class per box."""

    detects: Literal[True] = True

    def __init__(self, reader: DetectorReader, name: str) -> None:
        self.reader = reader
        self.name = name

    @property
    def info(self) -> DetectorInfo:
        """Classes, input size and weak branch."""
        return self.reader.info

    @property
    def classes(self) -> tuple[str, ...]:
        """The readable names of all classes."""
        return tuple(item.name for item in self.info.classes)

    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know of the detector; ``layers`` are its trunk's convolutions in order."""
        from gwapctl.networks.classifier import describe_network

        return describe_network(self.reader.model, self.info, self.reader.model.trunk)

    def localize(
        self, images: Source | Iterable[Source], *, on_error: OnError = "raise", **options: Any
    ) -> list[Prediction]:
        """Detect in one or many images and return the results in order. See ``stream`` for the options.

        Raises:
            DataError: an image cannot be read; with ``on_error="keep"`` its result says so in ``error`` instead.

        """
        return list(self.stream(images, on_error=on_error, **options))

    def stream(
        self,
        images: Source | Iterable[Source],
        *,
        workers: int | None = None,
        on_error: OnError = "raise",
        **options: Any,
    ) -> Iterator[Prediction]:
        """Yield one result per image, in order, while later images are worked on; memory stays flat.

        Args:
            images: a path, a folder (its images, sorted), an array ``(H, W, 3)`` uint8 RGB, or an iterable of these.
            workers: threads; None: one per core; 0: none.
            on_error: whether an image that cannot be read raises, or is kept as a result with ``error``.
            options: ``min_score`` (boxes that score lower are left out) and ``batch_size``.

        """
        return checked(self.predictor(**options).stream(sources(images), workers), on_error)

    def predictor(
        self,
        *,
        min_score: float | None = None,
        batch_size: int | None = None,
        reading: MapReading = AS_STORED,
        top_k: int = 1,
        **cutting: object,
    ) -> DetectorPredictor:
        """Return the object that does the work; ``batch_size``: images per forward pass.

        Raises:
            UsageError: ``min_score`` is no score; or something else is given, by which a classifier's maps are read.

        """
        reading, others = split_options(cutting, reading)
        given = {**others, "top_k": top_k != 1}
        wrong = [
            *reading.flags,
            *(f"--{name.replace('_', '-')}" for name, value in given.items() if value and value != "none"),
        ]
        if wrong:
            raise UsageError(f"{', '.join(wrong)} cannot be used with a detector: its boxes do not come from maps.")
        min_score = MIN_SCORE if min_score is None else min_score
        if not 0 <= min_score <= 1:
            raise UsageError(f"min_score is {min_score}. Scores lie between 0 and 1.")
        return DetectorPredictor(self.reader, min_score, batch_size or self.reader.batch_size)


@dataclass(frozen=True)
class DetectorPredictor:
    """From images to boxes of at least ``min_score``, and the weak branch's maps beside them. Threads may share it."""

    reader: DetectorReader
    min_score: float
    batch_size: int

    @property
    def scales(self) -> tuple[int, ...]:
        """The input's shorter side."""
        return (self.reader.info.short_side,)

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.reader.device

    @property
    def warning(self) -> str | None:
        """What makes its results doubtful: nothing that is known beforehand."""
        return None

    def summary(self, model_name: str) -> str:
        """Say in a few words how objects are found."""
        info = self.reader.info
        return f"detector {model_name}, sides {info.short_side} to {info.long_side}, scores from {self.min_score:g}"

    def describe(self, model_name: str) -> MapsInfo:
        """Say how the maps are made: the class-specific weight maps (arXiv 1809.08264, eq. 8 and Fig. 9)."""
        reading = ResolvedReading("weight", self.scales, resize="keep")
        return MapsInfo(reading, model_name, "raw", class_agnostic=False)

    def mask(self, found: Prediction) -> npt.NDArray[np.bool_]:
        """Return the foreground of the best class's map: above 20 % of its range."""
        return MASK_RULE.mask(found.maps[0])

    def stream(self, images: Iterable[Source], workers: int | None = None) -> Iterator[Prediction]:
        """Yield the results of ``images`` in order; those that cannot be read carry an ``error``."""
        from gwapctl.predict.threads import in_threads

        return in_threads(self.find, images, chunk=self.batch_size, workers=workers)

    def detect(self, images: Sequence[ImageArray]) -> list[Detections]:
        """Return all that is found in images ``(H, W, 3)``, whatever its score, in their order, without maps."""
        return self.reader.run(images, batch_size=self.batch_size)

    def find(self, images: Sequence[Source]) -> list[Prediction]:
        """Return the results of a few images, in order; those that cannot be read carry an ``error``."""
        loaded = [_load(image) for image in images]
        readable = [pixels for pixels in loaded if not isinstance(pixels, DataError)]
        results = iter(self.reader.run(readable, min_score=self.min_score, maps=True, batch_size=self.batch_size))
        return [
            Prediction(source_name(image), 0, 0, error=pixels, source=image)
            if isinstance(pixels, DataError)
            else self._describe(image, next(results))
            for image, pixels in zip(images, loaded, strict=True)
        ]

    def _describe(self, source: Source, found: Detections) -> Prediction:
        """Put names to what was found; the maps are of the classes found, each once, the best first."""
        distinct = list(dict.fromkeys(found.labels.tolist()))
        maps = np.zeros((0, 1, 1), np.float16)
        if found.weight_maps is not None and distinct:
            maps = _as_heatmaps(found.weight_maps[distinct], found.width, found.height)
        classes = self.reader.info.classes
        rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
        return Prediction(
            source_name(source),
            found.width,
            found.height,
            predictions=tuple(
                ClassPrediction(classes[label].name, classes[label].id, score, tuple(box)) for label, score, box in rows
            ),
            maps=maps,
            source=source,
        )


def _load(source: Source) -> ImageArray | DataError:
    try:
        return load(source)
    except DataError as error:
        return error


def _as_heatmaps(maps: npt.NDArray[np.float32], width: int, height: int) -> npt.NDArray[np.float16]:
    """Resize maps ``(k, h, w)`` to the original's shape, at most 512 pixels long, as a classifier's maps are."""
    from gwapctl.maps.heatmap import heatmap_size

    size = heatmap_size(width, height)
    return np.stack([resize_map(one, size) for one in maps]).astype(np.float16)
