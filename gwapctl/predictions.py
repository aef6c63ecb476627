"""What ``localize --out`` wrote, as version 0.1.0 named it for readers: see ``gwapctl.predict.predictions``."""

from __future__ import annotations

from gwapctl.predict.map_folder import MapFolder
from gwapctl.predict.predictions import read_predictions

__all__ = ["MapFolder", "read_predictions"]
