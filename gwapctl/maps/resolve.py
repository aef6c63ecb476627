"""What is asked about maps meets a model: names are looked up, and what was left open becomes what the model stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from gwapctl.errors import UsageError, option, unknown_name
from gwapctl.maps import MAPS, layer_maps
from gwapctl.maps.forward import blank_forward
from gwapctl.maps.layers import resolve_layers
from gwapctl.maps.methods import FUSIONS
from gwapctl.maps.reading import BETA, UNKNOWN, MapReading, ResolvedReading, stored_reading
from gwapctl.networks.classifier import Classifier
from gwapctl.networks.heads.base import Head
from gwapctl.regions.refine import SEGMENTATIONS


def resolve_reading(reading: MapReading, model: Classifier) -> ResolvedReading:
    """Return how maps of ``model`` are read where ``reading`` is asked for.

    Raises:
        UsageError: an unknown name, options that do not go together, or a layer that the model does not have.

    """
    asked = MapReading(**vars(reading))  # a resolved one has not been checked
    stored = stored_reading(model.info)
    width, height = model.info.input_size
    own = (width,) * (width == height)
    cropped = asked.crops != "none"
    resize = {"ten": "warp", "centre": asked.resize or "keep"}.get(asked.crops, asked.resize or model.info.resize)
    method = asked.method or stored.method or default_map(model)
    layer, fuse, beta = asked.layer or (), asked.fuse, asked.beta
    if not layer and asked.method in (None, stored.method):  # the stored layers are those of the stored map
        layer, fuse = stored.layer or (), fuse or stored.fuse
    if beta is None and asked.method in (None, stored.method):
        beta = stored.beta
    fuse = fuse or "mean"
    _check_map(method, layer, fuse, asked)
    return ResolvedReading(
        method,
        own if cropped else tuple(asked.scales or stored.scales or own),
        resolve_layers(model.backbone, layer),
        fuse,
        resize,
        asked.flip,
        model.info.close if asked.close is None else asked.close,
        asked.crops,
        asked.backprop_seg,
        BETA if beta is None else beta,
    )


def _check_map(method: str, layer: Sequence[str | int], fuse: str, asked: MapReading) -> None:
    """Check how the map is read."""
    backprop_seg = asked.backprop_seg
    if method not in MAPS:
        raise unknown_name("map method", method, MAPS)
    if fuse not in FUSIONS:
        raise unknown_name("fusion", fuse, FUSIONS)
    if backprop_seg not in ("none", *SEGMENTATIONS):
        raise unknown_name("segmentation", backprop_seg, ("none", *SEGMENTATIONS))
    of_layers = layer_maps()
    if layer and method not in of_layers:
        choice = option("map", *of_layers)
        raise UsageError(f"map {method} is not read at a layer. Drop {option('layer')}, or choose {choice}.")
    if fuse != "mean" and len(layer) < 2:
        several = option("layer", (3, 4))
        raise UsageError(f"{option('fuse', fuse)} needs several layers. Give them like {several}, or drop it.")
    if backprop_seg != "none" and method != "backprop":
        choice = option("map", "backprop")
        raise UsageError(f"{option('backprop_seg')} cuts the map of backprop, not of {method}. Choose {choice}.")
    for name in {name for other in MAPS.values() for name in other.options} - {*MAPS[method].options}:
        if getattr(asked, name) not in (None, getattr(UNKNOWN, name)):
            able = option("map", *(other for other, entry in MAPS.items() if name in entry.options))
            raise UsageError(f"{option(name)} is not of map {method}. Drop it, or choose {able}.")


@torch.no_grad()
def default_map(model: Classifier) -> str:
    """Return the map that the head prefers, else the weight map, the class map, and where it has neither, backprop."""
    head = cast(Head, model.head)
    if head.map is not None:
        return head.map
    if blank_forward(model).output.weight_map is not None:
        return "weight"
    try:
        require_map(model, "class")
    except UsageError:
        return "backprop"
    return "class"


@torch.no_grad()
def require_map(model: Classifier, map_method: str) -> None:
    """Raise ``UsageError``, which names a map that there is, where the head of ``model`` has no such map."""
    if MAPS[map_method].gradient_at is None:  # every head has those of gradients
        trial = blank_forward(model)
        MAPS[map_method].read(trial, torch.zeros(1, 1, dtype=torch.long, device=trial.features.device))
