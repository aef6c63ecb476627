"""Heads that average the feature map over positions, then classify: GAP, GWAP and GWAP's ablations.

Aggregating features and aggregating scores are the same thing (GWAP, arXiv 1809.08264, eq. 1 and 2; with a bias, too,
since the weights sum to 1), so class maps follow from the classifier: they are computed for the classes asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gwapctl.errors import UsageError
from gwapctl.networks.backbones.base import start_gaussian
from gwapctl.networks.heads.base import Head, HeadOutput, at_least_float32, without_autocast


class PoolThenClassify(Head):
    """A head that pools the feature map to one vector f and classifies it with one linear layer: ``s = W f + b``.

    ``dropout`` is the share of f that is dropped in training (0.5 in CAM's VGGnet-GAP and AlexNet*-GAP).
    """

    def __init__(self, channels: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UsageError(f"head option dropout must be at least 0 and below 1, not {dropout}.")
        self.dropout = dropout
        self.classifier = start_gaussian(nn.Linear(channels, classes))

    def classify(self, pooled: Tensor) -> Tensor:
        """Map f, ``(B, K)``, to logits ``(B, C)``."""
        if self.training and self.dropout:
            pooled = functional.dropout(pooled, self.dropout)
        return self.classifier(pooled)  # type: ignore[no-any-return]

    def class_weights(self) -> Tensor:
        """Return W, ``(C, K)``."""
        return self.classifier.weight


class GAP(PoolThenClassify):
    """Global average pooling (CAM, Zhou et al., arXiv 1512.04150): ``f = mean F(x, y)``, then one linear layer."""

    def forward(self, feature_map: Tensor) -> HeadOutput:
        """Map ``(B, K, h, w)`` to logits ``(B, C)``. There is no weight map: every position counts the same."""
        with without_autocast(feature_map):
            pooled = at_least_float32(feature_map).mean(dim=(2, 3))  # (B, K)
            return HeadOutput(self.classify(pooled))


class GWAP(PoolThenClassify):
    """Class-agnostic global weighted average pooling (Qiu, arXiv 1809.08264, eq. 3-5).

    ``M = exp(sigmoid(w F + b))`` (3), ``alpha = M / sum M`` (4), ``f = sum alpha F`` (5), then one linear layer. (3)
    and (4) together are a softmax over positions of ``sigmoid(w F + b)``, which is how they are computed. ``w`` starts
    near zero, so training starts at GAP: our choice.
    """

    def __init__(self, channels: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__(channels, classes, dropout)
        self.weight_score = start_gaussian(nn.Conv2d(channels, 1, kernel_size=1))  # w and b of eq. 3

    def score(self, features: Tensor) -> Tensor:
        """Return ``z = w F + b`` of every position, (B, N), of F (B, K, h, w).

        A product of matrices, for the gradient of a convolution to one channel takes four times as long on a CPU.
        """
        w, b = self.weight_score.parameters()  # (1, K, 1, 1) and (1,)
        return (w.flatten(1).expand(features.shape[0], 1, -1) @ features.flatten(2)).squeeze(1) + b

    def weights(self, score: Tensor) -> Tensor:
        """Turn z, (B, N), into alpha, (B, N)."""
        return torch.softmax(torch.sigmoid(score), dim=1)

    def forward(self, feature_map: Tensor) -> HeadOutput:
        """Map ``(B, K, h, w)`` to logits ``(B, C)`` and the weight map ``(B, 1, h, w)``."""
        with without_autocast(feature_map):
            features = at_least_float32(feature_map)
            alpha = self.weights(self.score(features))  # (B, N)
            return HeadOutput(self.classify(_aggregate(alpha, features)), _as_map(alpha, features))


class GWAPNoSigmoid(GWAP):
    """GWAP without sigmoid: ``M = exp(w F + b)``, the soft attention model (arXiv 1809.08264, section III-B).

    The bias has no effect: a softmax does not see a shift.
    """

    def weights(self, score: Tensor) -> Tensor:
        """Turn z, (B, N), into alpha = softmax(z), (B, N)."""
        return torch.softmax(score, dim=1)


class GWAPNoExp(GWAP):
    """GWAP without exp: ``M = sigmoid(w F + b)`` (arXiv 1809.08264, table I).

    ``alpha = sigmoid(z) / sum sigmoid(z)`` is a softmax over positions of ``log sigmoid(z)``: exact, and no epsilon is
    needed where all of them vanish.
    """

    def weights(self, score: Tensor) -> Tensor:
        """Turn z, (B, N), into alpha, (B, N)."""
        return torch.softmax(functional.logsigmoid(score), dim=1)


class GWAPgt(PoolThenClassify):
    """GWAP with given weights: 1 inside the ground-truth boxes, 0 outside, divided by their sum (table I, "GWAP-gt").

    The paper's upper bound; nothing about the weights is learnt. It sees boxes in training and in use.
    """

    sees_boxes = True

    def forward(self, feature_map: Tensor, region: Tensor | None = None) -> HeadOutput:
        """Map ``(B, K, h, w)`` to logits ``(B, C)`` and the weight map ``(B, 1, h, w)``.

        ``region`` (B, 1, H, W) is 1 on the union of the boxes of all objects and 0 elsewhere, at the size of the
        network input, and averaged down to the grid here; without one it is a ``UsageError``. An image without boxes
        weights all positions the same.
        """
        if region is None:
            raise UsageError("head gwap-gt pools inside ground-truth boxes, and there are none here. Choose head gwap.")
        with without_autocast(feature_map):
            features = at_least_float32(feature_map)
            height, width = features.shape[2:]
            covered = functional.adaptive_avg_pool2d(region.to(features.dtype), (height, width)).flatten(1)  # (B, N)
            covered = torch.where(covered.sum(1, keepdim=True) > 0, covered, 1.0)
            alpha = covered / covered.sum(1, keepdim=True)
            return HeadOutput(self.classify(_aggregate(alpha, features)), _as_map(alpha, features))


def _aggregate(alpha: Tensor, features: Tensor) -> Tensor:
    """Return ``f = sum alpha F`` (eq. 5), (B, K), of alpha (B, N) and F (B, K, h, w)."""
    return (alpha.unsqueeze(1) @ features.flatten(2).mT).squeeze(1)  # this way round no layout is copied


def _as_map(alpha: Tensor, features: Tensor) -> Tensor:
    """Lay alpha (B, N) out on the grid of the features: (B, 1, h, w)."""
    return alpha.reshape(alpha.shape[0], 1, *features.shape[2:])  # len() would fix the batch size of an export
