"""From a trained classifier and an image to heatmaps: map methods, averaging over scales, flips and crops.

torch is imported with the first of these names; ``gwapctl.maps.reading`` does without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gwapctl.maps.heatmap import HEATMAP_SIDE, PreparedImage
    from gwapctl.maps.localizer import Localizer, MapResult
    from gwapctl.maps.methods import MAPS, MapMethod

__all__ = ["HEATMAP_SIDE", "MAPS", "Localizer", "MapMethod", "MapResult", "PreparedImage"]

_MODULES = {
    "HEATMAP_SIDE": "heatmap",
    "PreparedImage": "heatmap",
    "Localizer": "localizer",
    "MapResult": "localizer",
    "MAPS": "methods",
    "MapMethod": "methods",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is used."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"gwapctl.maps.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'gwapctl.maps' has no attribute {name!r}")
