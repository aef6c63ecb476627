"""Numbers for a model, for maps or for boxes: classification, localization, masks; beside the floors that see nothing.

``evaluate`` is what the command line calls; ``evaluate_model``, ``evaluate_maps`` and ``evaluate_boxes`` take a
``Ground`` that is open already. Maps and boxes are judged without importing torch.
"""

from __future__ import annotations

from gwapctl.evaluate.verbs import Ground, Options, calibrate, evaluate, evaluate_boxes, evaluate_maps, evaluate_model

__all__ = ["Ground", "Options", "calibrate", "evaluate", "evaluate_boxes", "evaluate_maps", "evaluate_model"]
