"""CVAT for images 1.1: one XML for a task, imported with "Upload annotations"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError  # types only; XML of others is read through defusedxml
from xml.sax.saxutils import escape, quoteattr

from defusedxml import DefusedXmlException, ElementTree

from gwapctl import boxes
from gwapctl.datasets.objects import stated_size
from gwapctl.errors import DataError
from gwapctl.formats.base import NOT_XML, ClassTable, FileExporter, boxed
from gwapctl.predict.prediction import ClassPrediction, Prediction

SCORE = {"name": "score", "mutable": False, "input_type": "text", "default_value": "", "values": []}


class Cvat(FileExporter):
    """CVAT's corners are ours: floats from the image's top left. An image's name is its path in the task.

    The score is an attribute, which CVAT keeps where the task's labels declare it (see ``setup``).
    """

    def lines(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[str]:
        """Yield the document, one image at a time."""
        yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        yield f"  <meta>\n    <task>\n      <labels>\n{''.join(map(_label, table.names))}"
        yield "      </labels>\n    </task>\n  </meta>\n"
        for number, item in enumerate(items):
            name = quoteattr(NOT_XML.sub("\ufffd", item.id))
            yield f'  <image id="{number}" name={name} width="{item.width}" height="{item.height}">\n'
            yield from _boxes(item, table)
            yield "  </image>\n"
        yield "</annotations>\n"

    def setup(self, table: ClassTable) -> str:
        """Return the labels of a task that these annotations fit: paste them into the "Raw" tab of its labels."""
        labels: list[dict[str, Any]] = [{"name": name, "attributes": [SCORE]} for name in table.names]
        return json.dumps(labels, ensure_ascii=False)


def _label(name: str) -> str:
    attribute = "<name>score</name><mutable>False</mutable><input_type>text</input_type><default_value/><values/>"
    return (
        f"        <label><name>{escape(name)}</name>"
        f"<attributes><attribute>{attribute}</attribute></attributes></label>\n"
    )


def _boxes(item: Prediction, table: ClassTable) -> Iterator[str]:
    for prediction, (x0, y0, x1, y1) in boxed(item):
        yield (
            f'    <box label={quoteattr(table.name(prediction))} source="auto" occluded="0"'
            f' xtl="{x0!r}" ytl="{y0!r}" xbr="{x1!r}" ybr="{y1!r}" z_order="0">\n'
            f'      <attribute name="score">{prediction.score!r}</attribute>\n    </box>\n'
        )


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
            found = tuple(prediction for shape in image if (prediction := _shape(shape)) is not None)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}: a shape of {name!r} cannot be read: {error}. Export it again.") from error
        if not name:
            raise DataError(f"{file}: an image has no name. Export it again.")
        yield Prediction(name, width, height, predictions=found)


def _shape(shape: Element) -> ClassPrediction | None:
    corners = _corners(shape)
    if corners is None:
        return None
    label, texts = shape.attrib["label"], [item.text for item in shape.iter("attribute") if item.get("name") == "score"]
    x0, y0, x1, y1 = corners[0].tolist()
    return ClassPrediction(label, "", float((texts and texts[0]) or 1.0), (x0, y0, x1, y1))


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
