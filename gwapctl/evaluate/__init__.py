"""Numbers for a model, for maps or for boxes: classification, localization, masks; beside the floors that see nothing.

``evaluate`` is what the command line calls; ``evaluate_model``, ``evaluate_maps``, ``evaluate_boxes`` and
``evaluate_detections`` take a ``GroundTruth`` that is open already. All but the first two judge without torch.
"""

from __future__ import annotations

from gwapctl.boxes import Detections
from gwapctl.evaluate.detections import evaluate_detections
from gwapctl.evaluate.result import EvaluationResult, GroundTruth
from gwapctl.evaluate.run import Options, calibrate, evaluate, evaluate_boxes, evaluate_maps, evaluate_model

__all__ = [
    "Detections",
    "EvaluationResult",
    "GroundTruth",
    "Options",
    "calibrate",
    "evaluate",
    "evaluate_boxes",
    "evaluate_detections",
    "evaluate_maps",
    "evaluate_model",
]
