"""R-FCN with the weak branch of GWAP: the network, its losses, and which images show their boxes."""

from __future__ import annotations

from gwapctl.detection.base import BoxTarget, Detections, DetectorInfo
from gwapctl.detection.losses import total_loss
from gwapctl.detection.rfcn import Detector
from gwapctl.detection.store import (
    build_detector,
    describe_detector,
    freeze_trunk,
    load_detector,
    load_detector_info,
    load_trunk,
    save_detector,
)
from gwapctl.detection.subset import box_labelled_subset

__all__ = [
    "BoxTarget",
    "Detections",
    "Detector",
    "DetectorInfo",
    "box_labelled_subset",
    "build_detector",
    "describe_detector",
    "freeze_trunk",
    "load_detector",
    "load_detector_info",
    "load_trunk",
    "save_detector",
    "total_loss",
]
