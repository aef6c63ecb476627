"""How a heatmap becomes boxes in pixels of its image, the one way for everybody. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gwapctl.boxes import FloatArray, scale, to_list
from gwapctl.images.decode import read_image
from gwapctl.predict.prediction import ClassPrediction, Heatmap, Prediction
from gwapctl.regions import BoxRule, Region, map_to_boxes


@dataclass(frozen=True)
class Cut:
    """How a map becomes boxes: the rule, at most ``max_boxes`` per class, none under ``min_area`` of the map.

    >>> from gwapctl.regions import parse_box_rule
    >>> import numpy as np
    >>> heatmap = np.zeros((2, 4))
    >>> heatmap[1, 2:] = 1
    >>> [region.box.tolist() for region in Cut(parse_box_rule("paper20")).regions(heatmap, 40, 20)]
    [[20.0, 10.0, 40.0, 20.0]]
    """

    rule: BoxRule
    max_boxes: int = 1
    min_area: float = 0.0

    def regions(self, heatmap: Heatmap, width: int, height: int) -> list[Region]:
        """Return the regions of ``heatmap`` (h, w), their boxes in pixels of the image of ``width x height``."""
        found = map_to_boxes(heatmap, self.rule, max_boxes=self.max_boxes, min_area=self.min_area)
        return [replace(region, box=in_image(region, heatmap, width, height)) for region in found]

    def of_class(self, class_id: str) -> Cut:
        """Return the cut for maps of the class of that id, where the rule has one of its own."""
        return replace(self, rule=self.rule.of_class(class_id)) if self.rule.by_class else self

    def key(self, class_id: str) -> str:
        """Return what classes that are cut alike have in common: their id, or nothing where all are."""
        return class_id if self.rule.by_class else ""

    def on_image(self, path: Path | None) -> Cut:
        """Return the cut for the maps of the image at ``path``, which only a rule that needs it reads.

        Raises:
            DataError: it cannot be read.

        """
        if path is None or not self.rule.needs_image:
            return self
        return replace(self, rule=self.rule.on_image(read_image(path)))


def in_image(region: Region, heatmap: Heatmap, width: int, height: int) -> FloatArray:
    """Return the box (4,) of a region of ``heatmap`` (h, w) in pixels of the image of ``width x height``."""
    rows, columns = heatmap.shape
    box: FloatArray = scale(region.box, columns, rows, width, height)[0]
    return box


def hottest_first(regions: list[Region]) -> list[Region]:
    """Return regions by their mean heat."""
    return sorted(regions, key=lambda region: -region.score)


def boxed_by(prediction: ClassPrediction, region: Region, score: float) -> ClassPrediction:
    """Return ``prediction`` with the box of ``region``, in pixels of the image, and a score."""
    x0, y0, x1, y1 = to_list(region.box)
    return replace(prediction, box=(x0, y0, x1, y1), score=score)


def with_boxes(item: Prediction, heatmaps: Heatmap, channels: Sequence[int], cut: Cut) -> Prediction:
    """Return ``item`` with boxes cut from ``heatmaps`` (C, h, w); prediction ``i`` is seen in channel ``channels[i]``.

    The hottest box of a class keeps the class's score, others get the part of it that their mean heat has of the
    hottest's. A class whose map shows nothing stays without a box.
    """
    wanted = [(channel, cut.key(one.label_id)) for one, channel in zip(item.predictions, channels, strict=True)]
    regions = {
        (channel, class_id): cut.of_class(class_id).regions(heatmaps[channel], item.width, item.height)
        for channel, class_id in set(wanted)
    }
    pairs = zip(item.predictions, wanted, strict=True)
    found = [boxed for prediction, key in pairs for boxed in _boxes_of(prediction, regions[key])]
    return replace(item, predictions=tuple(found))


def _boxes_of(prediction: ClassPrediction, regions: list[Region]) -> Iterator[ClassPrediction]:
    """Yield ``prediction`` once per region, the hottest first, or without a box if there is none."""
    if not regions:
        yield replace(prediction, box=None)
    hottest = max((region.score for region in regions), default=0.0)
    for region in hottest_first(regions):
        part = region.score / hottest if hottest > 0 else 1.0
        yield boxed_by(prediction, region, prediction.score * part)
