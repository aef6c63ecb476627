"""The extra convolution of CAM's "-GAP" networks, between any backbone and any head."""

from __future__ import annotations

from torch import Tensor, nn

from gwapctl.backbones.base import Backbone


class WithCamConv(Backbone):
    """A backbone followed by one 3x3 convolution of 1024 channels and ReLU (CAM, arXiv 1512.04150, section 3.1).

    Weights start from a Gaussian of 0.01 as in CAM's released files, biases at 0.

    Args:
        base: any backbone.
        groups: 1 as the paper's text says, or 2 as in the released GoogLeNet and VGG files.

    """

    def __init__(self, base: Backbone, *, groups: int = 1) -> None:
        super().__init__()
        self.base = base
        self.channels, self.stride, self.mean, self.std = 1024, base.stride, base.mean, base.std
        conv = nn.Conv2d(base.channels, self.channels, 3, padding=1, groups=groups)
        nn.init.normal_(conv.weight, std=0.01)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        self.cam_conv = nn.Sequential(conv, nn.ReLU(inplace=True))

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to a feature map ``(B, 1024, h, w)``."""
        features: Tensor = self.cam_conv(self.base(images))
        return features
