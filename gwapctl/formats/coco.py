"""COCO, the data set file (``instances_*.json``): read by pycocotools, FiftyOne, CVAT, supervision and trainers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from gwapctl import __version__, boxes
from gwapctl.formats.base import ClassTable, FileExporter, boxed, json_rows
from gwapctl.predict.prediction import Prediction


class Coco(FileExporter):
    """Ids count from 1, numbers keep their decimals, every annotation has ``area``, ``iscrowd`` 0 and its ``score``."""

    def lines(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[str]:
        """Yield the document, one image, annotation and category per line."""
        info = {"description": "Boxes found by gwapctl", "version": __version__}
        yield f'{{\n"info": {json.dumps(info)},\n"licenses": [],\n"images": [\n'
        yield from json_rows(
            {"id": number, "file_name": item.id, "width": item.width, "height": item.height}
            for number, item in enumerate(items, start=1)
        )
        yield '],\n"annotations": [\n'
        yield from json_rows(_annotations(items, table))
        yield '],\n"categories": [\n'
        yield from json_rows(
            {"id": number, "name": name, "supercategory": ""} for number, name in enumerate(table.names, start=1)
        )
        yield "]\n}\n"


def _annotations(items: Iterable[Prediction], table: ClassTable) -> Iterator[dict[str, Any]]:
    numbers = count(1)
    for image, item in enumerate(items, start=1):
        for prediction, box in boxed(item):
            yield {
                "id": next(numbers),
                "image_id": image,
                "category_id": table.number(prediction) + 1,
                "bbox": boxes.to_list(boxes.to_xywh(box)[0]),
                "area": float(boxes.area(box)[0]),
                "iscrowd": 0,
                "segmentation": [],
                "score": prediction.score,
            }
