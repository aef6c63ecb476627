"""From a heatmap to a mask, to regions, to boxes. Numpy and OpenCV; the sweep over all thresholds adds numba."""

from __future__ import annotations

from gwapctl.regions.components import (
    BoolMask,
    BoxRule,
    FloatMap,
    ImageArray,
    Region,
    largest_component,
    normalise,
    resize_map,
    stretch,
    unstretch,
)
from gwapctl.regions.rules import BOX_RULES, REFINEMENTS, five_guesses, map_to_boxes, parse_box_rule

__all__ = [
    "BOX_RULES",
    "REFINEMENTS",
    "BoolMask",
    "BoxRule",
    "FloatMap",
    "ImageArray",
    "Region",
    "five_guesses",
    "largest_component",
    "map_to_boxes",
    "normalise",
    "parse_box_rule",
    "resize_map",
    "stretch",
    "unstretch",
]
