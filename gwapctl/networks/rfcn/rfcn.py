"""R-FCN (Dai et al., arXiv 1605.06409) with the weak branch of GWAP (Qiu, arXiv 1809.08264, section III-D)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import (
    batched_nms,
    box_area,
    box_iou,
    clip_boxes_to_image,
    ps_roi_align,
    ps_roi_pool,
    remove_small_boxes,
)

from gwapctl.networks.heads.base import without_autocast
from gwapctl.networks.rfcn.base import BoxTarget, DetectorInfo
from gwapctl.networks.rfcn.losses import CODER, region_losses
from gwapctl.networks.rfcn.proposals import Proposals, new_conv
from gwapctl.networks.rfcn.trunk import Trunk
from gwapctl.networks.rfcn.weak import WeakBranch, image_loss, region_loss

NMS_IOU, MOST_DETECTIONS = 0.3, 400
SUPPORT_IOU = 0.6  # from which a box supports another, in our way to score


class Detector(nn.Module):
    """Trunk, shared features, region proposals, position-sensitive maps, and the weak branch where there is one.

    Images go in as RGB in 0..255 (uint8 or float), padded with anything at the right and the bottom to one size; the
    detector normalises them and pads with the mean colour. ``sizes`` are everywhere (height, width) of each image
    without its padding, in input pixels.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, info: DetectorInfo, trunk: Trunk) -> None:
        super().__init__()
        self.info = info
        self.trunk = trunk
        channels, classes = info.neck_channels or trunk.neck_channels, len(info.classes)
        self.neck = new_conv(trunk.channels, channels, 1)
        numbers = {"candidates": info.candidates, "count": info.proposals}
        self.proposals = Proposals(
            trunk.conv4_channels, trunk.proposal_channels, info.anchors, trunk.stride, info.scale, **numbers
        )
        self.votes = RegionVotes(channels, classes, info.k, trunk.stride, info.pooling)
        self.weak: WeakBranch | None = None
        if info.weak != "none":
            with torch.random.fork_rng(devices=[]):  # all else starts, and draws, the same with and without the branch
                self.weak = WeakBranch(channels, classes, info.weak)
        mean, std = torch.tensor(info.mean), torch.tensor(info.std)
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(3, 1, 1), persistent=False)

    def forward(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[BoxTarget | None] | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of a training batch; ``total_loss`` adds them up.

        An image without boxes runs through trunk and weak branch alone: detection's own layers do not see it.

        Args:
            images: (B, 3, H, W) RGB in 0..255.
            sizes: of each image.
            targets: the objects of each image; None for an image whose boxes are not known.
            labels: (B, C) 1 where a class is present, 0 where it is absent, -1 where it is neither (difficult only).

        Returns:
            Scalars: ``rpn_objectness``, ``rpn_box``, ``roi_class``, ``roi_box`` of the images with boxes,
            ``weak_image`` of all, ``weak_region`` of the images with boxes. One that has no image is absent.

        """
        return self.losses(self.features(images, sizes), sizes, targets, labels)

    def losses(
        self,
        features: tuple[Tensor, Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[BoxTarget | None] | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of a batch whose ``features`` are there."""
        conv4, shared = features
        boxed = {index: target for index, target in enumerate(targets or ()) if target is not None}
        losses: dict[str, Tensor] = {}
        if boxed:
            objects = [target.usable() for target in boxed.values()]
            losses |= self._detection_losses(
                _take(conv4, list(boxed)), _take(shared, list(boxed)), [sizes[index] for index in boxed], objects
            )
        if self.weak is not None and labels is not None:
            output = self.weak(shared, [self._cells(size) for size in sizes])
            losses["weak_image"] = image_loss(output.logits, labels)
            terms = [
                region_loss(output.score_maps[index], target, self.trunk.stride, self.info.region_loss)
                for index, target in boxed.items()
            ]
            present = [term for term in terms if term is not None]
            if present:
                losses["weak_region"] = torch.stack(present).mean()
        return losses

    @torch.no_grad()
    def detect(
        self, features: tuple[Tensor, Tensor], sizes: Sequence[tuple[int, int]], score_threshold: float = 0.0
    ) -> list[dict[str, Tensor]]:
        """Return what is found in each image, in eval mode: after NMS at IoU 0.3, at most 400 boxes.

        What scores below ``score_threshold`` is left out; it is 0 as published. Of each image there are, as
        torchvision's detectors have them, the highest score first: ``boxes`` (N, 4) half-open in input pixels,
        ``scores`` (N,) in 0..1, ``labels`` (N,) 0..C-1. Scores are those of ``supported`` where the detector has that,
        and times the boxes' share of the image to the power of its ``area_exponent``.
        """
        conv4, shared = features
        regions, _ = self.proposals(conv4, sizes)
        scores, offsets = self.votes(shared, regions)
        counts = [len(boxes) for boxes in regions]
        chances = scores.softmax(dim=1)[:, 1:]  # (R, C)
        if self.info.image_scores:
            of_images = self.image_chances(shared, sizes)
            chances = chances * of_images.repeat_interleave(torch.tensor(counts, device=chances.device), dim=0)
        found = []
        parts = zip(torch.split(chances, counts), torch.split(offsets, counts), regions, sizes, strict=True)
        for image_chances, image_offsets, boxes, size in parts:
            moved = clip_boxes_to_image(CODER.decode_single(image_offsets, boxes), size)
            found.append(_suppress(moved, image_chances, score_threshold, size, self.info))
        return found

    @torch.no_grad()
    def weight_maps(self, features: tuple[Tensor, Tensor], sizes: Sequence[tuple[int, int]]) -> Tensor | None:
        """Return the class-specific weight maps alpha_c (arXiv 1809.08264, eq. 8), (B, C, h, w), from ``features``.

        They sum to 1 over an image's own positions and are 0 on its padding. None where nothing is weighted: ``weak``
        is none or gap.
        """
        if self.weak is None or self.weak.kind == "gap":
            return None
        _, shared = features
        own = self.weak(shared, [self._cells(size) for size in sizes]).weight_maps
        rows, columns = shared.shape[2:]
        padded = [functional.pad(one, (0, columns - one.shape[2], 0, rows - one.shape[1])) for one in own]
        return torch.stack(padded)

    def features(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return conv4 and the shared features of ``(B, 3, H, W)``: ``(B, ., ceil(H / stride), ceil(W / stride))``."""
        conv4, conv5 = self.trunk_maps(images, sizes)
        return conv4, self.shared(conv5)

    def trunk_maps(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return conv4 and conv5 of ``(B, 3, H, W)``: all that images are to the layers behind a frozen trunk."""
        conv4 = self.trunk.conv4(self._normalise(images, sizes))
        return conv4, self.trunk.conv5(conv4)

    def shared(self, conv5: Tensor) -> Tensor:
        """Return the shared features of conv5."""
        return functional.relu(self.neck(conv5))

    @torch.no_grad()
    def image_chances(self, shared: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Return the chance (B, C) that each class is in each image, by the weak branch; of several poolings the mean.

        ``shared`` are the shared features. There must be a weak branch.
        """
        assert self.weak is not None
        logits = self.weak(shared, [self._cells(size) for size in sizes]).logits
        return torch.stack([one.sigmoid() for one in logits]).mean(0)

    def _normalise(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Normalise the images and pad them with the mean colour to a multiple of the stride."""
        height, width = (-(-side // self.trunk.stride) * self.trunk.stride for side in images.shape[2:])
        last = images.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        normal = torch.empty((len(images), 3, height, width), device=images.device, memory_format=layout).zero_()
        for index, (rows, columns) in enumerate(sizes):
            normal[index, :, :rows, :columns] = images[index, :, :rows, :columns] * self.scale + self.shift
        return normal

    def _detection_losses(
        self, conv4: Tensor, shared: Tensor, sizes: Sequence[tuple[int, int]], objects: Sequence[BoxTarget]
    ) -> dict[str, Tensor]:
        proposed, losses = self.proposals(conv4, sizes, objects)
        # true boxes are proposals, too
        regions = [torch.cat([boxes, target.boxes]) for boxes, target in zip(proposed, objects, strict=True)]
        scores, offsets = self.votes(shared, regions)
        return {**losses, **region_losses(scores, offsets, regions, objects)}

    def _cells(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return how many rows and columns of the grid an image of ``size`` (height, width) covers."""
        rows, columns = (-(-side // self.trunk.stride) for side in size)
        return rows, columns


def _take(features: Tensor, indices: list[int]) -> Tensor:
    """Return the images of these ``indices``, without a copy where that is all of them."""
    return features if len(indices) == len(features) else features[indices]


def _suppress(
    boxes: Tensor, scores: Tensor, score_threshold: float, size: tuple[int, int], info: DetectorInfo
) -> dict[str, Tensor]:
    """Turn regions of an image with boxes (N, 4) and class scores (N, C) into detections, class by class."""
    whole = remove_small_boxes(boxes, 1.0)  # moved out of the image
    boxes, scores = boxes[whole], scores[whole]
    if info.support:
        scores = supported(boxes, scores)
    if info.area_exponent:
        shares = box_area(boxes) / (size[0] * size[1])
        scores = scores * shares[:, None] ** info.area_exponent
    region, label = torch.where(scores >= score_threshold)
    kept = batched_nms(boxes[region], scores[region, label], label, NMS_IOU)[:MOST_DETECTIONS]
    region, label = region[kept], label[kept]
    return {"boxes": boxes[region], "scores": scores[region, label], "labels": label}


def supported(boxes: Tensor, scores: Tensor) -> Tensor:
    """Return scores (N, C) in 0..1 by what the boxes (N, 4) around each box say of the class, too.

    ``v / (1 + v)`` with ``v_ic = sum_j IoU(i, j) s_jc`` over all j with an IoU of 0.6 or more, i among them. A part of
    an object may score as high as the whole, for all that is in it is the object; boxes of the whole are many that are
    almost one, and those of a part are few. Summing the scores of neighbours is known from box voting (Gidaris and
    Komodakis, arXiv 1505.01749, average coordinates by them); this form is ours.

    >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 5, 5]])
    >>> supported(boxes, torch.tensor([[0.5], [0.5], [0.6]])).flatten().tolist()
    [0.5, 0.5, 0.375]
    """
    overlap = box_iou(boxes, boxes)
    votes = torch.where(overlap >= SUPPORT_IOU, overlap, 0).to(scores.dtype) @ scores
    return votes / (1 + votes)


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

        Features are (B, K, h, w), the regions of each image (N, 4) in input pixels.
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
