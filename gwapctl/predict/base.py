"""What every model does for Python and the command line, a classifier or a detector: images in, predictions out."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import TypeAdapter

from gwapctl.errors import DataError, UsageError, printable, unknown_name
from gwapctl.inputs import find_inputs
from gwapctl.maps.reading import MapReading, ReadingOptions
from gwapctl.predict.prediction import ImageArray, Prediction, Source, load

if TYPE_CHECKING:
    import torch

    from gwapctl.networks.classifier import ModelInfo
    from gwapctl.networks.rfcn.base import DetectorInfo
    from gwapctl.predict.labelled import Labels
    from gwapctl.predict.map_folder import MapsInfo
    from gwapctl.regions import BoxRule

OnError = Literal["raise", "keep"]
Precision = Literal["auto", "fp32", "bf16"]


class LocalizeOptions(ReadingOptions, total=False):
    """The options of ``localize`` and ``stream`` beside images, ``workers`` and ``on_error``; see ``predictor``."""

    reading: MapReading
    box_rule: str | BoxRule | None
    refine: Literal["grabcut", "none"] | None
    max_boxes: int
    min_area: float
    masks: bool
    labels: Labels | None
    top_k: int
    min_score: float | None
    batch_size: int | None


class Predictor(ABC):
    """Looks for objects in images, every option checked. Threads share it.

    Attributes:
        batch_size: images per forward pass.
        scales: the input sizes, for the record.
        device: where the network runs.
        warning: what makes its results doubtful, or None.

    """

    def __init__(
        self, batch_size: int, scales: tuple[int, ...], device: torch.device, warning: str | None = None
    ) -> None:
        self.batch_size = batch_size
        self.scales = scales
        self.device = device
        self.warning = warning

    @abstractmethod
    def summary(self, model_name: str) -> str:
        """Say in a few words how objects are found."""

    @abstractmethod
    def describe(self, model_name: str) -> MapsInfo:
        """Say how the maps are made, and the boxes from them."""

    def settings(self, model_name: str) -> dict[str, Any]:
        """Return all that processes which share one work must agree on (``predict.shards``)."""
        described = TypeAdapter(type(self.describe(model_name))).dump_python(self.describe(model_name), mode="json")
        own = {name: value for name, value in vars(self).items() if isinstance(value, int | float | str)}
        return {**described, **own, "device": self.device.type}

    @abstractmethod
    def mask(self, found: Prediction) -> npt.NDArray[np.bool_]:
        """Return the foreground of the best class's map, or its object in the image, at any resolution."""

    def stream(self, sources: Iterable[Source], workers: int | None = None) -> Iterator[Prediction]:
        """Yield the results of ``sources`` in order; images that cannot be read carry an ``error``."""
        from gwapctl.predict.threads import in_threads

        return in_threads(self.find, sources, chunk=self.batch_size, workers=workers)

    def find(self, sources: Sequence[Source]) -> list[Prediction]:
        """Return the results of a few images, in order; those that cannot be read carry an ``error``."""
        prepared = [self._loaded(source) for source in sources]
        pairs = list(zip(sources, prepared, strict=True))
        results = iter(self._predict([(source, item) for source, item in pairs if not isinstance(item, DataError)]))
        return [
            Prediction(source_name(source), 0, 0, error=item, source=source)
            if isinstance(item, DataError)
            else next(results)
            for source, item in pairs
        ]

    def _loaded(self, source: Source) -> Any:
        try:
            return self._read(source)
        except DataError as error:
            return error

    def _read(self, source: Source) -> Any:
        """Return what is kept of a source; a ``DataError`` where it cannot be read."""
        return self._prepare(load(source))

    @abstractmethod
    def _prepare(self, image: ImageArray) -> Any:
        """Return what is kept of an image (H, W, 3)."""

    @abstractmethod
    def _predict(self, images: Sequence[tuple[Source, Any]]) -> Iterable[Prediction]:
        """Yield the results of prepared images in order."""


class LocalizingModel(ABC):
    """A trained model that says where things are. Made by ``gwapctl.load_model``."""

    name: str

    @property
    @abstractmethod
    def info(self) -> ModelInfo | DetectorInfo:
        """All that is stored about the model."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The readable names of all classes."""
        return tuple(item.name for item in self.info.classes)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know of the model; ``layers`` are its convolutions in order, by name."""

    @abstractmethod
    def predictor(self, **options: Unpack[LocalizeOptions]) -> Predictor:
        """Return the object that does the work, every option checked."""

    @abstractmethod
    def facts(self) -> dict[str, object]:
        """Return the little that one line and a notebook say about the model."""

    def __repr__(self) -> str:
        """Say in a line which model this is."""
        facts = [f"{name} {value}" for name, value in self.facts().items() if value]
        return f"{type(self).__name__}({self.name!r}: {', '.join(facts)})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from gwapctl.predict.notebook import as_html

        return as_html(self.name, [*self.facts().items()])

    def localize(
        self,
        images: Source | Iterable[Source],
        *,
        workers: int | None = None,
        on_error: OnError = "raise",
        **options: Unpack[LocalizeOptions],
    ) -> list[Prediction]:
        """Localize one or many images and return the results in order. The options are those of ``stream``.

        Raises:
            DataError: an image cannot be read; with ``on_error="keep"`` its result says so in ``error`` instead.
            UsageError: an option's value is unknown.

        """
        return list(self.stream(images, workers=workers, on_error=on_error, **options))

    def stream(
        self,
        images: Source | Iterable[Source],
        *,
        workers: int | None = None,
        on_error: OnError = "raise",
        **options: Unpack[LocalizeOptions],
    ) -> Iterator[Prediction]:
        """Yield one result per image, in order, while later images are worked on; memory stays flat.

        Args:
            images: a path, a folder (its images, sorted), an array ``(H, W, 3)`` uint8 RGB, an image of Pillow, or an
                iterable of these.
            workers: threads; None: one per core; 0: none.
            on_error: whether an image that cannot be read raises, or is kept as a result with ``error``.
            options: those of ``predictor``.

        """
        require_whole("workers", workers, 0)
        if on_error not in get_args(OnError):
            raise unknown_name("on_error", on_error, get_args(OnError))
        predictor = self.predictor(**options)
        if predictor.warning:
            warnings.warn(predictor.warning, stacklevel=2)
        return _checked(predictor.stream(_single(images), workers), on_error)


def checked_score(score: float) -> float:
    """Return ``score``; one that is outside of 0..1 is a ``UsageError``."""
    if not isinstance(score, Real) or not 0 <= score <= 1:
        raise UsageError(f"min_score is {score!r}. Scores lie between 0 and 1.")
    return score


def checked_area(area: float) -> float:
    """Return ``area``, a fraction of a map; one that is outside of 0..1 is a ``UsageError``."""
    if not isinstance(area, Real) or not 0 <= area <= 1:
        raise UsageError(f"min_area is {area!r}. It is a fraction of the map, between 0 and 1.")
    return area


def _single(images: Source | Iterable[Source]) -> Iterator[Source]:
    """Yield single images; folders become their images."""
    if isinstance(images, str | Path | np.ndarray | Image.Image) or not isinstance(images, Iterable):
        images = [images]
    for image in images:
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise _no_image(f"an array, {image.dtype} {image.shape}")
            yield image
        elif isinstance(image, Image.Image):
            yield image
        elif not isinstance(image, str | Path):
            raise _no_image(f"{type(image).__name__} {str(image)[:40]!r}")
        elif os.path.isdir(image):  # noqa: PTH112 (Path.is_dir raises on names that no file can have)
            yield from (item.path for item in find_inputs([str(image)], notice=warnings.warn))
        else:
            yield image


def _no_image(found: str) -> UsageError:
    return UsageError(
        f"an image is a path, an image of Pillow or a uint8 array (H, W, 3) in RGB, and this one is {found}."
    )


def require_whole(name: str, value: object, least: int) -> None:
    """Raise ``UsageError`` unless the option ``name`` is left open (None), or a whole number of at least ``least``."""
    if value is not None and not (isinstance(value, int | np.integer) and value >= least):
        raise UsageError(f"{name} is {value!r}. It is a whole number, {least} or more.")


def source_name(source: Source) -> str:
    """Return the path as given, as it can be written down (``errors.printable``); empty for what is no file."""
    return printable(str(source)) if isinstance(source, str | Path) else ""


def _checked(results: Iterable[Prediction], on_error: OnError) -> Iterator[Prediction]:
    for found in results:
        if found.error is not None and on_error == "raise":
            raise found.error
        yield found
