"""Networks whose layer names and ImageNet weights are torchvision's, cut before their pooling."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.inception import InceptionB
from torchvision.models.vgg import cfgs, make_layers

from gwapctl.networks.backbones.base import Backbone, LayerChain, divide, start_he

# torchvision's GoogLeNet and Inception weights come from TensorFlow, whose inputs lie in -1..1. torchvision re-scales
# inside its own forward (transform_input); a cut network states the same as its normalisation: (x - 0.5) / 0.5.
_TENSORFLOW = (0.5, 0.5, 0.5)


def alexnet() -> Backbone:
    """Build AlexNet up to conv5's ReLU: torchvision's variant (one weird trick, arXiv 1404.5997), ``features[:12]``."""
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
    )
    start_he(features)
    return _of_features(features, channels=256)


def vgg16() -> Backbone:
    """Build VGG-16 (arXiv 1409.1556) up to conv5_3's ReLU, ``features[:30]``: pool5 is not part of it."""
    features = make_layers(cfgs["D"])[:-1]
    start_he(features)
    return _of_features(features, channels=512)


def _of_features(features: nn.Sequential, *, channels: int) -> Backbone:
    """Make torchvision's ``features``, of stride 16, a backbone whose stages end with a pooling."""
    backbone = LayerChain({"features": features}, channels=channels, stride=16)
    behind = [f"features.{index + 1}" for index, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    backbone.stages = divide([f"features.{index}" for index in range(len(features))], behind)
    return backbone


def googlenet() -> Backbone:
    """Build GoogLeNet (arXiv 1409.4842, torchvision's with batch norm) up to inception4e; no auxiliary classifiers."""
    return _googlenet(last="inception4e", channels=832, stride=16)


def googlenet_full() -> Backbone:
    """Build the unmodified GoogLeNet up to inception5b: its own pooling is a mean already, so the head is ``gap``."""
    return _googlenet(last="inception5b", channels=1024, stride=32)


def _googlenet(*, last: str, channels: int, stride: int) -> Backbone:
    network = torchvision.models.GoogLeNet(aux_logits=False, init_weights=False)
    layers = up_to(network, last)
    stages = [name for name in ("conv2", "inception3a", "inception4a", "inception5a") if name in layers]
    backbone = LayerChain(layers, channels=channels, stride=stride, mean=_TENSORFLOW, std=_TENSORFLOW, stages=stages)
    start_he(backbone)
    return backbone


def up_to(network: nn.Module, last: str) -> dict[str, nn.Module]:
    """Return the layers of ``network`` by name, from the first to ``last``."""
    children = dict(network.named_children())
    return dict(itertools.islice(children.items(), list(children).index(last) + 1))


class Mixed6aStride1(InceptionB):  # type: ignore[misc]  # torchvision is untyped
    """Inception v3's first grid reduction without the reduction: stride 1 in every branch, as SPG's."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels)
        for branch in (self.branch3x3, self.branch3x3dbl_3):
            branch.conv.stride, branch.conv.padding = (1, 1), (1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, 288, h, w)`` to ``(B, 768, h, w)``."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(features)))
        pooled = functional.max_pool2d(features, 3, stride=1, padding=1)
        return torch.cat([self.branch3x3(features), double, pooled], dim=1)


def inception_v3_spg() -> Backbone:
    """Build SPG's plain Inception v3 (Zhang et al., ECCV 2018, and its released code), which DGL uses, too.

    Inception v3 (arXiv 1512.00567) up to Mixed_6e with Mixed_6a at stride 1 and padding as SPG has it, then two 3x3
    convolutions of 1024 channels, each after a dropout of 0.5; DGL calls them ``add2`` and ``add1``. K = 1024,
    stride 8: 28 x 28 cells at 224 pixels, 40 x 40 at 324.
    """
    network = torchvision.models.Inception3(aux_logits=False, init_weights=False)
    layers: dict[str, Any] = up_to(network, "Mixed_6e")
    layers["Conv2d_1a_3x3"].conv.padding = (1, 1)
    layers["maxpool1"] = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
    layers["maxpool2"] = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
    layers["Mixed_6a"] = Mixed6aStride1(288)
    backbone = LayerChain(layers, channels=1024, stride=8, mean=_TENSORFLOW, std=_TENSORFLOW)
    start_he(backbone)
    for name, in_channels in (("add2", 768), ("add1", 1024)):
        conv = nn.Conv2d(in_channels, 1024, 3, padding=1)
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # Conv2d has a bias by default
        backbone.add_module(f"drop_{name}", nn.Dropout(0.5))
        backbone.add_module(name, nn.Sequential(conv, nn.ReLU()))
    backbone.add_module("drop", nn.Dropout(0.5))
    names = [name for name, _ in backbone.named_children()]
    backbone.stages = divide(names, ["Conv2d_3b_1x1", "Mixed_5b", "Mixed_6a", "drop_add2"])
    return backbone


def _resnet(name: str, *, output_stride: int | None = None) -> Backbone:
    """Build a ResNet (arXiv 1512.03385) up to layer4: stride 32, or 16 or 8 by dilation."""
    network = torchvision.models.get_model(name, weights=None)
    stride = output_stride or 32
    if stride < 32:
        dilate_stage(network.layer4, dilation=32 // stride, first=16 // stride)
    if stride < 16:
        dilate_stage(network.layer3, dilation=16 // stride, first=1)
    layers, stages = up_to(network, "layer4"), ["layer1", "layer2", "layer3", "layer4"]
    backbone = LayerChain(layers, channels=int(network.fc.in_features), stride=stride, stages=stages)
    backbone.output_stride = stride
    return backbone


resnet18, resnet34 = partial(_resnet, "resnet18"), partial(_resnet, "resnet34")
resnet50, resnet101 = partial(_resnet, "resnet50"), partial(_resnet, "resnet101")


def dilate_stage(stage: nn.Module, *, dilation: int, first: int) -> None:
    """Give a stage of a ResNet stride 1, and dilate its 3x3 convolutions so that each sees what it was trained on.

    Args:
        stage: ``layer3`` or ``layer4`` of torchvision's ResNets.
        dilation: of all 3x3 convolutions but the one that had a stride.
        first: of that one, whose input has the resolution of the stage before: torchvision's
            ``replace_stride_with_dilation``, which it refuses to ResNet-18 and -34, keeps that stage's dilation.

    """
    for conv in stage.modules():
        if isinstance(conv, nn.Conv2d):
            own = dilation if conv.stride == (1, 1) else first
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (own, own)
