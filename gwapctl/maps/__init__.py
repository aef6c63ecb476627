"""From a trained classifier and an image to heatmaps: map methods, averaging over scales and flips."""

from __future__ import annotations

from gwapctl.maps.localizer import CANVAS, Localizer, MapResult
from gwapctl.maps.methods import MAPS, MapMethod

__all__ = ["CANVAS", "MAPS", "Localizer", "MapMethod", "MapResult"]
