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
    from gwapctl.errors import DataError, GwapctlError, MissingDependencyError, ModelError, UsageError
    from gwapctl.maps.reading import MapReading
    from gwapctl.predict.classifier import Model, load_model
    from gwapctl.predict.detector import DetectorModel
    from gwapctl.predict.prediction import ClassPrediction, Prediction
    from gwapctl.predict.prediction import Prediction as Localization

__version__ = "0.1.0"
__all__ = [
    "ClassPrediction",
    "DataError",
    "DetectorModel",
    "GwapctlError",
    "Localization",
    "MapReading",
    "MissingDependencyError",
    "Model",
    "ModelError",
    "Prediction",
    "UsageError",
    "__version__",
    "load_model",
]

_ERRORS, _PREDICTION = "gwapctl.errors", "gwapctl.predict.prediction"
_PLACES = {
    "ClassPrediction": (_PREDICTION, "ClassPrediction"),
    "DataError": (_ERRORS, "DataError"),
    "DetectorModel": ("gwapctl.predict.detector", "DetectorModel"),
    "GwapctlError": (_ERRORS, "GwapctlError"),
    "Localization": (_PREDICTION, "Prediction"),  # its name in version 0.1.0
    "MapReading": ("gwapctl.maps.reading", "MapReading"),
    "MissingDependencyError": (_ERRORS, "MissingDependencyError"),
    "Model": ("gwapctl.predict.classifier", "Model"),
    "ModelError": (_ERRORS, "ModelError"),
    "Prediction": (_PREDICTION, "Prediction"),
    "UsageError": (_ERRORS, "UsageError"),
    "load_model": ("gwapctl.predict.classifier", "load_model"),
}


def __getattr__(name: str) -> Any:
    """Import the Python API only when it is used, so that ``import gwapctl`` stays instant."""
    if name in _PLACES:
        module, attribute = _PLACES[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'gwapctl' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what is imported only when it is used, too."""
    return sorted({*globals(), *__all__})
