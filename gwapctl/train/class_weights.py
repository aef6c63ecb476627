"""How much the images of each class count, so that a class of few images is learned as well as one of many."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gwapctl.datasets.base import ClassName
from gwapctl.errors import setting

UNEVEN = 3.0  # images of the largest class per image of the smallest, above which classes are weighted


def balancing_weights(labels: Tensor) -> Tensor | None:
    """Return one weight per class (C,), with which the positive labels (n, C) of every class weigh the same in total.

    ``w_c = N / (C n_c)``, of n_c labels of the class and N of all: a label weighs 1 on average. None where no class
    has more than ``UNEVEN`` times the images of another. A class without any image does not count and weighs 1.

    >>> import torch
    >>> balancing_weights(torch.tensor([[1.0, 0.0]] * 8 + [[0.0, 1.0]] * 2)).tolist()
    [0.625, 2.5]
    >>> balancing_weights(torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 1)) is None
    True
    """
    counts = labels.sum(dim=0)
    present = counts > 0
    if present.sum() < 2 or counts[present].max() <= UNEVEN * counts[present].min():
        return None
    weights = counts.sum() / (present.sum() * counts.clamp(min=1))
    return weights.where(present, weights.new_ones(()))


def weights_remark(weights: Tensor, classes: Sequence[ClassName]) -> str:
    """Say in a line which class weighs most and which least."""
    most, least = int(weights.argmax()), int(weights.argmin())
    return (
        f"classes differ by more than a factor of {UNEVEN:g}, so rare ones weigh more: {weights[most]:.2f} for "
        f"{classes[most].name}, {weights[least]:.2f} for {classes[least].name} "
        f"({setting('class_weights', 'none')}: all the same)"
    )
