"""Where a YOLO tree keeps its images, its labels and the names of its classes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gwapctl.datasets.folders import has_images, split_folders, split_in, split_of
from gwapctl.errors import DataError
from gwapctl.files import read_text
from gwapctl.images.files import SUFFIXES, nfc

NO_LABELS = {"classes.txt", "train.txt", "val.txt", "test.txt", "readme.txt"}

_USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
_LABEL_LINE = re.compile(r"\d+(\.0*)?(\s+-?\d*\.?\d+([eE][-+]?\d+)?){4,}\s*")
_LOOK_AT = 50  # label files, to tell what they are


class Names(NamedTuple):
    """Class names by number, and the file that says them."""

    by_number: dict[int, str]
    file: Path


def find_yaml(path: Path) -> Path | None:
    """Return the file that describes the tree: it says ``names``, or at least ``nc`` and ``train``."""
    if path.is_file():
        return path
    files = sorted(
        [*path.glob("[!.]*.yaml"), *path.glob("[!.]*.yml")], key=lambda file: (file.name not in _USUAL, file.name)
    )
    found = []
    for file in files:
        try:
            document = read_yaml(file)
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


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping into text, lists and dicts alone: a class may be called ``no``."""
    import yaml

    try:
        document = yaml.load(read_text(file), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"{file} is not valid YAML: {' '.join(str(error).split())}. Repair it.") from error
    return document if isinstance(document, dict) else {}


def read_names(names: Any, file: Path) -> dict[int, str]:
    """Return class number -> name from what a YAML file says under ``names``: a list, or a mapping.

    Raises:
        DataError: there is none, or one has no text.

    """
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


def names_file(root: Path, splits: Mapping[str, Sequence[Path]]) -> Names:
    """Read the class names from ``classes.txt`` or its like, at the top or among images and labels."""
    images = [item for items in splits.values() for item in items if item.is_dir()]
    folders = [root, root / "labels", *(folder for item in images for folder in label_folders(item, root)), *images]
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
    return Names(names, file)


def splits_of_yaml(document: dict[str, Any], file: Path, root: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Return the folders and lists that the YAML names; what is not there is noted, and an error for ``train``."""
    splits: dict[str, list[Path]] = {}
    base = document["path"] if isinstance(document.get("path"), str) else ""
    for key, value in document.items():
        split = split_of(str(key))
        entries = [item for item in (value if isinstance(value, list) else [value]) if item and isinstance(item, str)]
        if split is None or not entries:
            continue
        found = [path for entry in entries if (path := _resolve(entry, base, root, split)) is not None]
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
    for path in (*tried[:2], *outside, *tried[2:]):
        if path.exists():
            return _image_folder(path, split) if path.is_dir() else path
    return None


def _image_folder(folder: Path, split: str) -> Path:
    """Return the folder itself, or its ``images`` where it holds them and their ``labels``."""
    inner = folder / "images"
    if (folder / "labels").is_dir() and inner.is_dir():
        return inner / split if (inner / split).is_dir() else inner
    return folder


def find_splits(root: Path) -> dict[str, list[Path]]:
    """Return split -> image folders by looking: those that have label files in YOLO's format."""
    images, parts = root / "images", dict(split_folders(root))
    forms = [dict(split_folders(images)), {split: path / "images" for split, path in parts.items()}, parts]
    darknet = {split: path for path in sorted(root.glob("obj_*_data")) if (split := split_in(path.name)) is not None}
    for form in (*forms, darknet, {"train": images}, {"train": root}):
        found = {split: [path] for split, path in form.items() if has_labels(path, root)}
        if found:
            return found | {split: [path] for split, path in form.items() if has_images(path)}
    return {}


def has_labels(images: Path, root: Path, *, any_text: bool = False) -> bool:
    """Tell whether a folder of images has label files: of the first with a line, one in YOLO's format, or any."""
    texts = [text for file in islice(_texts(images, root), _LOOK_AT) if (text := text_of(file))]
    return bool(texts) if any_text else any(map(is_label_text, texts))


def _texts(images: Path, root: Path) -> Iterator[Path]:
    """Yield the text files that may be label files of the images in a folder."""
    for folder in label_folders(images, root) if images.is_dir() else ():
        beside = folder == images
        for file in sorted(folder.glob("[!.]*.txt") if beside else folder.rglob("[!.]*.txt")):
            if file.name.lower() not in NO_LABELS and (not beside or _has_image_beside(file)):
                yield file


def _has_image_beside(file: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in file.parent.glob(f"{file.stem}.*"))


def text_of(file: Path) -> str | None:
    """Return the text of what may be a label file; None where it is no text at all."""
    try:
        return read_text(file).strip()
    except DataError:
        return None


def is_label_text(text: str | None) -> bool:
    """Tell whether every line is in YOLO's format: a class number and at least four more."""
    return text is not None and all(_LABEL_LINE.fullmatch(line.strip()) for line in text.splitlines() if line.strip())


def label_folders(images: Path, root: Path) -> Iterator[Path]:
    """Yield where the label files of the images in a folder may lie; only below ``root`` is ``images`` replaced."""
    inside = images.is_relative_to(root)
    parts = list(images.relative_to(root).parts if inside else images.parts)
    for index in reversed([index for index, part in enumerate(parts) if part.lower() == "images"]):
        replaced = Path(*parts[:index], "labels", *parts[index + 1 :])
        yield root / replaced if inside else replaced
    yield images
