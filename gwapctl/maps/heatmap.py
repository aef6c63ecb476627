"""From the maps of one image at several sizes to its heatmaps of at most 512 pixels.

Multi-scale (GWAP: "simply average the weight maps" of 224, 448 and 672): α sums to 1 over positions, so a plain average
would weight a scale by the inverse of its number of positions. Here every map is min-max normalised, resized bilinearly
(``align_corners=False``) to the heatmap's size, averaged with equal weights and min-max normalised again. A single map
keeps its own values, so that images stay comparable: float16 holds it stretched to [0, 1], and its range stands beside
it, for α is so nearly uniform that float16 of its own values has few levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gwapctl.geometry import Geometry
from gwapctl.networks.transforms import resize
from gwapctl.regions import normalise, resize_map, stretch
from gwapctl.regions.refine import SEGMENTATIONS, close_gaps

HEATMAP_SIDE = 512  # pixels on the long side of a heatmap

FloatArray = npt.NDArray[np.float32]
Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class PreparedImage:
    """What is kept of an image ``width x height``: ``inputs``, uint8 ``(h, w, 3)`` by size (w, h).

    With a region, a fourth channel is 255 inside and 0 outside. Where ``late`` is a number the inputs are feature maps
    ``(h, w, K)`` instead, which the backbone's ``late`` last stages read.
    """

    width: int
    height: int
    inputs: dict[Size, npt.NDArray[Any]]
    late: int | None = None

    def with_region(self, region: npt.NDArray[np.uint8]) -> PreparedImage:
        """Add a ``region`` of 0 and 1, (height, width), to every input."""
        full = np.asarray(region, np.uint8) * np.uint8(255)
        inputs = {size: np.dstack([image[..., :3], resize(full, size)]) for size, image in self.inputs.items()}
        return replace(self, inputs=inputs)


def heatmap_size(width: int, height: int) -> Size:
    """Return the size of the heatmaps of an image: its own, at most 512 pixels on the long side."""
    fitted = Geometry.fit(width, height, HEATMAP_SIDE)
    return fitted.input_width, fitted.input_height


def compose(
    terms: Sequence[FloatArray], image: PreparedImage, close: float, segmentation: str, *, raw: bool = False
) -> tuple[npt.NDArray[np.float16], FloatArray]:
    """Average maps ``(k, h, w)`` of several scales at the heatmap size of ``image``, and refine them.

    Return them in [0, 1], ``(k, H, W)``, and the values that 0 and 1 stand for, ``(k, 2)``: those of the map itself
    where it is ``raw``.
    """
    size = heatmap_size(image.width, image.height)
    channels, ranges = [], []
    for index in range(len(terms[0])):
        heat = _average([term[index] for term in terms], size)
        if close:
            heat = close_gaps(heat, close)
        if segmentation != "none":
            heat = SEGMENTATIONS[segmentation](heat, image.inputs[size][..., :3])
        stretched, limits = stretch(heat) if raw else (heat, (0.0, 1.0))
        channels.append(torch.from_numpy(stretched).half())  # numpy converts ten times more slowly
        ranges.append(limits)
    heatmaps = torch.stack(channels).numpy() if channels else np.zeros((0, *size[::-1]), np.float16)
    return heatmaps, np.array(ranges, np.float32).reshape(-1, 2)


def _average(maps: Sequence[FloatArray], size: Size) -> FloatArray:
    """Resize maps to ``size`` and average them; one alone keeps its values."""
    if len(maps) == 1:
        return resize_map(maps[0], size)
    return normalise(np.mean([resize_map(normalise(heatmap), size) for heatmap in maps], axis=0))
