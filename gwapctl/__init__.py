"""Weakly supervised localization: from image-level labels to maps, boxes and the papers' tables.

    model = gwapctl.load_model("runs/a")
    for found in model.localize(["a.jpg", "b.jpg"], scales=(224, 448, 672)):
        print(found.classes, found.boxes)

torch is imported when a model is loaded, not before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gwapctl.predict.classifier import Model, load_model
    from gwapctl.predict.prediction import Prediction
    from gwapctl.predict.prediction import Prediction as Localization

__version__ = "0.1.0"
__all__ = ["Localization", "Model", "Prediction", "__version__", "load_model"]

_PLACES = {
    "Localization": ("gwapctl.predict.prediction", "Prediction"),  # its name in version 0.1.0
    "Model": ("gwapctl.predict.classifier", "Model"),
    "Prediction": ("gwapctl.predict.prediction", "Prediction"),
    "load_model": ("gwapctl.predict.classifier", "load_model"),
}


def __getattr__(name: str) -> Any:
    """Import the Python API only when it is used, so that ``import gwapctl`` stays instant."""
    if name in _PLACES:
        module, attribute = _PLACES[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'gwapctl' has no attribute {name!r}")
