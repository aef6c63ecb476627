"""A detector on disk: ``weights.safetensors`` and ``model.json`` with ``"task": "detection"``, never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from gwapctl.errors import ModelError
from gwapctl.files import read_json, write_json
from gwapctl.networks.backbones import imagenet_tensors, own_names
from gwapctl.networks.classifier import describe_network, load_saved, save_tensors
from gwapctl.networks.rfcn.base import DetectorInfo
from gwapctl.networks.rfcn.rfcn import Detector
from gwapctl.networks.rfcn.trunk import build_trunk


def build_detector(info: DetectorInfo, *, pretrained: bool = False) -> Detector:
    """Build the detector that ``info`` describes, with fresh weights.

    With ``pretrained`` the trunk has ImageNet's, and is frozen as R-FCN freezes it.

    Raises:
        UsageError: there is no such trunk, or it has no ImageNet weights.
        ModelError: the weights cannot be fetched.

    """
    model = Detector(info, build_trunk(info.backbone))
    if pretrained:
        load_trunk(model, imagenet_tensors(info.backbone), "the file of ImageNet weights")
        freeze_trunk(model)
    return model


def load_trunk(model: Detector, tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy a classifier's weights into the trunk of ``model``.

    Args:
        model: the detector.
        tensors: of a classifier of ours (``backbone.*`` of its safetensors), or of torchvision's or timm's network.
        source: where they come from, for the message.

    Raises:
        ModelError: a layer of the trunk is missing or has another shape: it is another network.

    """
    named = own_names(tensors, model.info.backbone, "")
    theirs = {name.removeprefix("backbone."): tensor for name, tensor in named.items()}
    own = model.trunk.state_dict()
    state = {name: theirs[name] for name in own if name in theirs and theirs[name].shape == own[name].shape}
    # a counter of batches, which older files lack and nothing reads
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    if missing:
        raise ModelError(
            f"{source} does not fit the trunk {model.info.backbone}: {len(missing)} of its {len(own)} tensors are "
            f"missing or have another shape ({missing[0]}). Give weights of the same network."
        )
    model.trunk.load_state_dict(state, strict=False)


def freeze_trunk(model: Detector, *, stages: int = 2) -> None:
    """Fix every batch norm and the first ``stages`` stages, as R-FCN does with its pretrained network.

    Call it after the weights are loaded, and again when a run is resumed: it is not stored. From scratch, leave it out.
    Stage 1 is everything before the first residual block, stage n + 1 is ``layer n``; 0: only batch norm.
    """
    model.trunk.freeze(stages)


def save_detector(model: Detector, folder: Path) -> None:
    """Write ``weights.safetensors`` and ``model.json`` into ``folder``."""
    save_tensors(model, folder)
    write_json(folder / "model.json", model.info.model_dump(mode="json"))


def load_detector_info(folder: Path) -> DetectorInfo:
    """Read ``model.json``.

    Raises:
        ModelError: it is missing or does not describe a detector.

    """
    path = folder / "model.json"
    if not path.is_file():
        raise ModelError(f"{folder} holds no detector (no model.json). Give a run folder of train --detector.")
    try:
        return DetectorInfo.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"{path} does not describe a detector: {first['loc']}: {first['msg']}.") from None


def load_detector(folder: Path) -> Detector:
    """Load a saved detector in eval mode, on the CPU, in float32.

    Raises:
        ModelError: files are missing, broken, pickled, or do not fit each other.

    """
    return load_saved(build_detector(load_detector_info(folder)), folder)


def describe_detector(folder: Path) -> dict[str, Any]:
    """Return what a person wants to know of a saved detector; ``layers`` are its trunk's convolutions in order."""
    model = load_detector(folder)
    return describe_network(model, model.info, model.trunk)
