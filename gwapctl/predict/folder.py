"""The stream behind ``gwapctl localize``: one line per image as soon as it is there, files beside it, resumable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO, cast

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl import draw
from gwapctl.errors import DataError, UsageError
from gwapctl.files import json_text, prepare_output_folder
from gwapctl.inputs import ImageInput
from gwapctl.predict.map_folder import MAPS, MAPS_INFO, MapFolder, MapImage, MapsInfo, write_map, write_maps_info
from gwapctl.predict.predictions import (
    PREDICTIONS,
    Box,
    ImagePrediction,
    Prediction,
    PredictionError,
    finished_ids,
    read_predictions,
)
from gwapctl.predict.result import Localization, Source
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.regions import largest_component

SAVES = ("overlay", "map", "mask")
OVERLAYS, MASKS = "overlays", "masks"


class Predicts(Protocol):
    """What looks for objects in images: a classifier's ``Predictor``, or a detector's. Threads share it."""

    @property
    def batch_size(self) -> int:
        """How many images are worked on together."""

    @property
    def scales(self) -> tuple[int, ...]:
        """The input sizes, for the record."""

    def find(self, sources: Sequence[Source]) -> list[Localization]:
        """Return the results of a few images, in order; those that cannot be read carry an ``error``."""

    def describe(self, model_name: str) -> MapsInfo:
        """Say how the maps are made."""

    def mask(self, found: Localization) -> npt.NDArray[np.bool_]:
        """Return the foreground of the best class's map, or its object in the image, at any resolution."""


def localize_inputs(
    predictor: Predicts,
    model_name: str,
    inputs: Sequence[ImageInput],
    *,
    out: Path | None = None,
    save: Sequence[str] = SAVES,
    resume: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> Iterator[ImagePrediction]:
    """Yield what was found in each image, in order; images that cannot be read have an ``error``.

    With ``out``, every image is also appended to ``OUT/predictions.jsonl`` at once, and what ``save`` names is written
    beside it. ``resume`` leaves out images that are in that file already (they are not yielded again).

    Raises:
        UsageError: ``out`` is not empty and neither ``resume`` nor ``overwrite``; or it was made with other settings.
        DataError: a file cannot be written.

    """
    output = _Output(out, tuple(save), predictor, model_name) if out is not None else None
    done = output.prepare(resume=resume, overwrite=overwrite) if output else set()
    todo = [item for item in inputs if item.id not in done]
    failed = 0
    images = _stream(predictor, model_name, todo, output, workers)
    for count, image in enumerate(output.logged(images) if output else images, start=1):
        failed += image.error is not None
        if progress:
            progress(Progress(count, len(todo), "images", f"{failed} failed" if failed else ""))
        yield image


def _stream(
    predictor: Predicts, model_name: str, inputs: Sequence[ImageInput], output: _Output | None, workers: int | None
) -> Iterator[ImagePrediction]:
    from gwapctl.predict.threads import in_threads

    def work(items: list[ImageInput]) -> list[ImagePrediction]:
        results = predictor.find([item.path for item in items])
        return [
            output.write(item.id, found) if output else _prediction(predictor, model_name, item.id, found, None)
            for item, found in zip(items, results, strict=True)
        ]

    return in_threads(work, inputs, chunk=predictor.batch_size, workers=workers)


def _prediction(
    predictor: Predicts, model_name: str, image_id: str, found: Localization, map_file: str | None
) -> ImagePrediction:
    """Return what ``predictions.jsonl`` says about an image."""
    rows = zip(found.classes, found.class_ids, found.scores.tolist(), found.boxes, strict=True)
    return ImagePrediction(
        found.image,
        found.width,
        found.height,
        model_name,
        predictor.scales,
        tuple(Prediction(label, label_id, score, _box(box), map_file) for label, label_id, score, box in rows),
        PredictionError(type(found.error).__name__, str(found.error)) if found.error else None,
        image_id,
    )


def _box(box: np.ndarray) -> Box | None:
    return cast(Box, tuple(box.tolist())) if np.isfinite(box).all() else None


@dataclass(frozen=True)
class _Output:
    """The folder ``OUT``. Threads write different images at the same time; the log has one writer."""

    folder: Path
    save: tuple[str, ...]
    predictor: Predicts
    model_name: str

    def prepare(self, *, resume: bool, overwrite: bool) -> set[str]:
        """Make the folder ready and return the ids of the images that are done."""
        prepare_output_folder(self.folder, overwrite=overwrite, resume=resume)
        if not resume:
            self._clear()
        done = finished_ids(self.folder / PREDICTIONS)
        if done:
            self._check_settings()
        if "map" in self.save and not (self.folder / MAPS / MAPS_INFO).exists():
            write_maps_info(self.folder / MAPS, self._describe())  # says how, even if a crash leaves nothing else
        return done

    def _clear(self) -> None:
        """Remove what an earlier call wrote, and nothing else, so that two calls never mix."""
        written = [*self.folder.glob(f"{MAPS}/**/*.npy"), self.folder / MAPS / MAPS_INFO, self.folder / PREDICTIONS]
        written += [*self.folder.glob(f"{OVERLAYS}/**/*.jpg"), *self.folder.glob(f"{MASKS}/**/*.png")]
        for path in written:
            path.unlink(missing_ok=True)

    def _check_settings(self) -> None:
        """Refuse to continue with other settings than those that the folder was written with."""
        first = next(read_predictions(self.folder))
        now, advice = self.predictor.describe(self.model_name), "Repeat them, or replace everything with --overwrite."
        if (first.model, first.scales) != (self.model_name, now.reading.scales):
            raise UsageError(f"{self.folder} was written with model {first.model!r}, scales {first.scales}. {advice}")
        if (self.folder / MAPS / MAPS_INFO).is_file():
            written = MapFolder(self.folder / MAPS).info.settings
            other = [f"{name} {value!r}" for name, value in written.items() if value != now.settings[name]]
            if other:
                raise UsageError(f"{self.folder} was written with {', '.join(other)}. {advice}")

    def logged(self, images: Iterator[ImagePrediction]) -> Iterator[ImagePrediction]:
        """Pass ``images`` on once they stand in ``predictions.jsonl``; maps.json follows at the end."""
        with (self.folder / PREDICTIONS).open("a", encoding="utf-8") as log:
            try:
                for image in images:
                    self._append(log, image)
                    yield image
            finally:
                if "map" in self.save:
                    write_maps_info(self.folder / MAPS, self._describe(), self._map_images())

    def _append(self, log: TextIO, image: ImagePrediction) -> None:
        """Add a line to the open ``predictions.jsonl``, for good."""
        try:
            log.write(json_text(image.to_json()) + "\n")
            log.flush()
        except OSError as error:
            raise DataError(f"cannot write {log.name}: {error.strerror}. Free space, then use --resume.") from error

    def write(self, image_id: str, found: Localization) -> ImagePrediction:
        """Write the files of one image and return its prediction."""
        map_file = None
        if found.error is None:
            if "map" in self.save and len(found.maps):
                maps = found.maps[0] if found.shared or len(found.maps) == 1 else found.maps
                map_file = write_map(self.folder / MAPS, image_id, maps).relative_to(self.folder).as_posix()
            if "overlay" in self.save:
                draw.write_jpeg(self.folder / OVERLAYS / f"{image_id}.jpg", found.plot())
            if "mask" in self.save and len(found.maps):
                draw.write_png(self.folder / MASKS / f"{image_id}.png", self._mask(found))
        return _prediction(self.predictor, self.model_name, image_id, found, map_file)

    def _mask(self, found: Localization) -> np.ndarray:
        """Return the largest component of the best class's foreground as 0 and 255, ``(H, W)`` in original pixels."""
        component = largest_component(self.predictor.mask(found))
        if component is None:
            return np.zeros((found.height, found.width), np.uint8)
        size = (found.width, found.height)
        return np.asarray(cv2.resize(component.astype(np.uint8) * 255, size, interpolation=cv2.INTER_NEAREST))

    def _map_images(self) -> Iterable[tuple[str, MapImage]]:
        for image in read_predictions(self.folder):
            if image.error is not None:
                continue
            classes = dict.fromkeys((item.label, item.label_id) for item in image.predictions)  # one map per class
            labels, ids = (tuple(names) for names in zip(*classes, strict=True)) if classes else ((), ())
            yield image.id, MapImage(image.width, image.height, labels, ids)

    def _describe(self) -> MapsInfo:
        return self.predictor.describe(self.model_name)
