"""``caffenet``: BVLC's reference CaffeNet, the paper's network "C", as Caffe defines it."""

from __future__ import annotations

from torch import nn

from gwapctl.backbones.base import Backbone, LayerChain

# Caffe feeds 0..255 minus a mean, unscaled: Fast R-CNN's mean (102.9801, 115.9465, 122.7717 in BGR), here in RGB.
# Its BGR order concerns weights alone: whoever converts them turns conv1's input channels around once.
CAFFE_MEAN = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)


def caffenet() -> Backbone:
    """Build CaffeNet up to conv5's ReLU, pool5 dropped (GWAP, arXiv 1809.08264, section IV): K = 256, stride 16.

    Unlike torchvision's AlexNet it has two groups in conv2, conv4 and conv5, local response normalisation after the
    pooling, and rounds grid sizes up when it pools: 600 pixels become 37 cells.
    """
    backbone = LayerChain(
        {
            "conv1": nn.Conv2d(3, 96, 11, stride=4),
            "relu1": nn.ReLU(inplace=True),
            "pool1": nn.MaxPool2d(3, stride=2, ceil_mode=True),
            "norm1": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
            "conv2": nn.Conv2d(96, 256, 5, padding=2, groups=2),
            "relu2": nn.ReLU(inplace=True),
            "pool2": nn.MaxPool2d(3, stride=2, ceil_mode=True),
            "norm2": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
            "conv3": nn.Conv2d(256, 384, 3, padding=1),
            "relu3": nn.ReLU(inplace=True),
            "conv4": nn.Conv2d(384, 384, 3, padding=1, groups=2),
            "relu4": nn.ReLU(inplace=True),
            "conv5": nn.Conv2d(384, 256, 3, padding=1, groups=2),
            "relu5": nn.ReLU(inplace=True),
        },
        channels=256,
        stride=16,
        mean=CAFFE_MEAN,
        std=CAFFE_STD,
    )
    # Caffe's fillers, which belong to its unscaled inputs: Gaussian of 0.01, biases of the even-numbered layers and
    # conv5 start at 1 (Krizhevsky et al. 2012, section 5)
    for name, layer in backbone.named_children():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, 1.0 if name in ("conv2", "conv4", "conv5") else 0.0)
    return backbone
