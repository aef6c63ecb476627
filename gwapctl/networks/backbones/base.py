"""What every backbone declares: a network cut before its pooling, from a normalised image to a feature map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

L = TypeVar("L", nn.Linear, nn.Conv2d)


class Backbone(nn.Module):
    """A fully convolutional network without pooling and classifier, for images of any size and shape.

    Attributes:
        channels: K, the channels of the feature map.
        stride: input pixels per feature map cell: an input larger by ``stride`` pixels has a map larger by one cell.
        mean, std: of the RGB input in 0..1; the classifier applies them, so that loaders hand over plain RGB in 0..255.
        output_stride: the stride that was chosen for a network that has several; None: it has one.

    """

    channels: int
    stride: int
    output_stride: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to a feature map ``(B, K, h, w)``."""
        raise NotImplementedError


class LayerChain(Backbone):
    """Layers one after the other, each under the name it has where its weights come from."""

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        *,
        channels: int,
        stride: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.channels, self.stride, self.mean, self.std = channels, stride, mean, std
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to a feature map ``(B, K, h, w)``."""
        features = images
        for layer in self.children():
            features = layer(features)
        return features


def start_he(network: nn.Module) -> None:
    """Draw convolutions as He et al. do (arXiv 1502.01852), so that signals keep their size through a fresh network."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def start_gaussian(layer: L) -> L:
    """Start a layer as the released files of CAM and R-FCN do, and return it: Gaussian of 0.01, bias 0."""
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # there is a bias by default
    return layer


class WithCamConv(Backbone):
    """A backbone followed by one 3x3 convolution of 1024 channels and ReLU (CAM, arXiv 1512.04150, section 3.1).

    It has 1 group as the paper's text says, or 2 as in the released GoogLeNet and VGG files. Saved weights carry the
    names of the backbone without the convolution, so that each can start from the other.
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
        return self.cam_conv(self.base(images))  # type: ignore[no-any-return]


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
