"""Every training augmentation by name: what is done to a batch of images, beside crops and mirroring.

A new one is a function in a file of this folder, one entry in ``AUGMENTATIONS`` and its tests. Names need no torch: the
function's module is imported when a training uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Augmented(NamedTuple):
    """A batch of images ``(B, 3 | 4, H, W)``, and what became of their labels.

    ``share`` of the loss counts the images' own labels, the rest those of their ``partners`` (n,), indices of images in
    the batch; None: labels stay.
    """

    images: Tensor
    partners: Tensor | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Augmentation:
    """What is known of an augmentation without importing it.

    Attributes:
        path: ``module:function`` of what makes a batch another one. It takes images ``(B, 3 | 4, H, W)``, uint8, which
            it may change, how many of them come first and have labels, the mean colour (3,) in 0..255, and the
            generator of all chance in it, and returns ``Augmented``.
        label: what tables and figures call it.
        help: what it does, in one line.
        paper: where it comes from.
        settings: those that the paper found best, which it has.
        mixes_labels: an image may show the objects of another, whose label it gets a share of.

    """

    path: str
    label: str
    help: str
    paper: str
    settings: str
    mixes_labels: bool = False

    def load(self) -> Callable[[Tensor, int, Tensor, np.random.Generator], Augmented]:
        """Import what does it."""
        return resolve_name(self.path)  # type: ignore[no-any-return]


AUGMENTATIONS: dict[str, Augmentation] = {
    "has": Augmentation(
        "gwapctl.train.augmentations.has:hide_and_seek",
        "HaS",
        "hides random patches of an image",
        paper="Singh and Lee, Hide-and-Seek, ICCV 2017, 1704.04232",
        settings="7 x 7 patches (32 of 224 pixels), hidden with probability 0.5",
    ),
    "cutmix": Augmentation(
        "gwapctl.train.augmentations.cutmix:cutmix",
        "CutMix",
        "pastes a box of another image, mixes the labels",
        paper="Yun et al., CutMix, ICCV 2019, 1905.04899",
        settings="share of the image from Beta(1, 1), in every batch",
        mixes_labels=True,
    ),
}
