"""A picture of the table of all methods: the same images under every head and every way to read a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gwapctl.datasets.class_names import ClassMatcher
from gwapctl.draw import draw_overlay
from gwapctl.errors import DataError
from gwapctl.evaluate.from_model import sees_boxes
from gwapctl.evaluate.predictions import boxes_from_maps
from gwapctl.metrics.foreground import boxes_mask
from gwapctl.paper.figures.images import Scene
from gwapctl.paper.figures.layout import Outline, Panel, Plate, PlateRow
from gwapctl.predict.classifier import Model


@dataclass(frozen=True, eq=False)
class Method:
    """One row: a model, the map method that reads it and the box rule that cuts it."""

    name: str
    model: Model
    map: str
    box_rule: str


def method_plate(methods: Sequence[Method], scenes: Sequence[Scene]) -> Plate:
    """Lay out one row per method below the images, one column per image.

    A map per class is that of the class with the largest box, which stands above the column: as in GT-known
    localization the class is given.

    Raises:
        DataError: an image has no known class, or a model does not know it.

    """
    given = [_given(scene) for scene in scenes]
    images = [Panel(draw_overlay(scene.pixels, None, []), scene.size, _truth(scene)) for scene in scenes]
    rows = [PlateRow(tuple(images), "input")]
    rows += [PlateRow(tuple(_read(method, scene) for scene in scenes), method.name) for method in methods]
    return Plate(tuple(given), tuple(rows))


def _given(scene: Scene) -> str:
    if scene.main_class is None:
        raise DataError(f"{scene.path} has no known class. Choose images of a data set with labels.")
    return scene.main_class.name


def _read(method: Method, scene: Scene) -> Panel:
    predictor = method.model.predictor(map=method.map, box_rule=method.box_rule)
    width, height = scene.size
    more: dict[str, Any] = {}
    if sees_boxes(predictor.localizer):
        more["regions"] = [boxes_mask(scene.boxes, width, height).astype(np.uint8)]
    (result,) = predictor.localizer.run([scene.pixels], [[_index(method, scene)]], top_k=0, **more)
    heat = result.heatmap(0)
    boxes = boxes_from_maps({0: heat}, predictor.rule.on_image(scene.pixels), width, height, [0])[0]
    return Panel(draw_overlay(scene.pixels, heat, []), scene.size, tuple(Outline(box) for box in boxes.tolist()[:1]))


def _index(method: Method, scene: Scene) -> int:
    """Return the model's index of the class that is given."""
    item = scene.main_class
    index = -1 if item is None else ClassMatcher(method.model.info.classes).index(item.name, item.id)
    if index < 0:
        raise DataError(f"{method.model.name} does not know class {_given(scene)!r}.")
    return index


def _truth(scene: Scene) -> tuple[Outline, ...]:
    """Return the boxes of the class that is given."""
    return tuple(
        Outline(box, truth=True)
        for box, place in zip(scene.boxes.tolist(), scene.box_classes.tolist(), strict=True)
        if scene.classes[place] == scene.main_class
    )
