"""The losses of R-FCN's regions: labels, online hard example mining, and the sum that is trained on."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def total_loss(losses: Mapping[str, Tensor], weak_weight: float = 0.1) -> Tensor:
    """Return ``loss_det + lambda loss_weak`` (arXiv 1809.08264, section III-D; lambda = 0.1 there)."""
    raise NotImplementedError
