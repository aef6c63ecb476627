"""A detector on disk: ``weights.safetensors`` and ``model.json`` with ``"task": "detection"``, never a pickle."""

from __future__ import annotations

from pathlib import Path

from gwapctl.detection.base import DetectorInfo
from gwapctl.detection.rfcn import Detector


def build_detector(info: DetectorInfo, *, pretrained: bool = False) -> Detector:
    """Build the detector that ``info`` describes, with fresh weights; trunk: ImageNet's and frozen where ``pretrained``.

    Raises:
        UsageError: there is no such trunk, or it has no ImageNet weights.
        ModelError: the weights cannot be fetched.

    """
    raise NotImplementedError


def save_detector(model: Detector, folder: Path) -> None:
    """Write ``weights.safetensors`` and ``model.json`` into ``folder``."""
    raise NotImplementedError


def load_detector_info(folder: Path) -> DetectorInfo:
    """Read ``model.json``.

    Raises:
        ModelError: it is missing or does not describe a detector.

    """
    raise NotImplementedError


def load_detector(folder: Path) -> Detector:
    """Load a saved detector in eval mode, on the CPU, in float32.

    Raises:
        ModelError: files are missing, broken, pickled, or do not fit each other.

    """
    raise NotImplementedError
