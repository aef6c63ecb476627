"""COCO, the data set file (``instances_*.json``): read by pycocotools, FiftyOne, CVAT, supervision and trainers."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from gwapctl import __version__, boxes
from gwapctl.datasets.objects import stated_size
from gwapctl.errors import DataError
from gwapctl.files import read_json
from gwapctl.formats.base import ClassTable, FileExporter, boxed, json_rows, mask_of
from gwapctl.formats.names import image_name
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


def read_coco(file: Path) -> Iterator[Prediction]:
    """Yield the images of a data set file, whoever exported it; ids are what the file says they are, from 0 or 1.

    The box of an object without ``bbox`` is the one around its polygons. Label Studio's marks are taken off the names.

    Raises:
        DataError: an entry lacks something; the message names it.

    """
    document = read_json(file)
    marked = (document.get("info") or {}).get("contributor") == "Label Studio"
    names = {str(item["id"]): str(item["name"]) for item in _entries(document, "categories", ("id", "name"), file)}
    found: defaultdict[str, list[ClassPrediction]] = defaultdict(list)
    for item in _entries(document, "annotations", ("image_id", "category_id"), file):
        category = str(item["category_id"])
        if category not in names:
            raise DataError(f"{file}: annotation {item.get('id')} has category_id {category}, which is no category.")
        found[str(item["image_id"])].append(_object(item, names[category], category, file))
    for image in _entries(document, "images", ("id", "file_name"), file):
        name = image_name(str(image["file_name"]), marked=marked)
        width, height = stated_size(image.get("width"), image.get("height")) or (0, 0)
        yield Prediction(name, width, height, predictions=tuple(found[str(image["id"])]))


def _entries(document: Mapping[str, Any], key: str, needed: tuple[str, ...], file: Path) -> Iterator[Mapping[str, Any]]:
    for index, item in enumerate(document[key]):
        missing = [name for name in needed if not isinstance(item, dict) or item.get(name) is None]
        if missing:
            raise DataError(f"{file}: {key}[{index}] has no {missing[0]!r}. Export the file again.")
        yield item


def _object(item: Mapping[str, Any], name: str, category: str, file: Path) -> ClassPrediction:
    polygons = item.get("segmentation")
    try:
        if item.get("bbox"):
            box = boxes.from_xywh(item["bbox"])
        elif isinstance(polygons, list) and polygons:
            box = boxes.around([value for polygon in polygons for value in polygon])
        else:
            return ClassPrediction(name, category, 1.0)
        (corners,) = box.tolist()
        score, doubt = item.get("score"), item.get("doubt")
        doubt = None if doubt is None else float(doubt)
        return ClassPrediction(name, category, 1.0 if score is None else float(score), tuple(corners), doubt=doubt)
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: annotation {item.get('id')} has no box of four numbers: {error}.") from error
