"""CVAT for images 1.1: one XML for a task, imported with "Upload annotations"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

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

    Score and doubt are attributes, which CVAT keeps where the task's labels declare them (see ``setup``). Where a box
    has a mask, it follows as one of CVAT's masks, or as polygons where ``masks`` are ``polygons``.
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
            yield _shape("box", label, f'xtl="{x0!r}" ytl="{y0!r}" xbr="{x1!r}" ybr="{y1!r}"', found)
            mask = mask_of(found)
            if mask is None:
                continue
            if self.masks == "polygons":
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
