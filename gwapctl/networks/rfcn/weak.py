"""The weak branch: image classification with class-specific GWAP on the features that detection uses, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gwapctl.networks.heads.base import Head
from gwapctl.networks.heads.scoring import GWAPClass, ScoreThenPool
from gwapctl.networks.rfcn.base import BoxTarget


class MeanOfScores(ScoreThenPool):
    """Global average pooling of score maps: ``s_c = mean S_c(x, y)``, table V's "+GAP"."""

    def pool(self, scores: Tensor) -> Tensor:
        """Pool scores ``(B, C, N)`` to logits ``(B, C)``."""
        return scores.mean(dim=2)


class WeakOutput(NamedTuple):
    """``logits``: one (B, C) per pooling; ``score_maps`` and ``weight_maps``: of each image (C, rows, columns).

    ``weight_maps`` is empty where the pooling has none.
    """

    logits: list[Tensor]
    score_maps: list[Tensor]
    weight_maps: list[Tensor]


class WeakBranch(nn.Module):
    """A score map S per class, pooled to image-level scores (Qiu, arXiv 1809.08264, section III-D and fig. 5).

    ``gwap`` pools by eq. 6-9, ``gap`` takes the mean of S, ``gwap+gap`` does both with one S and adds the two losses.
    The figure does not name the layer that the branch starts from: it is the detector's shared features, ours.
    """

    def __init__(self, channels: int, classes: int, kind: Literal["gap", "gwap", "gwap+gap"]) -> None:
        super().__init__()
        self.kind = kind
        self.head: Head = MeanOfScores(channels, classes) if kind == "gap" else GWAPClass(channels, classes)

    def forward(self, features: Tensor, cells: Sequence[tuple[int, int]]) -> WeakOutput:
        """Score images ``(B, K, h, w)`` by their own cells, not by those of the padding.

        ``cells`` are (rows, columns) of each image on the grid, without its padding.
        """
        alike = len(set(cells)) == 1
        groups = [slice(None)] if alike else [slice(index, index + 1) for index in range(len(cells))]
        outputs = [self.head(features[group, :, : cells[group][0][0], : cells[group][0][1]]) for group in groups]
        score_maps = [one for output in outputs if output.score_map is not None for one in output.score_map]
        weight_maps = [one for output in outputs if output.weight_map is not None for one in output.weight_map]
        logits = [torch.cat([output.logits for output in outputs])]
        if self.kind == "gwap+gap":
            logits.append(torch.stack([scores.mean(dim=(1, 2)) for scores in score_maps]))
        return WeakOutput(logits, score_maps, weight_maps)


def image_loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return the sum over classes of the binary cross-entropy, averaged over images and summed over poolings.

    ``logits`` are (B, C) of each pooling; ``labels`` (B, C) are 1 present, 0 absent, -1 neither: that class of that
    image is left out.
    """
    label_mask, wanted = (labels >= 0).float(), labels.clamp(min=0).float()
    losses = [functional.binary_cross_entropy_with_logits(one, wanted, label_mask, reduction="sum") for one in logits]
    return torch.stack(losses).sum() / len(labels)


def region_loss(
    score_map: Tensor, target: BoxTarget, stride: int, form: Literal["softplus", "hinge"] = "softplus"
) -> Tensor | None:
    """Return the local region regularisation of one image, None without an object that counts.

    The paper says that inside a box "the average score of the object region is larger than the negative samples" (arXiv
    1809.08264, section III-D and fig. 6); the formula is ours. With ``m_c(b)`` the mean of S_c over the cells of box b,
    ``n_c`` the mean over the cells outside every box of class c, and ``Y-`` the classes that are absent,

        L = mean over objects (b, c) of softplus(n_c - m_c(b)) + mean over c' in Y- of softplus(m_c'(b) - m_c(b)).

    A cell belongs to a box when its centre does; a box without any takes the cell under its middle. Either term is left
    out where it has nothing to compare with. Difficult objects only keep their class and cells from being negative.

    Args:
        score_map: S, (C, h, w), of the image without its padding.
        target: all its objects.
        stride: input pixels per cell.
        form: of the margin, ``softplus(t)`` or ``hinge``: ``max(0, 1 + t)``.

    """
    usable = target.usable()
    if not len(usable.boxes):
        return None
    margin = functional.softplus if form == "softplus" else lambda gap: functional.relu(1 + gap)
    scores = score_map.flatten(1)  # (C, N)
    inside = boxes_to_cells(usable.boxes, (score_map.shape[1], score_map.shape[2]), stride).to(scores.dtype)  # (G, N)
    box_means = inside @ scores.mT / inside.sum(1, keepdim=True)  # m_c'(b), (G, C)
    own = box_means.gather(1, usable.labels[:, None].to(torch.int64))  # m_c(b), (G, 1)

    everything = boxes_to_cells(target.boxes, (score_map.shape[1], score_map.shape[2]), stride)
    one_hot = functional.one_hot(target.labels.to(torch.int64), len(scores)).to(scores.dtype)  # (M, C)
    outside = (one_hot.mT @ everything.to(scores.dtype) == 0).to(scores.dtype)  # (C, N)
    outside_means = (outside * scores).sum(1) / outside.sum(1).clamp(min=1)  # n_c, (C,)
    compared = (outside.sum(1) > 0).to(scores.dtype)[usable.labels]
    from_outside = margin(outside_means[usable.labels] - own[:, 0]) * compared  # (G,)

    absent = one_hot.sum(0) == 0  # (C,)
    from_absent = (margin(box_means - own) * absent).sum(1) / absent.sum().clamp(min=1)  # (G,)
    return (from_outside + from_absent).mean()


def boxes_to_cells(boxes: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """Return which cells of a grid (rows, columns) lie in each box: ``(M, 4)`` -> ``(M, N)`` bool.

    The cells whose centre is in the box, or the one under the box's middle.
    """
    (rows, columns), device = grid, boxes.device
    y, x = ((torch.arange(count, device=device) + 0.5) * stride for count in (rows, columns))
    in_columns = (x >= boxes[:, :1]) & (x < boxes[:, 2:3])  # (M, columns)
    in_rows = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:])  # (M, rows)
    middle = torch.stack([boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]]) / 2 // stride  # (2, M)
    at_column = torch.arange(columns, device=device) == middle[0, :, None].clamp(0, columns - 1)
    at_row = torch.arange(rows, device=device) == middle[1, :, None].clamp(0, rows - 1)
    in_columns = torch.where(in_columns.any(1, keepdim=True), in_columns, at_column)
    in_rows = torch.where(in_rows.any(1, keepdim=True), in_rows, at_row)
    return (in_rows[:, :, None] & in_columns[:, None, :]).flatten(1)
