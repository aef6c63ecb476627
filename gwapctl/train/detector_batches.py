"""From samples to a detector's batches: images with boxes and others meet in one step, resized, mirrored and padded.

Which images with boxes form a step, in which order and which of them are mirrored, depends on them and the seed alone:
every row of the paper's Table V sees the same. The other images that a weak branch sees come from a generator of their
own and stand behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gwapctl.boxes import FloatArray
from gwapctl.datasets.base import BoxedSample, Sample
from gwapctl.geometry import Geometry
from gwapctl.images.decode import image_size, read_image
from gwapctl.networks.rfcn.base import BoxTarget
from gwapctl.networks.rfcn.inference import TrunkMaps, pad
from gwapctl.networks.transforms import Image, resize
from gwapctl.train.trunk_cache import TrunkCache

KEPT_BYTES = 2**28  # of resized images that stay in memory: a small set, or few images with boxes, is read once


class Key(NamedTuple):
    """One training image to make: which sample, and how often its kind was gone through before."""

    image: int
    epoch: int


class Picture(NamedTuple):
    """One image of a batch ``(h, w, 3)``, its sample's index, and its objects where they may be seen.

    In place of the image there may be its trunk's maps; ``size`` (height, width) is the image's in any case.
    """

    image: Image | TrunkMaps
    size: tuple[int, int]
    sample: int
    target: BoxTarget | None


class Batch(NamedTuple):
    """``images`` (B, 3, H, W) uint8, zero where padded; their ``sizes`` (h, w), ``targets`` and sample indices (B,).

    Or the trunk's maps (B, K4 + K5, H / stride, W / stride) in float16.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    targets: list[BoxTarget | None]
    indices: Tensor


@dataclass(frozen=True)
class DetectorImages:
    """Training images by ``Key``: resized within short and long side, mirrored half of the time.

    ``boxed`` has the samples whose boxes may be seen, by their index in ``samples``, which carry none; ``weights`` how
    much each of their boxes counts, where that differs. Images that stay in memory are in ``kept``. Where the trunk's
    maps are kept (``cache``) they are what is returned, and no image is read.
    """

    samples: Sequence[Sample]
    boxed: Mapping[int, BoxedSample]
    seed: int
    flip: bool
    short_side: int
    long_side: int
    weights: Mapping[int, FloatArray] = field(default_factory=dict)
    kept: dict[int, tuple[Image, Geometry]] = field(default_factory=dict, repr=False)
    cache: TrunkCache | None = None

    def __getitem__(self, key: Key) -> Picture:
        """Return the image and its objects in the same pixels."""
        mirrored = self.flip and np.random.default_rng([self.seed, key.epoch, key.image]).random() < 0.5
        image: Image | TrunkMaps
        if self.cache is not None:
            image, geometry = self.cache.read(key.image, mirrored=mirrored), self.cache.geometry(key.image)
        else:
            image, geometry = self.kept.get(key.image) or self._read(key.image)
            image = image[:, ::-1] if mirrored else image
        geometry = geometry.mirror() if mirrored else geometry
        size, boxed = (geometry.input_height, geometry.input_width), self.boxed.get(key.image)
        if boxed is None:
            return Picture(image, size, key.image, None)
        boxes = torch.from_numpy(geometry.to_input(boxed.boxes)).float()
        labels, difficult = torch.from_numpy(boxed.box_labels), torch.from_numpy(boxed.difficult)
        counted = self.weights.get(key.image)
        weights = None if counted is None else torch.from_numpy(counted).float()
        return Picture(image, size, key.image, BoxTarget(boxes, labels, difficult, weights))

    def _read(self, index: int) -> tuple[Image, Geometry]:
        """Read and resize an image, and keep it as long as there is room."""
        image = read_image(self.samples[index].path)
        geometry = Geometry.within(image.shape[1], image.shape[0], self.short_side, self.long_side)
        image = resize(image, (geometry.input_width, geometry.input_height))
        if (len(self.kept) + 1) * image.nbytes <= KEPT_BYTES:
            self.kept[index] = image, geometry
        return image, geometry


def collate(pictures: Sequence[Picture]) -> Batch:
    """Pad images, or maps, at the right and the bottom to one size; channels last in memory."""
    images, _ = pad([picture.image for picture in pictures])
    indices = torch.tensor([picture.sample for picture in pictures])
    return Batch(images, [picture.size for picture in pictures], [picture.target for picture in pictures], indices)


def is_wide(sample: Sample) -> bool:
    """Tell whether an image is wider than high, from its annotation or else its header."""
    width, height = sample.size or image_size(sample.path)
    return width > height


@dataclass(frozen=True)
class MixedBatches:
    """The batches of steps ``start`` to ``stop``: ``batch_size`` of the ``boxed`` images, then as many ``others``.

    A batch is all wide or all high, so that padding stays small (as in py-faster-rcnn and torchvision's references);
    only where there are no ``others`` of its kind does it take the other kind. Every epoch is a new permutation; images
    that fill no batch of their kind wait for the next epoch. ``wide`` says which images are wide, by index.
    """

    wide: Mapping[int, bool]
    boxed: Sequence[int]
    others: Sequence[int]
    batch_size: int
    seed: int
    start: int
    stop: int

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield lists of keys; the steps before ``start`` are gone through without reading an image."""
        return islice(self._from_the_first(), self.start, self.stop)

    def _from_the_first(self) -> Iterator[list[Key]]:
        kinds = {kind: [index for index in self.others if self.wide[index] == kind] for kind in (True, False)}
        streams = {kind: _permutations(members, [self.seed, 1, kind]) for kind, members in kinds.items()}
        waiting: dict[bool, list[Key]] = {True: [], False: []}
        for key in _permutations(self.boxed, [self.seed, 0]):
            kind = self.wide[key.image]
            waiting[kind].append(key)
            if len(waiting[kind]) == self.batch_size:
                chosen, waiting[kind] = waiting[kind], []
                beside = streams[kind if kinds[kind] else not kind] if self.others else iter(())
                yield chosen + list(islice(beside, self.batch_size))


def _permutations(members: Sequence[int], seed: Sequence[int]) -> Iterator[Key]:
    """Yield ``members`` in one random order after the other, for ever."""
    for epoch in count() if members else ():
        for index in np.random.default_rng([*seed, epoch]).permutation(len(members)):
            yield Key(members[index], epoch)
