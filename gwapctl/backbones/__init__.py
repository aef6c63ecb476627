"""Every backbone by name. A new one is a function or class, one line in ``BACKBONES`` and one test row."""

from __future__ import annotations

from collections.abc import Callable

from gwapctl.backbones.base import Backbone
from gwapctl.backbones.caffe_nets import alexnet_star, caffenet, googlenet_caffe, nin
from gwapctl.backbones.caffemodel import caffe_weights
from gwapctl.backbones.cam_conv import WithCamConv
from gwapctl.backbones.pretrained import PretrainedWeights
from gwapctl.backbones.resnet_s import ResNetS
from gwapctl.backbones.timm_nets import PREFIX, timm_backbone, timm_weights
from gwapctl.backbones.torchvision_nets import (
    WEIGHTS,
    alexnet,
    googlenet,
    googlenet_full,
    imagenet_classifier,
    inception_v3_spg,
    resnet18,
    resnet50,
    vgg16,
)
from gwapctl.errors import UsageError, unknown_name

__all__ = [
    "BACKBONES",
    "Backbone",
    "PretrainedWeights",
    "build_backbone",
    "caffe_weights",
    "imagenet_classifier",
    "pretrained_weights_info",
]

# what builds a backbone: with ``pretrained=True`` from ImageNet where WEIGHTS has its weights, else from scratch
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "alexnet": alexnet,
    "alexnet-star": alexnet_star,
    "caffenet": caffenet,
    "googlenet": googlenet,
    "googlenet-caffe": googlenet_caffe,
    "googlenet-full": googlenet_full,
    "inception-v3-spg": inception_v3_spg,
    "nin": nin,
    "resnet-s": ResNetS,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "vgg16": vgg16,
}
# what may follow a name, and the groups of the extra convolution it stands for
_CAM_CONV = {"+cam": 1, "+cam2": 2}


def build_backbone(name: str, *, pretrained: bool = False) -> Backbone:
    """Build the backbone ``name``, with ImageNet weights where ``pretrained``.

    Args:
        name: one of ``BACKBONES`` or ``timm:NAME``; with ``+cam`` (or ``+cam2`` for two groups) behind it, CAM's extra
            3x3 convolution of 1024 channels follows.
        pretrained: load ImageNet weights; they are downloaded once (``pretrained_weights_info`` says from where).

    Raises:
        UsageError: there is no such backbone (the message names the nearest), or it has no ImageNet weights.
        MissingDependencyError: ``timm:NAME`` without timm.
        ModelError: the weights cannot be fetched.

    """
    for suffix, groups in _CAM_CONV.items():
        if name.endswith(suffix):
            return WithCamConv(build_backbone(name.removesuffix(suffix), pretrained=pretrained), groups=groups)
    if name.startswith(PREFIX):
        return timm_backbone(name.removeprefix(PREFIX), pretrained=pretrained)
    if name not in BACKBONES:
        raise unknown_name("backbone", name, [*BACKBONES, "timm:NAME"])
    if not pretrained:
        return BACKBONES[name]()
    if pretrained_weights_info(name) is None:
        raise UsageError(
            f"{name} has no ImageNet weights to download. Use --weights none, a run or a zoo entry of ours."
        )
    return BACKBONES[name](pretrained=True)


def pretrained_weights_info(name: str) -> PretrainedWeights | None:
    """Return ``(url, size_mb)`` of what ``build_backbone(name, pretrained=True)`` downloads; None: it has no weights.

    ``.cached`` on the result says that the file is here already.

    Raises:
        UsageError: there is no such backbone.
        MissingDependencyError: ``timm:NAME`` without timm.

    """
    for suffix in _CAM_CONV:
        name = name.removesuffix(suffix)
    if name.startswith(PREFIX):
        return timm_weights(name.removeprefix(PREFIX))
    if name not in BACKBONES:
        raise unknown_name("backbone", name, [*BACKBONES, "timm:NAME"])
    return WEIGHTS.get(name)
