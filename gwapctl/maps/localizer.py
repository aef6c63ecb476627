"""Heatmaps of many images: averaged over scales and flips, on a canvas of at most 512 pixels.

Multi-scale (GWAP: "simply average the weight maps" of 224, 448 and 672): α sums to 1 over positions, so a plain average
would weight a scale by the inverse of its number of positions. Here every map is min-max normalised, resized bilinearly
(``align_corners=False``) to the canvas, averaged with equal weights and min-max normalised again. A single scale keeps
the map's own values: box rules normalise by themselves, and images stay comparable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gwapctl.backbones.base import Backbone
from gwapctl.device import autocast, resolve_device
from gwapctl.errors import UsageError, unknown_name
from gwapctl.geometry import Geometry
from gwapctl.heads import Head, HeadOutput
from gwapctl.maps.inference import for_inference
from gwapctl.maps.methods import MAPS
from gwapctl.model import Classifier
from gwapctl.regions import normalise
from gwapctl.transforms import resize

CANVAS = 512  # pixels on the long side of a saved map
RESIZES = ("warp", "keep")
SURE_SCALE = 96  # pixels from which every backbone has cells left
PIXELS_PER_IMAGE = {True: 224**2, False: 512**2}  # on a CPU or not: larger inputs go through in smaller batches
FLOAT16_MAX = float(np.finfo(np.float16).max)

ImageArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class PreparedImage:
    """What is kept of an image ``width x height`` for the network: ``inputs``, uint8 ``(h, w, 3)`` by size (w, h)."""

    width: int
    height: int
    inputs: dict[Size, ImageArray]


@dataclass(frozen=True, eq=False)
class MapResult:
    """Of one image: ``probabilities`` (C,) float32, the ``classes`` mapped, and their ``heatmaps`` (k, h, w) float16.

    There is a single heatmap (1, h, w) for all classes where ``shared``. (h, w) is the canvas: the original's shape,
    shrunk to at most 512 pixels on the long side.
    """

    probabilities: FloatArray
    classes: tuple[int, ...]
    heatmaps: npt.NDArray[np.float16]
    shared: bool

    def heatmap(self, place: int) -> FloatArray:
        """Return the heatmap (h, w) of ``classes[place]`` as float32 of the same values."""
        heat = self.heatmaps[0 if self.shared else place]
        return torch.from_numpy(heat).float().numpy()  # numpy converts float16 ten times more slowly


class Localizer:
    """Reads maps out of a classifier for images of any size. Calls from several threads at once are fine.

    Args:
        model: the classifier; it is copied, not changed.
        scales: input sizes; None: what the model stores. ``resize="warp"`` makes S x S inputs, as the paper does,
            ``"keep"`` scales the shorter side to S.
        map_method: a name in ``MAPS``; None: what the model stores.
        flip: average over the mirrored image, too.
        precision: ``fp32``, ``bf16`` or ``auto`` (bf16 where the processor has it).
        device: ``auto``, ``cpu``, ``cuda:1``, ...
        batch_size: images per forward pass; None: 8 on a CPU, 32 elsewhere.

    Raises:
        UsageError: an unknown name, or a map that this model's head does not have.

    """

    def __init__(
        self,
        model: Classifier,
        *,
        scales: Sequence[int] | None = None,
        map_method: str | None = None,
        flip: bool = False,
        resize: str | None = None,
        precision: str = "fp32",
        device: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        info = model.info
        width, height = info.input_size
        self.scales = tuple(scales or info.scales) or (width,) * (width == height)
        self._passes = self.scales or (None,)  # None: the model's own input size, which is not square
        self.resize = resize or info.resize
        self.flip = flip
        self.precision = precision
        self.device = resolve_device(device)
        self.batch_size = batch_size or (8 if self.device.type == "cpu" else 32)
        self._check_names(map_method)
        self.model = for_inference(model, self.device)
        self._head = cast(Head, self.model.head)
        self._check_smallest_scale()
        self.map_method = map_method or info.map or self._default_map()
        self.shared = self._read_maps(self._probe(), self._classes([(0, 0)])).shape[1] == 1  # one map for two classes

    def _check_names(self, map_method: str | None) -> None:
        if map_method is not None and map_method not in MAPS:
            raise unknown_name("map method", map_method, MAPS)
        if self.resize not in RESIZES:
            raise unknown_name("resize", self.resize, RESIZES)
        if min(self.scales, default=1) < 1:
            raise UsageError(f"scales {self.scales} are not sizes in pixels. Write them like 224,448,672.")
        autocast(self.device, self.precision)

    @torch.inference_mode()
    def _check_smallest_scale(self) -> None:
        """Find out now, not at the first image, whether the network can do with so few pixels."""
        side = min(self.scales, default=SURE_SCALE)
        if side >= SURE_SCALE:
            return
        try:
            self._forward([np.zeros((side, side, 3), np.uint8)])
        except RuntimeError as error:
            backbone = self.model.info.backbone
            raise UsageError(f"scale {side} is too small for {backbone}: no cell is left of its maps.") from error

    def _default_map(self) -> str:
        return "class" if self._probe().output.weight_map is None else "weight"

    @torch.inference_mode()
    def _probe(self) -> _Pass:
        """Run the head on a feature map of zeros: which maps it has."""
        channels = cast(Backbone, self.model.backbone).channels
        features = torch.zeros(1, channels, 2, 2, device=self.device)
        return _Pass(features, self._head(features))

    @property
    def values(self) -> str:
        """What the heatmaps hold: ``raw`` or ``minmax_mean`` (see ``predictions.MapsInfo``)."""
        single = len(self.scales) <= 1 and not self.flip
        return "raw" if single and not MAPS[self.map_method].normalised else "minmax_mean"

    def prepare(self, image: ImageArray) -> PreparedImage:
        """Resize an image ``(H, W, 3)`` uint8 RGB to every size that the network will see."""
        height, width = image.shape[:2]
        sizes = {self._own_size, *(self._input_size(width, height, scale) for scale in self._passes)}
        return PreparedImage(width, height, {size: resize(image, size) for size in sizes})

    @property
    def _own_size(self) -> Size:
        return self.model.info.input_size

    def _input_size(self, width: int, height: int, scale: int | None) -> Size:
        if scale is None:
            return self._own_size
        if self.resize == "warp":
            return scale, scale
        kept = Geometry.keep(width, height, scale)
        return kept.input_width, kept.input_height

    def run(
        self,
        images: Sequence[ImageArray | PreparedImage],
        classes: Sequence[Sequence[int]] | None = None,
        top_k: int = 1,
    ) -> list[MapResult]:
        """Return class probabilities and heatmaps of ``images``, each uint8 RGB ``(H, W, 3)`` or prepared before.

        Mapped are the ``top_k`` most probable classes of each image and after them those of ``classes`` (one sequence
        per image) that are not among them; ``top_k=0``: only the latter. Classes are decided by one pass at the model's
        own input size, whatever the scales are.
        """
        results: list[MapResult] = []
        for start in range(0, len(images), self.batch_size):
            window = slice(start, start + self.batch_size)
            batch = [image if isinstance(image, PreparedImage) else self.prepare(image) for image in images[window]]
            with torch.inference_mode():
                results += self._run_batch(batch, [()] * len(batch) if classes is None else classes[window], top_k)
        return results

    def _run_batch(
        self, batch: Sequence[PreparedImage], wanted: Sequence[Sequence[int]], top_k: int
    ) -> Iterator[MapResult]:
        own = self._forward([image.inputs[self._own_size] for image in batch])
        probabilities = self.model.probabilities(own.output.logits).cpu().numpy()
        chosen = [_choose(row, extra, top_k) for row, extra in zip(probabilities, wanted, strict=True)]
        terms = self._terms(batch, self._classes(chosen), own)
        for image, row, picked, maps in zip(batch, probabilities, chosen, terms, strict=True):
            count = 1 if self.shared else len(picked)
            yield MapResult(row, picked, _compose([term[:count] for term in maps], image), self.shared)

    def _terms(self, batch: Sequence[PreparedImage], classes: Tensor, own: _Pass) -> list[list[FloatArray]]:
        """Return, for each image, the maps ``(1 | k, h, w)`` to average: one per scale and, with ``flip``, mirror."""
        terms: list[list[FloatArray]] = [[] for _ in batch]
        for scale in self._passes:
            for size, members in self._by_input_size(batch, scale).items():
                inputs = [batch[member].inputs[size] for member in members]
                for mirrored in (False, True) if self.flip else (False,):
                    reusable = size == self._own_size and len(members) == len(batch) and not mirrored
                    passed = own if reusable else self._forward(inputs, mirrored)
                    maps = self._read_maps(passed, classes[members]).float().cpu().numpy()
                    for member, term in zip(members, maps[..., ::-1] if mirrored else maps, strict=True):
                        terms[member].append(term)
        return terms

    def _by_input_size(self, batch: Sequence[PreparedImage], scale: int | None) -> dict[Size, list[int]]:
        groups: dict[Size, list[int]] = {}
        for member, image in enumerate(batch):
            groups.setdefault(self._input_size(image.width, image.height, scale), []).append(member)
        return groups

    def _classes(self, chosen: Sequence[Sequence[int]]) -> Tensor:
        """Return class indices ``(B, k)``, the shorter rows filled up with class 0."""
        longest = max(len(row) for row in chosen)
        rows = [[*row, *[0] * (longest - len(row))] for row in chosen]
        return torch.tensor(rows, dtype=torch.long, device=self.device)

    def _forward(self, inputs: Sequence[ImageArray], mirrored: bool = False) -> _Pass:
        """Run the network on images of one size: the backbone in ``precision``, the head in float32."""
        height, width = inputs[0].shape[:2]
        pixels = PIXELS_PER_IMAGE[self.device.type == "cpu"] * self.batch_size
        step = max(1, pixels // (width * height))
        parts = [self._feature_map(inputs[start : start + step], mirrored) for start in range(0, len(inputs), step)]
        features = torch.cat(parts) if len(parts) > 1 else parts[0]
        return _Pass(features, self._head(features))

    def _feature_map(self, inputs: Sequence[ImageArray], mirrored: bool) -> Tensor:
        images = torch.from_numpy(np.stack(inputs)).to(self.device).permute(0, 3, 1, 2)  # (B, 3, h, w), channels last
        if mirrored:
            images = images.flip(3)
        with autocast(self.device, self.precision):
            features = self.model.feature_map(images)
        return features.float()

    def _read_maps(self, passed: _Pass, classes: Tensor) -> Tensor:
        return MAPS[self.map_method].read(self._head, passed.features, passed.output, classes)


class _Pass(NamedTuple):
    """One forward pass: the feature map (B, K, h, w) and what the head made of it."""

    features: Tensor
    output: HeadOutput


def _choose(probabilities: FloatArray, wanted: Sequence[int], top_k: int) -> tuple[int, ...]:
    """Return the ``top_k`` most probable classes, the best first, then those of ``wanted`` that are not among them."""
    best = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
    return tuple(dict.fromkeys([*best, *wanted]))


def _compose(terms: Sequence[FloatArray], image: PreparedImage) -> npt.NDArray[np.float16]:
    """Average maps ``(k, h, w)`` of several scales on the canvas of ``image``: ``(k, H, W)``."""
    canvas = Geometry.fit(image.width, image.height, CANVAS)
    size = canvas.input_width, canvas.input_height
    channels = [torch.from_numpy(_average([term[place] for term in terms], size)) for place in range(len(terms[0]))]
    if not channels:
        return np.zeros((0, *size[::-1]), np.float16)
    return torch.stack([channel.half() for channel in channels]).numpy()  # numpy converts ten times more slowly


def _average(maps: Sequence[FloatArray], size: Size) -> FloatArray:
    """Resize maps to ``size`` and average them; one alone keeps its values, as far as float16 reaches."""
    if len(maps) == 1:
        return _stretch(np.clip(maps[0], -FLOAT16_MAX, FLOAT16_MAX), size)
    return normalise(np.mean([_stretch(normalise(heatmap), size) for heatmap in maps], axis=0))


def _stretch(heatmap: FloatArray, size: Size) -> FloatArray:
    return np.asarray(cv2.resize(np.ascontiguousarray(heatmap), size, interpolation=cv2.INTER_LINEAR))
