"""Residual networks as a detector's trunk: conv4 for the proposals, conv5 at the same stride for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from gwapctl.detection.rfcn import Detector


def load_trunk(model: Detector, tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy a classifier's weights into the trunk of ``model``.

    Args:
        model: the detector.
        tensors: of a classifier of ours (``backbone.*`` of its safetensors) or of torchvision's ResNet.
        source: where they come from, for the message.

    Raises:
        ModelError: a layer of the trunk is missing or has another shape: it is another network.

    """
    raise NotImplementedError


def freeze_trunk(model: Detector, *, stages: int = 2) -> None:
    """Fix every batch norm and the first ``stages`` stages, as R-FCN does with its pretrained network.

    Call it after the weights are loaded, and again when a run is resumed: it is not stored. From scratch, leave it out.
    Stage 1 is everything before the first residual block, stage n + 1 is ``layer n``; 0: only batch norm.
    """
    raise NotImplementedError
