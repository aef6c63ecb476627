"""A detector's batch that several processes share: padded, drawn from and weighed as if one process had all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gwapctl.networks.rfcn.rfcn import Detector
from gwapctl.train.detector_batches import Batch
from gwapctl.train.distributed import Processes

COUNTED = ("rpn", "roi", "weak_image", "weak_region")  # beginnings of the losses' names, each a mean of its own things


class DetectorShares:
    """What the share of a process lacks beside the whole batch: its size in pixels, its draws, and how much it counts.

    Args:
        processes: that share the batches.
        model: the detector, whose anchors are drawn here from now on.

    """

    def __init__(self, processes: Processes, model: Detector) -> None:
        self.processes = processes
        self.anchors = AnchorsOfAll(processes, model.proposals.network.fg_bg_sampler)
        model.proposals.network.fg_bg_sampler = self.anchors

    def padded(self, batch: Batch) -> Batch:
        """Pad the images to the size of the whole batch, for there are anchors on what is padded, too."""
        height, width = batch.images.shape[2:]
        largest = self.processes.largest([height, width])
        missing = (0, int(largest[1]) - width, 0, int(largest[0]) - height)
        images = functional.pad(batch.images, missing).contiguous(memory_format=torch.channels_last)
        return batch._replace(images=images) if any(missing) else batch

    def weighed(self, losses: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the losses so that their mean over processes is that of the whole batch.

        Each is a mean: the proposals' over the anchors that were drawn, the regions' over images with boxes, the weak
        branch's over images, and its regions' over images with an object that counts.
        """
        boxed = [target for target in batch.targets if target is not None]
        counting = sum(len(target.usable().boxes) > 0 for target in boxed)
        own = dict(zip(COUNTED, (self.anchors.drawn, len(boxed), len(batch.images), counting), strict=True))
        total = dict(zip(COUNTED, self.processes.total(list(own.values())), strict=True))
        found = {}
        for name, loss in losses.items():
            kind = next(kind for kind in COUNTED if name.startswith(kind))
            found[name] = loss * (self.processes.count * own[kind] / total[kind])
        if total["weak_region"] and "weak_image" in losses:  # the others have it: all rows of the history do
            found.setdefault("weak_region", next(iter(found.values())).new_zeros(()))
        return found


class AnchorsOfAll:
    """torchvision's sampler of anchors, drawing for an image what one process would draw that had all of them.

    All processes have the same seed, and make the draws of the others' images, too, and drop them: those of the images
    before theirs first, and those of the images behind them for the next batch of the step.
    """

    def __init__(self, processes: Processes, sampler: Any) -> None:
        self.sampler, self.processes = sampler, processes
        self.drawn = 0  # anchors in the last batch

    def __call__(self, matched: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the drawn positive and negative anchors of each image, as masks."""
        own = [(int((one >= 1).sum()), int((one == 0).sum())) for one in matched]
        before, behind = self.processes.around(own)
        _drop_draws(before, matched[0].device)
        positive, negative = self.sampler(list(matched))
        _drop_draws(behind, matched[0].device)
        self.drawn = sum(int(mask.sum()) for mask in (*positive, *negative))
        return positive, negative


def _drop_draws(counts: Sequence[tuple[int, int]], device: torch.device) -> None:
    """Draw as the sampler does for images with so many positive and negative anchors."""
    for number in (number for both in counts for number in both):
        torch.randperm(number, device=device)
