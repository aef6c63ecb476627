"""What a step of a classifier's training is given, and what comes out of the network."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gwapctl.networks.heads.base import HeadOutput


class Batch(NamedTuple):
    """Images or feature maps, the indices of samples ``(B,)``, and how labels are mixed (``Augmented``).

    Of several processes each has the images of its part; all else is the whole batch's.
    """

    images: Tensor
    indices: Tensor
    partners: Tensor | None = None
    share: float = 1.0


class Labelled(NamedTuple):
    """A batch's output, labels (n, C) in {0, 1}, how much they count (n, C), and how they are mixed (``Augmented``)."""

    output: HeadOutput
    labels: Tensor
    label_mask: Tensor
    partners: Tensor | None
    share: float
