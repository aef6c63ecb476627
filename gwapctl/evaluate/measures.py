"""The accumulators of what is judged, or of a floor: each sees every image, whatever it makes of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any, Self, TypeVar

import numpy as np

from gwapctl.boxes import FloatArray
from gwapctl.datasets.base import ClassName
from gwapctl.metrics import METRICS
from gwapctl.metrics.judged import Accumulator, JudgedImage, Replicates
from gwapctl.metrics.merging import Mergeable, State
from gwapctl.metrics.replicates import encode, resamples

Kind = TypeVar("Kind", bound=Accumulator)
Number = TypeVar("Number", float, FloatArray)


def registered(*, floor: bool = False) -> list[Accumulator]:
    """Make the accumulators of ``METRICS``, in its order; with ``floor`` those that judge the blind boxes, too."""
    paths = dict.fromkeys(one.path for one in METRICS.values() if one.path and (one.floor or not floor))
    makers: list[Callable[[], Accumulator]] = [resolve_name(path) for path in paths]
    return [make() for make in makers]


class Measures:
    """Judges images one after the other by several accumulators, and knows of which image each of their units is."""

    def __init__(self, accumulators: Sequence[Accumulator]) -> None:
        self._parts: list[tuple[Accumulator, list[int]]] = [(one, []) for one in accumulators]

    def judge(self, place: int, image: JudgedImage) -> None:
        """Hand the image at ``place`` of the split to every accumulator."""
        for accumulator, places in self._parts:
            accumulator.judge(image)
            places += [place] * (accumulator.units - len(places))

    def state(self) -> list[State]:
        """Return what each accumulator gathered, and of which images."""
        return [{"gathered": one.state(), "places": places} for one, places in self._parts]

    def extend(self, states: Sequence[State], before: int) -> None:
        """Add what others gathered of the images that follow the ``before`` ones that are here."""
        for (one, places), state in zip(self._parts, states, strict=True):
            one.extend(state["gathered"])
            places += [before + place for place in state["places"]]

    def find(self, kind: type[Kind]) -> Kind:
        """Return the accumulator of a class."""
        return next(one for one, _ in self._parts if isinstance(one, kind))

    def compute(self) -> dict[str, float]:
        """Return what there is of each metric."""
        return {key: value for one, _ in self._parts for key, value in one.compute().items()}

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return ``{class: {key: number}}`` of all accumulators."""
        rows: dict[int, dict[str, float]] = {}
        for one, _ in self._parts:
            for label, numbers in one.per_class().items():
                rows.setdefault(label, {}).update(numbers)
        return rows

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return the metrics where image i counts ``weights[b, i]`` times, for B resamples: weights are (B, images)."""
        values: dict[str, FloatArray] = {}
        rows: dict[int, dict[str, FloatArray]] = {}
        for one, places in self._parts:
            if places:
                found = one.replicates(weights[:, np.array(places)])
                values |= found.values
                for label, numbers in found.per_class.items():
                    rows.setdefault(label, {}).update(numbers)
        return Replicates(values, rows)


class Judging(Mergeable):
    """A protocol's part that shards share: what was judged of ``_n`` images, and of the floors where it has some."""

    _judged: Measures
    _floors: Mapping[str, Measures] = MappingProxyType({})
    _n: int

    def state(self) -> State:
        """Return what was gathered of each image."""
        floors = {name: one.state() for name, one in self._floors.items()}
        return super().state() | {"judged": self._judged.state(), "floors": floors}

    def extend(self, state: State) -> Self:
        """Add what another one gathered of the images that follow."""
        self._judged.extend(state["judged"], self._n)
        for name, floor in self._floors.items():
            floor.extend(state["floors"][name], self._n)
        return super().extend(state)


def replicates_document(
    judged: Measures, floors: Mapping[str, Measures], images: int, classes: Sequence[ClassName], kept: Collection[str]
) -> dict[str, Any]:
    """Return the replicates of the metrics that are ``kept``, as texts, in the form of the document that has them."""
    if not images:
        return {}
    weights = resamples(images)
    found, rows = judged.replicates(weights), judged.per_class()
    return {
        "metrics": _texts(found.values, judged.compute(), kept),
        "floors": {
            name: _texts(at_calibrated(one.replicates(weights).values, kept), at_calibrated(one.compute(), kept), kept)
            for name, one in floors.items()
        },
        "per_class": {classes[one].name: _texts(row, rows[one], rows[one]) for one, row in found.per_class.items()},
    }


def at_calibrated(floor: Mapping[str, Number], metrics: Collection[str]) -> dict[str, Number]:
    """Return what a floor has of ``metrics``: its box is the same at every threshold, a calibrated one, too."""
    pairs = [(key, key.removesuffix("_calibrated")) for key in metrics]
    return {key: floor[plain] for key, plain in pairs if plain in floor}


def _texts(found: Mapping[str, FloatArray], values: Mapping[str, float], kept: Container[str]) -> dict[str, str]:
    return {key: encode(one, values[key]) for key, one in found.items() if key in kept}
