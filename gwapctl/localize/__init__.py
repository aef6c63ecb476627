"""Images in, boxes out: the Python API, and the stream behind ``gwapctl localize``.

    model = gwapctl.load_model("runs/a")
    for found in model.localize(["a.jpg", "b.jpg"], scales=(224, 448, 672)):
        print(found.classes, found.boxes)

torch is imported when a model is loaded, not before.
"""

from __future__ import annotations

from gwapctl.localize.api import Finder, Model, load_model, scale_warning
from gwapctl.localize.detector import DetectorFinder, DetectorModel
from gwapctl.localize.folder import SAVES, localize_inputs
from gwapctl.localize.result import Localization

__all__ = [
    "SAVES",
    "DetectorFinder",
    "DetectorModel",
    "Finder",
    "Localization",
    "Model",
    "load_model",
    "localize_inputs",
    "scale_warning",
]
