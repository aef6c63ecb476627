"""COCO JSON ("instances"): one file, or a folder with one file per split.

A folder holds ``annotations/*.json`` (``instances_*`` alone where there are some), ``<split>/_annotations.coco.json``
or ``*.json``. Images lie beside the file or in the usual folders. Boxes are ``x, y, width, height`` on disk; a crowd
counts as difficult. Ids compare as the numbers they mean: 1, "1" and 1.0 are one. Categories that no annotation uses
are left out: tools list more than there are.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from gwapctl.boxes import from_xywh
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.datasets.class_names import used_names
from gwapctl.datasets.folders import file_in, split_in
from gwapctl.datasets.objects import Corners, LabelledObject, make_sample, stated_size
from gwapctl.errors import DataError, reading
from gwapctl.files import read_json
from gwapctl.images.files import nfc

Id = int | str
_ROBOFLOW = "_annotations.coco.json"
_KEYS = ("images", "annotations", "categories")


class Coco(Dataset):
    """Images and objects of COCO JSON files; several labels per image. Sample ids are the ``file_name``."""

    multi_label = True

    def __init__(self, root: Path, files: dict[str, Path]) -> None:
        self.name = root.resolve().name.removesuffix(".json")
        self.root = root
        self._splits = files
        self._documents: dict[str, dict[str, Any]] = {}

    @cached_property
    def classes(self) -> tuple[ClassName, ...]:  # type: ignore[override]  # found only when asked for, then kept
        """The categories that an annotation of some file uses, in the order of their ids."""
        categories: dict[Id, str] = {}
        used: set[Id] = set()
        for split, file in self._splits.items():
            document = self._document(split)
            for index, category in enumerate(document["categories"]):
                number, name = _read_category(category, index, file)
                if categories.setdefault(number, name) != name:
                    raise DataError(f"{file}: category {number} is {name!r}, elsewhere {categories[number]!r}.")
            used |= {found for item in document["annotations"] if (found := _read_id(item, "category_id")) is not None}
        if not categories:
            raise DataError(f"{next(iter(self._splits.values()))} lists no category. Export the file again.")
        order = {number: categories[number] for number in sorted(categories, key=lambda n: (isinstance(n, str), n))}
        named = used_names(
            order, used or order.keys(), self.problems, f"{self.root}: {{}} categories have no annotation"
        )
        return tuple(ClassName(name, str(number)) for number, name in named.items())

    def _read(self, split: str) -> Iterator[BoxedSample]:
        """Yield the samples in the order of the file."""
        with reading(self._splits[split], advice="Export it again."):
            yield from self._read_file(split, self._splits[split])

    def _read_file(self, split: str, file: Path) -> Iterator[BoxedSample]:
        images = self._images(split, file)
        if not self._document(split)["images"]:
            raise DataError(f"{file} lists no image. Export the file again.")
        objects = self._objects(split, file, set(images))
        folders = self._image_folders(split, file)
        by_path: dict[Path, tuple[dict[str, Any], list[LabelledObject]]] = {}
        for number, image in images.items():
            name = image["file_name"].replace("\\", "/")
            path = file_in(folders, name)
            if path is None:
                listed = ", ".join(map(str, folders))
                self.problems.error(f"{file}: there is no image {name} (id {number}) in any of: {listed}.")
                continue
            if path in by_path:
                text = f"{file}: image {number} lists {path} again; its objects join those of the first."
                self.problems.warn(text, kind="images listed again")
            known = by_path.setdefault(path, (image, []))[1]
            known += [item for item in objects[number] if item not in known] if known else objects[number]
        for path, (image, found) in by_path.items():
            name, size = image["file_name"].replace("\\", "/"), stated_size(image.get("width"), image.get("height"))
            yield make_sample(name, path, found, convert=from_xywh, size=size, source=file, problems=self.problems)

    def _document(self, split: str) -> dict[str, Any]:
        if split not in self._documents:
            self._documents[split] = _read(self._splits[split])
        return self._documents[split]

    def _images(self, split: str, file: Path) -> dict[Id, dict[str, Any]]:
        """Map image ids to the entries of ``images``; one that has no id or name of its own is an error."""
        images: dict[Id, dict[str, Any]] = {}
        for index, image in enumerate(self._document(split)["images"]):
            number = _read_id(image, "id")
            if number is None:
                self.problems.error(f"{file}: images[{index}] has no 'id'. Export the file again.")
            elif not isinstance(image.get("file_name"), str) or not image["file_name"].strip():
                self.problems.error(f"{file}: image {number} has no 'file_name'. Export the file again.")
            elif number in images and images[number]["file_name"] != image["file_name"]:
                names = f"{images[number]['file_name']} and {image['file_name']}"
                self.problems.error(f"{file}: {names} are both image {number}. Give each its own id.")
            elif number in images:
                text = f"{file}: image {number} ({image['file_name']}) is listed twice; it counts once."
                self.problems.warn(text, kind="images listed again")
            else:
                images[number] = image
        return images

    def _objects(self, split: str, file: Path, known: set[Id]) -> dict[Id, list[LabelledObject]]:
        """Map image ids to their objects; what is wrong with an annotation is an error that names it."""
        objects: dict[Id, list[LabelledObject]] = defaultdict(list)
        annotations = self._document(split)["annotations"]
        boxed = any(isinstance(item, dict) and item.get("bbox") is not None for item in annotations)
        for index, annotation in enumerate(annotations):
            number = _read_id(annotation, "id")
            name = f"{file}: annotations[{index}]" if number is None else f"{file}: annotation {number}"
            image, category = _read_id(annotation, "image_id"), _read_id(annotation, "category_id")
            if image is None or category is None:
                key = "image_id" if image is None else "category_id"
                self.problems.error(f"{name} has no {key!r}. Export the file again.")
            elif image not in known:
                self.problems.error(f"{name} is of image_id {image}, which is not in 'images'. Add or remove it.")
            elif str(category) not in self.class_index:
                self.problems.error(f"{name} has category_id {category}, which is not in 'categories'. Add it there.")
            else:
                corners = self._corners(annotation.get("bbox"), name, boxed)
                crowd = str(annotation.get("iscrowd")).lower() in ("1", "true")
                objects[image].append(LabelledObject(self.class_index[str(category)], corners, crowd))
        return objects

    def _corners(self, box: Any, name: str, boxed: bool) -> Corners | None:
        """Return the four numbers of a box, or None where there is none, or none that can be read."""
        if box is None:
            if boxed:
                self.problems.warn(f"{name} has no bbox; its label counts, its box is not known.", kind="no bbox")
            return None
        try:
            x, y, width, height = map(float, box)
            if not all(map(math.isfinite, (x, y, width, height))):
                raise ValueError("not every number is finite")
        except (TypeError, ValueError, OverflowError) as error:
            why = "it is not four numbers" if isinstance(error, TypeError) else error
            self.problems.error(
                f"{name} has the bbox {json.dumps(box)}: {why}. Give x, y, width, height, or remove it."
            )
            return None
        return (x, y, width, height)

    def _image_folders(self, split: str, file: Path) -> list[Path]:
        """Return where images of an annotation file may lie, the usual first."""
        top = file.parent.parent if file.parent.name == "annotations" else file.parent
        name = file.stem.removeprefix("instances_")
        names = [f"images/{name}", name, f"images/{split}", split, "images", "JPEGImages", "data", "."]
        folders = [*(top / folder for folder in dict.fromkeys(names)), file.parent]
        return [folder for folder in folders if folder.is_dir()]


def open_coco(path: Path) -> Coco | None:
    """Open a COCO JSON file, or a folder that holds such files; None for a folder without.

    Raises:
        DataError: a file is no data set, or two files are the same split.

    """
    if path.is_file():
        dataset = Coco(path, {_split_name(path): path})
        dataset.classes  # noqa: B018 (read now: a file that was meant to be a data set must be one)
        return dataset
    files = list(_annotation_files(path))
    splits: dict[str, Path] = {}
    for file in files:
        split = _split_name(file)
        if split in splits:
            raise DataError(
                f"{splits[split]} and {file} are both split {split!r}. Give the one you mean as the DATASET."
            )
        splits[split] = file
    return Coco(path, splits) if splits else None


def _annotation_files(folder: Path) -> Iterator[Path]:
    files = sorted((folder / "annotations").glob("[!.]*.json"))
    instances = [file for file in files if file.name.startswith("instances")]
    if instances or files:
        yield from instances or files
        return
    for file in [*sorted(folder.glob(f"*/{_ROBOFLOW}")), *sorted(folder.glob("[!.]*.json"))]:
        document = read_json(file)
        if isinstance(document, dict) and all(key in document for key in _KEYS):
            yield file


def _split_name(file: Path) -> str:
    """Tell the split from the name of a file (Roboflow: of its folder); ``train`` where it says nothing."""
    return split_in(file.parent.name if file.name == _ROBOFLOW else file.stem) or "train"


def _read(file: Path) -> dict[str, Any]:
    document = read_json(file)
    if isinstance(document, list):
        raise DataError(
            f"{file} is a list, as COCO *results* are, and no data set. Give the file with the images and categories;"
            " results are what 'gwapctl evaluate' reads."
        )
    missing = [key for key in _KEYS if not isinstance(document, dict) or not isinstance(document.get(key), list)]
    if missing:
        raise DataError(f"{file} is no COCO data set: it lacks {', '.join(missing)}. Export it again as 'instances'.")
    return dict(document)


def _read_category(category: Any, index: int, file: Path) -> tuple[Id, str]:
    """Return id and name of a category.

    Raises:
        DataError: it has no id, or no text as its name.

    """
    number = _read_id(category, "id")
    if number is None:
        raise DataError(f"{file}: categories[{index}] has no 'id'. Export the file again.")
    name = category.get("name")
    if not isinstance(name, str) or not name.strip():
        found = f" (it says {json.dumps(name)})" if "name" in category else ""
        raise DataError(f"{file}: category {number} has no name{found}. Give it a text as its 'name'.")
    return number, nfc(name.strip())


def _read_id(entry: Any, key: str) -> Id | None:
    """Return an id as the number that it means, else as text; None where there is none."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isdecimal() and text.isascii() else nfc(text) or None
    if isinstance(value, float):
        return int(value) if value.is_integer() else str(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
