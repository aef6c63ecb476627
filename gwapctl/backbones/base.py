"""What every backbone declares: a network cut before its pooling, from a normalised image to a feature map."""

from __future__ import annotations

from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A fully convolutional network without pooling and classifier.

    Attributes:
        channels: K, the channels of the feature map.
        stride: input pixels per feature map cell (rounded up by networks that round up).
        mean, std: of the RGB input in 0..1; the classifier applies them, so that loaders hand over plain RGB in 0..255.

    """

    channels: int
    stride: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to a feature map ``(B, K, h, w)``."""
        raise NotImplementedError
