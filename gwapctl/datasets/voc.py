"""PASCAL VOC 2007, 2012 and their union, and any other folder in their layout.

``Annotations/<id>.xml``, ``JPEGImages/<id>.<any image suffix>``, ``ImageSets/Main/<split>.txt`` (all of it is ``train``
where that folder is missing) and, beyond VOC, ``Masks/<id>.png``. Boxes are 1-based inclusive on disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from defusedxml import ElementTree

from gwapctl.boxes import from_voc
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset, Problems
from gwapctl.datasets.objects import Corners, LabelledObject, make_sample
from gwapctl.datasets.places import find_folder, list_images
from gwapctl.errors import DataError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_USUAL_SPLITS = ("train", "val", "trainval", "test")
_PER_CLASS_LINE = re.compile(r".+\s-?[01]")  # "000012  1" in <class>_<split>.txt


class VocObject(NamedTuple):
    """One ``<object>``: ``corners`` as written (None: it has no ``<bndbox>``)."""

    name: str
    corners: Corners | None
    difficult: bool


class VocAnnotation(NamedTuple):
    """What one XML file says; ``size`` is None where it is missing or zero."""

    size: tuple[int, int] | None
    objects: list[VocObject]


@dataclass
class VocPart:
    """One folder in VOC layout."""

    folder: Path
    problems: Problems
    _annotations: dict[str, VocAnnotation | None] = field(default_factory=dict)

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """Map split names to image ids; ``<class>_<split>.txt`` files are none."""
        files = sorted((self.folder / "ImageSets" / "Main").glob("*.txt"))
        splits = {file.stem: ids for file in files if (ids := _read_ids(file)) is not None}
        if not splits:
            splits = {"train": sorted(path.stem for path in (self.folder / "Annotations").glob("*.xml"))}
        return splits

    @cached_property
    def images(self) -> dict[str, Path]:
        """Map ids to image files, whatever their suffix."""
        return {os.path.splitext(name)[0]: path for name, path in list_images(self.folder / "JPEGImages").items()}  # noqa: PTH122

    @cached_property
    def masks(self) -> dict[str, Path]:
        """Map ids to mask files."""
        return {os.path.splitext(name)[0]: path for name, path in list_images(self.folder / "Masks").items()}  # noqa: PTH122

    def annotation(self, name: str) -> VocAnnotation | None:
        """Return the annotation of an id, parsed once; None where it is broken and problems are being collected."""
        if name not in self._annotations:
            try:
                self._annotations[name] = read_voc_xml(self.folder / "Annotations" / f"{name}.xml")
            except DataError as error:
                self.problems.error(str(error))
                self._annotations[name] = None
        return self._annotations[name]


class Voc(Dataset):
    """One or several folders in VOC layout. Several labels per image; only-difficult classes are ``ignored``."""

    multi_label = True

    def __init__(self, name: str, root: Path, folders: Sequence[Path], classes: Sequence[str] | None = None) -> None:
        self.name = name
        self.root = root
        self.parts = [VocPart(folder, self.problems) for folder in folders]
        self._given_classes = classes

    @cached_property
    def classes(self) -> tuple[ClassName, ...]:  # type: ignore[override]  # found only when asked for, then kept
        """The classes given, or else all that the annotations name, sorted."""
        names = self._find_classes() if self._given_classes is None else self._given_classes
        return tuple(ClassName(name, name) for name in names)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {item.name: index for index, item in enumerate(self.classes)}

    def splits(self) -> tuple[str, ...]:
        """Return the splits that the folders list, the usual names first."""
        present = {split for part in self.parts for split in part.splits}
        return (*(split for split in _USUAL_SPLITS if split in present), *sorted(present.difference(_USUAL_SPLITS)))

    def boxed_samples(self, split: str) -> list[BoxedSample]:
        """Return the samples of ``split`` in the order of its list."""
        self.require_split(split)
        found = [self._sample(part, name) for part in self.parts for name in part.splits.get(split, ())]
        samples = [sample for sample in found if sample is not None]
        if not samples:
            raise DataError(f"{self.name} at {self.root} has no image in split {split!r}. Check ImageSets/Main.")
        return samples

    def _find_classes(self) -> list[str]:
        """Collect the class names of all annotations that some split lists."""
        parsed = [part.annotation(name) for part in self.parts for ids in part.splits.values() for name in ids]
        names = {item.name for annotation in parsed if annotation is not None for item in annotation.objects}
        if not names:
            raise DataError(f"{self.root} has no annotated object in Annotations/*.xml. Check the folder.")
        return sorted(names)

    def _sample(self, part: VocPart, name: str) -> BoxedSample | None:
        annotation, path = part.annotation(name), part.images.get(name)
        if path is None:
            self.problems.error(f"{part.folder / 'JPEGImages'} has no image {name}, which a split lists. Restore it.")
        if annotation is None or path is None:
            return None
        file = part.folder / "Annotations" / f"{name}.xml"
        unknown = sorted({item.name for item in annotation.objects if item.name not in self._index})
        if unknown:
            self.problems.error(f"{file}: {unknown[0]!r} is none of the {len(self.classes)} classes of {self.name}.")
            return None
        return make_sample(
            name,
            path,
            [LabelledObject(self._index[item.name], item.corners, item.difficult) for item in annotation.objects],
            convert=from_voc,
            size=annotation.size,
            source=file,
            problems=self.problems,
            mask=part.masks.get(name),
        )


def open_voc2007(places: Sequence[Path]) -> Voc:
    """Open VOC 2007 (``VOCdevkit/VOC2007``)."""
    folder = _find_year("voc", "VOC2007", places)
    return Voc("voc", folder, [folder], CLASSES)


def open_voc2012(places: Sequence[Path]) -> Voc:
    """Open VOC 2012 (``VOCdevkit/VOC2012``); its test annotations were never published."""
    folder = _find_year("voc2012", "VOC2012", places)
    return Voc("voc2012", folder, [folder], CLASSES)


def open_voc0712(places: Sequence[Path]) -> Voc:
    """Open the union of VOC 2007 and 2012; ``test`` is that of 2007."""
    folders = [_find_year("voc07+12", year, places) for year in ("VOC2007", "VOC2012")]
    return Voc("voc07+12", folders[0].parent, folders, CLASSES)


def _find_year(name: str, year: str, places: Sequence[Path]) -> Path:
    return find_folder(name, f"VOCdevkit/{year}", places, proof="Annotations")


def is_voc_layout(folder: Path) -> bool:
    """Tell whether ``folder`` is in VOC layout."""
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def read_voc_xml(path: Path) -> VocAnnotation:
    """Read one annotation. ``<path>`` and ``<filename>`` are not trusted, missing optional tags are no error.

    Raises:
        DataError: the file is missing, is not XML, or an object has no name or broken coordinates.

    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
        size = tuple(int(float(root.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
        objects = [_read_object(node) for node in root.iterfind("object")]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ElementTree.ParseError, ValueError) as error:  # ValueError: also what defusedxml forbids
        raise DataError(f"{path} is not a valid annotation: {error}. Repair or remove it.") from error
    return VocAnnotation((size[0], size[1]) if min(size) > 0 else None, objects)


def _read_object(node: Any) -> VocObject:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise ValueError("an <object> has no <name>")
    difficult = (node.findtext("difficult") or "0").strip().lower() in ("1", "true")
    box = node.find("bndbox")
    if box is None:
        return VocObject(name, None, difficult)
    x0, y0, x1, y1 = (_read_number(box, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
    return VocObject(name, (x0, y0, x1, y1), difficult)


def _read_number(box: Any, tag: str) -> float:
    text = box.findtext(tag)
    if text is None:
        raise ValueError(f"a <bndbox> has no <{tag}>")
    return float(text)


def _read_ids(file: Path) -> list[str] | None:
    """Return the ids that a split file lists, or None for a per-class file."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}.") from error
    ids = [line for line in lines if line]
    if ids and all(_PER_CLASS_LINE.fullmatch(line) for line in ids):
        return None
    return list(dict.fromkeys(ids))
