"""PASCAL VOC 2007, 2012 and their union, and any other folder in their layout.

``Annotations/<id>.xml``, ``JPEGImages/<id>.<any image suffix>``, ``ImageSets/Main/<split>.txt`` (all of it is ``train``
where that folder is missing) and, beyond VOC, ``Masks/<id>.png``. Boxes are 1-based inclusive on disk.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from defusedxml import ElementTree

from gwapctl.boxes import from_voc
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset, Problems
from gwapctl.datasets.folders import file_in, find_folder, has_images, list_images, read_lines, split_folders
from gwapctl.datasets.objects import Corners, LabelledObject, make_sample, stated_size
from gwapctl.errors import DataError, reading
from gwapctl.images.decode import stored_size
from gwapctl.images.files import SUFFIXES, nfc

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_ANNOTATION_FOLDERS = ("Annotations", "annotations", "labels", "xml", "xmls")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "imgs", "img")
_USUAL_SPLITS = ("train", "val", "trainval", "test")
_PER_CLASS_LINE = re.compile(r".+\s-?[01]")  # "000012  1" in <class>_<split>.txt


class VocObject(NamedTuple):
    """One ``<object>``: ``corners`` as written (None: no ``<bndbox>``, or a broken one), ``score`` 1 if unsaid."""

    name: str
    corners: Corners | None
    difficult: bool
    score: float = 1.0


class VocAnnotation(NamedTuple):
    """What one XML file says; ``size`` is None where it is missing, zero or no number."""

    size: tuple[int, int] | None
    objects: list[VocObject]
    filename: str = ""


class VocPart:
    """One folder in VOC layout, where it keeps XML files and images, and their split where no list says it."""

    def __init__(
        self, folder: Path, annotations: str = "Annotations", images: str = "JPEGImages", split: str = "train"
    ) -> None:
        self.folder = folder
        self.annotation_folder = folder / annotations
        self.image_folder = folder / images
        self.problems = Problems()  # those of the data set, once it has this part
        self._only_split = split
        self._annotations: dict[str, VocAnnotation | None] = {}

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """Map split names to image ids; ``<class>_<split>.txt`` files are none."""
        files = sorted((self.folder / "ImageSets" / "Main").glob("[!.]*.txt"))
        lists = {file.stem: lines for file in files if (lines := _read_list(file)) is not None}
        for file in files:
            if any(self._id(line).startswith("/") for line in lists.get(file.stem, ())):
                raise DataError(f"{file} lists a path from the top of the disk. List ids, such as 000012.")
        splits = {split: list({nfc(i): i for i in map(self._id, lines)}.values()) for split, lines in lists.items()}
        if not splits:
            splits = {self._only_split: sorted(path.stem for path in self.annotation_folder.glob("[!.]*.xml"))}
            named = set(map(nfc, splits[self._only_split]))
            left_out = [paths[0] for name, paths in self.images.items() if name not in named]
            texts = (f"{path} has no annotation in {self.annotation_folder} and is left out." for path in left_out)
            self.problems.warn(*texts, kind="images without annotation")
        return splits

    def _id(self, line: str) -> str:
        """Return the id that a line of a list means: ``a``, ``a.jpg``, ``JPEGImages/a.jpg`` and ``a.xml`` are one."""
        whole = line.replace("\\", "/")
        spelled = [text for words in (whole, whole.split()[0]) for text in (words, _without_suffix(words))]
        spelled += [text.rpartition("/")[2] for text in spelled]
        return next((text for text in spelled if nfc(text) in self._known), _without_suffix(whole))

    @cached_property
    def _known(self) -> set[str]:
        return {*self.images, *(nfc(path.stem) for path in self.annotation_folder.glob("[!.]*.xml"))}

    @cached_property
    def images(self) -> dict[str, list[Path]]:
        """Map ids (NFC) to the image files of that name, whatever their suffix."""
        found: dict[str, list[Path]] = defaultdict(list)
        for name, path in list_images(self.image_folder).items():
            found[nfc(os.path.splitext(name)[0])].append(path)  # noqa: PTH122
        return found

    @cached_property
    def masks(self) -> dict[str, Path]:
        """Map ids (NFC) to mask files."""
        masks = list_images(self.folder / "Masks")
        return {nfc(os.path.splitext(name)[0]): path for name, path in masks.items()}  # noqa: PTH122

    def annotation_file(self, name: str) -> Path:
        """Return the XML file of an id, whether or not it is there."""
        file = f"{name}.xml"
        return file_in([self.annotation_folder], file) or self.annotation_folder / file

    def annotation(self, name: str) -> VocAnnotation | None:
        """Return the annotation of an id, parsed once; None where it is broken and problems are being collected."""
        if name not in self._annotations:
            self._annotations[name] = read_voc_xml(self.annotation_file(name), self.problems)
        return self._annotations[name]

    def image(self, name: str, annotation: VocAnnotation) -> Path | None:
        """Return the image file of an id: of several the one that the annotation names, or else whose size it states.

        None where there is none, or no telling which, and problems are being collected.
        """
        found = self.images.get(nfc(name), [])
        if len(found) == 1:
            return found[0]
        if not found:
            self.problems.error(f"{self.image_folder} has no image {name}, which a split lists. Restore it.")
            return None
        listed = ", ".join(path.name for path in found)
        chosen = [path for path in found if nfc(path.name) == nfc(annotation.filename)]
        chosen = chosen or [path for path in found if _is_of_size(path, annotation.size)]
        if len(chosen) != 1:
            self.problems.error(
                f"{self.annotation_file(name)} may be about any of {listed} in {self.image_folder}: neither its "
                "<filename> nor its <size> says which. Keep one of them."
            )
            return None
        self.problems.warn(
            f"{self.image_folder} has {listed}: {self.annotation_file(name)} is about {chosen[0].name}, the other is "
            "left out.",
            kind="images of one name",
        )
        return chosen[0]


class Voc(Dataset):
    """One or several folders in VOC layout. Several labels per image; only-difficult classes are ``ignored``."""

    multi_label = True

    def __init__(self, name: str, root: Path, parts: Sequence[VocPart], classes: Sequence[str] | None = None) -> None:
        self.name = name
        self.root = root
        self.parts = parts
        for part in parts:
            part.problems = self.problems
        self._given_classes = classes

    @cached_property
    def classes(self) -> tuple[ClassName, ...]:  # type: ignore[override]  # found only when asked for, then kept
        """The classes given, or else all that the annotations name, sorted."""
        names = self._find_classes() if self._given_classes is None else self._given_classes
        return tuple(ClassName(name, name) for name in names)

    def splits(self) -> tuple[str, ...]:
        """Return the splits that the folders list, the usual names first."""
        present = {split for part in self.parts for split in part.splits}
        return (*(split for split in _USUAL_SPLITS if split in present), *sorted(present.difference(_USUAL_SPLITS)))

    def _read(self, split: str) -> Iterator[BoxedSample | None]:
        """Yield the samples in the order of the list of the split."""
        return (self._sample(part, name) for part in self.parts for name in part.splits.get(split, ()))

    def stray_annotations(self) -> Iterator[Path]:
        """Yield the XML files whose image is not there, those that a split lists excepted: they are errors already."""
        for part in self.parts:
            listed = {nfc(name) for names in part.splits.values() for name in names}
            for file in sorted(part.annotation_folder.glob("[!.]*.xml")):
                if nfc(file.stem) not in part.images and nfc(file.stem) not in listed:
                    yield file

    def _find_classes(self) -> list[str]:
        """Collect the class names of all annotations that some split lists."""
        parsed = [part.annotation(name) for part in self.parts for ids in part.splits.values() for name in ids]
        names = {item.name for annotation in parsed if annotation is not None for item in annotation.objects}
        if not names and self.problems.errors:
            more = len(self.problems.errors) - 1
            raise DataError(self.problems.errors[0] + (f" ({more} more problems like this.)" if more else ""))
        if not names:
            raise DataError(
                f"{self.root} has no annotated object in {self.parts[0].annotation_folder}/*.xml. Check the folder."
            )
        return sorted(names)

    def _sample(self, part: VocPart, name: str) -> BoxedSample | None:
        annotation = part.annotation(name)
        if annotation is None:
            if nfc(name) not in part.images:
                self.problems.error(f"{part.image_folder} has no image {name}, which a split lists. Restore it.")
            return None
        path = part.image(name, annotation)
        if path is None:
            return None
        file = part.annotation_file(name)
        unknown = sorted({item.name for item in annotation.objects if item.name not in self.class_index})
        if unknown:
            self.problems.error(f"{file}: {unknown[0]!r} is none of the {len(self.classes)} classes of {self.name}.")
        known = [item for item in annotation.objects if item.name in self.class_index]
        objects = [LabelledObject(self.class_index[item.name], item.corners, item.difficult) for item in known]
        mask, size = part.masks.get(nfc(name)), annotation.size
        return make_sample(
            name, path, objects, convert=from_voc, size=size, source=file, problems=self.problems, mask=mask
        )


def open_voc2007(roots: Sequence[Path]) -> Voc:
    """Open VOC 2007 (``VOCdevkit/VOC2007``)."""
    return _open_years("voc", roots, "VOC2007")


def open_voc2012(roots: Sequence[Path]) -> Voc:
    """Open VOC 2012 (``VOCdevkit/VOC2012``); its test annotations were never published."""
    return _open_years("voc2012", roots, "VOC2012")


def open_voc0712(roots: Sequence[Path]) -> Voc:
    """Open the union of VOC 2007 and 2012; ``test`` is that of 2007."""
    return _open_years("voc07+12", roots, "VOC2007", "VOC2012")


def _open_years(name: str, roots: Sequence[Path], *years: str) -> Voc:
    folders = [find_folder(name, f"VOCdevkit/{year}", roots, proof="Annotations") for year in years]
    root = folders[0].parent if len(folders) > 1 else folders[0]
    return Voc(name, root, [VocPart(folder) for folder in folders], CLASSES)


def open_voc_layout(folder: Path) -> Voc | None:
    """Open ``folder`` if it is in VOC layout, or in one of its cousins; None for any other folder.

    Cousins: images in ``images``, annotations in ``annotations``, XML files beside the images, and each of these once
    per split, in folders of its name.
    """
    official = (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()
    parts = [VocPart(folder)] if official else _find_parts(folder)
    return Voc(folder.resolve().name, folder, parts) if parts else None


def _find_parts(folder: Path) -> list[VocPart]:
    whole = _part_in(folder, "train")
    if whole is not None:
        return [whole]
    parts = (_part_in(path, split) for split, path in split_folders(folder))
    return [part for part in parts if part is not None]


def _part_in(folder: Path, split: str) -> VocPart | None:
    for texts in (*_ANNOTATION_FOLDERS, ".", *_IMAGE_FOLDERS):
        if next((folder / texts).glob("[!.]*.xml"), None) is None:
            continue
        for images in (*_IMAGE_FOLDERS, texts, ".") if texts in _ANNOTATION_FOLDERS else (texts,):
            if has_images(folder / images):
                return VocPart(folder, texts, images, split)
    return None


def read_voc_xml(path: Path, problems: Problems) -> VocAnnotation | None:
    """Read one annotation. ``<path>`` is not looked at, missing optional tags are no error.

    What is wrong with single objects is added to ``problems``, the others are whole. None where the file is missing or
    is no XML, and problems are being collected.
    """
    try:
        with reading(path, advice="Repair or remove it."):
            return _read_annotation(path, problems)
    except DataError as error:
        problems.error(str(error))
        return None


def _read_annotation(path: Path, problems: Problems) -> VocAnnotation:
    try:
        root = ElementTree.fromstring(path.read_bytes().lstrip(b" \t\r\n"))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # ValueError: also what defusedxml forbids
        raise DataError(f"{path} is not a valid annotation: {error}. Repair or remove it.") from error
    objects = []
    for number, node in enumerate(root.iterfind("object"), start=1):
        name = nfc((node.findtext("name") or "").strip())
        if not name:
            problems.error(f"{path}: <object> {number} has no <name>. Repair or remove it.")
            continue
        corners = None
        try:
            corners = _read_corners(node.find("bndbox"))
        except ValueError as error:
            problems.error(f"{path}: <object> {number} ({name}): {error}. Repair or remove it.")
        difficult = (node.findtext("difficult") or "0").strip().lower() in ("1", "true")
        score = node.findtext("score")
        objects.append(VocObject(name, corners, difficult, 1.0 if score is None else _read_number("score", score)))
    size = stated_size(root.findtext("size/width"), root.findtext("size/height"))
    filename = (root.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
    return VocAnnotation(size, objects, filename)


def _read_corners(box: Any) -> Corners | None:
    """Return the corners of a ``<bndbox>``, None where there is none.

    Raises:
        ValueError: one is missing or no number.

    """
    if box is None:
        return None
    x0, y0, x1, y1 = (_read_number(tag, box.findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax"))
    return (x0, y0, x1, y1)


def _read_number(tag: str, text: str | None) -> float:
    if text is None:
        raise ValueError(f"a <bndbox> has no <{tag}>")
    value = math.nan
    with suppress(ValueError):
        value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"<{tag}> is {text!r}, no number")
    return value


def _read_list(file: Path) -> list[str] | None:
    """Return the lines of a split file that are not blank, or None for a per-class file."""
    lines = [line.strip() for line in read_lines(file)]
    return None if lines and all(_PER_CLASS_LINE.fullmatch(line) for line in lines) else lines


def _without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    return stem if suffix.lower() in SUFFIXES or suffix.lower() == ".xml" else name


def _is_of_size(path: Path, size: tuple[int, int] | None) -> bool:
    try:
        found = stored_size(path)
    except DataError:
        return False
    return size in (found.upright, (found.width, found.height))
