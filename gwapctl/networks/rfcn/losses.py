"""The losses of R-FCN's regions: labels, online hard example mining, and the sum that is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou

from gwapctl.networks.rfcn.base import BoxTarget

CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))  # offsets divided by their standard deviations .1, .1, .2, .2
POSITIVE_IOU = 0.5
HARDEST = 128  # regions per image that are learned from


def region_losses(
    scores: Tensor, offsets: Tensor, regions: Sequence[Tensor], targets: Sequence[BoxTarget]
) -> dict[str, Tensor]:
    """Return ``roi_class`` and ``roi_box``: R-FCN's loss on the hardest 128 regions of each image.

    ``L = CE(s, c*) + [c* > 0] smoothL1(t - t*)`` of every region (arXiv 1605.06409, eq. 4 and online hard example
    mining); the 128 with the largest sum count. Both are divided by 128, however many regions an image has, as in the
    released code, and averaged over the images. ``scores`` (R, C + 1) and ``offsets`` (R, 4) are those of all regions,
    image after image; ``regions`` (N, 4) and ``targets``, the objects to learn from, those of each image. Where objects
    have weights, those multiply the losses of their regions before the hardest are chosen: ours.
    """
    counts = [len(boxes) for boxes in regions]
    class_sum, box_sum = scores.new_zeros(()), offsets.new_zeros(())
    parts = zip(torch.split(scores, counts), torch.split(offsets, counts), regions, targets, strict=True)
    for image_scores, image_offsets, boxes, target in parts:
        labels, matched = label_regions(boxes, target)
        class_loss = functional.cross_entropy(image_scores, labels, reduction="none")  # (N,)
        wanted = CODER.encode_single(matched, boxes)
        box_loss = functional.smooth_l1_loss(image_offsets, wanted, reduction="none").sum(1) * (labels > 0)
        if target.weights is not None:
            weights = region_weights(boxes, target, labels)
            class_loss, box_loss = class_loss * weights, box_loss * weights
        hard = hardest(class_loss + box_loss, HARDEST)
        class_sum = class_sum + class_loss[hard].sum()
        box_sum = box_sum + box_loss[hard].sum()
    share = 1 / (HARDEST * len(counts))
    return {"roi_class": class_sum * share, "roi_box": box_sum * share}


def label_regions(regions: Tensor, target: BoxTarget) -> tuple[Tensor, Tensor]:
    """Give each region the class (1..C) and box of the object it overlaps most, with an IoU of 0.5 or more.

    All others are background: class 0 and their own box. Returned are (N,) classes and (N, 4) boxes.
    """
    if not len(target.boxes):
        return torch.zeros(len(regions), dtype=torch.int64, device=regions.device), regions
    overlap, nearest = box_iou(regions, target.boxes).max(dim=1)
    positive = overlap >= POSITIVE_IOU
    labels = torch.where(positive, target.labels[nearest].to(torch.int64) + 1, 0)
    return labels, torch.where(positive[:, None], target.boxes[nearest], regions)


def region_weights(regions: Tensor, target: BoxTarget, labels: Tensor) -> Tensor:
    """Return how much each region counts (N,): as its object does. ``labels`` are its classes.

    Background counts as the image's objects do on average, for where they are wrong the true ones are in the
    background. Without any it counts fully.
    """
    if target.weights is None or not len(target.boxes):
        return torch.ones(len(regions), device=regions.device)
    nearest, weights = box_iou(regions, target.boxes).argmax(dim=1), target.weights.to(regions.dtype)
    return torch.where(labels > 0, weights[nearest], weights.mean())


def hardest(losses: Tensor, count: int) -> Tensor:
    """Return the indices of the ``count`` largest of ``losses`` (N,), or of all of them."""
    return losses.detach().topk(min(count, len(losses)), sorted=False).indices


def total_loss(losses: Mapping[str, Tensor], weak_weight: float = 0.1) -> Tensor:
    """Return ``loss_det + lambda loss_weak`` (arXiv 1809.08264, section III-D; lambda = 0.1 there).

    It is a ``ValueError`` that there is no loss: no image has boxes, and there is no weak branch.
    """
    if not losses:
        raise ValueError("no image of the batch has boxes, and there is no weak branch: nothing to learn")
    weak = [loss for name, loss in losses.items() if name.startswith("weak_")]
    detection = [loss for name, loss in losses.items() if not name.startswith("weak_")]
    terms = [torch.stack(detection).sum()] if detection else []
    terms += [weak_weight * torch.stack(weak).sum()] if weak else []
    return torch.stack(terms).sum()
