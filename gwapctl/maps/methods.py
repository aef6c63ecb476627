"""Ways to read a map out of one forward pass. A new one is a function and a line in ``MAPS``.

Each takes the head, the feature map F ``(B, K, h, w)``, the head's output and the classes asked for ``(B, k)``, and
returns raw maps ``(B, k, h, w)``, or ``(B, 1, h, w)`` where one map stands for every class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gwapctl.errors import UsageError
from gwapctl.heads import Head, HeadOutput


@dataclass(frozen=True)
class MapMethod:
    """``read`` makes the maps. ``normalised``: they are in [0, 1] per map already, so their values are not raw."""

    read: Callable[[Head, Tensor, HeadOutput, Tensor], Tensor]
    normalised: bool = False


def weight_map(head: Head, feature_map: Tensor, output: HeadOutput, classes: Tensor) -> Tensor:
    """Return the pooling weights α (GWAP eq. 4; one map for all classes, or eq. 8: those of ``classes``).

    Raises:
        UsageError: the head pools with fixed weights and has no such map.

    """
    del head, feature_map
    alpha = output.weight_map
    if alpha is None:
        raise UsageError("this model's head has no weight map. Choose --map class, or train with --head gwap.")
    if alpha.shape[1] == 1:
        return alpha
    return alpha.gather(1, classes[:, :, None, None].expand(-1, -1, *alpha.shape[2:]))


def class_map(head: Head, feature_map: Tensor, output: HeadOutput, classes: Tensor) -> Tensor:
    """Return the class activation maps ``sum_k w_k^c F_k`` without bias (CAM, arXiv 1512.04150, eq. 2)."""
    del output
    return head.class_map(feature_map, classes)


def fused_map(head: Head, feature_map: Tensor, output: HeadOutput, classes: Tensor) -> Tensor:
    """Return the mean of α and the class map, each min-max normalised before and the mean after.

    α says "object", the class map says "this class". Ours; no paper has it.
    """
    alpha = minmax(weight_map(head, feature_map, output, classes))
    return minmax((alpha + minmax(class_map(head, feature_map, output, classes))) / 2)


def minmax(maps: Tensor) -> Tensor:
    """Stretch each map of ``(B, k, h, w)`` to [0, 1]; a constant one becomes zeros."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    span = high - low
    return (maps - low) / torch.where(span > 0, span, 1)


MAPS: dict[str, MapMethod] = {
    "weight": MapMethod(weight_map),
    "class": MapMethod(class_map),
    "fused": MapMethod(fused_map, normalised=True),
}
