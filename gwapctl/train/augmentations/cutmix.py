"""CutMix (Yun et al., ICCV 2019, arXiv 1905.04899, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gwapctl.train.augmentations import Augmented

ALPHA = 1.0  # of Beta(alpha, alpha): the share that an image keeps is uniform


def cutmix(images: Tensor, labelled: int, mean: Tensor, generator: np.random.Generator) -> Augmented:
    """Paste the same box of another image of the batch into each of the ``labelled`` images.

    The share lambda that an image keeps is drawn from Beta(``ALPHA``, ``ALPHA``), the box's centre uniformly; its sides
    are W and H times sqrt(1 - lambda) (equation 2). A box that reaches out of the image is cut off there, and lambda is
    then the share that is truly kept, as in the authors' code and wsolevaluation's (``cutmix_beta`` 1,
    ``cutmix_prob`` 1: every batch). One box and one permutation per batch.
    """
    del mean
    height, width = images.shape[2:]
    side = np.sqrt(1 - generator.beta(ALPHA, ALPHA))
    (top, bottom), (left, right) = (_span(length, side, generator) for length in (height, width))
    partners = torch.from_numpy(generator.permutation(labelled))
    images[:labelled, :, top:bottom, left:right] = images[partners, :, top:bottom, left:right]
    return Augmented(images, partners, 1 - (bottom - top) * (right - left) / (height * width))


def _span(length: int, share: float, generator: np.random.Generator) -> tuple[int, int]:
    """Return first and last (exclusive) pixel of ``share`` of a side, around a random one, as far as they lie on it."""
    centre, half = int(generator.integers(length)), int(length * share) // 2
    return max(0, centre - half), min(length, centre + half)
