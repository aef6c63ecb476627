"""The unmodified AlexNet, CaffeNet and VGG: their own pooling and fully connected layers as a head."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from gwapctl.errors import UsageError, any_of, option
from gwapctl.networks.backbones import BACKBONES
from gwapctl.networks.backbones.base import start_gaussian
from gwapctl.networks.heads.base import Head, HeadOutput, at_least_float32

# channels of the feature map: kernel of the last max pooling (stride 2) and the grid that the first FC layer wants
_POOLING = {256: (3, 6), 512: (2, 7)}


class Original(Head):
    """Max pooling and three fully connected layers: what AlexNet (K = 256) and VGG (K = 512) end with.

    The unmodified networks of CAM's tables (arXiv 1512.04150, tables 1 and 2). Layers are torchvision's, by order and
    name, so that its weights load; other input sizes are averaged to the grid they want. Logits only: they are not
    linear in the feature map, so there is no class activation map, and maps come by backprop.

    ``hidden`` is the width of the two hidden layers, ``dropout`` that of their inputs (AlexNet) or outputs (VGG).
    """

    def __init__(self, channels: int, classes: int, hidden: int = 4096, dropout: float = 0.5) -> None:
        super().__init__()
        if channels not in _POOLING:
            owners = any_of([name for name, entry in BACKBONES.items() if entry.own_head == "original"], "and")
            raise UsageError(f"head original belongs to {owners}, not to {channels} channels.")
        self.kernel, self.grid = _POOLING[channels]
        inputs = channels * self.grid**2
        first, second, last = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, classes)
        for layer in (first, second, last):
            start_gaussian(layer)
        if channels == 256:
            layers = [nn.Dropout(dropout), first, nn.ReLU(), nn.Dropout(dropout), second, nn.ReLU(), last]
        else:
            layers = [first, nn.ReLU(), nn.Dropout(dropout), second, nn.ReLU(), nn.Dropout(dropout), last]
        self.classifier = nn.Sequential(*layers)

    def class_weights(self) -> Tensor:
        """Refuse with a ``UsageError``: the classifier is not linear."""
        raise UsageError(f"head original has no class map, for it is not linear. Choose {option('map', 'backprop')}.")

    def forward(self, feature_map: Tensor) -> HeadOutput:
        """Map ``(B, K, h, w)`` to logits ``(B, C)``."""
        pooled = functional.max_pool2d(feature_map, self.kernel, stride=2)
        pooled = functional.adaptive_avg_pool2d(pooled, (self.grid, self.grid))
        return HeadOutput(at_least_float32(self.classifier(pooled.flatten(1))))
