"""A picture of the table of all methods: the same images under every head and every way to read a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gwapctl.boxes import area
from gwapctl.datasets.base import ClassName
from gwapctl.datasets.class_names import ClassMatcher
from gwapctl.draw import draw_overlay
from gwapctl.errors import DataError
from gwapctl.evaluate.from_model import sees_boxes
from gwapctl.evaluate.predictions import boxes_from_maps
from gwapctl.metrics.foreground import boxes_mask
from gwapctl.paper.figures.inputs import FigureImage
from gwapctl.paper.figures.layout import Layout, Outline, Panel, Row
from gwapctl.predict.classifier import Model
from gwapctl.predict.cut import Cut


@dataclass(frozen=True, eq=False)
class Method:
    """One row: a model, the map method that reads it, at which layers, and the box rule that cuts it."""

    name: str
    model: Model
    map: str
    box_rule: str
    layer: tuple[str, ...] | None = None


def method_layout(methods: Sequence[Method], images: Sequence[FigureImage]) -> Layout:
    """Lay out one row per method below the images, one column per image.

    A map per class is that of the class with the largest box, which stands above the column: as in GT-known
    localization the class is given.

    Raises:
        DataError: an image has no known class, or a model does not know it.

    """
    given = [main_class(image).name for image in images]
    inputs = [Panel(draw_overlay(image.pixels, None, []), image.size, _truth(image)) for image in images]
    rows = [Row(tuple(inputs), "input")]
    rows += [Row(tuple(_read(method, image) for image in images), method.name) for method in methods]
    return Layout(tuple(given), tuple(rows))


def main_class(image: FigureImage) -> ClassName:
    """Return the class of the largest box, else the first.

    Raises:
        DataError: no class is known.

    """
    if not image.classes:
        raise DataError(f"{image.path} has no known class. Choose images of a data set with labels.")
    return image.classes[int(image.box_classes[area(image.boxes).argmax()]) if len(image.boxes) else 0]


def _read(method: Method, image: FigureImage) -> Panel:
    predictor = method.model.predictor(map=method.map, layer=method.layer, box_rule=method.box_rule)
    width, height = image.size
    more: dict[str, Any] = {}
    if sees_boxes(predictor.localizer):
        more["regions"] = [boxes_mask(image.boxes, width, height).astype(np.uint8)]
    (result,) = predictor.localizer.run([image.pixels], [[_index(method, image)]], top_k=0, **more)
    heat = result.heatmap(0)
    boxes = boxes_from_maps({0: heat}, Cut(predictor.cut.rule.on_image(image.pixels)), width, height, {0: ""})[0]
    return Panel(draw_overlay(image.pixels, heat, []), image.size, tuple(Outline(box) for box in boxes.tolist()[:1]))


def _index(method: Method, image: FigureImage) -> int:
    """Return the model's index of the class that is given."""
    item = main_class(image)
    index = ClassMatcher(method.model.info.classes).index(item.name, item.id)
    if index < 0:
        raise DataError(f"{method.model.name} does not know class {item.name!r}.")
    return index


def _truth(image: FigureImage) -> tuple[Outline, ...]:
    """Return the boxes of the class that is given."""
    return tuple(
        Outline(box, ground_truth=True)
        for box, index in zip(image.boxes.tolist(), image.box_classes.tolist(), strict=True)
        if image.classes[index] == main_class(image)
    )
