"""The stream behind ``gwapctl localize``: one line per image as soon as it is there, files beside it, resumable."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from gwapctl import draw
from gwapctl.engines import Choice
from gwapctl.errors import DataError, UsageError, option
from gwapctl.files import (
    Written,
    json_text,
    prepare_output_folder,
    remove_below,
    require_output_folder,
    synced_once,
)
from gwapctl.images.files import check_distinct, length_problem
from gwapctl.inputs import ImageInput
from gwapctl.lock import locked
from gwapctl.predict.base import Predictor
from gwapctl.predict.map_folder import MAPS, MAPS_INFO, MapFolder, MapImage, write_map, write_maps_info
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.predict.predictions import PREDICTIONS, finished_ids, logged_ids, read_predictions
from gwapctl.predict.shards import SHARD, Part, whole_of, write_record
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.regions import largest_component

SAVES = ("overlay", "map", "mask")
OVERLAYS, MASKS = "overlays", "masks"
LOCALIZE = "localize"  # ``.gwapctl-localize-begun`` has the ids of images on their way


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
    what is yielded carries its maps, for somebody who looks at one image at a time. Inputs that are the ``Part`` of a
    shard: ``OUT`` says at the end which it was, so that shards can be merged (``predict.merging``).

    Raises:
        UsageError: ``out`` is not empty and neither ``resume`` nor ``overwrite``; it was made with other settings; or
            another process is writing it.
        DataError: a file cannot be written.

    """
    from gwapctl.predict.threads import chunk_size

    if out is not None and save:
        check_distinct(item.id for item in inputs)
    if out is not None:
        require_output_folder(out, overwrite=overwrite, resume=resume)
    known = isinstance(inputs, Part) and inputs.whole is None  # a worker of a cluster has its own images alone
    whole = inputs.items if isinstance(inputs, Part) and known else inputs  # so that all shards decide alike
    predictor.settle([item.path for item in whole], _recorded_choice(out) if out is not None and resume else None)
    output = _Output(out, tuple(save), predictor, model_name) if out is not None else None
    with nullcontext() if output is None else locked(output.folder):
        done = output.prepare(resume=resume, overwrite=overwrite) if output else set()
        todo = [item for item in inputs if item.id not in done]
        if isinstance(inputs, Part):
            todo = Part(todo, inputs.shard, inputs.items)
        yield from _localized(predictor, model_name, todo, output, workers, progress, keep_maps)
        if output and isinstance(inputs, Part):
            output.finish(inputs, chunk_size(len(inputs.items), predictor.batch_size, workers))


def _localized(
    predictor: Predictor,
    model_name: str,
    todo: Sequence[ImageInput],
    output: _Output | None,
    workers: int | None,
    progress: ProgressCallback | None,
    keep_maps: bool,
) -> Iterator[Prediction]:
    """Yield what was found in each image of ``todo`` once it is written to ``output``, if there is one."""
    from gwapctl.predict.threads import in_threads

    def recorded(image_id: str, found: Prediction) -> Prediction:
        items = output.write(image_id, found) if output else found.predictions
        maps = {"maps": found.maps, "shared": found.shared} if keep_maps else {}
        said = {"model": model_name, "scales": predictor.scales, **_runs_in(predictor)}
        return found.recorded(**said, predictions=items, id=image_id, **maps)

    def work(items: list[ImageInput]) -> list[Prediction]:
        if output:
            output.begin(items)
        results = predictor.find([item.path for item in items])
        if output and output.save:
            results = [_nameable(found, item) for item, found in zip(items, results, strict=True)]
        with synced_once():
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
    on_their_way: set[str] = field(default_factory=set)  # ids of images that are not in the log yet

    @property
    def begun(self) -> Written:
        """What a killed process leaves: the ids of images that it had begun."""
        return Written(self.folder, LOCALIZE)

    def prepare(self, *, resume: bool, overwrite: bool) -> set[str]:
        """Make the folder ready and return the ids of the images that are done."""
        prepare_output_folder(self.folder, overwrite=overwrite, resume=resume)
        (self.folder / SHARD).unlink(missing_ok=True)  # it is no finished shard any more
        if not resume:  # so that two calls never mix
            remove_localized(self.folder)
        done = finished_ids(self.folder / PREDICTIONS, lost=self._is_lost)
        _remove_images(self.folder, set(self.begun.noted()) - done)
        self.begun.forget()
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

    def _is_lost(self, image: Prediction) -> bool:
        """Tell whether a file of an image that is done is empty, as after a loss of power."""
        files = (self.folder / name for name in _image_files(image.id))
        return any(file.is_file() and file.stat().st_size == 0 for file in files)

    def begin(self, items: Sequence[ImageInput]) -> None:
        """Note the images whose files are about to be written."""
        self.on_their_way.update(item.id for item in items)
        self.begun.note(*(item.id for item in items))

    def logged(self, images: Iterator[Prediction]) -> Iterator[Prediction]:
        """Pass ``images`` on once they stand in ``predictions.jsonl`` for good; maps.json follows at the end."""
        with (self.folder / PREDICTIONS).open("ab", buffering=0) as log:  # what is written is there at once
            try:
                for image in images:
                    try:
                        line = (json_text(image.to_json()) + "\n").encode()
                        while line:
                            line = line[log.write(line) :]
                    except OSError as error:
                        why = f"cannot write {log.name}: {error.strerror}"
                        raise DataError(f"{why}. Free space, then use {option('resume', True)}.") from error
                    self.on_their_way.discard(image.id)
                    yield image
            finally:
                if isinstance(images, Generator):
                    images.close()  # no thread writes any more
                _remove_images(self.folder, self.on_their_way)
                self.begun.forget()
                if "map" in self.save:
                    info = self.predictor.describe(self.model_name)
                    about = map_images(read_predictions(self.folder), shared=info.class_agnostic)
                    write_maps_info(self.folder / MAPS, info, about)

    def finish(self, part: Part[ImageInput], chunk: int) -> None:
        """Write which shard this was; ``chunk`` images went through the network together."""
        settings = {**self.predictor.settings(self.model_name), "chunk": chunk, "save": list(self.save)}
        whole = part.whole or whole_of(item.id for item in part.items)
        write_record(self.folder, "localize", part.shard, whole, [item.id for item in part], settings)

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


def map_images(images: Iterable[Prediction], *, shared: bool) -> Iterator[tuple[str, MapImage]]:
    """Yield what ``maps.json`` says of each image that did not fail; ``shared``: one map stands for all classes."""
    for image in images:
        if image.error is not None:
            continue
        classes = _classes(image)
        labels, ids = (tuple(names) for names in zip(*classes, strict=True)) if classes else ((), ())
        ranges = tuple(limits for limits in classes.values() if limits is not None)
        yield image.id, MapImage(image.width, image.height, labels, ids, ranges[:1] if shared else ranges)


def without_own(inputs: Sequence[ImageInput], out: Path) -> list[ImageInput]:
    """Return the images but those that an earlier call wrote into ``out``, which may lie in the folder of images.

    Raises:
        DataError: there are no others.

    """
    if not any(file.is_file() for file in (out / PREDICTIONS, Written(out, LOCALIZE).begun)):
        return list(inputs)
    own = {top / name for name in (OVERLAYS, MASKS) for top in (out.absolute(), out.resolve())}
    kept = [item for item in inputs if own.isdisjoint(item.path.parents)]
    if not kept:
        raise DataError(f"all images given are such as localize wrote into {out}. Choose another {option('out')}.")
    return kept


def remove_localized(folder: Path) -> None:
    """Remove what ``localize`` wrote below ``folder``, by its own lists; nothing else, and nothing behind links."""
    begun, log = Written(folder, LOCALIZE), folder / PREDICTIONS
    image_ids = [*begun.noted(), *logged_ids(log)]
    if not (folder / MAPS).is_symlink():
        with suppress(DataError):  # no maps, or a broken list, which predictions.jsonl makes up for
            image_ids += MapFolder(folder / MAPS).info.images
    if image_ids:
        begun.note(*image_ids)  # a killed removal goes on, for the lists go first
    remove_below(folder, [PREDICTIONS, f"{MAPS}/{MAPS_INFO}"])
    _remove_images(folder, image_ids)
    begun.forget()


def _remove_images(folder: Path, image_ids: Iterable[str]) -> None:
    for image_id in image_ids:
        remove_below(folder, _image_files(image_id))


def _image_files(image_id: str) -> tuple[str, ...]:
    """Return the names of all files that ``localize`` may write of an image."""
    return f"{MAPS}/{image_id}.npy", f"{OVERLAYS}/{image_id}.jpg", f"{MASKS}/{image_id}.png"


def _nameable(found: Prediction, image: ImageInput) -> Prediction:
    """Return what was found, or an error where no file beside it could have the image's name."""
    problem = None if found.error is not None else length_problem(image.id, image.path)
    return found if problem is None else replace(found, predictions=(), error=DataError(problem))


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
