"""COCO JSON ("instances"): one file, or a folder with one file per split.

A folder holds ``annotations/*.json`` (``instances_*`` alone where there are some), ``<split>/_annotations.coco.json``
or ``*.json``. Images lie beside the file or in the usual folders. Boxes are ``x, y, width, height`` on disk; a crowd
counts as difficult.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from gwapctl.boxes import from_xywh
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.datasets.objects import Corners, LabelledObject, make_sample
from gwapctl.errors import DataError
from gwapctl.files import read_json

_SPLIT = re.compile(r"(?<![a-z])(trainval|train|valid|val|test)(?![a-z])")
_ROBOFLOW = "_annotations.coco.json"
_KEYS = ("images", "annotations", "categories")


class Coco(Dataset):
    """Images and objects of COCO JSON files; several labels per image. Sample ids are the ``file_name``."""

    multi_label = True

    def __init__(self, root: Path, files: dict[str, Path]) -> None:
        self.name = root.resolve().name.removesuffix(".json")
        self.root = root
        self._files = files
        self._documents: dict[str, dict[str, Any]] = {}

    @cached_property
    def classes(self) -> tuple[ClassName, ...]:  # type: ignore[override]  # found only when asked for, then kept
        """The categories of all files, in the order of their ids."""
        categories: dict[int, str] = {}
        for split, file in self._files.items():
            for category in self._document(split)["categories"]:
                name = categories.setdefault(category["id"], category["name"])
                if name != category["name"]:
                    raise DataError(f"{file}: category {category['id']} is {category['name']!r}, elsewhere {name!r}.")
        count = Counter(categories.values())
        return tuple(
            ClassName(name if count[name] == 1 else f"{name} ({number})", str(number))
            for number, name in sorted(categories.items())
        )

    @cached_property
    def _index(self) -> dict[str, int]:
        return {item.id: index for index, item in enumerate(self.classes)}

    def splits(self) -> tuple[str, ...]:
        """Return the splits that the file names tell."""
        return tuple(self._files)

    def boxed_samples(self, split: str) -> list[BoxedSample]:
        """Return the samples of ``split`` in the order of the file."""
        self.require_split(split)
        file = self._files[split]
        document = self._document(split)
        objects: dict[int, list[LabelledObject]] = defaultdict(list)
        try:
            for annotation in document["annotations"]:
                objects[annotation["image_id"]].append(self._object(annotation))
            found = [self._sample(image, objects[image["id"]], file) for image in document["images"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}: an entry lacks or garbles {error}. Export the file again.") from error
        samples = [sample for sample in found if sample is not None]
        if not samples:
            raise DataError(f"{file} lists no image. Export the file again.")
        return samples

    def _document(self, split: str) -> dict[str, Any]:
        if split not in self._documents:
            self._documents[split] = _read(self._files[split])
        return self._documents[split]

    def _object(self, annotation: dict[str, Any]) -> LabelledObject:
        category = str(annotation["category_id"])
        if category not in self._index:
            raise ValueError(f"category_id {category}: it is not in 'categories'")
        return LabelledObject(self._index[category], _corners(annotation.get("bbox")), bool(annotation.get("iscrowd")))

    def _sample(self, image: dict[str, Any], objects: list[LabelledObject], file: Path) -> BoxedSample | None:
        name = str(image["file_name"]).replace("\\", "/")
        path = next((folder / name for folder in self._image_folders(file) if (folder / name).is_file()), None)
        if path is None:
            folders = ", ".join(str(folder) for folder in self._image_folders(file))
            self.problems.error(f"{file}: there is no image {name} in any of: {folders}.")
            return None
        size = (int(image.get("width") or 0), int(image.get("height") or 0))
        return make_sample(
            name,
            path,
            objects,
            convert=from_xywh,
            size=size if min(size) > 0 else None,
            source=file,
            problems=self.problems,
        )

    def _image_folders(self, file: Path) -> list[Path]:
        """Return where images of an annotation file may lie, the usual first."""
        if file not in self._folders:
            top = file.parent.parent if file.parent.name == "annotations" else file.parent
            name = file.stem.removeprefix("instances_")
            split = next((split for split, other in self._files.items() if other == file), name)
            names = [f"images/{name}", name, f"images/{split}", split, "images", "JPEGImages", "data", "."]
            folders = [top / place for place in dict.fromkeys(names)]
            self._folders[file] = [folder for folder in [*folders, file.parent] if folder.is_dir()]
        return self._folders[file]

    @cached_property
    def _folders(self) -> dict[Path, list[Path]]:
        return {}


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
    files = sorted((folder / "annotations").glob("*.json"))
    instances = [file for file in files if file.name.startswith("instances")]
    if instances or files:
        yield from instances or files
        return
    for file in [*sorted(folder.glob(f"*/{_ROBOFLOW}")), *sorted(folder.glob("*.json"))]:
        document = read_json(file)
        if isinstance(document, dict) and all(key in document for key in _KEYS):
            yield file


def _split_name(file: Path) -> str:
    """Tell the split from the name of a file (Roboflow: of its folder); ``train`` where it says nothing."""
    match = _SPLIT.search((file.parent.name if file.name == _ROBOFLOW else file.stem).lower())
    name = match[1] if match is not None else "train"
    return "val" if name == "valid" else name


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


def _corners(box: Any) -> Corners | None:
    if box is None:
        return None
    x, y, width, height = map(float, box)
    return (x, y, width, height)
