"""Label Studio: tasks with pre-annotations, to be imported as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np

from gwapctl import boxes
from gwapctl.datasets.objects import stated_size
from gwapctl.errors import DataError
from gwapctl.files import read_json
from gwapctl.formats.base import ClassTable, FileExporter, boxed, json_rows, mask_of
from gwapctl.formats.names import image_name
from gwapctl.images.files import on_disk
from gwapctl.predict.prediction import Box, ClassPrediction, Prediction
from gwapctl.regions.masks import brush, from_brush, polygons

_KIND = {"rle": "Brush", "polygons": "Polygon"}  # how masks leave -> the tag that shows them
LOCAL_FILES = "/data/local-files/?d="  # how a Label Studio server names files below its document root


@dataclass(frozen=True)
class LabelStudio(FileExporter):
    """All boxes of an image are one prediction with a score and a model version; corners in percent from the top left.

    A box that has a mask is written as a brush, or as polygons where ``masks`` are ``polygons``. Its doubt is a note on
    the region.
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
            for region in self._shapes(number, item, found, box, table)
        ]
        score = max((region["score"] for region in result), default=0.0)
        prediction = {"model_version": item.model or "gwapctl", "score": score, "result": result}
        return {
            "data": {"image": self.image_prefix + quote(on_disk(item.id), errors="surrogateescape")},
            "predictions": [prediction] if result else [],
        }

    def _shapes(
        self, number: int, item: Prediction, found: ClassPrediction, box: Box, table: ClassTable
    ) -> Iterator[dict[str, Any]]:
        """Yield the regions of one object: its box, or its pixels where they are known."""
        mask = mask_of(found)
        if mask is None or not mask.any():
            yield _region(number, item, found, box, table)
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


Record = Mapping[str, Any]
_POINTS = ("points", "vertices")  # of a polygon, of a vector


def read_label_studio(file: Path) -> Iterator[Prediction]:
    """Yield the images of an export (JSON, or JSON-MIN), each with the regions of its newest annotation.

    A skipped annotation is none. Tasks without an annotation are left out: nobody looked at them. In a file where no
    task has one, the predictions count: that is what goes into Label Studio. A turned rectangle becomes the box around
    it, so do polygons, ellipses and brushes; what else there is (key points) has no box and is left out.

    Raises:
        DataError: a task has no image, or a region no size; the message names it.

    """
    tasks = read_json(file)
    if not all(isinstance(task, dict) for task in tasks):
        raise DataError(f"{file} is no list of Label Studio's tasks. Export it as JSON.")
    annotated = any(_answers(task) for task in tasks)
    for index, task in enumerate(tasks):
        answers = _answers(task) if annotated else task.get("predictions") or [{"result": []}]
        if answers:
            name = f"{file}: task {task.get('id', index)}"
            try:
                yield _image(task, answers[-1].get("result") or [], name)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise DataError(f"{name} cannot be read ({type(error).__name__}: {error}). Export it again.") from error


def _answers(task: Record) -> list[Record]:
    """Return the annotations of a task that count, the one to take last."""
    if "data" not in task:  # JSON-MIN: the annotation's regions stand in the task
        values = [value for value in task.values() if isinstance(value, list)]
        regions = [region for value in values for region in value if isinstance(region, dict)]
        return [{"result": [{**region, "value": region} for region in regions]}]
    given = task.get("annotations") or task.get("completions") or []  # versions before 1.0 said completions
    kept = [one for one in given if not (one.get("was_cancelled") or one.get("skipped"))]
    return sorted(kept, key=lambda one: (bool(one.get("ground_truth")), str(one.get("updated_at") or "")))


def _image(task: Record, result: Sequence[Record], name: str) -> Prediction:
    data: Record = task.get("data", task)
    texts = [data.get("image"), *data.values()]
    address = next((text for text in texts if isinstance(text, str) and "." in text), None)
    if address is None:
        raise DataError(f"{name} has no image in its data.")
    sizes = [stated_size(region.get("original_width"), region.get("original_height")) for region in result]
    width, height = next((size for size in sizes if size), None) or (0, 0)
    found = [one for region in result for one in _regions(region, width, height, name)]
    return Prediction(image_name(address), width, height, predictions=tuple(found))


def _regions(region: Record, width: int, height: int, name: str) -> Iterator[ClassPrediction]:
    """Yield a region once for each of its labels; nothing where it has no label or no box."""
    value: Record = region.get("value") or {}
    kind = region.get("type") or next((key for key in value if key.endswith("labels")), "labels")
    corners = _corners(value, width, height)
    labels = value.get(str(kind)) or value.get("labels") or []
    if corners is None or not labels:
        return
    if not width:
        raise DataError(f"{name} does not say the original_width of its image. Export it again.")
    x0, y0, x1, y1 = boxes.clip(corners, width, height)[0].tolist()
    score, doubt = region.get("score"), (region.get("meta") or {}).get("doubt")
    score, doubt = 1.0 if score is None else float(score), None if doubt is None else float(doubt)
    for label in labels:
        yield ClassPrediction(str(label), "", score, (x0, y0, x1, y1), doubt=doubt)


def _corners(value: Record, width: int, height: int) -> boxes.FloatArray | None:
    if value.get("format") == "rle" and width:
        mask = from_brush(value["rle"], width, height)
        return boxes.from_xywh(cv2.boundingRect(mask.view(np.uint8))) if mask.any() else None
    turn = float(value.get("rotation") or 0)
    if "radiusX" in value:
        x, y, across, down = (float(value[key]) for key in ("x", "y", "radiusX", "radiusY"))
        box = boxes.from_percent_xywh([x - across, y - down, 2 * across, 2 * down], width, height)
        return boxes.around_turned(box, turn, boxes.centre(box)[0]) if turn else box
    if "width" in value and "height" in value and "x" in value:
        box = boxes.from_percent_xywh([float(value[key]) for key in ("x", "y", "width", "height")], width, height)
        return boxes.around_turned(box, turn, box[0, :2]) if turn else box  # about its top left corner
    points = next((value[key] for key in _POINTS if value.get(key)), None)
    if not isinstance(points, list):
        return None
    pairs = [(point["x"], point["y"]) if isinstance(point, dict) else point for point in points]
    return boxes.as_boxes(boxes.around(pairs) * [width, height, width, height] / 100)
