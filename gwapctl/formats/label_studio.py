"""Label Studio: tasks with pre-annotations, to be imported as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from gwapctl import boxes
from gwapctl.formats.base import ClassTable, FileExporter, boxed, json_rows, mask_of
from gwapctl.images.files import on_disk
from gwapctl.predict.prediction import Box, ClassPrediction, Prediction
from gwapctl.regions.masks import brush, polygons

_KIND = {"rle": "Brush", "polygons": "Polygon"}  # how masks leave -> the tag that shows them
LOCAL_FILES = "/data/local-files/?d="  # how a Label Studio server names files below its document root


@dataclass(frozen=True)
class LabelStudio(FileExporter):
    """All boxes of an image are one prediction with a score and a model version; corners in percent from the top left.

    Where a box has a mask, a region of its own has its pixels: a brush, or a polygon where ``masks`` are ``polygons``.
    A box's doubt is a note on its region.
    ``image_prefix`` stands before each image id and makes it an address that the Label Studio server can open.
    """

    image_prefix: str = LOCAL_FILES
    masks: str = ""

    def lines(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[str]:
        """Yield one task per line."""
        yield "[\n"
        yield from json_rows(self._task(item, table) for item in items)
        yield "]\n"

    def _task(self, item: Prediction, table: ClassTable) -> dict[str, Any]:
        result = [
            region
            for number, (found, box) in enumerate(boxed(item))
            for region in (_region(number, item, found, box, table), *self._shapes(number, item, found, table))
        ]
        score = max((region["score"] for region in result), default=0.0)
        prediction = {"model_version": item.model or "gwapctl", "score": score, "result": result}
        return {
            "data": {"image": self.image_prefix + quote(on_disk(item.id), errors="surrogateescape")},
            "predictions": [prediction] if result else [],
        }

    def _shapes(
        self, number: int, item: Prediction, found: ClassPrediction, table: ClassTable
    ) -> Iterator[dict[str, Any]]:
        """Yield the regions that hold the pixels of a box's object."""
        mask = mask_of(found)
        if mask is None:
            return
        if self.masks != "polygons":
            value: dict[str, Any] = {"format": "rle", "rle": brush(mask), "brushlabels": [table.name(found)]}
            yield _shape(f"mask{number}", "brush", value, item, found)
            return
        for part, outline in enumerate(polygons(mask)):
            points = np.reshape(outline, (-1, 2)) * [100 / item.width, 100 / item.height]
            value = {"points": points.tolist(), "closed": True, "polygonlabels": [table.name(found)]}
            yield _shape(f"mask{number}.{part}", "polygon", value, item, found)

    def setup(self, table: ClassTable) -> str:
        """Return the labelling interface that these tasks fit: paste it under Settings > Labeling Interface > Code."""
        labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in table.names)
        image = '  <Image name="image" value="$image"/>\n'
        kinds = {"Rectangle": "label"} | ({_KIND[self.masks]: "mask"} if self.masks else {})
        tags = (
            f'  <{kind}Labels name="{name}" toName="image">\n{labels}  </{kind}Labels>\n'
            for kind, name in kinds.items()
        )
        return f"<View>\n{image}{''.join(tags)}</View>"


def _region(number: int, item: Prediction, found: ClassPrediction, box: Box, table: ClassTable) -> dict[str, Any]:
    percent = boxes.to_list(boxes.to_percent_xywh(box, item.width, item.height)[0])
    value: dict[str, Any] = dict(zip(("x", "y", "width", "height"), percent, strict=True))
    value |= {"rotation": 0, "rectanglelabels": [table.name(found)]}
    return _shape(f"box{number}", "rectangle", value, item, found)


def _shape(name: str, kind: str, value: dict[str, Any], item: Prediction, found: ClassPrediction) -> dict[str, Any]:
    note = {} if found.doubt is None else {"meta": {"text": [f"doubt {found.doubt:.2f}"], "doubt": found.doubt}}
    return {
        "id": name,
        "type": f"{kind}labels",
        "from_name": "label" if kind == "rectangle" else "mask",
        "to_name": "image",
        "original_width": item.width,
        "original_height": item.height,
        "image_rotation": 0,
        "value": value,
        "score": found.score,
        **note,
    }
