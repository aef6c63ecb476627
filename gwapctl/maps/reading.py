"""How maps are read, as one value: it is made on the command line or in Python, and travels to the document. No torch.

What is asked for is a ``MapReading``. When it meets a model, ``resolve_reading`` fills in what the model stores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from gwapctl.errors import UsageError, option, unknown_name

if TYPE_CHECKING:
    from gwapctl.networks.classifier import ModelInfo

RESIZES = ("warp", "keep")
CROPS = ("none", "ten", "centre")
BETA = 10.0  # DGL's released code
OPTION_NAMES = {"method": "map"}  # field -> what the Python API and the command line call it, where that differs


@dataclass(frozen=True)
class MapReading:
    """What is asked about reading maps; None is what the model stores.

    Attributes:
        method: a name in ``MAPS``.
        scales: input sizes whose maps are averaged. ``resize="warp"`` makes S x S inputs, as the paper does, ``"keep"``
            scales the shorter side to S and the longer one to the nearest whole cell of the feature map.
        layer: names or numbers of the layers that a gradient map is read at (``maps.layers``).
        fuse: how maps of several layers become one: ``mean``, ``max`` or ``product``.
        resize: ``warp`` or ``keep``.
        flip: average over the mirrored image, too.
        close: share of the shorter side up to which gaps in the map are closed, such as 0.05.
        crops: at the model's own input size, in place of scales: ``ten``, CAM's ten crops; ``centre``, the middle of
            the image, 224 of 256 pixels of its shorter side, or of the square where ``resize`` is ``warp``.
        backprop_seg: ``mean`` or ``grabcut``: cut the saliency of ``backprop`` into a map of 0 and 1.
        beta: how strongly the loss of ``dgl`` asks for the class, 10 as released.

    Raises:
        UsageError: an unknown name, a size or beta that is none, or crops along with what they take the place of. Names
            that only a model can judge are checked when it is there.

    Example:
        >>> MapReading(scales=[224, 448], flip=True).flags
        ('scales=', 'flip=')

    """

    method: str | None = None
    scales: Sequence[int] | None = None
    layer: Sequence[str | int] | None = None
    fuse: str | None = None
    resize: str | None = None
    flip: bool = False
    close: float | None = None
    crops: str = "none"
    backprop_seg: str = "none"
    beta: float | None = None

    def __post_init__(self) -> None:
        """Make sequences tuples and check what the network is to see of an image."""
        for name in ("scales", "layer"):
            value = getattr(self, name)
            object.__setattr__(self, name, _several(value))
        for name in ("method", "fuse", "resize", "crops", "backprop_seg"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise UsageError(f"{OPTION_NAMES.get(name, name)} is {value!r}, which is no name.")
        if self.resize is not None and self.resize not in RESIZES:
            raise unknown_name("resize", self.resize, RESIZES)
        if self.crops not in CROPS:
            raise unknown_name("crops", self.crops, CROPS)
        if not all(_is_whole(scale) and scale > 0 for scale in self.scales or ()):
            example = option("scales", (224, 448, 672))
            raise UsageError(f"scales {self.scales} are not sizes in pixels. Write them like {example}.")
        if not all(isinstance(layer, str) or _is_whole(layer) for layer in self.layer or ()):
            raise UsageError(f"layer {self.layer} holds neither names nor numbers. Write it like {option('layer', 3)}.")
        if self.crops == "ten" and (self.scales or self.flip or self.resize == "keep"):
            others = f"{option('scales')}, {option('flip')} and {option('resize', 'keep')}"
            raise UsageError(f"ten crops are of one size, warped and mirrored. Drop {others}.")
        if self.crops == "centre" and self.scales:
            raise UsageError(f"the centre crop is of one size, the model's own. Drop {option('scales')}.")
        if self.close is not None and not (isinstance(self.close, Real) and 0 <= self.close < 1):
            raise UsageError(
                f"close {self.close!r} is not a share of the shorter side from 0 to below 1. Write it like "
                f"{option('close', 0.05)}."
            )
        if self.beta is not None and not (isinstance(self.beta, Real) and 0 <= self.beta < math.inf):
            raise UsageError(f"beta {self.beta!r} is not a number from 0. Write it like {option('beta', 10)}.")

    @property
    def flags(self) -> tuple[str, ...]:
        """What is asked for, as the caller calls it (``errors.option``)."""
        asked = (field.name for field in fields(self) if getattr(self, field.name) != field.default)
        return tuple(option(OPTION_NAMES.get(name, name)) for name in asked)


def _is_whole(value: object) -> bool:
    """Tell whether ``value`` is a whole number, Python's or numpy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _several(value: Any) -> tuple[Any, ...] | None:
    """Return the values of an option that takes several, or a single one, as a tuple; None where it is not given."""
    if value is None:
        return None
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


AS_STORED = MapReading()


class ReadingOptions(TypedDict, total=False):
    """The fields of a ``MapReading`` as options of the Python API: ``map`` is its ``method``."""

    map: str | None
    scales: Sequence[int] | None
    layer: Sequence[str | int] | None
    fuse: Literal["mean", "max", "product"] | None
    resize: Literal["warp", "keep"] | None
    flip: bool
    close: float | None
    crops: Literal["none", "ten", "centre"]
    backprop_seg: Literal["none", "mean", "grabcut"]
    beta: float | None


READING_OPTIONS = {OPTION_NAMES.get(field.name, field.name): field.name for field in fields(MapReading)}


@dataclass(frozen=True)
class ResolvedReading(MapReading):
    """How maps were read: nothing is left open, and ``layer`` holds the layers' full names.

    Its makers checked it; one that ``maps.json`` tells of is taken as it stands there. No ``scales`` stand for the
    model's own input size where that is not square.
    """

    method: str = "unknown"
    scales: tuple[int, ...] = ()
    layer: tuple[str, ...] = ()
    fuse: str = "mean"
    resize: str = "warp"
    close: float = 0.0
    beta: float = BETA

    def __post_init__(self) -> None:
        """Check nothing."""


UNKNOWN = ResolvedReading()


def split_options(options: Mapping[str, Any], reading: MapReading = AS_STORED) -> tuple[MapReading, dict[str, Any]]:
    """Return ``reading`` with those of ``options`` that are about it, by the Python API's names, and the others."""
    if not isinstance(reading, MapReading):
        raise UsageError(f"reading is {reading!r}. It is a MapReading of gwapctl.maps.reading.")
    asked = {READING_OPTIONS[name]: value for name, value in options.items() if name in READING_OPTIONS}
    others = {name: value for name, value in options.items() if name not in READING_OPTIONS}
    return replace(reading, **asked), others


def stored_reading(info: ModelInfo) -> MapReading:
    """Return how the model that ``info`` describes is read unless told otherwise."""
    return MapReading(info.map, info.scales, info.layer, info.fuse, info.resize, close=info.close, beta=info.beta)


def store_reading(info: ModelInfo, reading: ResolvedReading) -> ModelInfo:
    """Return ``info`` of a model that is read by ``reading`` from now on; ``flip``, crops and cuts are not stored."""
    stored = {name: getattr(reading, name) for name in ("scales", "layer", "resize", "close")}
    fuse = reading.fuse if len(reading.layer) > 1 else None
    beta = reading.beta if reading.beta != BETA else None
    return info.model_copy(update={"map": reading.method, "fuse": fuse, "beta": beta, **stored})
