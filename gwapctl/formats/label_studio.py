"""Label Studio: tasks with pre-annotations, to be imported as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from gwapctl import boxes
from gwapctl.formats.base import ClassTable, FileExporter, boxed, json_rows
from gwapctl.images.files import on_disk
from gwapctl.predict.prediction import Box, ClassPrediction, Prediction

LOCAL_FILES = "/data/local-files/?d="  # how a Label Studio server names files below its document root


@dataclass(frozen=True)
class LabelStudio(FileExporter):
    """All boxes of an image are one prediction with a score and a model version; corners in percent from the top left.

    ``image_prefix`` stands before each image id and makes it an address that the Label Studio server can open.
    """

    image_prefix: str = LOCAL_FILES

    def lines(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[str]:
        """Yield one task per line."""
        yield "[\n"
        yield from json_rows(self._task(item, table) for item in items)
        yield "]\n"

    def _task(self, item: Prediction, table: ClassTable) -> dict[str, Any]:
        result = [_region(number, item, *found, table) for number, found in enumerate(boxed(item))]
        score = max((region["score"] for region in result), default=0.0)
        prediction = {"model_version": item.model or "gwapctl", "score": score, "result": result}
        return {
            "data": {"image": self.image_prefix + quote(on_disk(item.id), errors="surrogateescape")},
            "predictions": [prediction] if result else [],
        }

    def setup(self, table: ClassTable) -> str:
        """Return the labelling interface that these tasks fit: paste it under Settings > Labeling Interface > Code."""
        labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in table.names)
        image = '  <Image name="image" value="$image"/>\n'
        return f'<View>\n{image}  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n</View>'


def _region(number: int, item: Prediction, found: ClassPrediction, box: Box, table: ClassTable) -> dict[str, Any]:
    percent = boxes.to_list(boxes.to_percent_xywh(box, item.width, item.height)[0])
    value = dict(zip(("x", "y", "width", "height"), percent, strict=True))
    return {
        "id": f"box{number}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": item.width,
        "original_height": item.height,
        "image_rotation": 0,
        "value": {**value, "rotation": 0, "rectanglelabels": [table.name(found)]},
        "score": found.score,
    }
