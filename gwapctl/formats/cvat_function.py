"""CVAT calls a model of ours: an auto-annotation function, as ``cvat_sdk`` defines it.

``cvat-cli task auto-annotate 7 --function-module gwapctl.formats.cvat_function -p model=str:runs/mine`` reads every
image of task 7 and puts the boxes into it. CVAT matches labels by name: those of the task are the model's classes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from gwapctl.errors import MissingDependencyError

if TYPE_CHECKING:
    from PIL.Image import Image

    from gwapctl.predict.classifier import Model
    from gwapctl.predict.detector import DetectorModel


def create(model: str = "", device: str = "auto", top_k: int = 1, min_score: float = 0.0) -> CvatFunction:
    """Load a model for CVAT, which calls this with what ``-p NAME=TYPE:VALUE`` gives.

    Args:
        model: a run folder, a zoo entry or a saved model's folder; "": the default model.
        device: where it runs.
        top_k: how many classes of an image get a box; a detector finds as many as there are.
        min_score: boxes that score less are left out, unless CVAT asks for another threshold (``--conf-threshold``).

    Raises:
        MissingDependencyError: ``cvat_sdk`` is not installed.
        ModelError: there is no such model.

    """
    from gwapctl.networks.zoo import default_model
    from gwapctl.predict.classifier import load_model

    return CvatFunction(load_model(model or default_model()[0], device=device), top_k, min_score)


class CvatFunction:
    """What CVAT asks of a detection function: ``spec``, its labels, and ``detect``, the boxes of one image."""

    def __init__(self, model: Model | DetectorModel, top_k: int = 1, min_score: float = 0.0) -> None:
        self._cvat = _sdk()
        self._model = model
        self._asked: dict[str, Any] = {} if model.detects else {"top_k": top_k}
        self._min_score = min_score
        labels = [self._cvat.label_spec(name, index) for index, name in enumerate(dict.fromkeys(model.classes))]
        self._numbers = {label.name: label.id for label in labels}
        self.spec = self._cvat.DetectionFunctionSpec(labels=labels)

    def detect(self, context: Any, image: Image) -> list[Any]:
        """Return the boxes of ``image`` as CVAT's rectangles, each with its score; ``context`` may set a threshold."""
        least = self._min_score if context.conf_threshold is None else context.conf_threshold
        asked = {**self._asked, "min_score": least} if self._model.detects else self._asked
        (found,) = self._model.localize(np.asarray(image.convert("RGB")), **asked)
        return [
            self._cvat.rectangle(self._numbers[one.label], list(one.box), score=one.score)
            for one in found.predictions
            if one.box is not None and one.score >= least
        ]


def _sdk() -> Any:
    try:
        return importlib.import_module("cvat_sdk.auto_annotation")
    except ImportError as error:
        raise MissingDependencyError(
            f"CVAT's functions need its SDK ({error}). Install it with: pip install 'gwapctl[cvat]'"
        ) from error
