"""How a heatmap becomes boxes in pixels of its image, the one way for everybody. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gwapctl.boxes import FloatArray, scale, to_list
from gwapctl.images.decode import read_image
from gwapctl.predict.prediction import ClassPrediction, Heatmap, Prediction, Rle
from gwapctl.regions import BoxRule, Region, map_to_boxes, normalise, parse_box_rule
from gwapctl.regions.doubt import doubts
from gwapctl.regions.masks import encode, enlarged

SEVERAL = 10  # boxes per class and image, at most, where a rule splits and nobody says how many


@dataclass(frozen=True)
class FoundBox:
    """A box that was cut from a map: its ``region``, the box in pixels of the image, and what is said of it.

    ``contrast`` is the mean heat of its pixels less that of the background, on the map in [0, 1].
    """

    region: Region
    contrast: float
    doubt: float
    mask: Rle | None = None


@dataclass(frozen=True)
class Cutting:
    """What is asked about cutting boxes; None is as it was recorded, or what the model stores."""

    rule: BoxRule | None = None
    refine: str | None = None
    split: bool | None = None
    max_boxes: int | None = None
    min_area: float | None = None
    masks: bool = False

    def cut(self, default: str | BoxRule) -> Cut:
        """Return how boxes are cut where ``default`` is the rule that was recorded or is stored."""
        rule = parse_box_rule(self.rule, refine=self.refine, split=self.split, default=default)
        splits = rule.whole() != rule.without_image()
        return Cut(rule, self.max_boxes or (SEVERAL if splits else 1), self.min_area or 0.0, self.masks)


AS_RECORDED = Cutting()


@dataclass(frozen=True)
class Cut:
    """How a map becomes boxes: the rule, at most ``max_boxes`` per class, none under ``min_area`` of the map.

    With ``masks`` every box carries the pixels of its object.

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
    masks: bool = False

    def regions(self, heatmap: Heatmap, width: int, height: int) -> list[Region]:
        """Return the regions of ``heatmap`` (h, w), their boxes in pixels of the image of ``width x height``."""
        found = map_to_boxes(heatmap, self.rule, max_boxes=self.max_boxes, min_area=self.min_area)
        return [replace(region, box=in_image(region, heatmap, width, height)) for region in found]

    def boxes(self, heatmap: Heatmap, width: int, height: int, others: Sequence[Heatmap] = ()) -> list[FoundBox]:
        """Return what ``regions`` does, the hottest first, with all that is known of each box.

        ``others`` are maps (h, w) of the same object that count in its doubt.
        """
        found = map_to_boxes(heatmap, self.rule, max_boxes=self.max_boxes, min_area=self.min_area)
        if not found:
            return []
        found.sort(key=lambda region: -region.score)
        heat, background = normalise(heatmap), ~self.rule.without_image().mask(heatmap)
        outside = float(heat[background].mean()) if background.any() else 0.0
        doubted = doubts(heatmap, found, self.rule, others).tolist()
        return [
            FoundBox(
                replace(region, box=in_image(region, heatmap, width, height)),
                max(region.score - outside, 0.0),
                doubt,
                self._mask(region, width, height),
            )
            for region, doubt in zip(found, doubted, strict=True)
        ]

    def _mask(self, region: Region, width: int, height: int) -> Rle | None:
        return Rle((height, width), encode(enlarged(region.mask, width, height))) if self.masks else None

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


def boxed_by(prediction: ClassPrediction, found: FoundBox, score: float) -> ClassPrediction:
    """Return ``prediction`` with a box that was cut from its map, and a score."""
    x0, y0, x1, y1 = to_list(found.region.box)
    return replace(prediction, box=(x0, y0, x1, y1), score=score, doubt=found.doubt, mask=found.mask)


def with_boxes(
    item: Prediction,
    heatmaps: Mapping[int, Heatmap] | Heatmap,
    channels: Sequence[int],
    cut: Cut,
    others: Mapping[int, Sequence[Heatmap]] | None = None,
) -> Prediction:
    """Return ``item`` with boxes cut from ``heatmaps`` (h, w); prediction ``i`` is seen in that of ``channels[i]``.

    One box per class has the class's score. Where several are asked for, a box scores the class's score times its
    contrast, the hottest first. A class whose map shows nothing stays without a box. ``others`` are further maps of a
    channel for the doubt.
    """
    size, further = (item.width, item.height), others or {}
    wanted = [(channel, cut.key(one.label_id)) for one, channel in zip(item.predictions, channels, strict=True)]
    found = {
        (channel, class_id): cut.of_class(class_id).boxes(heatmaps[channel], *size, further.get(channel, ()))
        for channel, class_id in set(wanted)
    }
    pairs = zip(item.predictions, wanted, strict=True)
    boxed = [one for prediction, key in pairs for one in _boxes_of(prediction, found[key], cut.max_boxes > 1)]
    best = found[wanted[0]][0].region if wanted and found[wanted[0]] else None
    mask = best.mask if best is not None and best.refined else None
    return replace(item, predictions=tuple(boxed), mask=mask)


def _boxes_of(prediction: ClassPrediction, found: list[FoundBox], several: bool) -> Iterator[ClassPrediction]:
    """Yield ``prediction`` once per box, or without one if there is none."""
    if not found:
        yield replace(prediction, box=None, doubt=None, mask=None)
    for one in found:
        yield boxed_by(prediction, one, prediction.score * (one.contrast if several else 1.0))
