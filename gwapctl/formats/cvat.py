"""CVAT for images 1.1: one XML for a task, imported with "Upload annotations"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from gwapctl.formats.base import NOT_XML, ClassTable, FileExporter, boxed
from gwapctl.predict.predictions import ImagePrediction

SCORE = {"name": "score", "mutable": False, "input_type": "text", "default_value": "", "values": []}


class Cvat(FileExporter):
    """CVAT's corners are ours: floats from the image's top left. An image's name is its path in the task.

    The score is an attribute, which CVAT keeps where the task's labels declare it (see ``setup``).
    """

    def lines(self, items: Iterable[ImagePrediction], table: ClassTable) -> Iterator[str]:
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


def _boxes(item: ImagePrediction, table: ClassTable) -> Iterator[str]:
    for prediction, (x0, y0, x1, y1) in boxed(item):
        yield (
            f'    <box label={quoteattr(table.name(prediction))} source="auto" occluded="0"'
            f' xtl="{x0!r}" ytl="{y0!r}" xbr="{x1!r}" ybr="{y1!r}" z_order="0">\n'
            f'      <attribute name="score">{prediction.score!r}</attribute>\n    </box>\n'
        )
