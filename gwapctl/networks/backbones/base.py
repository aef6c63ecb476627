"""What every backbone declares: a network cut before its pooling, from a normalised image to a feature map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from torch import Tensor, nn

from gwapctl.errors import UsageError, option

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
        stages: the names of its layers in the order in which forward runs them, one tuple per stage: between two
            stages it can be cut. Empty: it cannot.

    """

    channels: int
    stride: int
    stages: tuple[tuple[str, ...], ...] = ()
    output_stride: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to a feature map ``(B, K, h, w)``."""
        raise NotImplementedError

    def require_stages(self, last: int, name: str) -> None:
        """Raise ``UsageError``, which calls it ``name``, where its ``last`` stages are no part of it."""
        if not self.stages:
            raise UsageError(
                f"{name} is not divided into stages, so all of it learns or nothing. Leave trained_stages out, or give "
                f"{option('freeze_backbone', True)}."
            )
        if last >= len(self.stages):
            raise UsageError(
                f"{name} has {len(self.stages)} stages: at most {len(self.stages) - 1} learn behind frozen ones, not "
                f"{last}. Leave trained_stages out to train them all."
            )

    def early_layers(self, last: int) -> list[nn.Module]:
        """Return the layers of all stages but the ``last``."""
        return self._layers(self.stages[: len(self.stages) - last])

    def late_layers(self, last: int) -> list[nn.Module]:
        """Return the layers of the ``last`` stages."""
        return self._layers(self.stages[len(self.stages) - last :])

    def early(self, images: Tensor, last: int) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to what the ``last`` stages read, ``(B, K', h', w')``."""
        return _run(self.early_layers(last), images)

    def late(self, features: Tensor, last: int) -> Tensor:
        """Map what ``early`` returns to the feature map ``(B, K, h, w)``; 0 stages return it as it is."""
        return _run(self.late_layers(last), features)

    def _layers(self, stages: Iterable[tuple[str, ...]]) -> list[nn.Module]:
        return [self.get_submodule(name) for stage in stages for name in stage]


def _run(layers: Iterable[nn.Module], features: Tensor) -> Tensor:
    for layer in layers:
        features = layer(features)
    return features


class LayerChain(Backbone):
    """Layers one after the other, each under the name it has where its weights come from.

    ``stages`` are the names of the layers with which one begins, the first stage excepted.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        *,
        channels: int,
        stride: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        stages: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.channels, self.stride, self.mean, self.std = channels, stride, mean, std
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.stages = divide([*layers], stages)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to a feature map ``(B, K, h, w)``."""
        return _run(self.children(), images)


def divide(names: Sequence[str], first: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Divide ``names`` into stages, of which each but the first begins with one of ``first``; none without these.

    >>> divide(["stem", "a1", "a2", "b"], ["a1", "b"])
    (('stem',), ('a1', 'a2'), ('b',))
    """
    starts = [0, *(names.index(name) for name in first), len(names)]
    return tuple(tuple(names[start:stop]) for start, stop in pairwise(starts)) if first else ()


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
        named = tuple(tuple(f"base.{name}" for name in stage) for stage in base.stages)
        self.stages = (*named[:-1], (*named[-1], "cam_conv")) if named else ()
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
