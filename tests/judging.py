"""Maps and boxes on disk judged in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gwapctl.evaluate import EvaluationResult, GroundTruth, evaluate_predictions, from_boxes, from_maps
from gwapctl.evaluate.predictions import FiveGuesses


def evaluate_maps(
    folder: Path, judged: GroundTruth, *, guesses: FiveGuesses | None = None, **options: Any
) -> EvaluationResult:
    return evaluate_predictions(from_maps(folder, judged, **options), judged, guesses=guesses)


def evaluate_boxes(file: Path, judged: GroundTruth) -> EvaluationResult:
    return evaluate_predictions(from_boxes(file, judged), judged)
