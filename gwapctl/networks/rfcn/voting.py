"""Position-sensitive maps, the pooling of regions on them, and their vote (R-FCN, arXiv 1605.06409, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import ps_roi_align, ps_roi_pool

from gwapctl.networks.heads.base import without_autocast
from gwapctl.networks.rfcn.proposals import new_conv


class RegionVotes(nn.Module):
    """One 1x1 convolution to ``k^2 (C + 1)`` score maps and ``4 k^2`` box maps, and per region the mean of its bins.

    The box maps do not know classes, as in the paper; both released codes have a second set for the background, which
    nothing trains. Scores and boxes are one convolution and one pooling for speed.

    Args:
        channels: of the shared features.
        classes: C; class 0 of the scores is the background.
        k: bins per side.
        stride: input pixels per cell.
        pooling: ``ps_roi_pool`` is R-FCN's own, ``ps_roi_align`` the smooth one with four samples a bin.

    """

    def __init__(
        self, channels: int, classes: int, k: int, stride: int, pooling: Literal["ps_roi_pool", "ps_roi_align"]
    ) -> None:
        super().__init__()
        self.classes, self.k, self.stride, self.pooling = classes, k, stride, pooling
        self.maps = new_conv(channels, (classes + 1 + 4) * k * k, 1)

    def forward(self, features: Tensor, regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return class scores ``(R, C + 1)`` and box offsets ``(R, 4)`` of all regions, image after image.

        Args:
            features: (B, K, h, w).
            regions: of each image, (N, 4) in input pixels.

        """
        votes = pool_votes(self.maps(features), regions, self.k, self.stride, self.pooling)
        return votes[:, : self.classes + 1], votes[:, self.classes + 1 :]


def pool_votes(maps: Tensor, regions: Sequence[Tensor], k: int, stride: int, pooling: str) -> Tensor:
    """Pool regions bin by bin, each bin on a map of its own, and average the bins: ``(B, D k^2, h, w)`` -> ``(R, D)``.

    Channel ``(d k + i) k + j`` belongs to output d and the bin of row i, column j. A region's edges are rounded to
    cells, its end is exclusive (Caffe's layer adds a cell after rounding). torchvision's ``ps_roi_pool`` leaves out the
    last row and column of every map, so the maps get one more. There is no kernel for half precision on the CPU.
    """
    with without_autocast(maps):
        maps = maps.float()
        if pooling == "ps_roi_align":
            pooled = ps_roi_align(maps, list(regions), k, 1 / stride, sampling_ratio=2)
        else:
            pooled = ps_roi_pool(functional.pad(maps, (0, 1, 0, 1)), list(regions), k, 1 / stride)
        return pooled.mean(dim=(2, 3))  # type: ignore[no-any-return]  # torchvision is untyped
