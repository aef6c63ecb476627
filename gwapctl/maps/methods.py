"""Ways to read maps out of a forward pass. ``gwapctl.maps.MAPS`` has them by name, with those of ``gradients``.

Each takes a ``ForwardPass`` of B images and the classes asked for ``(B, k)``, and returns raw maps ``(B, k, h, w)``, or
``(B, 1, h, w)`` where one map stands for every class: a list, for methods that read inner layers give one per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from gwapctl.errors import UsageError, option
from gwapctl.maps.forward import ForwardPass
from gwapctl.networks.heads.averaging import PoolThenClassify


def weight_map(forward: ForwardPass, classes: Tensor) -> list[Tensor]:
    """Return the pooling weights α (GWAP eq. 4; one map for all classes, or eq. 8: those of ``classes``).

    A head that pools with fixed weights has no such map: ``UsageError``.
    """
    alpha = forward.output.weight_map
    if alpha is None:
        raise UsageError(
            f"this model's head has no weight map. Choose {option('map', 'class')}, or train with head gwap."
        )
    return [alpha if alpha.shape[1] == 1 else _of_classes(alpha, classes)]


def class_map(forward: ForwardPass, classes: Tensor) -> list[Tensor]:
    """Return the class activation maps ``sum_k w_k^c F_k`` without bias (CAM, arXiv 1512.04150, eq. 2)."""
    return [forward.head.class_map(forward.features, classes)]


def score_map(forward: ForwardPass, classes: Tensor) -> list[Tensor]:
    """Return s_c(x, y), bias included: what a head gives position (x, y) alone (GWAP, arXiv 1809.08264, eq. 1).

    A head that scores no positions has no such map: ``UsageError``.
    """
    if forward.output.score_map is not None:
        return [_of_classes(forward.output.score_map, classes)]
    if not isinstance(forward.head, PoolThenClassify):
        raise UsageError(f"this model's head gives single positions no score. Choose {option('map', 'backprop')}.")
    bias = forward.head.classifier.bias[classes]
    return [maps + bias[:, :, None, None] for maps in class_map(forward, classes)]


def fused_map(forward: ForwardPass, classes: Tensor) -> list[Tensor]:
    """Return the mean of α and the class map, each min-max normalised before.

    α says "object", the class map says "this class". Ours; no paper has it.
    """
    return [fuse_maps([*weight_map(forward, classes), *class_map(forward, classes)], "mean")]


def foreground_map(forward: ForwardPass, classes: Tensor) -> list[Tensor]:
    """Return the foreground map R of the head ``background``, which knows no class (after Kou et al.; ours).

    Another head has no such map: ``UsageError``.
    """
    if forward.output.presence is None:
        raise UsageError(f"this model's head has no foreground map. Choose {option('map', 'weight', 'class')}.")
    return weight_map(forward, classes)


def _of_classes(maps: Tensor, classes: Tensor) -> Tensor:
    """Pick ``classes`` (B, k) out of maps of all classes (B, C, h, w)."""
    return maps.gather(1, classes[:, :, None, None].expand(-1, -1, *maps.shape[2:]))


def minmax(maps: Tensor) -> Tensor:
    """Stretch each map of ``(B, k, h, w)`` to [0, 1]; a constant one becomes zeros."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    span = high - low
    return (maps - low) / torch.where(span > 0, span, 1)


FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda maps: maps.mean(0),
    "max": lambda maps: maps.amax(0),
    "product": lambda maps: maps.prod(0),
}


def fuse_maps(maps: Sequence[Tensor], fusion: str) -> Tensor:
    """Fuse maps ``(B, k, h, w)``, min-max normalised each, on the largest of their grids; one alone stays as it is.

    DGL's slides fuse the maps of two layers and do not say how: all three ways are ours.
    """
    if len(maps) == 1:
        return maps[0]
    classes, height, width = (max(one.shape[axis] for one in maps) for axis in (1, 2, 3))
    stretched = [
        functional.interpolate(minmax(one), (height, width), mode="bilinear", align_corners=False) for one in maps
    ]
    return FUSIONS[fusion](torch.stack([one.expand(-1, classes, -1, -1) for one in stretched]))
