"""Every pooling head by name: from a feature map to logits, and to the map that says where.

Words: ``feature_map`` F (B, K, h, w); ``weight_map`` alpha (B, 1 | C, h, w), sums to 1 over positions; ``score_map``
s_c(x, y) (B, C, h, w); ``logits`` (B, C).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gwapctl.errors import unknown_name


class HeadOutput(NamedTuple):
    """What a head returns. A map that the head does not have, or does not compute in forward, is None."""

    logits: Tensor
    weight_map: Tensor | None = None
    score_map: Tensor | None = None


class PoolThenClassify(nn.Module):
    """A head that pools the feature map to one vector and classifies it with one linear layer.

    Aggregating features and aggregating scores are the same thing (GWAP, arXiv 1809.08264, eq. 1 and 2), so the class
    maps follow from the linear layer; they are computed for the classes asked for, never for all.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, classes)
        # CAM's released files start every new layer from a Gaussian of 0.01
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def class_map(self, feature_map: Tensor, classes: Tensor) -> Tensor:
        """Return the class activation maps ``sum_k w_k^c f_k(x, y)`` (CAM, arXiv 1512.04150, eq. 2), without bias.

        Args:
            feature_map: (B, K, h, w).
            classes: (B, k) class indices, each image's own.

        Returns:
            (B, k, h, w) in float32. Weighted by the pooling weights and summed, plus the bias, it is the logit.

        """
        weights = self.classifier.weight.float()[classes]  # (B, k, K)
        return torch.einsum("bck,bkhw->bchw", weights, feature_map.float())


class GAP(PoolThenClassify):
    """Global average pooling (Lin et al.; CAM, arXiv 1512.04150): ``f = mean F(x, y)``, then one linear layer."""

    def forward(self, feature_map: Tensor) -> HeadOutput:
        """Map ``(B, K, h, w)`` to logits ``(B, C)``. There is no weight map: every position counts the same."""
        with torch.autocast(feature_map.device.type, enabled=False):
            pooled = feature_map.mean(dim=(2, 3), dtype=torch.float32)  # (B, K)
            return HeadOutput(self.classifier(pooled))


class GWAP(PoolThenClassify):
    """Class-agnostic global weighted average pooling (Qiu, arXiv 1809.08264, eq. 3-5).

    ``M = exp(sigmoid(w F + b))`` (3), ``alpha = M / sum M`` (4), ``f = sum alpha F`` (5), then one linear layer. (3)
    and (4) together are a softmax over positions of ``sigmoid(w F + b)``, which is how they are computed; pooling runs in
    float32 also under autocast. ``w`` starts near zero, so training starts at GAP: our choice.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.weight_score = nn.Conv2d(channels, 1, kernel_size=1)  # w and b of eq. 3
        nn.init.normal_(self.weight_score.weight, std=0.01)
        nn.init.zeros_(self.weight_score.bias)  # type: ignore[arg-type]  # Conv2d has a bias by default

    def forward(self, feature_map: Tensor) -> HeadOutput:
        """Map ``(B, K, h, w)`` to logits ``(B, C)`` and the weight map ``(B, 1, h, w)``."""
        batch, _, height, width = feature_map.shape
        with torch.autocast(feature_map.device.type, enabled=False):
            positions = feature_map.float().flatten(2)  # (B, K, N)
            score = torch.einsum("k,bkn->bn", self.weight_score.weight.flatten(), positions) + self.weight_score.bias
            alpha = torch.softmax(torch.sigmoid(score), dim=1)  # (B, N)
            pooled = torch.einsum("bn,bkn->bk", alpha, positions)  # (B, K)
            return HeadOutput(self.classifier(pooled), weight_map=alpha.view(batch, 1, height, width))


Head = PoolThenClassify

HEADS: dict[str, Callable[..., Head]] = {
    "gap": GAP,
    "gwap": GWAP,
}


def build_head(name: str, channels: int, classes: int) -> Head:
    """Build the head ``name`` for feature maps of ``channels`` and as many logits as ``classes``.

    Raises:
        UsageError: there is no such head; the message names the nearest.

    """
    if name not in HEADS:
        raise unknown_name("head", name, HEADS)
    return HEADS[name](channels, classes)
