"""COCO, the data set file (``instances_*.json``): read by pycocotools, FiftyOne, CVAT, supervision and trainers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from gwapctl import __version__, boxes
from gwapctl.formats.base import ClassTable, FileExporter, boxed, json_rows, mask_of
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.regions.masks import polygons


@dataclass(frozen=True)
class Coco(FileExporter):
    """Ids count from 1, numbers keep their decimals, every annotation has ``area``, ``iscrowd`` 0 and its ``score``.

    Where a box has a mask, ``segmentation`` is its RLE, or its outlines where ``masks`` are ``polygons``, and ``area``
    is the mask's.
    """

    masks: str = "rle"

    def lines(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[str]:
        """Yield the document, one image, annotation and category per line."""
        info = {"description": "Boxes found by gwapctl", "version": __version__}
        yield f'{{\n"info": {json.dumps(info)},\n"licenses": [],\n"images": [\n'
        yield from json_rows(
            {"id": number, "file_name": item.id, "width": item.width, "height": item.height}
            for number, item in enumerate(items, start=1)
        )
        yield '],\n"annotations": [\n'
        yield from json_rows(self._annotations(items, table))
        yield '],\n"categories": [\n'
        yield from json_rows(
            {"id": number, "name": name, "supercategory": ""} for number, name in enumerate(table.names, start=1)
        )
        yield "]\n}\n"

    def _annotations(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[dict[str, Any]]:
        numbers = count(1)
        for image, item in enumerate(items, start=1):
            for prediction, box in boxed(item):
                segmentation, area = self._segmentation(prediction)
                yield {
                    "id": next(numbers),
                    "image_id": image,
                    "category_id": table.number(prediction) + 1,
                    "bbox": boxes.to_list(boxes.to_xywh(box)[0]),
                    "area": float(boxes.area(box)[0]) if area is None else area,
                    "iscrowd": 0,
                    "segmentation": segmentation,
                    "score": prediction.score,
                    **({} if prediction.doubt is None else {"doubt": prediction.doubt}),
                }

    def _segmentation(self, prediction: ClassPrediction) -> tuple[Any, float | None]:
        """Return what COCO has for the mask of a prediction, and its area in pixels; ``[]`` and None without one."""
        mask = mask_of(prediction)
        if mask is None or prediction.mask is None:
            return [], None
        area = float(np.count_nonzero(mask))
        return (polygons(mask) if self.masks == "polygons" else dataclasses.asdict(prediction.mask)), area
