"""R-FCN with the weak branch of GWAP: the network, its losses, and which images show their boxes."""

from __future__ import annotations

from gwapctl.networks.rfcn.base import BoxTarget, DetectorInfo
from gwapctl.networks.rfcn.losses import total_loss
from gwapctl.networks.rfcn.rfcn import Detector
from gwapctl.networks.rfcn.store import (
    build_detector,
    freeze_trunk,
    load_detector,
    load_detector_info,
    load_trunk,
    save_detector,
)

__all__ = [
    "BoxTarget",
    "Detector",
    "DetectorInfo",
    "build_detector",
    "freeze_trunk",
    "load_detector",
    "load_detector_info",
    "load_trunk",
    "save_detector",
    "total_loss",
]
