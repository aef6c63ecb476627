"""Which settings of a ``Localizer`` go together, found out before anything runs, and the map that a model means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from gwapctl.errors import UsageError, any_of, unknown_name
from gwapctl.maps import MAPS, layer_maps
from gwapctl.maps.forward import blank_pass
from gwapctl.maps.methods import FUSIONS
from gwapctl.networks.classifier import Classifier
from gwapctl.networks.heads.base import Head
from gwapctl.regions.refine import SEGMENTATIONS

RESIZES = ("warp", "keep")
CROPS = ("none", "ten")


@torch.no_grad()
def default_map(model: Classifier) -> str:
    """Return the map that the head prefers, else the weight map, the class map, and where it has neither, backprop."""
    head = cast(Head, model.head)
    if head.map is not None:
        return head.map
    if blank_pass(model).output.weight_map is not None:
        return "weight"
    try:
        require_map(model, "class")
    except UsageError:
        return "backprop"
    return "class"


@torch.no_grad()
def require_map(model: Classifier, map_method: str) -> None:
    """Find out whether the head of ``model`` has a map, gradients apart, which every head has.

    Raises:
        UsageError: it has not; the message names one that it has.

    """
    if MAPS[map_method].source is None:
        trial = blank_pass(model)
        MAPS[map_method].read(trial, torch.zeros(1, 1, dtype=torch.long, device=trial.features.device))


def check_sizes(
    scales: Sequence[int] | None, *, resize: str | None, flip: bool, crops: str, close: float | None
) -> None:
    """Check what the network sees of an image.

    Raises:
        UsageError: an unknown name, a size that is none, or ten crops along with what they take the place of.

    """
    if resize is not None and resize not in RESIZES:
        raise unknown_name("resize", resize, RESIZES)
    if crops not in CROPS:
        raise unknown_name("crops", crops, CROPS)
    if min(scales or (1,)) < 1:
        raise UsageError(f"scales {tuple(scales or ())} are not sizes in pixels. Write them like 224,448,672.")
    if crops == "ten" and (scales or flip or resize == "keep"):
        raise UsageError("ten crops are of one size, warped and mirrored. Drop --scales, --flip and --resize keep.")
    if close is not None and not 0 <= close < 1:
        raise UsageError(f"close {close} is not a share of the shorter side from 0 to below 1. Write it like 5%.")


def check_map(map_method: str, *, layer: Sequence[str | int], fuse: str, backprop_seg: str) -> None:
    """Check how the map is read.

    Raises:
        UsageError: an unknown name, or an option that this map has no use for.

    """
    if map_method not in MAPS:
        raise unknown_name("map method", map_method, MAPS)
    if fuse not in FUSIONS:
        raise unknown_name("fusion", fuse, FUSIONS)
    if backprop_seg not in ("none", *SEGMENTATIONS):
        raise unknown_name("segmentation", backprop_seg, ("none", *SEGMENTATIONS))
    of_layers = layer_maps()
    if layer and map_method not in of_layers:
        raise UsageError(f"map {map_method} is not read at a layer. Drop --layer, or choose --map {any_of(of_layers)}.")
    if fuse != "mean" and len(layer) < 2:
        raise UsageError(f"--fuse {fuse} needs several layers. Give them like --layer 3,4, or drop it.")
    if backprop_seg != "none" and map_method != "backprop":
        raise UsageError(f"--backprop-seg cuts the map of backprop, not of {map_method}. Choose --map backprop.")
