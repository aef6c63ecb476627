"""Networks as Caffe defines them, layer by layer under Caffe's names: CaffeNet, AlexNet, AlexNet*, NIN, GoogLeNet.

All were released with ImageNet weights (``caffe_releases``). Those of NIN and CAM were trained on images minus a mean
image; its mean over the pixels stands for it here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gwapctl.networks.backbones.base import Backbone, LayerChain

# Caffe feeds 0..255 minus a mean, unscaled. The means are in RGB here; Caffe's BGR order concerns weights alone:
# whoever converts them turns conv1's input channels around once.
FAST_RCNN_MEAN = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)
IMAGENET_MEAN = (123 / 255, 117 / 255, 104 / 255)
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)


def caffenet() -> Backbone:
    """Build CaffeNet up to conv5's ReLU, pool5 dropped (GWAP, arXiv 1809.08264, section IV): K = 256, stride 16.

    Unlike torchvision's AlexNet it has two groups in conv2, conv4 and conv5, local response normalisation after the
    pooling, and rounds grid sizes up when it pools: 600 pixels become 37 cells. The mean is Fast R-CNN's.
    """
    return _caffe_chain(_conv1_to_conv4() | _conv(5, 384, 256, groups=2), channels=256, mean=FAST_RCNN_MEAN)


def alexnet_caffe() -> Backbone:
    """Build BVLC's AlexNet up to conv5's ReLU (Krizhevsky et al. 2012): K = 256, stride 16.

    It differs from CaffeNet in that it normalises before it pools. Layers have the same names and shapes, so that the
    weights of one load into the other, which then computes something else.
    """
    layers = _conv1_to_conv4() | _conv(5, 384, 256, groups=2)
    swapped = {"pool1": "norm1", "norm1": "pool1", "pool2": "norm2", "norm2": "pool2"}
    order = [swapped.get(name, name) for name in layers]
    return _caffe_chain({name: layers[name] for name in order}, channels=256, mean=IMAGENET_MEAN)


def alexnet_star() -> Backbone:
    """Build CAM's AlexNet* up to conv7's ReLU (arXiv 1512.04150 and its released prototxt): K = 512, stride 16.

    conv5 has 384 channels, pool5 has stride 1, conv6 and conv7 follow: 11 x 11 cells at 227 pixels. With head ``gap``
    and its dropout of 0.5 it is AlexNet*-GAP.
    """
    layers = _conv1_to_conv4() | _conv(5, 384, 384, groups=2)
    layers["pool5"] = nn.MaxPool2d(3, stride=1)
    layers |= _conv(6, 384, 512, groups=2) | _conv(7, 512, 512, groups=2)
    return _caffe_chain(layers, channels=512, mean=IMAGENET_MEAN)


def nin() -> Backbone:
    """Build Network in Network for ImageNet (Lin et al., arXiv 1312.4400) up to the layer before its class scores.

    K = 1024, stride 32. Its own pooling is the mean of rectified class scores, so the head is ``gap-relu``.
    """
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, 96, 11, stride=4),
        "cccp1": nn.Conv2d(96, 96, 1),
        "cccp2": nn.Conv2d(96, 96, 1),
        "pool1": nn.MaxPool2d(3, stride=2, ceil_mode=True),
        "conv2": nn.Conv2d(96, 256, 5, padding=2),
        "cccp3": nn.Conv2d(256, 256, 1),
        "cccp4": nn.Conv2d(256, 256, 1),
        "pool2": nn.MaxPool2d(3, stride=2, ceil_mode=True),
        "conv3": nn.Conv2d(256, 384, 3, padding=1),
        "cccp5": nn.Conv2d(384, 384, 1),
        "cccp6": nn.Conv2d(384, 384, 1),
        "pool3": nn.MaxPool2d(3, stride=2, ceil_mode=True),
        "drop": nn.Dropout(0.5),
        "conv4-1024": nn.Conv2d(384, 1024, 3, padding=1),
        "cccp7-1024": nn.Conv2d(1024, 1024, 1),
    }
    with_relu: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        with_relu[name] = layer
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # Conv2d has a bias by default
            with_relu[f"relu_{name}"] = nn.ReLU(inplace=True)
    stages = ["conv2", "conv3", "conv4-1024"]
    return LayerChain(with_relu, channels=1024, stride=32, mean=IMAGENET_MEAN, std=CAFFE_STD, stages=stages)


class CaffeInception(nn.Module):
    """An inception block (arXiv 1409.4842, figure 2b) without batch norm and with a true 5x5 branch.

    ``widths`` are the channels of 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5 and pool_proj.
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, three_reduce, three, five_reduce, five, pool = widths
        self.layers = nn.ModuleDict(
            {
                "1x1": nn.Conv2d(in_channels, one, 1),
                "3x3_reduce": nn.Conv2d(in_channels, three_reduce, 1),
                "3x3": nn.Conv2d(three_reduce, three, 3, padding=1),
                "5x5_reduce": nn.Conv2d(in_channels, five_reduce, 1),
                "5x5": nn.Conv2d(five_reduce, five, 5, padding=2),
                "pool_proj": nn.Conv2d(in_channels, pool, 1),
            }
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, K_in, h, w)`` to ``(B, K_out, h, w)``."""
        pooled = torch.max_pool2d(features, 3, stride=1, padding=1)
        three, five = self._relu("3x3_reduce", features), self._relu("5x5_reduce", features)
        branches = {"1x1": features, "3x3": three, "5x5": five, "pool_proj": pooled}
        return torch.cat([self._relu(name, branch) for name, branch in branches.items()], dim=1)

    def _relu(self, name: str, features: Tensor) -> Tensor:
        return torch.relu_(self.layers[name](features))


def googlenet_caffe() -> Backbone:
    """Build BVLC's GoogLeNet (arXiv 1409.4842) up to inception_4e: the paper's network "G", K = 832, stride 16.

    Unlike torchvision's it has no batch norm, normalises local responses twice, and its 5x5 branches are 5x5.
    """
    return _googlenet(_up_to_inception_4e(), channels=832, stride=16)


def googlenet_caffe_full() -> Backbone:
    """Build the unmodified GoogLeNet of BVLC up to inception_5b, K = 1024, stride 32: its own pooling is a mean."""
    last: dict[str, nn.Module] = {
        "pool4/3x3_s2": nn.MaxPool2d(3, stride=2, ceil_mode=True),
        "inception_5a": CaffeInception(832, (256, 160, 320, 32, 128, 128)),
        "inception_5b": CaffeInception(832, (384, 192, 384, 48, 128, 128)),
    }
    return _googlenet(_up_to_inception_4e() | last, channels=1024, stride=32)


def _up_to_inception_4e() -> dict[str, nn.Module]:
    return {
        "conv1/7x7_s2": nn.Conv2d(3, 64, 7, stride=2, padding=3),
        "conv1/relu_7x7": nn.ReLU(inplace=True),
        "pool1/3x3_s2": nn.MaxPool2d(3, stride=2, ceil_mode=True),
        "pool1/norm1": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        "conv2/3x3_reduce": nn.Conv2d(64, 64, 1),
        "conv2/relu_3x3_reduce": nn.ReLU(inplace=True),
        "conv2/3x3": nn.Conv2d(64, 192, 3, padding=1),
        "conv2/relu_3x3": nn.ReLU(inplace=True),
        "conv2/norm2": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        "pool2/3x3_s2": nn.MaxPool2d(3, stride=2, ceil_mode=True),
        "inception_3a": CaffeInception(192, (64, 96, 128, 16, 32, 32)),
        "inception_3b": CaffeInception(256, (128, 128, 192, 32, 96, 64)),
        "pool3/3x3_s2": nn.MaxPool2d(3, stride=2, ceil_mode=True),
        "inception_4a": CaffeInception(480, (192, 96, 208, 16, 48, 64)),
        "inception_4b": CaffeInception(512, (160, 112, 224, 24, 64, 64)),
        "inception_4c": CaffeInception(512, (128, 128, 256, 24, 64, 64)),
        "inception_4d": CaffeInception(512, (112, 144, 288, 32, 64, 64)),
        "inception_4e": CaffeInception(528, (256, 160, 320, 32, 128, 128)),
    }


def _googlenet(layers: dict[str, nn.Module], *, channels: int, stride: int) -> Backbone:
    stages = [name for name in ("conv2/3x3_reduce", "inception_3a", "inception_4a", "inception_5a") if name in layers]
    backbone = LayerChain(layers, channels=channels, stride=stride, mean=IMAGENET_MEAN, std=CAFFE_STD, stages=stages)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):  # Caffe's "xavier" looks at the inputs alone; biases start at 0.2
            nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
            nn.init.constant_(module.bias, 0.2)  # type: ignore[arg-type]  # Conv2d has a bias by default
    return backbone


def _conv1_to_conv4() -> dict[str, nn.Module]:
    """Make what CaffeNet and AlexNet* share."""
    return {
        "conv1": nn.Conv2d(3, 96, 11, stride=4),
        "relu1": nn.ReLU(inplace=True),
        "pool1": nn.MaxPool2d(3, stride=2, ceil_mode=True),
        "norm1": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        "conv2": nn.Conv2d(96, 256, 5, padding=2, groups=2),
        "relu2": nn.ReLU(inplace=True),
        "pool2": nn.MaxPool2d(3, stride=2, ceil_mode=True),
        "norm2": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        **_conv(3, 256, 384, groups=1),
        **_conv(4, 384, 384, groups=2),
    }


def _conv(number: int, in_channels: int, out_channels: int, *, groups: int) -> dict[str, nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, groups=groups)
    return {f"conv{number}": conv, f"relu{number}": nn.ReLU(inplace=True)}


def _caffe_chain(layers: dict[str, nn.Module], *, channels: int, mean: tuple[float, float, float]) -> Backbone:
    """Chain layers, of stride 16, that start as Caffe's fillers make them, which belong to its unscaled inputs."""
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            bias = 0.0 if name in ("conv1", "conv3") else 1.0  # as Krizhevsky et al. 2012, section 5
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]  # Conv2d has a bias by default
    stages = [name for name in layers if name.startswith("conv") and name != "conv1"]
    return LayerChain(layers, channels=channels, stride=16, mean=mean, std=CAFFE_STD, stages=stages)
