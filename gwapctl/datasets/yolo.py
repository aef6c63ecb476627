"""YOLO: a text file of boxes per image, and ``data.yaml`` (any ``*.yaml`` with ``names``) or ``classes.txt``.

Images and labels lie in ``images/<split>`` and ``labels/<split>``, ``<split>/images`` and ``<split>/labels``,
``images`` and ``labels``, or side by side; ``data.yaml`` may name the folders of the splits, or lists of images. A line
is ``class cx cy w h`` in fractions of the upright image, or ``class x y x y x y ...``, a polygon, whose box counts. An
image without a label file shows nothing. Names that no label uses are left out: tools list more than there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from gwapctl.boxes import from_yolo
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.datasets.class_names import used_names
from gwapctl.datasets.folders import SPLIT_ORDER, file_in, list_images, relative_id
from gwapctl.datasets.objects import Corners, LabelledObject, make_sample
from gwapctl.datasets.yolo_tree import (
    NO_LABELS,
    Names,
    find_splits,
    find_yaml,
    has_labels,
    is_label_text,
    label_folders,
    names_file,
    read_names,
    read_yaml,
    splits_of_yaml,
    text_of,
)
from gwapctl.errors import DataError, reading
from gwapctl.files import read_text
from gwapctl.images.decode import stored_size
from gwapctl.images.files import Overlooked

_OVER = 0.01  # how far a fraction may lie outside of 0..1 by rounding


class _Label(NamedTuple):
    """One line of a label file: the number of its class, and its box as fractions (None: it cannot be read)."""

    number: int
    box: Corners | None


class Yolo(Dataset):
    """Images with YOLO label files; several labels per image. Sample ids are paths from the split's image folder."""

    multi_label = True

    def __init__(
        self, root: Path, splits: Mapping[str, Sequence[Path]], names: Names, notes: Sequence[str] = ()
    ) -> None:
        self.name = root.resolve().name
        self.root = root
        self._splits = {split: splits[split] for split in SPLIT_ORDER if split in splits}
        self._names = names
        self.problems.warn(*notes)
        for split, parts in self._splits.items():
            if split != "train" and parts == self._splits.get("train"):
                text = f"{root}: {split} and train are the same images: what is measured there was seen in training."
                self.problems.warn(text)

    @cached_property
    def classes(self) -> tuple[ClassName, ...]:  # type: ignore[override]  # found only when asked for, then kept
        """The names that some label uses, in the order of their numbers."""
        listed = self._names.by_number
        used = {label.number for labels in self._labels.values() for label in labels}
        if not used and self.problems.errors:
            raise DataError(self.problems.errors[0])
        if not used:
            raise DataError(f"no label file of {self.root} has an object. Put them into labels/, beside images/.")
        named = used_names(listed, used, self.problems, f"{self._names.file}: {{}} names are on no image")
        return tuple(ClassName(named[number], named[number]) for number in sorted(named))

    def _read(self, split: str) -> Iterator[BoxedSample]:
        """Yield the samples, sorted by path."""
        used = sorted({label.number for labels in self._labels.values() for label in labels})
        index = {number: index for index, number in enumerate(used)}
        return (self._sample(name, path, index) for name, path in self._images[split].items())

    def _sample(self, name: str, path: Path, index: Mapping[int, int]) -> BoxedSample:
        labels = self._labels.get(path, [])
        source, stored = self._label_file(path) or path, None
        try:
            stored = stored_size(path) if any(label.box is not None for label in labels) else None
        except DataError:  # whoever reads the image says so; without its size there are no boxes
            labels = [label._replace(box=None) for label in labels]
        size = stored.upright if stored is not None else (1, 1)
        return make_sample(
            name,
            path,
            [LabelledObject(index[label.number], label.box) for label in labels],
            convert=lambda boxes: from_yolo(boxes, *size),
            size=None,
            source=source,
            problems=self.problems,
            stored=stored,
        )

    @cached_property
    def _images(self) -> dict[str, dict[str, Path]]:
        """Map splits to their images by id; two images that share a label file are an error."""
        images = {split: self._images_of(parts) for split, parts in self._splits.items()}
        for found in images.values():
            by_label: dict[Path, Path] = {}
            for name, path in list(found.items()):
                file = self._label_file(path)
                if file is not None and by_label.setdefault(file, path) != path:
                    self.problems.error(f"{file} may be about {by_label[file].name} or {path.name}. Keep one of them.")
                    del found[name]
        return images

    def _images_of(self, parts: Sequence[Path]) -> dict[str, Path]:
        overlooked = Overlooked()
        if len(parts) == 1 and parts[0].is_dir():
            found = list_images(parts[0], overlooked)
        else:
            paths = sorted({path for part in parts for path in self._expand(part, overlooked)})
            found = {relative_id(path, self.root): path for path in paths}
        self.problems.warn(*overlooked.messages())
        return found

    def _expand(self, part: Path, overlooked: Overlooked) -> Iterator[Path]:
        """Yield the images of a folder, or those that a list names (from its own folder, or from the data set's)."""
        if part.is_dir():
            yield from list_images(part, overlooked).values()
            return
        for line in filter(None, map(str.strip, read_text(part).splitlines())):
            name = line.replace("\\", "/").removeprefix("./")
            folders = (part.parent, self.root)
            tails = ["/".join(PurePosixPath(name).parts[start:]) for start in range(len(PurePosixPath(name).parts))]
            path = next((found for tail in tails if (found := file_in(folders, tail))), None)
            if path is None:
                self.problems.error(f"{part}: there is no image {line}. Restore it or remove its line.")
            else:
                yield path

    def _label_file(self, image: Path) -> Path | None:
        """Return the label file of an image: below ``labels`` for ``images``, or beside it."""
        return file_in(label_folders(image.parent, self.root), f"{image.stem}.txt")

    @cached_property
    def _labels(self) -> dict[Path, list[_Label]]:
        """Map images to what their label files say, each read once; what is wrong in them is an error."""
        labels: dict[Path, list[_Label]] = {}
        for split, images in self._images.items():
            files = {path: self._label_file(path) for path in images.values()}
            without = [path for path, file in files.items() if file is None]
            if without:
                self.problems.warn(
                    f"{len(without)} of {len(images)} images of split {split!r} have no label file, such as "
                    f"{without[0]}: they count as images without objects."
                )
            self._warn_of_orphans(split, {file for file in files.values() if file is not None})
            labels |= {path: self._read_labels(file) for path, file in files.items() if file is not None}
        return labels

    def _warn_of_orphans(self, split: str, used: set[Path]) -> None:
        for part in self._splits[split]:
            folder = next(iter(label_folders(part, self.root)), part)
            if not part.is_dir() or not folder.is_dir() or folder == part:
                continue
            for file in sorted(folder.rglob("[!.]*.txt")):
                if file not in used and file.name not in NO_LABELS and is_label_text(text_of(file)):
                    self.problems.warn(f"{file} has no image in {part}; it is left out.", kind="labels without image")

    def _read_labels(self, file: Path) -> list[_Label]:
        labels = []
        for row, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            try:
                number = class_number(line, self._names)
            except ValueError as error:
                self.problems.error(f"{file}, line {row}: {error}.")
                continue
            try:
                labels.append(_Label(number, read_fractions(line)))
            except ValueError as error:
                self.problems.error(f"{file}, line {row}: {error}.")
                labels.append(_Label(number, None))
        return labels


def open_yolo(path: Path) -> Yolo | None:
    """Open a YOLO tree, or a ``data.yaml``; None for a folder that is none.

    Raises:
        DataError: it has label files but no class names, or ``data.yaml`` is broken or names what is not there.

    """
    root = path if path.is_dir() else path.parent
    file = find_yaml(path)
    document = read_yaml(file) if file is not None else {}
    notes: list[str] = []
    with reading(file):  # folders that it names may be none that a system can have
        splits = splits_of_yaml(document, file, root, notes) if file is not None else {}
    splits = splits or find_splits(root)
    if not splits:
        if not path.is_dir():
            raise DataError(f"{path} names no folder of images that is there. Correct its train: and val:.")
        return None
    named = "names" in document  # then any text file is a label file, a broken one, too
    labelled = any(has_labels(part, root, any_text=named) for parts in splits.values() for part in parts)
    if path.is_dir() and not labelled and all(part.is_dir() for parts in splits.values() for part in parts):
        return None  # a .yaml of something else, or class folders
    if file is None or not named:
        return Yolo(root, splits, names_file(root, splits), notes)
    return Yolo(root, splits, Names(read_names(document["names"], file), file), notes)


def require_labels(folder: Path) -> None:
    """Raise ``DataError`` where a YAML file describes a YOLO tree, but there is no label file."""
    file = find_yaml(folder)
    if file is not None:
        raise DataError(f"{file} describes a YOLO data set, but there is no label file. Put them into labels/.")


def class_number(line: str, names: Names) -> int:
    """Return the class number of a line.

    Raises:
        ValueError: it is no number, or has no name.

    """
    text = line.split()[0]
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value not in names.by_number:
        raise ValueError(f"class {text}, but {names.file} names {min(names.by_number)} to {max(names.by_number)}")
    return int(value)


def read_fractions(line: str) -> Corners:
    """Return centre and size, as fractions, of the box of a line, or of the box around its polygon.

    Raises:
        ValueError: the line has another number of values, or one that is no fraction.

    """
    values = [float(text) for text in line.split()[1:]]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f"{len(values) + 1} values. A box has 5 (class cx cy w h), a polygon pairs of x and y; a sixth value is "
            "the score of a prediction"
        )
    wrong = next((value for value in values if not -_OVER <= value <= 1 + _OVER), None)
    if wrong is not None:
        raise ValueError(f"{wrong:g} is no fraction of the image (0 to 1). Divide by its width or height")
    if len(values) == 4:
        return (values[0], values[1], values[2], values[3])
    xs, ys = values[0::2], values[1::2]
    return ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys))
