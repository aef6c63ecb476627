"""Box rules: named, frozen ways from a heatmap to boxes (CAM, Zhou et al., arXiv 1512.04150; wsolevaluation)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gwapctl.errors import UsageError, unknown_name
from gwapctl.regions.components import BoolMask, FloatMap, Region, component_regions, normalise, otsu_mask


class BoxRule(ABC):
    """How one heatmap becomes boxes. ``name`` is what ``parse_box_rule`` reads back."""

    name: str

    @abstractmethod
    def mask(self, heatmap: npt.ArrayLike) -> BoolMask:
        """Return the foreground of ``heatmap`` (H, W) as a mask (H, W); empty for a constant map."""

    @abstractmethod
    def regions(self, heatmap: npt.ArrayLike, max_boxes: int, min_area: float) -> list[Region]:
        """Return at most ``max_boxes`` regions, the best first; none for a constant map."""


@dataclass(frozen=True)
class ComponentRule(BoxRule):
    """The largest 8-connected components of ``map > threshold`` on the min-max map; strictly above, as in CAM.

    ``threshold`` None is Otsu's on 256 levels: OpenCV returns the upper value of the lower class, so it is strict too.
    """

    name: str
    threshold: float | None

    def mask(self, heatmap: npt.ArrayLike) -> BoolMask:
        """Return ``normalise(heatmap) > threshold``."""
        return self._binarise(normalise(heatmap))

    def regions(self, heatmap: npt.ArrayLike, max_boxes: int, min_area: float) -> list[Region]:
        """Return the largest components."""
        heat = normalise(heatmap)
        return component_regions(self._binarise(heat), heat, max_boxes, min_area)

    def _binarise(self, heat: FloatMap) -> BoolMask:
        if self.threshold is None:
            return otsu_mask(heat)
        return np.asarray(heat > np.float32(self.threshold))


def _without_argument(rule: BoxRule) -> Callable[[str], BoxRule]:
    def build(argument: str) -> BoxRule:
        if argument:
            raise UsageError(
                f"box rule {rule.name!r} takes no value, not {argument!r}. Did you mean 'fixed:{argument}'?"
            )
        return rule

    return build


def _fixed(argument: str) -> BoxRule:
    return ComponentRule(f"fixed:{argument}", _fraction(argument, "fixed:0.3"))


def _fraction(text: str, example: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(
            f"threshold {text!r} is not a number from 0 up to, but not including, 1. Write for example {example}."
        )
    return value


# name -> builder of the rule from the text after the colon ("" where there is none)
BOX_RULES: dict[str, Callable[[str], BoxRule]] = {
    "paper20": _without_argument(ComponentRule("paper20", 0.2)),
    "otsu": _without_argument(ComponentRule("otsu", None)),
    "fixed": _fixed,
}


def parse_box_rule(text: str) -> BoxRule:
    """Return the rule called ``text``: ``paper20``, ``otsu``, ``fixed:0.3``.

    Raises:
        UsageError: no such rule (the message lists them), or a wrong value.

    """
    name, _, argument = text.partition(":")
    if name not in BOX_RULES:
        raise unknown_name("box rule", text, ["fixed:T" if key == "fixed" else key for key in BOX_RULES])
    return BOX_RULES[name](argument)


def threshold_rule(text: str) -> BoxRule:
    """Return the rule behind ``--threshold``: ``otsu``, or a fraction of the map's range such as ``0.3``.

    Raises:
        UsageError: neither of them.

    """
    return parse_box_rule("otsu") if text == "otsu" else ComponentRule(f"fixed:{text}", _fraction(text, "0.3 or otsu"))


def map_to_boxes(heatmap: npt.ArrayLike, rule: BoxRule, *, max_boxes: int = 1, min_area: float = 0.0) -> list[Region]:
    """Return the regions that ``rule`` finds in ``heatmap`` (H, W), the best first; ``[]`` for a constant map.

    At most ``max_boxes``, none under ``min_area`` (a fraction of the map's pixels). Boxes are in map pixels: multiply
    by ``[W / w, H / h, W / w, H / h]`` for an image of ``W x H``.

    Raises:
        DataError: the map is not (H, W), or holds NaN or infinity.

    """
    return rule.regions(heatmap, max_boxes, min_area)
