"""What every export format shares: its class numbers, its file names, and writing whole or not at all.

A format is a small class that turns images into text. Formats of one file yield its lines, formats of a folder yield
one file per image. They see every image twice where they need to (class numbers stand before the boxes), so
the images are kept in a temporary file meanwhile: memory stays flat over any number of images.
"""

from __future__ import annotations

import json
import re
import tempfile
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TextIO

from gwapctl import boxes
from gwapctl.datasets.base import ClassName
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher, is_name
from gwapctl.errors import DataError, UsageError
from gwapctl.files import Written, atomic_path, remove_below, synced_once, write_text
from gwapctl.images.files import on_disk, stem
from gwapctl.lock import locked
from gwapctl.predict.prediction import Box, ClassPrediction, Prediction, merge
from gwapctl.regions import BoolMask

EXPORT = "export"  # in an exported folder ``.gwapctl-export`` lists its files, so that they can be replaced
SizeOf = Callable[[str], tuple[int, int] | None]  # width and height of an image by its name, None: not known
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")  # XML 1.0 cannot hold these


@dataclass(frozen=True)
class ClassTable:
    """The classes of one export: ``names[i]`` is class ``i``; all names differ and none spans two lines."""

    names: tuple[str, ...]
    numbers: dict[tuple[str, str], int]  # (label, label_id) -> i

    def number(self, prediction: ClassPrediction) -> int:
        """Return the number of a prediction's class, counted from 0."""
        return self.numbers[prediction.label, prediction.label_id]

    def name(self, prediction: ClassPrediction) -> str:
        """Return the name of a prediction's class."""
        return self.names[self.number(prediction)]


class ClassList(list[str]):
    """Names of classes in the order of their numbers, and the ``file`` they were read from."""

    file: Path


def class_table(found: Iterable[tuple[str, str]], listed: Sequence[str] | None = None) -> ClassTable:
    """Give the classes ``found``, pairs (label, label id), their numbers: as ``listed``, else by alphabet.

    Classes are told apart as everywhere (``datasets.class_names``): ids count where they are names. Two classes of one
    name (ImageNet has two cranes) get their id behind it.

    Raises:
        UsageError: ``listed`` lacks a class that was found, or names one twice.

    """
    if listed is None:
        return _by_alphabet(set(found))
    where = f"the list of classes {listed.file}" if isinstance(listed, ClassList) else "the list of classes"
    twice = next((name for name, count in Counter(listed).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{where} names a class twice: {twice!r}. Name each once.")
    matcher = ClassMatcher([ClassName(name, name) for name in listed])
    numbers = {pair: matcher.index(*pair) for pair in sorted(set(found))}
    missing = next((pair for pair, number in numbers.items() if number == FOREIGN), None)
    if missing is not None:
        raise UsageError(f"class {missing[0]!r} (id {missing[1]!r}) is not in {where}. Add it there.")
    return ClassTable(tuple(_one_line(name) for name in listed), numbers)


def _by_alphabet(found: set[tuple[str, str]]) -> ClassTable:
    ids: defaultdict[str, set[str]] = defaultdict(set)  # of each label, those that are names
    for label, label_id in found:
        ids[label] |= {label_id} if is_name(label_id) else set()
    owners = {(label, label_id): (label, label_id if len(ids[label]) > 1 else "") for label, label_id in found}
    classes = sorted(set(owners.values()))
    names = tuple(_one_line(f"{label} ({label_id})" if label_id else label) for label, label_id in classes)
    return ClassTable(names, {pair: classes.index(owner) for pair, owner in owners.items()})


def _one_line(name: str) -> str:
    return NOT_XML.sub("\ufffd", " ".join(name.split()))


class Spool:
    """Images in a temporary file: written once, read any number of times, one at a time."""

    def __init__(self, file: TextIO, items: Iterable[Prediction]) -> None:
        """Take all ``items``; those that failed are left out, boxes are cut to their image, one listed twice is one."""
        self._file = file
        self.classes: set[tuple[str, str]] = set()
        self._again: dict[str, list[Prediction]] = {}  # by id, what is said of an image after its first line
        for item in usable(items):
            self.classes.update((prediction.label, prediction.label_id) for prediction in item.predictions)
            if item.id in self._again:
                self._again[item.id].append(item)
            else:
                self._again[item.id] = []
                file.write(json.dumps(item.to_json()) + "\n")
        file.flush()  # a full disk shows here

    def __iter__(self) -> Iterator[Prediction]:
        """Yield the images in the order they came."""
        self._file.seek(0)
        for line in self._file:
            item = Prediction.from_json(json.loads(line))
            again = self._again[item.id]
            yield merge([item, *again], "the input") if again else item


@contextmanager
def spooled(items: Iterable[Prediction]) -> Iterator[Spool]:
    """Yield a ``Spool`` of ``items`` and remove its file afterwards.

    Raises:
        DataError: the folder of temporary files is full.

    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", prefix="gwapctl-"))
            spool = Spool(file, items)
        except OSError as error:
            why = error.strerror or error
            raise DataError(f"cannot write a temporary file: {why}. Free space or set TMPDIR.") from error
        yield spool


def usable(items: Iterable[Prediction], *, keep_failed: bool = False) -> Iterator[Prediction]:
    """Yield the images that did not fail (or all), with boxes cut to the image.

    Raises:
        DataError: an image without a size, an inverted or outlying box, or a name that is no text.

    """
    for item in items:
        if item.error is not None:
            if keep_failed:
                yield item
            continue
        if item.width < 1 or item.height < 1:
            raise DataError(f"image {item.id!r} has no size ({item.width} x {item.height}). Localize it again.")
        _check_text(item)
        yield replace(item, predictions=tuple(_inside(prediction, item) for prediction in item.predictions))


def _check_text(item: Prediction) -> None:
    names = [item.id, item.image, item.model, *(text for p in item.predictions for text in (p.label, p.label_id))]
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"image {item.id!r}: a file or class name is not valid UTF-8 text. Rename it.") from error


def _inside(prediction: ClassPrediction, item: Prediction) -> ClassPrediction:
    if prediction.box is None:
        return prediction
    cut = boxes.clip(prediction.box, item.width, item.height)
    if not boxes.valid(cut)[0]:
        size = f"{item.width} x {item.height}"
        raise DataError(f"image {item.id!r} ({size}): the box {list(prediction.box)} is inverted or outside the image.")
    x0, y0, x1, y1 = boxes.to_list(cut[0])
    return replace(prediction, box=(x0, y0, x1, y1))


def boxed(item: Prediction) -> list[tuple[ClassPrediction, Box]]:
    """Return the predictions of an image that have a box, with it."""
    return [(prediction, prediction.box) for prediction in item.predictions if prediction.box is not None]


def mask_of(prediction: ClassPrediction) -> BoolMask | None:
    """Return the pixels (H, W) of a prediction's object in the whole image; None where they are not known."""
    from gwapctl.regions.masks import decode

    if prediction.mask is None:
        return None
    height, width = prediction.mask.size
    return decode(prediction.mask.counts, width, height)


def json_rows(documents: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the items of a JSON list, one per line, with a comma behind all but the last."""
    row = ""
    for document in documents:
        if row:
            yield f"{row},\n"
        row = json.dumps(document, ensure_ascii=False, allow_nan=False)
    if row:
        yield f"{row}\n"


class Exporter(ABC):
    """One format. ``classes`` fixes the class numbers; without it they follow the alphabet of what occurs."""

    @abstractmethod
    def write(self, path: Path, items: Iterable[Prediction], classes: Sequence[str] | None = None) -> None:
        """Write ``items`` to ``path``; images that failed are left out.

        Raises:
            DataError: a broken item, or the disk is full.
            UsageError: ``classes`` lacks a class, or two images would share one file.

        """

    def setup(self, table: ClassTable) -> str:
        """Return what the reading tool must be told before it can import the result, or an empty string."""
        return ""


class FileExporter(Exporter):
    """A format of one file."""

    one_look: ClassVar[bool] = False  # whether the images need to be seen only once, and have no class numbers

    @abstractmethod
    def lines(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[str]:
        """Yield the file's text, whole lines at a time; ``items`` can be looked at several times."""

    def text(self, items: Iterable[Prediction], classes: Sequence[str] | None = None) -> Iterator[str]:
        """Yield the text of ``items``."""
        if self.one_look:
            yield from self.lines(items, ClassTable((), {}))
            return
        with spooled(items) as spool:
            yield from self.lines(spool, class_table(spool.classes, classes))

    def write(self, path: Path, items: Iterable[Prediction], classes: Sequence[str] | None = None) -> None:
        """Write the file, whole or not at all."""
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(self.text(items, classes))


class FolderExporter(Exporter):
    """A format of one file per image, named as the image and in the same tree."""

    @abstractmethod
    def files(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[tuple[str, str | bytes]]:
        """Yield every file as (path below the folder, what is in it)."""

    def write(self, path: Path, items: Iterable[Prediction], classes: Sequence[str] | None = None) -> None:
        """Write the folder, each file whole or not at all; nothing is written if two images would share a file.

        What an earlier export wrote there and this one does not is removed, by the list that it left, also one that was
        killed; nothing else.
        """
        written = set[str]()
        with locked(path), spooled(items) as spool, synced_once():
            listed = Written(path, EXPORT)
            earlier = listed.names()
            check_names(item.id for item in spool)
            for name, content in self.files(spool, class_table(spool.classes, classes)):
                listed.note(name)
                if isinstance(content, str):
                    write_text(path / on_disk(name), content)
                else:
                    with atomic_path(path / on_disk(name)) as temporary:
                        temporary.write_bytes(content)
                written.add(name)
            remove_below(path, map(on_disk, earlier - written))
            listed.keep(written)


def remove_export(folder: Path) -> None:
    """Remove what an export wrote below ``folder``, and nothing else."""
    listed = Written(folder, EXPORT)
    remove_below(folder, map(on_disk, listed.names()))
    listed.remove()


def annotation_name(image_id: str) -> str:
    """Return the name of an image's annotation, without suffix: its id less its own, never outside the folder."""
    parts = PurePosixPath(image_id).parts
    return stem("/".join(part for part in parts if part not in ("/", "//", "..") and not part.endswith(":")))


def check_names(image_ids: Iterable[str]) -> None:
    """Refuse images that would share one annotation file, such as ``a.jpg`` and ``a.png`` in one folder.

    Raises:
        UsageError: two images share a name, or one has none.

    """
    owners: dict[str, str] = {}
    for image_id in image_ids:
        name = annotation_name(image_id)
        other = owners.setdefault(name, image_id)
        if other != image_id:
            advice = "Rename one, or choose a format of one file: gwapctl data list formats"
            raise UsageError(f"{other!r} and {image_id!r} would share the annotation {name!r}. {advice}.")
        if not name:
            raise UsageError(f"image id {image_id!r} gives no file name. Ids are relative paths.")
