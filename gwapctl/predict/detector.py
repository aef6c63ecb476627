"""A detector as Python sees it: the same three lines as a classifier's, with as many boxes as it finds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gwapctl.errors import DataError, UsageError
from gwapctl.maps.reading import ResolvedReading
from gwapctl.predict.map_folder import MapsInfo
from gwapctl.predict.result import Localization, Source, load
from gwapctl.predict.sources import OnError, checked, source_name, sources
from gwapctl.regions import parse_box_rule, resize_map

if TYPE_CHECKING:
    from gwapctl.images.decode import ImageArray
    from gwapctl.networks.rfcn import DetectorInfo
    from gwapctl.networks.rfcn.inference import DetectorReader, FoundObjects

MIN_SCORE = 0.3  # what people want to see; measuring takes every box
MASK_RULE = parse_box_rule()


class DetectorModel:
    """A trained detector. Made by ``gwapctl.load_model``, as ``Model`` is; results have one class per box."""

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

    def localize(
        self, images: Source | Iterable[Source], *, min_score: float = MIN_SCORE, on_error: OnError = "raise"
    ) -> list[Localization]:
        """Detect in one or many images and return the results in order. See ``stream``.

        Raises:
            DataError: an image cannot be read; with ``on_error="keep"`` its result says so in ``error`` instead.

        """
        return list(self.stream(images, min_score=min_score, on_error=on_error))

    def stream(
        self,
        images: Source | Iterable[Source],
        *,
        min_score: float = MIN_SCORE,
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> Iterator[Localization]:
        """Yield one result per image, in order, while later images are worked on; memory stays flat.

        Args:
            images: a path, a folder (its images, sorted), an array ``(H, W, 3)`` uint8 RGB, or an iterable of these.
            min_score: leave out boxes that score lower.
            workers: threads; None: one per core; 0: none.
            on_error: whether an image that cannot be read raises, or is kept as a result with ``error``.

        """
        return checked(self.predictor(min_score=min_score).stream(sources(images), workers), on_error)

    def predictor(self, *, min_score: float = MIN_SCORE, batch_size: int | None = None) -> DetectorPredictor:
        """Return the object that does the work; ``batch_size``: images per forward pass."""
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

    def describe(self, model_name: str) -> MapsInfo:
        """Say how the maps are made: the class-specific weight maps (arXiv 1809.08264, eq. 8 and Fig. 9)."""
        reading = ResolvedReading("weight", self.scales, resize="keep")
        return MapsInfo(reading, model_name, "raw", class_agnostic=False)

    def mask(self, found: Localization) -> npt.NDArray[np.bool_]:
        """Return the foreground of the best class's map: above 20 % of its range."""
        return MASK_RULE.mask(found.maps[0])

    def stream(self, images: Iterable[Source], workers: int | None = None) -> Iterator[Localization]:
        """Yield the results of ``images`` in order; those that cannot be read carry an ``error``."""
        from gwapctl.predict.threads import in_threads

        return in_threads(self.find, images, chunk=self.batch_size, workers=workers)

    def find(self, images: Sequence[Source]) -> list[Localization]:
        """Return the results of a few images, in order; those that cannot be read carry an ``error``."""
        loaded = [_load(image) for image in images]
        readable = [pixels for pixels in loaded if not isinstance(pixels, DataError)]
        results = iter(self.reader.run(readable, min_score=self.min_score, maps=True, batch_size=self.batch_size))
        return [
            Localization(source_name(image), 0, 0, error=pixels, source=image)
            if isinstance(pixels, DataError)
            else self._describe(image, next(results))
            for image, pixels in zip(images, loaded, strict=True)
        ]

    def _describe(self, source: Source, found: FoundObjects) -> Localization:
        """Put names to what was found; the maps are of the classes found, each once, the best first."""
        chosen = [self.reader.info.classes[label] for label in found.labels]
        distinct = list(dict.fromkeys(found.labels.tolist()))
        maps = np.zeros((0, 1, 1), np.float16)
        if found.weight_maps is not None and distinct:
            maps = _as_heatmaps(found.weight_maps[distinct], found.width, found.height)
        return Localization(
            source_name(source),
            found.width,
            found.height,
            classes=tuple(item.name for item in chosen),
            class_ids=tuple(item.id for item in chosen),
            scores=found.scores,
            boxes=found.boxes,
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
