"""Boxes in: the files that gwapctl and the labelling tools write, as they come. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

from gwapctl.boxes import as_boxes
from gwapctl.datasets.base import BoxedSample, ClassName, Problems
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.datasets.objects import LabelledObject, make_sample, stated_size
from gwapctl.errors import DataError, any_of, reading
from gwapctl.files import read_json
from gwapctl.formats import READERS
from gwapctl.formats.base import SizeOf
from gwapctl.formats.decisions import rejected_images
from gwapctl.predict.image_index import ImageIndex
from gwapctl.predict.prediction import Prediction, merge
from gwapctl.predict.predictions import PREDICTIONS, read_predictions


def read_boxes(path: Path) -> dict[str, Prediction]:
    """Return what a file of boxes says of each image, by the image's name there, and of one listed twice together.

    It is a folder that ``localize`` wrote, or a file or folder of a kind in ``READERS``, found out by looking. Boxes
    are ours, in pixels of the image; their score is 1 where the file says none. An image without a box is in it: it
    shows nothing.
    What is not checked is left out: tasks of Label Studio without an annotation where others have one, images that the
    review page rejected, images that failed.

    Raises:
        DataError: no such file, a kind that is not known, or a broken entry, which the message names.

    """
    found: dict[str, list[Prediction]] = {}
    for item in stored_boxes(path):
        if item.error is None:
            found.setdefault(item.id, []).append(item)
    return {name: parts[0] if len(parts) == 1 else merge(parts, str(path)) for name, parts in found.items()}


def stored_boxes(path: Path, size_of: SizeOf | None = None) -> Iterator[Prediction]:
    """Yield what ``read_boxes`` gathers one entry at a time, in the order of the file, images that failed included.

    ``size_of`` tells width and height of an image by its name, for boxes that are fractions of them.
    """
    with reading(path, advice="Export it again."):
        if path.is_dir():
            kind = folder_kind(path)
            yield from read_predictions(path) if kind is None else resolve_name(READERS[kind].path)(path, size_of)
            return
        reader = resolve_name(READERS[kind_of(path)].path)
        yield from reader(path)


def folder_kind(folder: Path) -> str | None:
    """Return which of ``READERS`` reads ``folder``, None where none does or ``localize`` wrote it."""
    if (folder / PREDICTIONS).is_file():
        return None
    kinds = (name for name, entry in READERS.items() if entry.is_folder)
    return next((name for name in kinds if all(any(folder.glob(key)) for key in READERS[name].keys)), None)


def kind_of(file: Path) -> str:
    """Return which of ``READERS`` reads ``file``: by its suffix, of JSON by what the document has.

    Raises:
        DataError: no such file, or none does.

    """
    if not file.is_file():
        raise DataError(f"{file} does not exist. Make it with gwapctl boxes, or export it from your tool.")
    suffix = file.suffix.lower()
    kinds = [name for name, entry in READERS.items() if entry.suffix == suffix]
    if suffix == ".json":
        document = read_json(file)
        kinds = [name for name in kinds if _has(document, READERS[name].keys)]
    if not kinds:
        known = any_of(f"{entry.label} ({entry.suffix})" for entry in READERS.values())
        raise DataError(f"{file} is no file of boxes that is known here. Give {known}.")
    return max(kinds, key=lambda name: len(READERS[name].keys))


def _has(document: object, keys: Sequence[str]) -> bool:
    if not keys:
        return isinstance(document, list)
    return isinstance(document, dict) and all(key in document for key in keys)


class Corrections:
    """What a file says of images that somebody checked, to be put in place of what was found in them.

    ``applied`` and ``left_out`` count the images that it changed; ``unknown`` are those of the file that never came.
    """

    def __init__(self, file: Path) -> None:
        """Read ``file``; the errors are those of ``read_boxes``."""
        self.file = file
        self.checked = read_boxes(file)
        rejected = rejected_images(file) if file.is_file() and kind_of(file) == "decisions" else []
        self._index = ImageIndex([*self.checked, *rejected])
        self.unknown = dict.fromkeys([*self.checked, *rejected])
        self.applied = self.left_out = 0

    def apply(self, items: Iterable[Prediction]) -> Iterator[Prediction]:
        """Yield ``items``, with what was said of those that were checked, and without those that were rejected."""
        for item in items:
            name = None if item.error is not None else self._index.find(item.id, item.image)
            if name is None:
                yield item
                continue
            self.unknown.pop(name, None)
            if name in self.checked:
                self.applied += 1
                yield replace(item, predictions=self.checked[name].predictions)
            else:
                self.left_out += 1


def checked_samples(
    samples: Iterable[BoxedSample], classes: Sequence[ClassName], checked: Mapping[str, Prediction], file: Path
) -> list[BoxedSample]:
    """Return those ``samples`` that are ``checked``, with the labels and boxes that ``file`` has for them.

    Classes are matched as everywhere (``datasets.class_names``). Boxes are brought to the size of the image.

    Raises:
        DataError: no sample is among them, a class is none of ``classes``, or boxes fit no size of their image.

    """
    index, matcher, problems = ImageIndex(checked), ClassMatcher(classes), Problems()
    found = [(sample, index.find(sample.id, sample.path.as_posix())) for sample in samples]
    result = [_with_boxes(sample, checked[name], matcher, file, problems) for sample, name in found if name is not None]
    if not result:
        raise DataError(f"{file} has none of these images: it has names like {next(iter(checked), 'none')!r}.")
    return result


def _with_boxes(
    sample: BoxedSample, found: Prediction, matcher: ClassMatcher, file: Path, problems: Problems
) -> BoxedSample:
    labels = [matcher.index(item.label, item.label_id) for item in found.predictions]
    if FOREIGN in labels:
        lost = found.predictions[labels.index(FOREIGN)].label
        raise DataError(f"{file}: {found.id!r} shows {lost!r}, a class that the data set does not have.")
    objects = [
        LabelledObject(label, item.box) for label, item in zip(labels, found.predictions, strict=True) if item.box
    ]
    size = stated_size(found.width, found.height)
    return make_sample(
        sample.id, sample.path, objects, convert=as_boxes, size=size, source=file, problems=problems, mask=sample.mask
    )
