"""The stream behind ``gwapctl localize``: one line per image as soon as it is there, files beside it, resumable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from gwapctl import draw
from gwapctl.engines import Choice
from gwapctl.errors import DataError, UsageError, option
from gwapctl.files import json_text, prepare_output_folder, require_output_folder
from gwapctl.inputs import ImageInput
from gwapctl.predict.base import Predictor
from gwapctl.predict.map_folder import MAPS, MAPS_INFO, MapFolder, MapImage, write_map, write_maps_info
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.predict.predictions import PREDICTIONS, finished_ids, read_predictions
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.regions import largest_component

SAVES = ("overlay", "map", "mask")
OVERLAYS, MASKS = "overlays", "masks"


def localize_inputs(
    predictor: Predictor,
    model_name: str,
    inputs: Sequence[ImageInput],
    *,
    out: Path | None = None,
    save: Sequence[str] = SAVES,
    resume: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
    keep_maps: bool = False,
) -> Iterator[Prediction]:
    """Yield what was found in each image, in order; images that cannot be read have an ``error``.

    With ``out``, every image is also appended to ``OUT/predictions.jsonl`` at once, and what ``save`` names is written
    beside it. ``resume`` leaves out images that are in that file already (they are not yielded again). ``keep_maps``:
    what is yielded carries its maps, for somebody who looks at one image at a time.

    Raises:
        UsageError: ``out`` is not empty and neither ``resume`` nor ``overwrite``; or it was made with other settings.
        DataError: a file cannot be written.

    """
    from gwapctl.predict.threads import in_threads

    if out is not None:
        require_output_folder(out, overwrite=overwrite, resume=resume)
    predictor.settle([item.path for item in inputs], _recorded_choice(out) if out is not None and resume else None)
    output = _Output(out, tuple(save), predictor, model_name) if out is not None else None
    done = output.prepare(resume=resume, overwrite=overwrite) if output else set()
    todo = [item for item in inputs if item.id not in done]

    def recorded(image_id: str, found: Prediction) -> Prediction:
        items = output.write(image_id, found) if output else found.predictions
        maps = {"maps": found.maps, "shared": found.shared} if keep_maps else {}
        said = {"model": model_name, "scales": predictor.scales, **_runs_in(predictor)}
        return found.recorded(**said, predictions=items, id=image_id, **maps)

    def work(items: list[ImageInput]) -> list[Prediction]:
        results = predictor.find([item.path for item in items])
        return [recorded(item.id, found) for item, found in zip(items, results, strict=True)]

    images = in_threads(work, todo, chunk=predictor.batch_size, workers=workers)
    failed = 0
    for count, image in enumerate(output.logged(images) if output else images, start=1):
        failed += image.error is not None
        if progress:
            progress(Progress(count, len(todo), "images", f"{failed} failed" if failed else ""))
        yield image


@dataclass(frozen=True)
class _Output:
    """The folder ``OUT``. Threads write different images at the same time; the log has one writer."""

    folder: Path
    save: tuple[str, ...]
    predictor: Predictor
    model_name: str

    def prepare(self, *, resume: bool, overwrite: bool) -> set[str]:
        """Make the folder ready and return the ids of the images that are done."""
        prepare_output_folder(self.folder, overwrite=overwrite, resume=resume)
        if not resume:  # remove what an earlier call wrote, and nothing else, so that two calls never mix
            written = [self.folder / MAPS / MAPS_INFO, self.folder / PREDICTIONS]
            for pattern in (f"{MAPS}/**/*.npy", f"{OVERLAYS}/**/*.jpg", f"{MASKS}/**/*.png"):
                written += self.folder.glob(pattern)
            for path in written:
                path.unlink(missing_ok=True)
        done = finished_ids(self.folder / PREDICTIONS)
        if done:
            self._check_settings()
        if "map" in self.save and not (self.folder / MAPS / MAPS_INFO).exists():
            # says how they are made, even if a crash leaves nothing else
            write_maps_info(self.folder / MAPS, self.predictor.describe(self.model_name))
        return done

    def _check_settings(self) -> None:
        """Refuse to continue with other settings than those that the folder was written with."""
        first = next(read_predictions(self.folder))
        now = self.predictor.describe(self.model_name)
        advice = f"Repeat them, or replace everything with {option('overwrite', True)}."
        if (first.model, first.scales) != (self.model_name, now.reading.scales):
            raise UsageError(f"{self.folder} was written with model {first.model!r}, scales {first.scales}. {advice}")
        runs_in = _runs_in(self.predictor)
        if first.engine and (first.engine, first.precision) != tuple(runs_in.values()):
            raise UsageError(
                f"{self.folder} was written with engine {first.engine}, precision {first.precision}, not {now.engine}, "
                f"{now.precision}. {advice}"
            )
        if (self.folder / MAPS / MAPS_INFO).is_file():
            written = MapFolder(self.folder / MAPS).info.settings
            other = [f"{name} {value!r}" for name, value in written.items() if value != now.settings[name]]
            if other:
                raise UsageError(f"{self.folder} was written with {', '.join(other)}. {advice}")

    def logged(self, images: Iterator[Prediction]) -> Iterator[Prediction]:
        """Pass ``images`` on once they stand in ``predictions.jsonl`` for good; maps.json follows at the end."""
        with (self.folder / PREDICTIONS).open("a", encoding="utf-8") as log:
            try:
                for image in images:
                    try:
                        log.write(json_text(image.to_json()) + "\n")
                        log.flush()
                    except OSError as error:
                        why = f"cannot write {log.name}: {error.strerror}"
                        raise DataError(f"{why}. Free space, then use {option('resume', True)}.") from error
                    yield image
            finally:
                if "map" in self.save:
                    write_maps_info(self.folder / MAPS, self.predictor.describe(self.model_name), self._map_images())

    def write(self, image_id: str, found: Prediction) -> tuple[ClassPrediction, ...]:
        """Write the files of one image and return its predictions, with the map of each below the folder if any."""
        items = found.predictions
        if found.error is not None:
            return items
        if "map" in self.save and len(found.maps):
            maps = found.maps[0] if found.shared or len(found.maps) == 1 else found.maps
            map_file = write_map(self.folder / MAPS, image_id, maps).relative_to(self.folder).as_posix()
            items = tuple(self._mapped(found, map_file))
        if "overlay" in self.save:
            draw.write_jpeg(self.folder / OVERLAYS / f"{image_id}.jpg", found.plot())
        if "mask" in self.save and len(found.maps):
            draw.write_png(self.folder / MASKS / f"{image_id}.png", self._mask(found))
        return items

    def _mapped(self, found: Prediction, map_file: str) -> Iterator[ClassPrediction]:
        """Yield the predictions with their map's file, and what 0 and 1 stand for there."""
        stretched = self.predictor.describe(self.model_name).values == "minmax"
        channels = {label: min(index, len(found.maps) - 1) for index, label in enumerate(_classes(found))}
        for item in found.predictions:
            low, high = found.ranges[channels[item.label, item.label_id]].tolist()
            yield replace(item, map=map_file, map_range=(low, high) if stretched else None)

    def _mask(self, found: Prediction) -> np.ndarray:
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
            classes = _classes(image)
            labels, ids = (tuple(names) for names in zip(*classes, strict=True)) if classes else ((), ())
            ranges = tuple(limits for limits in classes.values() if limits is not None)
            shared = self.predictor.describe(self.model_name).class_agnostic
            yield image.id, MapImage(image.width, image.height, labels, ids, ranges[:1] if shared else ranges)


def _runs_in(predictor: Predictor) -> dict[str, str]:
    """Return what documents say of the engine."""
    return {"engine": predictor.choice.engine, "precision": predictor.choice.recorded_precision}


def _recorded_choice(folder: Path) -> Choice | None:
    """Return what an earlier call that wrote into ``folder`` ran in: torch where it does not say; None: there is none.

    Its log may have been cut off within the first line, which says nothing then.
    """
    try:
        first = next(read_predictions(folder), None)
    except DataError:
        return None
    return None if first is None else Choice.from_record(first.engine or "torch", first.precision)


def _classes(image: Prediction) -> dict[tuple[str, str], tuple[float, float] | None]:
    """Return the classes in the order of their maps, and the range of each map where one is recorded."""
    return {(item.label, item.label_id): item.map_range for item in image.predictions}
