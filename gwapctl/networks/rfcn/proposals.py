"""Region proposals on conv4 (Faster R-CNN, Ren et al., arXiv 1506.01497), as R-FCN uses them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

from gwapctl.networks.backbones.base import start_gaussian
from gwapctl.networks.rfcn.base import BoxTarget

RATIOS = (0.5, 1.0, 2.0)  # height / width
MIN_SIDE = 16  # of a proposal, at the paper's input size


class Anchors(nn.Module):
    """Every cell's anchor boxes: one per side and ratio, around the middle of the cell.

    torchvision's generator puts them around a cell's top left corner and guesses the stride from the padded size; the
    released R-FCN has them in the middle, as here, with sides rounded to whole pixels, which these are not.
    """

    base: Tensor

    def __init__(self, sides: Sequence[float], stride: int) -> None:
        super().__init__()
        self.stride = stride
        area_and_ratio = torch.tensor([(side, ratio) for side in sides for ratio in RATIOS])
        height = area_and_ratio[:, 0] * area_and_ratio[:, 1].sqrt()
        width = area_and_ratio[:, 0] / area_and_ratio[:, 1].sqrt()
        self.register_buffer("base", torch.stack([-width, -height, width, height], dim=1) / 2, persistent=False)

    def forward(self, images: ImageList, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the anchors of every image, ``(h w A, 4)`` in input pixels, row by row as the map has its cells."""
        rows, columns = feature_maps[0].shape[-2:]
        y, x = ((torch.arange(count, device=self.base.device) + 0.5) * self.stride for count in (rows, columns))
        middles = torch.cartesian_prod(y, x).flip(1).repeat(1, 2)  # (h w, 4): x, y, x, y
        anchors = (middles[:, None] + self.base).flatten(0, 1)
        return [anchors] * len(images.image_sizes)


class ProposalHead(nn.Module):
    """A 3x3 convolution with ReLU, then one logit and four offsets per anchor; new layers start as N(0, 0.01).

    R-FCN has two logits and a softmax, which is one logit and a sigmoid with their difference.
    """

    def __init__(self, in_channels: int, channels: int, anchors: int) -> None:
        super().__init__()
        self.conv = new_conv(in_channels, channels, 3)
        self.objectness = new_conv(channels, anchors, 1)
        self.offsets = new_conv(channels, 4 * anchors, 1)

    def forward(self, feature_maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Map ``[(B, K, h, w)]`` to ``[(B, A, h, w)]`` and ``[(B, 4 A, h, w)]`` in float32, whatever autocast does.

        Half precision cannot hold boxes of 1000 pixels.
        """
        hidden = functional.relu(self.conv(feature_maps[0]))
        return [self.objectness(hidden).float()], [self.offsets(hidden).float()]


class Proposals(nn.Module):
    """The region proposal network with R-FCN's numbers: 6,000 boxes before NMS at 0.7, 300 after, 256 anchors a loss.

    What is torchvision's: anchors that cross the border take part in training (R-FCN leaves them out), and the box
    loss (sigma 3) is divided by the sampled anchors. R-FCN's 16 pixels, below which nothing is proposed, scale with the
    input.

    Args:
        in_channels: of conv4.
        channels: of the 3x3 convolution.
        sides: of the anchors in input pixels.
        stride: input pixels per cell.
        scale: of the input beside the paper's.
        candidates: boxes of an image before NMS, at most.
        count: after it.

    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        sides: Sequence[float],
        stride: int,
        scale: float,
        *,
        candidates: int = 6000,
        count: int = 300,
    ) -> None:
        super().__init__()
        self.network = RegionProposalNetwork(
            Anchors(sides, stride),
            ProposalHead(in_channels, channels, len(sides) * len(RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=dict.fromkeys(("training", "testing"), candidates),
            post_nms_top_n=dict.fromkeys(("training", "testing"), count),
            nms_thresh=0.7,
        )
        self.network.min_size = MIN_SIDE * scale

    def forward(
        self, conv4: Tensor, sizes: Sequence[tuple[int, int]], targets: Sequence[BoxTarget] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the proposals of every image, ``(N, 4)`` in input pixels without gradient, and in training the losses.

        ``conv4`` is (B, K, h, w); ``targets`` are, in training, the objects to learn from.
        """
        objects = None if targets is None else [{"boxes": target.boxes} for target in targets]
        boxes, losses = self.network(ImageList(conv4, list(sizes)), {"conv4": conv4}, objects)
        names = {"rpn_objectness": "loss_objectness", "rpn_box": "loss_rpn_box_reg"}
        return boxes, {ours: losses[theirs] for ours, theirs in names.items() if theirs in losses}


def new_conv(in_channels: int, channels: int, kernel: int) -> nn.Conv2d:
    """Make a convolution that starts as R-FCN's new layers do and keeps the resolution."""
    return start_gaussian(nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2))
