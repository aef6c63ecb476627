"""Pascal VOC: one XML per image, read by labelImg, CVAT, supervision, MMDetection and Detectron2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree  # writing only; XML of others is read through defusedxml

import numpy as np

from gwapctl import boxes
from gwapctl.datasets.base import Problems
from gwapctl.datasets.voc import read_voc_xml
from gwapctl.errors import DataError
from gwapctl.formats.base import NOT_XML, ClassTable, FolderExporter, SizeOf, annotation_name, boxed
from gwapctl.images.files import stem
from gwapctl.predict.prediction import Box, ClassPrediction, Prediction


class Voc(FolderExporter):
    """Corners are whole pixels, counted from 1, both inclusive, as the devkit has them: many readers call ``int``."""

    def files(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[tuple[str, str]]:
        """Yield ``<image id less its suffix>.xml``."""
        for item in items:
            tree = _annotation(item, table)
            ElementTree.indent(tree)
            yield f"{annotation_name(item.id)}.xml", ElementTree.tostring(tree, encoding="unicode") + "\n"


def read_voc(folder: Path, size_of: SizeOf | None = None) -> Iterator[Prediction]:
    """Yield the boxes of the XML files below ``folder``; an image is called by its file's path and its own suffix.

    Raises:
        DataError: a file is no annotation; the message names it.

    """
    del size_of  # every file says it
    for file in sorted(folder.rglob("[!.]*.xml")):
        problems = Problems()
        found = read_voc_xml(file, problems)
        if found is None or problems.errors:
            raise DataError(problems.errors[0])
        name = file.relative_to(folder).with_suffix("").as_posix()
        suffix = PurePosixPath(found.filename).suffix if stem(found.filename) != found.filename else ""
        boxed = [(one, boxes.from_voc(one.corners)[0].tolist()) for one in found.objects if one.corners is not None]
        predictions = tuple(ClassPrediction(one.name, "", one.score, tuple(box)) for one, box in boxed)
        width, height = found.size or (0, 0)
        yield Prediction(f"{name}{suffix}", width, height, predictions=predictions)


def _annotation(item: Prediction, table: ClassTable) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    path = PurePosixPath(item.id)
    _add(root, "folder", path.parent.name)
    _add(root, "filename", path.name)
    _add(_add(root, "source"), "database", "gwapctl")
    size = _add(root, "size")
    _add_all(size, {"width": item.width, "height": item.height, "depth": 3})
    _add(root, "segmented", 0)
    for prediction, box in boxed(item):
        element = _add(root, "object")
        said = {"name": table.name(prediction), "pose": "Unspecified", "truncated": 0, "difficult": 0}
        _add_all(element, {**said, "score": prediction.score})
        if prediction.doubt is not None:
            _add(element, "doubt", prediction.doubt)
        corners = _add(element, "bndbox")
        _add_all(corners, dict(zip(("xmin", "ymin", "xmax", "ymax"), whole_pixels(box), strict=True)))
    return root


def whole_pixels(box: Box) -> list[int]:
    """Return VOC corners of ``box``, each edge at the nearest pixel border; a side that would vanish goes outward."""
    low, high = np.array(box[:2]), np.array(box[2:])
    vanishes = np.rint(high) <= np.rint(low)
    corners = np.where(vanishes, np.floor(low), np.rint(low)), np.where(vanishes, np.ceil(high), np.rint(high))
    return [int(value) for value in boxes.to_voc(np.concatenate(corners))[0]]


def _add(parent: ElementTree.Element, name: str, value: object = "") -> ElementTree.Element:
    element = ElementTree.SubElement(parent, name)
    element.text = NOT_XML.sub("\ufffd", str(value))
    return element


def _add_all(parent: ElementTree.Element, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        _add(parent, name, value)
