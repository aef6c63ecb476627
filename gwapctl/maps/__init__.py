"""From a trained classifier and an image to heatmaps: map methods, averaging over scales, flips and crops."""

from __future__ import annotations

from gwapctl.maps.heatmap import CANVAS, PreparedImage
from gwapctl.maps.localizer import Localizer, MapResult
from gwapctl.maps.methods import MAPS, MapMethod

__all__ = ["CANVAS", "MAPS", "Localizer", "MapMethod", "MapResult", "PreparedImage"]
