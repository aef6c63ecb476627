"""Numbers for a model, for maps or for boxes: classification, localization, masks; beside the floors that see nothing.

``evaluate`` is what the command line calls. ``evaluate_predictions`` takes a ``GroundTruth`` that is open already, and
what ``from_model``, ``from_detector``, ``from_detections``, ``from_maps`` or ``from_boxes`` say of it; judging what
comes from the last three needs no torch.
"""

from __future__ import annotations

from gwapctl.evaluate.from_disk import from_boxes, from_maps
from gwapctl.evaluate.from_model import from_detector, from_model
from gwapctl.evaluate.judging import evaluate_predictions
from gwapctl.evaluate.predictions import Predictions, from_detections
from gwapctl.evaluate.result import EvaluationResult, GroundTruth
from gwapctl.evaluate.run import Options, Shards, check, evaluate
from gwapctl.evaluate.stored_rule import calibrate

__all__ = [
    "EvaluationResult",
    "GroundTruth",
    "Options",
    "Predictions",
    "Shards",
    "calibrate",
    "check",
    "evaluate",
    "evaluate_predictions",
    "from_boxes",
    "from_detections",
    "from_detector",
    "from_maps",
    "from_model",
]
