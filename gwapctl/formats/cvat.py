"""CVAT for images 1.1: one XML for a task, imported with "Upload annotations"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError  # types only; XML of others is read through defusedxml
from xml.sax.saxutils import escape, quoteattr

from defusedxml import DefusedXmlException, ElementTree

from gwapctl import boxes
from gwapctl.datasets.objects import stated_size
from gwapctl.errors import DataError
from gwapctl.formats.base import NOT_XML, ClassTable, FileExporter, boxed, mask_of
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.regions.masks import cropped_runs, polygons

ATTRIBUTES: list[dict[str, Any]] = [
    {"name": name, "mutable": False, "input_type": "text", "default_value": "", "values": []}
    for name in ("score", "doubt")
]


@dataclass(frozen=True)
class Cvat(FileExporter):
    """CVAT's corners are ours: floats from the image's top left. An image's name is its path in the task.

    Score and doubt are attributes, which CVAT keeps where the task's labels declare them (see ``setup``). A box
    that has a mask is written as one of CVAT's masks, or as polygons where ``masks`` are ``polygons``.
    """

    masks: str = "rle"

    def lines(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[str]:
        """Yield the document, one image at a time."""
        yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        yield f"  <meta>\n    <task>\n      <labels>\n{''.join(map(_label, table.names))}"
        yield "      </labels>\n    </task>\n  </meta>\n"
        for number, item in enumerate(items):
            name = quoteattr(NOT_XML.sub("\ufffd", item.id))
            yield f'  <image id="{number}" name={name} width="{item.width}" height="{item.height}">\n'
            yield from self._shapes(item, table)
            yield "  </image>\n"
        yield "</annotations>\n"

    def setup(self, table: ClassTable) -> str:
        """Return the labels of a task that these annotations fit: paste them into the "Raw" tab of its labels."""
        labels: list[dict[str, Any]] = [{"name": name, "attributes": ATTRIBUTES} for name in table.names]
        return json.dumps(labels, ensure_ascii=False)

    def _shapes(self, item: Prediction, table: ClassTable) -> Iterator[str]:
        for found, (x0, y0, x1, y1) in boxed(item):
            label = table.name(found)
            mask = mask_of(found)
            if mask is None or not mask.any():
                yield _shape("box", label, f'xtl="{x0!r}" ytl="{y0!r}" xbr="{x1!r}" ybr="{y1!r}"', found)
            elif self.masks == "polygons":
                for outline in polygons(mask):
                    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in zip(outline[::2], outline[1::2], strict=True))
                    yield _shape("polygon", label, f'points="{points}"', found)
            else:
                runs, (left, top, width, height) = cropped_runs(mask)
                place = f'left="{left}" top="{top}" width="{width}" height="{height}"'
                yield _shape("mask", label, f'rle="{", ".join(map(str, runs))}" {place}', found)


def _label(name: str) -> str:
    attributes = "".join(
        f"<attribute><name>{one['name']}</name><mutable>False</mutable><input_type>text</input_type>"
        "<default_value/><values/></attribute>"
        for one in ATTRIBUTES
    )
    return f"        <label><name>{escape(name)}</name><attributes>{attributes}</attributes></label>\n"


def _shape(tag: str, label: str, place: str, found: ClassPrediction) -> str:
    values = {"score": found.score} | ({} if found.doubt is None else {"doubt": found.doubt})
    attributes = "".join(f'      <attribute name="{name}">{value!r}</attribute>\n' for name, value in values.items())
    start = f'<{tag} label={quoteattr(label)} source="auto" occluded="0" {place} z_order="0">'
    return f"    {start}\n{attributes}    </{tag}>\n"


def read_cvat(file: Path) -> Iterator[Prediction]:
    """Yield the images of an export "CVAT for images 1.1", of a task or a project, as they are named there.

    A turned box becomes the box around it, so do polygons, masks and ellipses; lines, points and cuboids are left out.
    CVAT lists every image of the task, and does not say which of them somebody looked at.

    Raises:
        DataError: it is no such file, or a shape cannot be read.

    """
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ParseError, DefusedXmlException, ValueError) as error:
        raise DataError(f"{file} is not XML that can be read: {error}. Export it again.") from error
    if root.tag != "annotations" or root.find("track") is not None:
        raise DataError(f"{file} is no export of images from CVAT. Choose the format CVAT for images 1.1 there.")
    for image in root.iter("image"):
        name = image.get("name") or ""
        width, height = stated_size(image.get("width"), image.get("height")) or (0, 0)
        try:
            found = tuple(prediction for shape in image if (prediction := _read_shape(shape)) is not None)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}: a shape of {name!r} cannot be read: {error}. Export it again.") from error
        if not name:
            raise DataError(f"{file}: an image has no name. Export it again.")
        yield Prediction(name, width, height, predictions=found)


def _read_shape(shape: Element) -> ClassPrediction | None:
    corners = _corners(shape)
    if corners is None:
        return None
    said = {item.get("name"): item.text for item in shape.iter("attribute") if item.text}
    doubt = float(said["doubt"]) if "doubt" in said else None
    x0, y0, x1, y1 = corners[0].tolist()
    return ClassPrediction(shape.attrib["label"], "", float(said.get("score", 1.0)), (x0, y0, x1, y1), doubt=doubt)


def _corners(shape: Element) -> boxes.FloatArray | None:
    def numbers(*names: str) -> list[float]:
        return [float(shape.attrib[name]) for name in names]

    turn = float(shape.get("rotation") or 0)
    if shape.tag == "polygon":
        return boxes.around([tuple(map(float, point.split(","))) for point in shape.attrib["points"].split(";")])
    if shape.tag == "mask":
        return boxes.from_xywh(numbers("left", "top", "width", "height"))
    if shape.tag == "ellipse":
        x, y, across, down = numbers("cx", "cy", "rx", "ry")
        box = boxes.as_boxes([x - across, y - down, x + across, y + down])
    elif shape.tag == "box":
        box = boxes.as_boxes(numbers("xtl", "ytl", "xbr", "ybr"))
    else:
        return None
    return boxes.around_turned(box, turn, boxes.centre(box)[0]) if turn else box
