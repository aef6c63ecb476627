"""Heads that score every position for every class, then pool the scores: GMP, LSE, WELDON, WILDCAT, class-wise GWAP.

Their localization map is the score map S ``(B, C, h, w)``: one linear layer (a 1x1 convolution) on every position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gwapctl.errors import UsageError
from gwapctl.networks.backbones.base import start_gaussian
from gwapctl.networks.heads.averaging import PoolThenClassify
from gwapctl.networks.heads.base import Head, HeadOutput, at_least_float32, without_autocast


class ScoreThenPool(Head):
    """A head that computes ``S_c(x, y) = w_c F(x, y) + b_c`` and pools it with ``pool``."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classifier = start_gaussian(nn.Linear(channels, classes))

    def pool(self, scores: Tensor) -> Tensor:
        """Pool scores ``(B, C, N)`` to logits ``(B, C)``."""
        raise NotImplementedError

    def class_weights(self) -> Tensor:
        """Return the weights of S, ``(C, K)``."""
        return self.classifier.weight

    def score(self, feature_map: Tensor) -> Tensor:
        """Return S of every position, ``(B, C, N)``."""
        return _score(self.classifier, feature_map)

    def forward(self, feature_map: Tensor) -> HeadOutput:
        """Map ``(B, K, h, w)`` to logits ``(B, C)`` and the score map ``(B, C, h, w)``."""
        with without_autocast(feature_map):
            scores = self.score(feature_map)
            return HeadOutput(self.pool(scores), score_map=scores.reshape(*scores.shape[:2], *feature_map.shape[2:]))


class GAPReLU(ScoreThenPool):
    """Global average pooling of rectified scores: ``s_c = mean max(0, S_c(x, y))``.

    What Network in Network ends with (Lin et al., arXiv 1312.4400; ``relu12`` and ``pool4`` of its release for
    ImageNet). Without the ReLU it is ``gap``.
    """

    def score(self, feature_map: Tensor) -> Tensor:
        """Return ``max(0, S)`` of every position, ``(B, C, N)``."""
        return torch.relu(super().score(feature_map))

    def pool(self, scores: Tensor) -> Tensor:
        """Pool scores ``(B, C, N)`` to logits ``(B, C)``."""
        return scores.mean(dim=2)


class GMP(ScoreThenPool):
    """Global max pooling of scores (Oquab et al., CVPR 2015): ``s_c = max S_c(x, y)``."""

    def pool(self, scores: Tensor) -> Tensor:
        """Pool scores ``(B, C, N)`` to logits ``(B, C)``."""
        return scores.amax(dim=2)


class GMPFeatures(PoolThenClassify):
    """Global max pooling of features: ``f_k = max F_k(x, y)``, then one linear layer.

    CAM's GoogLeNet-GMP (arXiv 1512.04150, section 3): the GoogLeNet-GAP network with the mean replaced by the maximum.
    """

    def forward(self, feature_map: Tensor) -> HeadOutput:
        """Map ``(B, K, h, w)`` to logits ``(B, C)``."""
        with without_autocast(feature_map):
            return HeadOutput(self.classify(at_least_float32(feature_map).amax(dim=(2, 3))))


class LSE(ScoreThenPool):
    """Log-sum-exp pooling (Pinheiro and Collobert, arXiv 1411.6228): ``s_c = 1/r log(1/N sum exp(r S_c))``.

    ``r`` > 0 is its sharpness; towards 0 it is the mean, towards infinity the maximum.
    """

    def __init__(self, channels: int, classes: int, r: float = 5.0) -> None:
        super().__init__(channels, classes)
        if not r > 0:
            raise UsageError(f"head lse: r must be above 0, not {r}. Choose head gap for the mean.")
        self.r = r

    def pool(self, scores: Tensor) -> Tensor:
        """Pool scores ``(B, C, N)`` to logits ``(B, C)``."""
        return (torch.logsumexp(self.r * scores, dim=2) - math.log(scores.shape[2])) / self.r


class WELDON(ScoreThenPool):
    """Mean of the highest plus mean of the lowest scores (Durand et al., WELDON, CVPR 2016).

    ``s_c = mean(top-k+ of S_c) + mean(bottom-k- of S_c)``: the lowest ones speak against the class. At most all
    positions are taken. The paper's k was not found: 3 is ours.
    """

    def __init__(self, channels: int, classes: int, k_plus: int = 3, k_minus: int = 3) -> None:
        super().__init__(channels, classes)
        _check_counts("weldon", k_plus, k_minus)
        self.k_plus, self.k_minus = k_plus, k_minus

    def pool(self, scores: Tensor) -> Tensor:
        """Pool scores ``(B, C, N)`` to logits ``(B, C)``."""
        return mean_of_extremes(scores, self.k_plus, self.k_minus, 1.0)


class WILDCAT(ScoreThenPool):
    """Several maps per class, their mean pooled over its extremes (Durand et al., WILDCAT, CVPR 2017).

    ``S_c = mean of M maps``, ``s_c = mean(top-k+ of S_c) + a mean(bottom-k- of S_c)``. The released code also halves
    the sum where both terms are there; the paper does not, and neither do we. Its VOC 2007 settings are the defaults.

    Args:
        maps: M.
        k_plus: positions taken; below 1 a share of all of them.
        k_minus: the same for the lowest; None: as ``k_plus``, 0: none.
        a: weight of the lowest.

    """

    def __init__(
        self,
        channels: int,
        classes: int,
        maps: int = 8,
        k_plus: float = 0.2,
        k_minus: float | None = None,
        a: float = 0.7,
    ) -> None:
        k_minus = k_plus if k_minus is None else k_minus
        _check_counts("wildcat", k_plus, k_minus)
        if maps < 1:
            raise UsageError(f"head wildcat: maps must be at least 1, not {maps}.")
        super().__init__(channels, classes * maps)
        self.maps, self.k_plus, self.k_minus, self.a = maps, k_plus, k_minus, a

    def class_weights(self) -> Tensor:
        """Return the mean weights of the M maps of each class, ``(C, K)``."""
        weights = self.classifier.weight  # (C M, K)
        return weights.reshape(-1, self.maps, weights.shape[1]).mean(1)

    def score(self, feature_map: Tensor) -> Tensor:
        """Return S of every position, the mean of M maps, ``(B, C, N)``."""
        scores = super().score(feature_map)  # (B, C M, N)
        return scores.reshape(scores.shape[0], -1, self.maps, scores.shape[2]).mean(2)

    def pool(self, scores: Tensor) -> Tensor:
        """Pool scores ``(B, C, N)`` to logits ``(B, C)``."""
        return mean_of_extremes(scores, self.k_plus, self.k_minus, self.a)


class GWAPClass(ScoreThenPool):
    """Class-specific global weighted average pooling (Qiu, arXiv 1809.08264, eq. 6-9).

    With the score map S of C classes and one more map for the background,
    ``O = softmax over the C + 1 channels`` (6), ``M_c = O_c sigmoid(S_c)`` (7), ``alpha_c = softmax of M_c over
    positions`` (8), ``s_c = sum alpha_c S_c`` (9). The printed sum of (6) runs to C; it must run to C + 1 for "every
    position belongs to one class" to hold.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.background = start_gaussian(nn.Linear(channels, 1))

    def forward(self, feature_map: Tensor) -> HeadOutput:
        """Map ``(B, K, h, w)`` to logits ``(B, C)``, weight maps and score maps, ``(B, C, h, w)`` each."""
        with without_autocast(feature_map):
            scores = self.score(feature_map)  # S, (B, C, N)
            background = _score(self.background, feature_map)  # (B, 1, N)
            owner = torch.softmax(torch.cat([scores, background], dim=1), dim=1)[:, :-1]  # O_c of the C classes
            alpha = torch.softmax(owner * torch.sigmoid(scores), dim=2)
            logits = (alpha * scores).sum(dim=2)
            grid = (*scores.shape[:2], *feature_map.shape[2:])
            return HeadOutput(logits, alpha.reshape(grid), scores.reshape(grid))


def mean_of_extremes(scores: Tensor, k_plus: float, k_minus: float, a: float) -> Tensor:
    """Return ``mean(top-k+) + a mean(bottom-k-)`` over the last dimension: ``(B, C, N)`` -> ``(B, C)``."""
    top = scores.topk(_count(k_plus, scores.shape[2]), dim=2, sorted=False).values.mean(dim=2)
    if k_minus == 0 or a == 0:
        return top
    bottom = scores.topk(_count(k_minus, scores.shape[2]), dim=2, largest=False, sorted=False).values.mean(dim=2)
    return top + a * bottom


def _count(k: float, positions: int) -> int:
    """Return how many of N positions ``k`` stands for: a share below 1, else a number; at least 1, at most N."""
    return min(positions, max(1, round(k * positions) if k < 1 else int(k)))


def _check_counts(head: str, k_plus: float, k_minus: float) -> None:
    if not (k_plus > 0 and k_minus >= 0):
        raise UsageError(f"head {head}: k_plus must be above 0 and k_minus not below, not {k_plus} and {k_minus}.")


def _score(layer: nn.Linear, feature_map: Tensor) -> Tensor:
    """Apply a linear layer at every position: ``(B, K, h, w)`` -> ``(B, C, N)``."""
    return layer.weight @ at_least_float32(feature_map).flatten(2) + layer.bias[:, None]
