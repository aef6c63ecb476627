"""``resnet-s``: a compact residual network of ours for small images (64 pixels), 0.33 million parameters."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from gwapctl.networks.backbones.base import Backbone, divide, start_he


class ConvNormReLU(nn.Sequential):
    """A convolution without bias, batch norm and ReLU; the padding keeps the resolution at stride 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al., arXiv 1512.03385, basic block)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            # average before the 1x1 convolution, so that no pixel is skipped (ResNet-D, arXiv 1812.01187)
            pool: nn.Module = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
            conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(pool, conv, nn.BatchNorm2d(out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, K_in, h, w)`` to ``(B, K_out, ceil(h / stride), ceil(w / stride))``."""
        residual = functional.relu(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        return functional.relu(residual + self.shortcut(features))


class ResNetS(Backbone):
    """Two convolutions with stride 2, three residual blocks, and a 1x1 convolution to 256 channels.

    ``stride`` is 8 or 4 input pixels per cell of the feature map.
    """

    def __init__(self, stride: int = 8) -> None:
        super().__init__()
        if stride not in (4, 8):
            raise ValueError(f"resnet-s has stride 4 or 8, not {stride}")
        self.channels, self.stride = 256, stride
        self.layers = nn.Sequential(
            ConvNormReLU(3, 16, 3, 2),
            ConvNormReLU(16, 32, 3, 2),
            ResidualBlock(32, 32, 1),
            ResidualBlock(32, 96, stride // 4),
            ResidualBlock(96, 96, 1),
            ConvNormReLU(96, 256, 1),
        )
        self.stages = divide([f"layers.{index}" for index in range(6)], [f"layers.{index}" for index in (2, 3, 4)])
        start_he(self)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.bn2.weight)  # every block starts as its shortcut

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to a feature map ``(B, 256, ceil(H/stride), ceil(W/stride))``."""
        return self.layers(images)  # type: ignore[no-any-return]
