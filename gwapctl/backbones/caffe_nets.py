"""Networks as Caffe defines them, layer by layer under Caffe's names: CaffeNet, CAM's AlexNet*, Network in Network."""

from __future__ import annotations

from torch import nn

from gwapctl.backbones.base import Backbone, LayerChain

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
    layers = _conv1_to_conv4() | _conv(5, 384, 256, groups=2)
    return _caffe_chain(layers, channels=256, stride=16, mean=FAST_RCNN_MEAN)


def alexnet_star() -> Backbone:
    """Build CAM's AlexNet* up to conv7's ReLU (arXiv 1512.04150 and its released prototxt): K = 512, stride 16.

    conv5 has 384 channels, pool5 has stride 1, conv6 and conv7 follow: 11 x 11 cells at 227 pixels. With head ``gap``
    and its dropout of 0.5 it is AlexNet*-GAP.
    """
    layers = _conv1_to_conv4() | _conv(5, 384, 384, groups=2)
    layers["pool5"] = nn.MaxPool2d(3, stride=1)
    layers |= _conv(6, 384, 512, groups=2) | _conv(7, 512, 512, groups=2)
    return _caffe_chain(layers, channels=512, stride=16, mean=IMAGENET_MEAN)


def nin() -> Backbone:
    """Build Network in Network for ImageNet (Lin et al., arXiv 1312.4400) up to the layer before its class scores.

    K = 1024, stride 32. Its own pooling is a mean, so the head is ``gap``. The released network has a ReLU between
    class scores and mean, which a linear head has not: a departure.
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
    return LayerChain(with_relu, channels=1024, stride=32, mean=IMAGENET_MEAN, std=CAFFE_STD)


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


def _caffe_chain(
    layers: dict[str, nn.Module], *, channels: int, stride: int, mean: tuple[float, float, float]
) -> Backbone:
    """Chain layers that start as Caffe's fillers make them, which belong to its unscaled inputs."""
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            bias = 0.0 if name in ("conv1", "conv3") else 1.0  # as Krizhevsky et al. 2012, section 5
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]  # Conv2d has a bias by default
    return LayerChain(layers, channels=channels, stride=stride, mean=mean, std=CAFFE_STD)
