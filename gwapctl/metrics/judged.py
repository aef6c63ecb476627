"""What every accumulator sees of an image, and what every accumulator offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy.typing as npt

from gwapctl.boxes import BoxesLike, Detections, FloatArray
from gwapctl.datasets.base import BoxedSample
from gwapctl.metrics.merging import Mergeable
from gwapctl.regions.components import BoolMask, FloatMap


@dataclass(frozen=True)
class Guess:
    """One answer of the top-k protocol: a class, and its box (4,), or None where the map gave none."""

    label: int
    box: BoxesLike | None


@dataclass(frozen=True)
class JudgedImage:
    """One image of ``width x height``: what is true of it, and what is judged; an accumulator takes what it needs.

    Attributes:
        sample: labels and objects, as the data set has them.
        objects: true boxes (N, 4) by class; none where localization leaves the image out.
        area: the true boxes of all classes (H, W), None without boxes.
        mask: 1 object, 0 background, 255 not counted (H, W); None without one.
        scores: one per class (C,), where images have several classes.
        ranked: the predicted classes, best first, where images have one class.
        five: guesses that decide top-5 in place of the five best classes.
        boxes: the box (4,) of each class in ``objects`` and ``ranked``; None where there is none.
        maps: maps (h, w) by class, of those in ``objects``.
        foreground: what Otsu's threshold finds (H, W) in ``heat``.
        heat: the map of all true classes in [0, 1] (H, W).
        blind: the box (1, 4) of a floor, which is the same at every threshold; it has no maps.
        detections: several boxes, each with its score and class.
        none: whether the answer is that it shows none of the classes; None where an answer of that kind is not asked.

    """

    sample: BoxedSample
    width: int
    height: int
    objects: Mapping[int, FloatArray] = field(default_factory=dict)
    area: BoolMask | None = None
    mask: npt.NDArray[Any] | None = None
    scores: FloatArray | None = None
    ranked: tuple[int, ...] | None = None
    five: Sequence[Guess] | None = None
    boxes: Mapping[int, FloatArray | None] = field(default_factory=dict)
    maps: Mapping[int, npt.NDArray[Any]] = field(default_factory=dict)
    foreground: BoolMask | None = None
    heat: FloatMap | FloatArray | None = None
    blind: FloatArray | None = None
    detections: Detections | None = None
    none: bool | None = None


class Replicates(NamedTuple):
    """Metrics on B resamples: ``values`` (B,) by key, ``per_class`` (B,) by class and key; NaN where there is none."""

    values: dict[str, FloatArray]
    per_class: dict[int, dict[str, FloatArray]]


class Accumulator(Mergeable, ABC):
    """Numbers that are made of many images: ``judge`` once per image, then ``compute``.

    What it sums over are its units: images, or true classes in images. An image may give none, one or several.
    """

    @property
    def units(self) -> int:
        """How many units there are so far; 0 for ever of one that has no ``replicates``."""
        return 0

    @abstractmethod
    def judge(self, image: JudgedImage) -> None:
        """Add one image, if it has what the numbers need."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Return the numbers over all images, under their keys in ``METRICS``; those that the data cannot give not."""

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return ``{class: {key: number}}``."""
        return {}

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return the numbers where unit u counts ``weights[b, u]`` times, for B resamples: weights are (B, units)."""
        return Replicates({}, {})
