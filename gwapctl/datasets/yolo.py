"""YOLO: a text file of boxes per image, and ``data.yaml`` (any ``*.yaml`` with ``names``) or ``classes.txt``.

Images and labels lie in ``images/<split>`` and ``labels/<split>``, ``<split>/images`` and ``<split>/labels``,
``images`` and ``labels``, or side by side; ``data.yaml`` may name the folders of the splits, or lists of images. A line
is ``class cx cy w h`` in fractions of the upright image, or ``class x y x y x y ...``, a polygon, whose box counts. An
image without a label file shows nothing. Names that no label uses are left out: tools list more than there are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gwapctl.boxes import from_yolo
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.datasets.names import FileFinder, nfc, split_in, split_of
from gwapctl.datasets.objects import Corners, LabelledObject, make_sample
from gwapctl.datasets.places import list_images
from gwapctl.errors import DataError
from gwapctl.files import read_text
from gwapctl.images import SUFFIXES, stored_size

_ORDER = ("train", "val", "test", "trainval")
_USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
_NO_LABELS = {"classes.txt", "train.txt", "val.txt", "test.txt", "readme.txt"}
_LABEL_LINE = re.compile(r"\d+(\.0*)?(\s+-?\d*\.?\d+([eE][-+]?\d+)?){4,}\s*")
_LOOK_AT = 50  # label files, to tell what they are
_OVER = 0.01  # how far a fraction may lie outside of 0..1 by rounding


class _Label(NamedTuple):
    """One line of a label file: the number of its class, and its box as fractions (None: it cannot be read)."""

    number: int
    box: Corners | None


class _Names(NamedTuple):
    """Class names by number, and the file that says them."""

    by_number: dict[int, str]
    file: Path


class Yolo(Dataset):
    """Images with YOLO label files; several labels per image. Sample ids are paths from the split's image folder."""

    multi_label = True

    def __init__(
        self, root: Path, splits: Mapping[str, Sequence[Path]], names: _Names, notes: Sequence[str] = ()
    ) -> None:
        self.name = root.resolve().name
        self.root = root
        self._splits = {split: splits[split] for split in _ORDER if split in splits}
        self._names = names
        self._finder = FileFinder()
        for note in notes:
            self.problems.warn(note)
        for split, places in self._splits.items():
            if split != "train" and places == self._splits.get("train"):
                text = f"{root}: {split} and train are the same images: what is measured there was seen in training."
                self.problems.warn(text)

    def splits(self) -> tuple[str, ...]:
        """Return the splits that the folders, or ``data.yaml``, tell."""
        return tuple(self._splits)

    @cached_property
    def classes(self) -> tuple[ClassName, ...]:  # type: ignore[override]  # found only when asked for, then kept
        """The names that some label uses, in the order of their numbers."""
        listed = self._names.by_number
        used = {label.number for labels in self._labels.values() for label in labels}
        if not used and self.problems.errors:
            raise DataError(self.problems.errors[0])
        if not used:
            raise DataError(f"no label file of {self.root} has an object. Put them into labels/, beside images/.")
        unused = [name for number, name in listed.items() if number not in used]
        if unused:
            some = ", ".join(unused[:5]) + (" ..." if len(unused) > 5 else "")
            self.problems.warn(
                f"{self._names.file}: {len(unused)} of {len(listed)} names are on no image and are left out: {some}."
            )
        count = Counter(listed[number] for number in used)
        named = {number: listed[number] for number in sorted(used)}
        unique = [name if count[name] == 1 else f"{name} ({number})" for number, name in named.items()]
        return tuple(ClassName(name, name) for name in unique)

    def boxed_samples(self, split: str) -> list[BoxedSample]:
        """Return the samples of ``split``, sorted by path."""
        self.require_split(split)
        used = sorted({label.number for labels in self._labels.values() for label in labels})
        place = {number: index for index, number in enumerate(used)}
        samples = [self._sample(name, path, place) for name, path in self._images[split].items()]
        if not samples:
            folders = ", ".join(map(str, self._splits[split]))
            raise DataError(f"split {split!r} of {self.root} has no image in {folders}. Put images there.")
        return samples

    def _sample(self, name: str, path: Path, place: Mapping[int, int]) -> BoxedSample:
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
            [LabelledObject(place[label.number], label.box) for label in labels],
            convert=lambda boxes: from_yolo(boxes, *size),
            size=None,
            source=source,
            problems=self.problems,
            stored=stored,
        )

    @cached_property
    def _images(self) -> dict[str, dict[str, Path]]:
        """Map splits to their images by id; two images that share a label file are an error."""
        images = {split: self._images_of(places) for split, places in self._splits.items()}
        for found in images.values():
            by_label: dict[Path, Path] = {}
            for name, path in list(found.items()):
                file = self._label_file(path)
                if file is not None and by_label.setdefault(file, path) != path:
                    self.problems.error(f"{file} may be about {by_label[file].name} or {path.name}. Keep one of them.")
                    del found[name]
        return images

    def _images_of(self, places: Sequence[Path]) -> dict[str, Path]:
        if len(places) == 1 and places[0].is_dir():
            return list_images(places[0])
        paths = [path for place in places for path in self._expand(place)]
        top = self.root.absolute()
        names = {path: path.absolute() for path in paths}
        return {
            (full.relative_to(top) if full.is_relative_to(top) else full.relative_to(full.anchor)).as_posix(): path
            for path, full in sorted(names.items())
        }

    def _expand(self, place: Path) -> Iterator[Path]:
        """Yield the images of a folder, or those that a list names (from its own folder, or from the data set's)."""
        if place.is_dir():
            yield from list_images(place).values()
            return
        for line in filter(None, map(str.strip, read_text(place).splitlines())):
            name = line.replace("\\", "/").removeprefix("./")
            folders = (place.parent, self.root)
            tails = ["/".join(PurePosixPath(name).parts[start:]) for start in range(len(PurePosixPath(name).parts))]
            tried = [(folder, tail) for tail in tails for folder in folders]
            path = next((found for folder, tail in tried if (found := self._finder.find(folder, tail))), None)
            if path is None:
                self.problems.error(f"{place}: there is no image {line}. Restore it or remove its line.")
            else:
                yield path

    def _label_file(self, image: Path) -> Path | None:
        """Return the label file of an image: below ``labels`` for ``images``, or beside it."""
        for folder in _label_folders(image.parent, self.root):
            found = self._finder.find(folder, f"{image.stem}.txt")
            if found is not None:
                return found
        return None

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
        for place in self._splits[split]:
            folder = next(iter(_label_folders(place, self.root)), place)
            if not place.is_dir() or not folder.is_dir() or folder == place:
                continue
            for file in sorted(folder.rglob("*.txt")):
                if file not in used and file.name not in _NO_LABELS and _is_label_text(_text_of(file)):
                    self.problems.warn(f"{file} has no image in {place}; it is left out.", kind="labels without image")

    def _read_labels(self, file: Path) -> list[_Label]:
        labels = []
        for place, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            try:
                number = _class_number(line, self._names)
            except ValueError as error:
                self.problems.error(f"{file}, line {place}: {error}.")
                continue
            try:
                labels.append(_Label(number, _read_box(line)))
            except ValueError as error:
                self.problems.error(f"{file}, line {place}: {error}.")
                labels.append(_Label(number, None))
        return labels


def open_yolo(path: Path) -> Yolo | None:
    """Open a YOLO tree, or a ``data.yaml``; None for a folder that is none.

    Raises:
        DataError: it has label files but no class names, or ``data.yaml`` is broken or names what is not there.

    """
    root = path if path.is_dir() else path.parent
    file = _find_yaml(path)
    document = _read_yaml(file) if file is not None else {}
    notes: list[str] = []
    splits = _splits_of_yaml(document, file, root, notes) if file is not None else {}
    splits = splits or _find_splits(root)
    if not splits:
        if not path.is_dir():
            raise DataError(f"{path} names no folder of images that is there. Correct its train: and val:.")
        return None
    named = "names" in document  # then any text file is a label file, a broken one, too
    labelled = any(_has_labels(place, root, any_text=named) for places in splits.values() for place in places)
    if path.is_dir() and not labelled and all(place.is_dir() for places in splits.values() for place in places):
        return None  # a .yaml of something else, or class folders
    if file is not None and named:
        names = _Names(_read_names(document["names"], file), file)
    else:
        names = _names_file(root, splits)
    return Yolo(root, splits, names, notes)


def require_labels(folder: Path) -> None:
    """Raise ``DataError`` where a YAML file describes a YOLO tree, but there is no label file."""
    file = _find_yaml(folder)
    if file is not None:
        raise DataError(f"{file} describes a YOLO data set, but there is no label file. Put them into labels/.")


def _find_yaml(path: Path) -> Path | None:
    """Return the file that describes the tree: it says ``names``, or at least ``nc`` and ``train``."""
    if path.is_file():
        return path
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")], key=lambda file: (file.name not in _USUAL, file.name))
    found = []
    for file in files:
        try:
            document = _read_yaml(file)
        except DataError:
            if file.name in _USUAL:
                raise
            continue  # of something else
        if "names" in document or {"nc", "train"} <= document.keys():
            found.append(file)
    usual = [file for file in found if file.name in _USUAL] or found
    if len(usual) > 1:
        listed = ", ".join(file.name for file in usual)
        raise DataError(f"{path} has several descriptions: {listed}. Give the one you mean as the DATASET.")
    return usual[0] if usual else None


def _read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping into text, lists and dicts alone: a class may be called ``no``."""
    import yaml  # type: ignore[import-untyped]

    try:
        document = yaml.load(read_text(file), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise DataError(f"{file} is not valid YAML: {' '.join(str(error).split())}. Repair it.") from error
    return document if isinstance(document, dict) else {}


def _read_names(names: Any, file: Path) -> dict[int, str]:
    if not isinstance(names, dict | list) or not names:
        raise DataError(f"{file} has no class names. Write names: [cat, dog], or names: with 0: cat.")
    found = {}
    for number, name in names.items() if isinstance(names, dict) else enumerate(names):
        if not str(number).isdecimal():
            raise DataError(f"{file}: names has the key {number!r}, no class number. Write 0: cat.")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{file}: class {number} has no name. Give it a text.")
        found[int(number)] = nfc(name.strip())
    return found


def _names_file(root: Path, splits: Mapping[str, Sequence[Path]]) -> _Names:
    """Read the class names from ``classes.txt`` or its like, at the top or among images and labels."""
    places = [place for items in splits.values() for place in items if place.is_dir()]
    folders = [root, root / "labels", *(folder for place in places for folder in _label_folders(place, root)), *places]
    files = [folder / name for folder in dict.fromkeys(folders) for name in _NAME_FILES]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise DataError(
            f"{root} is a YOLO data set without class names. Add data.yaml with names: [first, second, ...], or "
            "classes.txt with one name per line."
        )
    lines = [nfc(line.strip()) for line in read_text(file).splitlines()]
    names = {number: line for number, line in enumerate(lines) if line}
    if not names:
        raise DataError(f"{file} has no class name. Write one per line.")
    return _Names(names, file)


def _splits_of_yaml(document: dict[str, Any], file: Path, root: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Return the folders and lists that the YAML names; what is not there is noted, and an error for ``train``."""
    splits: dict[str, list[Path]] = {}
    base = document["path"] if isinstance(document.get("path"), str) else ""
    for key, value in document.items():
        split = split_of(str(key))
        entries = [item for item in (value if isinstance(value, list) else [value]) if item and isinstance(item, str)]
        if split is None or not entries:
            continue
        found = [place for entry in entries if (place := _resolve(entry, base, root, split)) is not None]
        if len(found) == len(entries):
            splits[split] = found
        else:
            notes.append(f"{file}: there is no {key}: {', '.join(entries)}; this split is left out.")
    if "train" not in splits and any(split_of(str(key)) == "train" for key in document) and splits:
        raise DataError(f"{notes[0]} Correct it.")
    if not splits:
        notes.clear()
    return splits


def _resolve(entry: str, base: str, root: Path, split: str) -> Path | None:
    """Find a folder or list that a YAML file names: below the data set first, wherever it was when it was written."""
    name = entry.replace("\\", "/")
    parts = [part for part in PurePosixPath(name).parts if part not in (".", "/")]
    while parts and parts[0] == "..":
        parts = parts[1:]
    said = any(split_of(part) == split for part in parts)  # then a shorter path must say it, too
    rest = [parts[start:] for start in range(len(parts))]
    tails = ["/".join(tail) for tail in rest if not said or any(split_of(part) == split for part in tail)]
    tried = [root / base / tails[0] if tails else root / base, *(root / tail for tail in tails)]
    outside = [root / base / name, root / name]
    for place in (*tried[:2], *outside, *tried[2:]):
        if place.exists():
            return _image_folder(place, split) if place.is_dir() else place
    return None


def _image_folder(place: Path, split: str) -> Path:
    """Return the folder itself, or its ``images`` where it holds them and their ``labels``."""
    inner = place / "images"
    if (place / "labels").is_dir() and inner.is_dir():
        return inner / split if (inner / split).is_dir() else inner
    return place


def _find_splits(root: Path) -> dict[str, list[Path]]:
    """Return split -> image folders by looking: those that have label files in YOLO's format."""
    images, parts = root / "images", _split_folders(root)
    forms = [_split_folders(images), {split: path / "images" for split, path in parts.items()}, parts]
    darknet = {split: path for path in sorted(root.glob("obj_*_data")) if (split := split_in(path.name)) is not None}
    for form in (*forms, darknet, {"train": images}, {"train": root}):
        found = {split: [place] for split, place in form.items() if _has_labels(place, root)}
        if found:
            return found | {split: [place] for split, place in form.items() if _has_images(place)}
    return {}


def _split_folders(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {
        split: path for path in sorted(folder.iterdir()) if path.is_dir() and (split := split_of(path.name)) is not None
    }


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())


def _has_labels(images: Path, root: Path, *, any_text: bool = False) -> bool:
    """Tell whether a folder of images has label files: of the first with a line, one in YOLO's format, or any."""
    texts = [text for file in islice(_texts(images, root), _LOOK_AT) if (text := _text_of(file))]
    return bool(texts) if any_text else any(map(_is_label_text, texts))


def _texts(images: Path, root: Path) -> Iterator[Path]:
    """Yield the text files that may be label files of the images in a folder."""
    for folder in _label_folders(images, root) if images.is_dir() else ():
        beside = folder == images
        for file in sorted(folder.glob("*.txt") if beside else folder.rglob("*.txt")):
            if file.name.lower() not in _NO_LABELS and (not beside or _has_image_beside(file)):
                yield file


def _has_image_beside(file: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in file.parent.glob(f"{file.stem}.*"))


def _text_of(file: Path) -> str | None:
    """Return the text of what may be a label file; None where it is no text at all."""
    try:
        return read_text(file).strip()
    except DataError:
        return None


def _is_label_text(text: str | None) -> bool:
    return text is not None and all(_LABEL_LINE.fullmatch(line.strip()) for line in text.splitlines() if line.strip())


def _label_folders(images: Path, root: Path) -> Iterator[Path]:
    """Yield where the label files of the images in a folder may lie; only below ``root`` is ``images`` replaced."""
    inside = images.is_relative_to(root)
    parts = list(images.relative_to(root).parts if inside else images.parts)
    for place in reversed([place for place, part in enumerate(parts) if part.lower() == "images"]):
        replaced = Path(*parts[:place], "labels", *parts[place + 1 :])
        yield root / replaced if inside else replaced
    yield images


def _class_number(line: str, names: _Names) -> int:
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


def _read_box(line: str) -> Corners:
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
