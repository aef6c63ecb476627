"""Every backbone by name. A new one is a function or class, one line in ``BACKBONES`` and one test row."""

from __future__ import annotations

from collections.abc import Callable

from gwapctl.backbones.base import Backbone
from gwapctl.backbones.resnet_s import ResNetS
from gwapctl.errors import UsageError, unknown_name


def _resnet_s(*, pretrained: bool) -> Backbone:
    if pretrained:
        raise UsageError("resnet-s has no ImageNet weights. Use --weights none, or a run or zoo entry of ours.")
    return ResNetS()


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet-s": _resnet_s,
}


def build_backbone(name: str, *, pretrained: bool = False) -> Backbone:
    """Build the backbone ``name``, with ImageNet weights where ``pretrained``.

    Raises:
        UsageError: there is no such backbone (the message names the nearest), or it has no ImageNet weights.

    """
    if name not in BACKBONES:
        raise unknown_name("backbone", name, BACKBONES)
    return BACKBONES[name](pretrained=pretrained)
