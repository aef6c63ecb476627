"""Every backbone by name. A new one is a function or class, one line in ``BACKBONES`` and one test row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from torch import Tensor

from gwapctl.errors import UsageError, unknown_name
from gwapctl.networks.backbones.base import Backbone
from gwapctl.networks.backbones.caffe_nets import alexnet_star, caffenet, googlenet_caffe, nin
from gwapctl.networks.backbones.caffemodel import caffe_weights
from gwapctl.networks.backbones.cam_conv import WithCamConv
from gwapctl.networks.backbones.efficientnet_lite import efficientnet_lite0, efficientnet_lite2, package_weights
from gwapctl.networks.backbones.pretrained import PretrainedWeights, load_pretrained
from gwapctl.networks.backbones.resnet_s import ResNetS
from gwapctl.networks.backbones.timm_nets import PREFIX, timm_backbone, timm_weights
from gwapctl.networks.backbones.torchvision_nets import (
    WEIGHTS,
    alexnet,
    googlenet,
    googlenet_full,
    inception_v3_spg,
    resnet18,
    resnet50,
    vgg16,
)
from gwapctl.networks.weights_packages import WEIGHTS_PACKAGES

__all__ = [
    "BACKBONES",
    "Backbone",
    "PretrainedWeights",
    "build_backbone",
    "caffe_weights",
    "imagenet_classifier",
    "imagenet_weights",
    "own_names",
    "pretrained_weights_info",
]

# what builds a backbone: with ``pretrained=True`` from ImageNet where WEIGHTS has its weights, else from scratch
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "alexnet": alexnet,
    "alexnet-star": alexnet_star,
    "caffenet": caffenet,
    "efficientnet-lite0": efficientnet_lite0,
    "efficientnet-lite2": efficientnet_lite2,
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


# networks whose ImageNet classifier fits behind the whole of them: the head it is, and its name in their state dict
_CLASSIFIERS = {
    "alexnet": ("original", "classifier."),
    "vgg16": ("original", "classifier."),
    "googlenet-full": ("gap", "fc."),
    "resnet18": ("gap", "fc."),
    "resnet50": ("gap", "fc."),
    "efficientnet-lite0": ("gap", "classifier."),
    "efficientnet-lite2": ("gap", "classifier."),
}


def build_backbone(name: str, *, pretrained: bool = False, output_stride: int | None = None) -> Backbone:
    """Build the backbone ``name``, with ImageNet weights where ``pretrained``.

    Args:
        name: one of ``BACKBONES`` or ``timm:NAME``; with ``+cam`` (or ``+cam2`` for two groups) behind it, CAM's extra
            3x3 convolution of 1024 channels follows.
        pretrained: load ImageNet weights; they come from an installed package, or are downloaded once
            (``pretrained_weights_info`` says from where).
        output_stride: 8, 16 or 32 input pixels per cell, for networks that can; None: the network's own.

    Raises:
        UsageError: there is no such backbone (the message names the nearest), it has no ImageNet weights, or another
            stride and no choice.
        ModelError: the weights cannot be found or fetched.

    """
    for suffix, groups in _CAM_CONV.items():
        if name.endswith(suffix):
            base = build_backbone(name.removesuffix(suffix), pretrained=pretrained, output_stride=output_stride)
            return WithCamConv(base, groups=groups)
    if name.startswith(PREFIX):
        return timm_backbone(name.removeprefix(PREFIX), pretrained=pretrained, output_stride=output_stride)
    if name not in BACKBONES:
        raise unknown_name("backbone", name, [*BACKBONES, "timm:NAME"])
    if pretrained and not _has_weights(name):
        raise UsageError(
            f"{name} has no ImageNet weights to download. Use --weights none, a run or a zoo entry of ours."
        )
    options: dict[str, object] = {"pretrained": True} if pretrained else {}
    if _has_strides(name):
        options["output_stride"] = output_stride
    backbone = BACKBONES[name](**options)
    if output_stride not in (None, backbone.stride):
        able = ", ".join(other for other in BACKBONES if _has_strides(other))
        raise UsageError(
            f"{name} has stride {backbone.stride} and no other. Drop --output-stride {output_stride}, or choose one of "
            f"{able}, timm:NAME."
        )
    return backbone


def _has_strides(name: str) -> bool:
    return "output_stride" in inspect.signature(BACKBONES[name]).parameters


def _has_weights(name: str) -> bool:
    return name in WEIGHTS or name in WEIGHTS_PACKAGES


def pretrained_weights_info(name: str) -> PretrainedWeights | None:
    """Return ``(url, size_mb)`` of what ``build_backbone(name, pretrained=True)`` downloads; None: nothing.

    ``.cached`` on the result says that the file is here already.

    Raises:
        UsageError: there is no such backbone.

    """
    name = _without_cam_conv(name)
    if name.startswith(PREFIX):
        return timm_weights(name.removeprefix(PREFIX))
    if name not in BACKBONES:
        raise unknown_name("backbone", name, [*BACKBONES, "timm:NAME"])
    return WEIGHTS.get(name)


def _without_cam_conv(name: str) -> str:
    return name.removesuffix("+cam2").removesuffix("+cam")


def imagenet_weights(name: str, head: str) -> dict[str, Tensor]:
    """Return all ImageNet weights of the network ``name`` under the names of a classifier of ours with ``head``.

    The classifier, 1,000 classes in the order of sorted wnids, is among them where it fits (``own_names``).

    Raises:
        ModelError: the weights cannot be found or fetched.

    """
    tensors = package_weights(name) if name in WEIGHTS_PACKAGES else load_pretrained(WEIGHTS[name])
    return own_names(tensors, name, head)


def imagenet_classifier(name: str, head: str) -> dict[str, Tensor]:
    """Return the ImageNet classifier that belongs behind the whole network ``name``, by the names in ``head``.

    1,000 classes in the order of sorted wnids. Empty for a cut network, or one whose own pooling is another.

    Raises:
        ModelError: the weights cannot be found or fetched.

    """
    if _CLASSIFIERS.get(name, ("", ""))[0] != head:
        return {}
    named = imagenet_weights(name, head)
    return {key.removeprefix("head."): tensor for key, tensor in named.items() if key.startswith("head.")}


def own_names(tensors: Mapping[str, Tensor], name: str, head: str) -> dict[str, Tensor]:
    """Put ``backbone.`` and ``head.`` in front of the names that the network ``name`` has at torchvision's or timm's.

    Names that have it already stay. The network's own classifier is kept where the whole network stands before it and
    ``head`` is its pooling, else left out: behind a cut network, or another pooling, it would be noise.
    """
    if any(key.startswith(("backbone.", "head.")) for key in tensors):
        return dict(tensors)
    whole = name == _without_cam_conv(name)
    name = _without_cam_conv(name)
    of_timm = name.startswith(PREFIX) or name in WEIGHTS_PACKAGES
    own_head, classifier = _CLASSIFIERS.get(name, ("", ""))
    prefix = "backbone.network." if of_timm else "backbone."
    named = {}
    for key, tensor in tensors.items():
        if not classifier or not key.startswith(classifier):
            named[prefix + key] = tensor
        elif whole and head == own_head:
            named[f"head.classifier.{key.removeprefix(classifier)}"] = tensor
    return named
