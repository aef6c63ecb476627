"""From images of any size to boxes in their own pixels: what judges, localizes and validates with a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gwapctl.boxes import Detections, FloatArray, clip
from gwapctl.device import autocast, resolve_device
from gwapctl.geometry import Geometry
from gwapctl.images.decode import ImageArray
from gwapctl.networks.rfcn.base import DetectorInfo
from gwapctl.networks.rfcn.rfcn import Detector
from gwapctl.networks.transforms import resize
from gwapctl.regions.edges import move_to_edges

MOST_REFINED, REFINED = 20, 0.1
MARGIN = 0.15  # of a box's sides

TrunkMaps = npt.NDArray[np.float16]  # (h, w, K4 + K5): conv4 and conv5 of an image


class DetectorReader:
    """Runs a detector on images of any size. Calls from several threads at once are fine.

    Images are resized as in training, and only those of one input size go through together: what is found in an image
    does not depend on the images beside it.

    Args:
        model: the detector; it is moved to ``device`` and into eval mode.
        precision: ``fp32``, ``bf16`` or ``auto`` (bf16 where the processor has it).
        device: ``auto``, ``cpu``, ``cuda:1``, ...
        batch_size: images per forward pass; None: 1 on a CPU, 8 elsewhere.

    """

    def __init__(
        self, model: Detector, *, precision: str = "fp32", device: str = "auto", batch_size: int | None = None
    ) -> None:
        self.device = resolve_device(device)
        self.precision = precision
        self.batch_size = batch_size or (1 if self.device.type == "cpu" else 8)
        autocast(self.device, precision)  # an unknown name fails here
        self.info = model.info
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()

    def run(
        self,
        images: Sequence[ImageArray],
        *,
        min_score: float = 0.0,
        maps: bool = False,
        batch_size: int | None = None,
        refine: str | None = None,
    ) -> list[Detections]:
        """Return what is found in images ``(H, W, 3)`` uint8 RGB, in their order; with ``maps`` also weight maps.

        ``refine``: ``grabcut`` (see ``refined``), ``none``, or None: what the model stores.
        """
        step = batch_size or self.batch_size
        sides = self.info.short_side, self.info.long_side
        geometries = [Geometry.within(image.shape[1], image.shape[0], *sides) for image in images]
        groups: dict[tuple[int, int], list[int]] = {}
        for index, geometry in enumerate(geometries):
            groups.setdefault((geometry.input_width, geometry.input_height), []).append(index)
        found: dict[int, Detections] = {}
        for size, members in groups.items():
            for start in range(0, len(members), step):
                part = members[start : start + step]
                inputs = [resize(images[index], size) for index in part]
                results = self._forward(inputs, [geometries[index] for index in part], min_score, maps)
                found |= zip(part, results, strict=True)
        if (refine or self.info.refine) == "none":
            return [found[index] for index in range(len(images))]
        return [refined(image, found[index], self.info) for index, image in enumerate(images)]

    @torch.inference_mode()
    def image_chances(self, images: Sequence[ImageArray]) -> FloatArray:
        """Return the chance (n, C) that each class is in each image ``(H, W, 3)``, by the weak branch: in 0..1."""
        rows = []
        for image in images:
            grid = Geometry.within(image.shape[1], image.shape[0], self.info.short_side, self.info.long_side)
            inputs, sizes = pad([resize(image, (grid.input_width, grid.input_height))])
            with autocast(self.device, self.precision):
                _, shared = self.model.features(inputs.to(self.device), sizes)
                rows.append(self.model.image_chances(shared, sizes).double().cpu().numpy())
        return np.concatenate(rows)

    @torch.inference_mode()
    def _forward(
        self, inputs: Sequence[ImageArray], geometries: Sequence[Geometry], min_score: float, maps: bool
    ) -> list[Detections]:
        """Run the network on inputs of one size."""
        images, sizes = pad(inputs)
        images = images.to(self.device)
        with autocast(self.device, self.precision):
            return self._read(self.model.trunk_maps(images, sizes), geometries, min_score, maps)

    @torch.inference_mode()
    def run_trunk_maps(self, found: TrunkMaps, geometry: Geometry, *, min_score: float = 0.0) -> Detections:
        """Return what is found in an image whose trunk's maps ``(h, w, K4 + K5)`` are there; ``geometry`` is its."""
        maps = torch.from_numpy(found)[None].permute(0, 3, 1, 2).to(self.device)
        with autocast(self.device, self.precision):
            return self._read(split_trunk_maps(self.model, maps), [geometry], min_score, maps=False)[0]

    def _read(
        self, trunk_maps: tuple[Tensor, Tensor], geometries: Sequence[Geometry], min_score: float, maps: bool
    ) -> list[Detections]:
        """Run what is behind the trunk."""
        sizes = [(geometry.input_height, geometry.input_width) for geometry in geometries]
        conv4, conv5 = trunk_maps
        features = conv4, self.model.shared(conv5)
        detections = self.model.detect(features, sizes, score_threshold=min_score)
        weights = self.model.weight_maps(features, sizes) if maps else None
        weight_maps = [None] * len(geometries) if weights is None else [*weights.float().cpu().numpy()]
        results = []
        for found, geometry, weight_map in zip(detections, geometries, weight_maps, strict=True):
            boxes = clip(geometry.to_original(found["boxes"].float().cpu().numpy()), geometry.width, geometry.height)
            scores, labels = found["scores"].double().cpu().numpy(), found["labels"].cpu().numpy()
            results.append(Detections(boxes, scores, labels, geometry.width, geometry.height, weight_map))
        return results


def refined(image: ImageArray, found: Detections, info: DetectorInfo) -> Detections:
    """Return what was ``found`` in an image (H, W, 3), the best first, with boxes that follow its edges.

    These are the best ones, those that may count: ``MOST_REFINED`` at most, no score below ``REFINED`` of the highest.
    An object may be larger than its box where the size of boxes counts, for there they may be parts.
    """
    best = found.scores[:MOST_REFINED] >= REFINED * found.scores.max(initial=0.0)
    count = int(best.sum())
    if not count:
        return found
    moved = move_to_edges(image, found.boxes[:count], MARGIN if info.area_exponent else 0.0)
    return replace(found, boxes=np.concatenate([moved, found.boxes[count:]]))


def split_trunk_maps(model: Detector, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return conv4 and conv5 (B, K, h, w), in float32, of what ``TrunkCache`` keeps: both, one behind the other."""
    conv4, conv5 = torch.split(maps.float(), [model.trunk.conv4_channels, model.trunk.channels], dim=1)
    return conv4, conv5


def pad(images: Sequence[ImageArray | TrunkMaps]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return images ``(h, w, 3)``, or maps ``(h, w, K)``, as one tensor ``(B, K, H, W)``, and the (h, w) of each.

    It is zero where it is padded, and its channels are last in memory.
    """
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    if len(set(sizes)) == 1:
        padded: npt.NDArray[Any] = np.stack(images)
    else:
        height, width = (max(sides) for sides in zip(*sizes, strict=True))
        padded = np.zeros((len(images), height, width, images[0].shape[2]), images[0].dtype)
        for index, image in enumerate(images):
            padded[index, : image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(padded).permute(0, 3, 1, 2), sizes
