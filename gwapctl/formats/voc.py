"""Pascal VOC: one XML per image, read by labelImg, CVAT, supervision, MMDetection and Detectron2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from xml.etree import ElementTree  # writing only; XML of others is read through defusedxml

import numpy as np

from gwapctl import boxes
from gwapctl.formats.base import NOT_XML, ClassTable, FolderExporter, annotation_name, boxed
from gwapctl.predict.prediction import Box, Prediction


class Voc(FolderExporter):
    """Corners are whole pixels, counted from 1, both inclusive, as the devkit has them: many readers call ``int``."""

    def files(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[tuple[str, str]]:
        """Yield ``<image id less its suffix>.xml``."""
        for item in items:
            tree = _annotation(item, table)
            ElementTree.indent(tree)
            yield f"{annotation_name(item.id)}.xml", ElementTree.tostring(tree, encoding="unicode") + "\n"


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
