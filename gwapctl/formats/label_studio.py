"""Label Studio: tasks with pre-annotations, to be imported as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from gwapctl import boxes
from gwapctl.datasets.objects import stated_size
from gwapctl.errors import DataError
from gwapctl.files import read_json
from gwapctl.formats.base import ClassTable, FileExporter, boxed, json_rows
from gwapctl.formats.names import image_name
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


Record = Mapping[str, Any]
_POINTS = ("points", "vertices")  # of a polygon, of a vector


def read_label_studio(file: Path) -> Iterator[Prediction]:
    """Yield the images of an export (JSON, or JSON-MIN), each with the regions of its newest annotation.

    A skipped annotation is none. Tasks without an annotation are left out: nobody looked at them. In a file where no
    task has one, the predictions count: that is what goes into Label Studio. A turned rectangle becomes the box around
    it, so do polygons and ellipses; what else there is (masks, key points) has no box and is left out.

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
    score = region.get("score")
    for label in labels:
        yield ClassPrediction(str(label), "", 1.0 if score is None else float(score), (x0, y0, x1, y1))


def _corners(value: Record, width: int, height: int) -> boxes.FloatArray | None:
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
