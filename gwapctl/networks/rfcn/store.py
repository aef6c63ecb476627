"""A detector on disk: ``weights.safetensors`` and ``model.json`` with ``"task": "detection"``, never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from gwapctl.errors import ModelError, reading
from gwapctl.networks.backbones import imagenet_tensors, own_names
from gwapctl.networks.classifier import load_saved, read_info, save_info, save_tensors
from gwapctl.networks.rfcn.base import DetectorInfo
from gwapctl.networks.rfcn.rfcn import Detector
from gwapctl.networks.rfcn.trunk import build_trunk


def build_detector(info: DetectorInfo, *, pretrained: bool = False, frozen: int = 2) -> Detector:
    """Build the detector that ``info`` describes, with fresh weights.

    With ``pretrained`` the trunk has ImageNet's, and its first ``frozen`` stages and batch norm are fixed. It is a
    ``UsageError`` that there is no such trunk or no such weights, a ``ModelError`` that they cannot be fetched.
    """
    model = Detector(info, build_trunk(info.backbone))
    if pretrained:
        load_trunk(model, imagenet_tensors(info.backbone), "the file of ImageNet weights")
        model.trunk.freeze(frozen)
    return model


def load_trunk(model: Detector, tensors: Mapping[str, Tensor], origin: Path | str) -> None:
    """Copy a classifier's weights into the trunk of ``model``.

    ``tensors`` are those of a classifier of ours (``backbone.*``), or of torchvision's or timm's network; ``origin``
    says where they come from. It is a ``ModelError`` that a layer is missing or has another shape: another network's.
    """
    named = own_names(tensors, model.info.backbone, "")
    theirs = {name.removeprefix("backbone."): tensor for name, tensor in named.items()}
    own = model.trunk.state_dict()
    state = {name: theirs[name] for name in own if name in theirs and theirs[name].shape == own[name].shape}
    # a counter of batches, which older files lack and nothing reads
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    if missing:
        raise ModelError(
            f"{origin} does not fit the trunk {model.info.backbone}: {len(missing)} of its {len(own)} tensors are "
            f"missing or have another shape ({missing[0]}). Give weights of the same network."
        )
    model.trunk.load_state_dict(state, strict=False)


def save_detector(model: Detector, folder: Path) -> None:
    """Write ``weights.safetensors`` and ``model.json`` into ``folder``."""
    save_tensors(model, folder)
    save_info(model.info, folder)


def load_detector(folder: Path) -> Detector:
    """Load a saved detector in eval mode, on the CPU, in float32. Errors are those of ``load_classifier``."""
    info = read_info(folder, DetectorInfo, "detector")
    with reading(folder / "model.json", ModelError):  # a network may fail to be built of what it says
        model = build_detector(info)
    return load_saved(model, folder)
