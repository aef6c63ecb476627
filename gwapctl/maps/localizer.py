"""Heatmaps of many images: averaged over scales and flips, or put together from crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gwapctl.device import resolve_device
from gwapctl.engines import AUTO, FROM_IMAGES, Choice, check_engine
from gwapctl.engines.chosen import ChosenEngine
from gwapctl.errors import UsageError, option
from gwapctl.geometry import Geometry
from gwapctl.maps import MAPS, crops
from gwapctl.maps.forward import ForwardPass, ImageArray, Network, blank_forward
from gwapctl.maps.heatmap import FloatArray, PreparedImage, Size, compose, heatmap_size
from gwapctl.maps.methods import fuse_maps, minmax
from gwapctl.maps.reading import AS_STORED, MapReading
from gwapctl.maps.resolve import resolve_reading
from gwapctl.networks.backbones.base import Backbone
from gwapctl.networks.classifier import Classifier
from gwapctl.networks.transforms import resize as resize_image
from gwapctl.regions import normalise, unstretch

SURE_SCALE = 96  # pixels from which every backbone has cells left
HeatArray = npt.NDArray[np.float16] | FloatArray
CALIBRATION_IMAGES = 100  # that set the ranges of int8
PIXELS_PER_IMAGE = {True: 224**2, False: 512**2}  # on a CPU or not: larger inputs go through in smaller batches


@dataclass(frozen=True, eq=False)
class MapResult:
    """Of one image: ``probabilities`` (C,) float32, the ``classes`` mapped, and their ``heatmaps`` (k, h, w) float16.

    There is a single heatmap (1, h, w) for all classes where ``shared``. (h, w) is the original's shape,
    shrunk to at most 512 pixels on the long side. Heatmaps are in [0, 1]; ``ranges`` (k, 2) float32 has the values that
    0 and 1 stand for: a map's own lowest and highest one, or 0 and 1. Where they are means over several scales or
    flips, ``terms`` are the maps (k, h, w) that went into them, as small as the network made them.
    """

    probabilities: FloatArray
    classes: tuple[int, ...]
    heatmaps: HeatArray
    ranges: FloatArray
    shared: bool
    terms: tuple[FloatArray, ...] = ()

    def heatmap(self, index: int) -> FloatArray:
        """Return the heatmap (h, w) of ``classes[index]`` as float32, with its own values where it has any."""
        channel = 0 if self.shared else index
        heat = torch.from_numpy(self.heatmaps[channel]).float().numpy()  # numpy converts ten times more slowly
        return unstretch(heat, self.ranges[channel])

    def terms_of(self, index: int) -> list[FloatArray]:
        """Return the maps (h, w) that the heatmap of ``classes[index]`` is the mean of; none where it is of one."""
        return [term[0 if self.shared else index] for term in self.terms]


class Localizer:
    """Reads maps out of a classifier for images of any size. Calls from several threads at once are fine.

    Args:
        model: the classifier; it is copied, not changed.
        reading: how maps are read; what it leaves open is what the model stores.
        precision: ``fp32``, ``bf16``, ``int8`` (of OpenVINO), or ``auto``: bf16 where the processor has it.
        device: ``auto``, ``cpu``, ``cuda:1``, ...
        batch_size: images per forward pass; None: 8 on a CPU, 32 elsewhere.
        engine: what runs the backbone, a name of ``gwapctl.engines.ENGINES``, or ``auto``: torch until ``settle`` has
            measured. Maps from gradients are made in torch.

    Raises:
        UsageError: an unknown name, options that do not go together, or a map that this model's head does not have.
        MissingDependencyError: the engine is not installed.

    Attributes:
        engine: what runs the backbone, with its ``choice``.

    Example:
        >>> from gwapctl.networks.classifier import load_classifier
        >>> from gwapctl.networks.zoo import resolve_model
        >>> localizer = Localizer(load_classifier(resolve_model("resnet-s-gwap-tiny-imagenet")), device="cpu")
        >>> result = localizer.run([np.zeros((90, 120, 3), np.uint8)])[0]
        >>> len(result.classes), result.heatmap(0).shape
        (1, (90, 120))

    """

    def __init__(
        self,
        model: Classifier,
        reading: MapReading = AS_STORED,
        *,
        precision: str = "fp32",
        device: str = "auto",
        batch_size: int | None = None,
        engine: str = "torch",
    ) -> None:
        self.reading = resolve_reading(reading, model)
        self.precision, self.device = precision, resolve_device(device)
        check_engine(engine, precision, self.device.type)
        self.batch_size = batch_size or (8 if self.device.type == "cpu" else 32)
        self._method = MAPS[self.reading.method]
        if self._method.gradient_at and (engine not in (AUTO, "torch") or precision == FROM_IMAGES):
            why = f"map {self.reading.method} is made of gradients, which only torch has"
            raise UsageError(f"{why}. Use {option('engine', 'torch')}, or choose another map.")
        self._network = Network(
            model,
            device=self.device,
            precision=AUTO if precision == FROM_IMAGES else precision,
            gradient_at=self._method.gradient_at,
            layers=self.reading.layer,
        )
        self._scales = self.reading.scales or (None,)  # None: the model's own input size, which is not square
        self._own_size = model.info.input_size
        self._try_smallest_scale()
        self.engine = ChosenEngine(self.model, "torch" if self._method.gradient_at else engine, precision)
        self._network.engine = self.engine
        # whether one map stands for every class; a map that the head does not have is found out here
        self.shared = False
        if not self._method.gradient_at:
            self.shared = self._read_maps(blank_forward(self.model), self._classes([(0, 0)])).shape[1] == 1

    @property
    def model(self) -> Classifier:
        """The fast copy of the model that runs."""
        return self._network.model

    @property
    def values(self) -> Literal["minmax", "minmax_mean"]:
        """What the heatmaps hold: ``minmax`` or ``minmax_mean`` (see ``map_folder.MapsInfo``)."""
        reading = self.reading
        single = len(reading.scales) <= 1 and not reading.flip
        summed = reading.crops == "ten"  # absolute values, which add up
        untouched = (summed or not self._method.normalised) and not reading.close and reading.backprop_seg == "none"
        untouched = untouched and reading.crops != "centre"  # which has 0 around its window
        return "minmax" if single and untouched else "minmax_mean"

    def settle(
        self, count: int, images: Callable[[int], Sequence[PreparedImage]], recorded: Choice | None = None
    ) -> str:
        """Decide how the backbone runs, before the first image, and say it in a line; empty where that was clear.

        Of the ``count`` images to come, ``images(n)`` returns n or fewer, the same ones whenever it is asked.
        ``recorded`` is how an earlier call ran that this one continues. Raises what ``ChosenEngine.settle`` raises.
        """

        def batch() -> Tensor | None:
            largest = [max(image.inputs.values(), key=np.size) for image in images(self.batch_size)]
            alike = [image for image in largest if image.shape == largest[0].shape]
            if not alike:
                return None
            number = self._at_once((alike[0].shape[1], alike[0].shape[0]))
            return torch.from_numpy(np.stack([*islice(cycle(alike), number)])).permute(0, 3, 1, 2)

        def calibration() -> list[ImageArray]:  # every size has its turn
            each = [[*image.inputs.values()] for image in images(CALIBRATION_IMAGES)]
            return [inputs[index % len(inputs)][None] for index, inputs in enumerate(each)]

        size = max((self._own_size, *((scale, scale) for scale in self.reading.scales)), key=np.prod)
        return self.engine.settle(count, size, batch, calibration, recorded)

    def _try_smallest_scale(self) -> None:
        """Find out now, not at the first image, whether the network can do with so few pixels."""
        side = min(self.reading.scales, default=SURE_SCALE)
        if side >= SURE_SCALE:
            return
        try:
            self._network([np.zeros((side, side, 3 + self._network.head.sees_boxes), np.uint8)])
        except RuntimeError as error:
            backbone = self.model.info.backbone
            raise UsageError(f"scale {side} is too small for {backbone}: no cell is left of its maps.") from error

    def prepare(self, image: ImageArray) -> PreparedImage:
        """Resize an image ``(H, W, 3)`` uint8 RGB to every size that will be needed."""
        height, width = image.shape[:2]
        if self.reading.crops == "ten":
            sizes = {crops.warped_size(self._own_size)}
        elif self.reading.crops == "centre":
            sizes = {crops.whole_size(self._centre(width, height))}
        else:
            sizes = {self._own_size, *(self._input_size(width, height, scale) for scale in self._scales)}
        if self.reading.backprop_seg != "none":
            sizes |= {heatmap_size(width, height)}
        return PreparedImage(width, height, {size: resize_image(image, size) for size in sizes})

    def _centre(self, width: int, height: int) -> Geometry:
        return crops.centre(width, height, self._own_size, self.reading.resize)

    @property
    def feature_sizes(self) -> frozenset[Size]:
        """The sizes of input whose feature maps can take the place of an image; none where its pixels are needed.

        They can where the network sees whole images, warped and not mirrored, and no inner layer or gradient at the
        pixels is asked for.
        """
        reading, own = self.reading, self._own_size
        whole = not reading.flip and reading.crops == "none" and reading.backprop_seg == "none"
        behind = self._method.gradient_at != "image" and not reading.layer
        warped = reading.resize == "warp" or not reading.scales
        if not (whole and behind and warped) or self._network.head.sees_boxes:
            return frozenset()
        return frozenset({own, *((scale, scale) for scale in reading.scales)})

    def prepare_features(
        self, width: int, height: int, features: Mapping[Size, npt.NDArray[Any]], late: int
    ) -> PreparedImage:
        """Prepare an image ``width x height`` of which one has what the ``late`` last stages of the backbone read.

        ``features`` has it at every one of ``feature_sizes``; an image in one call of ``run`` is like the others.
        """
        return PreparedImage(width, height, dict(features), late)

    def _input_size(self, width: int, height: int, scale: int | None) -> Size:
        if scale is None:
            return self._own_size
        if self.reading.resize == "warp":
            return scale, scale
        kept = Geometry.keep(width, height, scale, cast(Backbone, self.model.backbone).stride)
        return kept.input_width, kept.input_height

    def run(
        self,
        images: Sequence[ImageArray | PreparedImage],
        classes: Sequence[Sequence[int]] | None = None,
        top_k: int = 1,
        regions: Sequence[npt.NDArray[np.uint8]] | None = None,
        resized: bool = True,
    ) -> list[MapResult]:
        """Return class probabilities and heatmaps of ``images``, each uint8 RGB ``(H, W, 3)`` or prepared before.

        Mapped are the ``top_k`` most probable classes of each image and after them those of ``classes`` (one sequence
        per image) that are not among them; ``top_k=0``: only the latter. Classes are decided by one pass at the model's
        own input size, whatever the scales are, or by the crops. ``regions`` (H, W) of 0 and 1, the union of the boxes
        of each image, are for heads that pool inside them; others do not look. Not ``resized``: a map of one scale of
        the whole image, with nothing closed or cut out, stays as small as the network made it, float32 in [0, 1].

        Raises:
            UsageError: the head needs ``regions``, and there are none.

        """
        sees_boxes = self._network.head.sees_boxes
        if sees_boxes and regions is None:
            raise UsageError(
                f"this model pools inside ground-truth boxes (head {self.model.info.head}), and there are none here. "
                "Evaluate it on images with boxes; to find objects, train with head gwap."
            )
        batch = [image if isinstance(image, PreparedImage) else self.prepare(image) for image in images]
        if sees_boxes and regions is not None:
            batch = [image.with_region(region) for image, region in zip(batch, regions, strict=True)]
        wanted = [()] * len(batch) if classes is None else classes
        results: list[MapResult] = []
        step = max(1, self._at_once(self._own_size) // (crops.TEN if self.reading.crops == "ten" else 1))
        for start in range(0, len(batch), step):
            window = slice(start, start + step)
            results += self._run_batch(batch[window], wanted[window], top_k, resized)
        return results

    def _at_once(self, size: Size) -> int:
        """Return how many inputs of ``size`` go through the network together."""
        pixels = PIXELS_PER_IMAGE[self.device.type == "cpu"] * self.batch_size
        return max(1, min(self.batch_size, pixels // (size[0] * size[1])))

    def _run_batch(
        self, batch: Sequence[PreparedImage], wanted: Sequence[Sequence[int]], top_k: int, resized: bool
    ) -> Iterator[MapResult]:
        own = self._network(self._views(batch), late=batch[0].late)
        probabilities = own.probabilities.view(len(batch), -1, own.probabilities.shape[1]).mean(1).cpu().numpy()
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k].tolist()
        chosen = [tuple(dict.fromkeys([*top, *extra])) for top, extra in zip(best, wanted, strict=True)]
        classes = self._classes(chosen)
        terms = self._maps_of_crops(batch, classes, own) or self._terms(batch, classes, own)
        close, segmentation, raw = self.reading.close, self.reading.backprop_seg, self.values == "minmax"
        for image, row, picked, maps in zip(batch, probabilities, chosen, terms, strict=True):
            count = 1 if self.shared else len(picked)
            of_scales = [term[:count] for term in maps]
            if not resized and len(maps) == 1 and not close and segmentation == "none" and self.reading.crops == "none":
                small = np.stack([normalise(heatmap) for heatmap in of_scales[0]])
                yield MapResult(row, picked, small, np.array([[0, 1]] * count, np.float32), self.shared)
                continue
            heatmaps, ranges = compose(of_scales, image, close, segmentation, raw=raw)
            yield MapResult(row, picked, heatmaps, ranges, self.shared, tuple(of_scales) if len(maps) > 1 else ())

    def _views(self, batch: Sequence[PreparedImage]) -> list[ImageArray]:
        """Return what decides the classes of ``batch``: each image whole, its centre, or its ten crops."""
        if self.reading.crops == "none":
            return [image.inputs[self._own_size] for image in batch]
        if self.reading.crops == "centre":
            windows = [self._centre(image.width, image.height) for image in batch]
            return [
                crops.cut_out(image.inputs[crops.whole_size(window)], window)
                for image, window in zip(batch, windows, strict=True)
            ]
        warped = crops.warped_size(self._own_size)
        return [view for image in batch for view in crops.cut(image.inputs[warped], self._own_size)]

    def _maps_of_crops(
        self, batch: Sequence[PreparedImage], classes: Tensor, own: ForwardPass
    ) -> list[list[FloatArray]]:
        """Return, for each image, the maps to average where the network saw crops of it; nothing where it did not."""
        if self.reading.crops == "ten":
            return self._pasted(own, classes)
        return self._centred(batch, classes, own) if self.reading.crops == "centre" else []

    def _centred(self, batch: Sequence[PreparedImage], classes: Tensor, own: ForwardPass) -> list[list[FloatArray]]:
        """Return, for each image, its map ``(1 | k, h, w)``, 0 around the window, and with ``flip`` a second one."""
        terms: list[list[FloatArray]] = [[] for _ in batch]
        for mirrored in (False, True) if self.reading.flip else (False,):
            forward = self._network(self._views(batch), mirrored=True) if mirrored else own
            maps = minmax(self._read_maps(forward, classes).float()).cpu().numpy()
            for image, term, of_image in zip(batch, terms, maps[..., ::-1] if mirrored else maps, strict=True):
                term.append(crops.paste_in(of_image, self._centre(image.width, image.height)))
        return terms

    def _pasted(self, own: ForwardPass, classes: Tensor) -> list[list[FloatArray]]:
        """Return, for each image, one map ``(1 | k, h, w)`` put together from its ten crops."""
        maps = self._read_maps(own, classes.repeat_interleave(crops.TEN, 0)).float().cpu().numpy()
        each = maps.reshape(len(classes), crops.TEN, *maps.shape[1:])
        return [[crops.paste(of_image, self._own_size)] for of_image in each]

    def _terms(self, batch: Sequence[PreparedImage], classes: Tensor, own: ForwardPass) -> list[list[FloatArray]]:
        """Return, for each image, the maps ``(1 | k, h, w)`` to average: one per scale and, with ``flip``, mirror."""
        terms: list[list[FloatArray]] = [[] for _ in batch]
        for scale in self._scales:
            for size, members in self._by_input_size(batch, scale):
                inputs = [batch[member].inputs[size] for member in members]
                for mirrored in (False, True) if self.reading.flip else (False,):
                    reusable = size == self._own_size and len(members) == len(batch) and not mirrored
                    forward = own if reusable else self._network(inputs, mirrored=mirrored, late=batch[0].late)
                    read = self._read_maps(forward, classes[members]).float()
                    maps = (minmax(read) if self._method.normalised else read).cpu().numpy()
                    for member, term in zip(members, maps[..., ::-1] if mirrored else maps, strict=True):
                        terms[member].append(term)
        return terms

    def _by_input_size(self, batch: Sequence[PreparedImage], scale: int | None) -> Iterator[tuple[Size, list[int]]]:
        """Divide ``batch`` into parts that go through the network together: their size, and which images they are."""
        groups: dict[Size, list[int]] = {}
        for member, image in enumerate(batch):
            groups.setdefault(self._input_size(image.width, image.height, scale), []).append(member)
        for size, members in groups.items():
            step = self._at_once(size)
            yield from ((size, members[start : start + step]) for start in range(0, len(members), step))

    def _classes(self, chosen: Sequence[Sequence[int]]) -> Tensor:
        """Return class indices ``(B, k)``, the shorter rows filled up with class 0."""
        longest = max(len(row) for row in chosen)
        rows = [[*row, *[0] * (longest - len(row))] for row in chosen]
        return torch.tensor(rows, dtype=torch.long, device=self.device).view(len(chosen), longest)

    @torch.no_grad()
    def _read_maps(self, forward: ForwardPass, classes: Tensor) -> Tensor:
        """Return the raw maps ``(B, 1 | k, h, w)`` of a pass, those of several layers fused."""
        options = {name: getattr(self.reading, name) for name in self._method.options}
        return fuse_maps(self._method.read(forward, classes, **options), self.reading.fuse)
