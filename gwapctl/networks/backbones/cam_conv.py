"""The extra convolution of CAM's "-GAP" networks, between any backbone and any head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gwapctl.networks.backbones.base import Backbone, start_gaussian


class WithCamConv(Backbone):
    """A backbone followed by one 3x3 convolution of 1024 channels and ReLU (CAM, arXiv 1512.04150, section 3.1).

    Weights start from a Gaussian of 0.01 as in CAM's released files, biases at 0. Saved weights carry the names of the
    backbone without the convolution, so that each can start from the other.

    Args:
        base: any backbone.
        groups: 1 as the paper's text says, or 2 as in the released GoogLeNet and VGG files.

    """

    def __init__(self, base: Backbone, *, groups: int = 1) -> None:
        super().__init__()
        self.base = base
        self.channels, self.stride, self.mean, self.std = 1024, base.stride, base.mean, base.std
        conv = start_gaussian(nn.Conv2d(base.channels, self.channels, 3, padding=1, groups=groups))
        self.cam_conv = nn.Sequential(conv, nn.ReLU(inplace=True))
        untyped: Any = self  # torch leaves these two without types
        untyped.register_state_dict_post_hook(_drop_base)
        untyped.register_load_state_dict_pre_hook(_add_base)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to a feature map ``(B, 1024, h, w)``."""
        features: Tensor = self.cam_conv(self.base(images))
        return features


def _drop_base(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]) -> None:
    """Name the backbone's tensors, while saving, as if the convolution were not there."""
    for name in [name for name in state if name.startswith(f"{prefix}base.")]:
        state[prefix + name.removeprefix(f"{prefix}base.")] = state.pop(name)


def _add_base(_module: nn.Module, state: dict[str, Any], prefix: str, *_rest: object) -> None:
    """Undo ``_drop_base`` while loading."""
    for name in [name for name in state if name.startswith(prefix)]:
        own = name.removeprefix(prefix)
        if not own.startswith("cam_conv."):
            state[f"{prefix}base.{own}"] = state.pop(name)
