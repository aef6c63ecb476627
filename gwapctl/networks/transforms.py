"""From samples to batches: decode, crop, resize, mirror; RGB in 0..255, the classifier normalises.

What is done to an image is a pure function of (seed, epoch, index), and which images form a batch is a pure function of
(seed, iteration). So a resumed run sees exactly what the uninterrupted one would have seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gwapctl.datasets.base import BoxedSample, Sample
from gwapctl.images.decode import read_image, read_reduced
from gwapctl.metrics.foreground import boxes_mask

K = TypeVar("K")
T = TypeVar("T")
Image = npt.NDArray[np.uint8]
Source = Callable[[Sample], Image]  # where the pixels of samples come from
BATCHES_AHEAD = 3  # read while the network works


def read_sample(sample: Sample, largest: tuple[int, int] | None = None) -> Image:
    """Return the image ``(H, W, 3)``; of a sample with boxes ``(H, W, 4)``, the last channel being its region.

    The region is 255 on the union of all boxes (also those of difficult objects) and 0 elsewhere. As a channel it goes
    through whatever is done to the image. What is wider or higher than ``largest`` (width, height) is shrunk to that.
    """
    if largest is None:
        image = read_image(sample.path)
        width, height = size = image.shape[1::-1]
    else:
        image, (width, height) = read_reduced(sample.path, largest)
        size = min(width, largest[0]), min(height, largest[1])
        image = resize(image, size)
    if not isinstance(sample, BoxedSample):
        return image
    return np.dstack([image, resize(sample_region(sample, width, height), size)])


def sample_region(sample: BoxedSample, width: int, height: int) -> Image:
    """Return the region of a sample's boxes, (height, width): 255 on their union and 0 elsewhere."""
    return 255 * boxes_mask(sample.boxes, width, height).astype(np.uint8)


def split_region(batch: Tensor) -> tuple[Tensor, Tensor | None]:
    """Split a batch ``(B, 3 | 4, H, W)`` into images ``(B, 3, H, W)`` and regions ``(B, 1, H, W)`` in 0..1, if any."""
    return (batch, None) if batch.shape[1] == 3 else (batch[:, :3], batch[:, 3:].float() / 255)


def resize(image: Image, size: tuple[int, int]) -> Image:
    """Resize ``(H, W [, channels])`` to ``size`` (width, height): by area averages to shrink, bilinear to grow."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    shrinks = size[0] * size[1] < width * height
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), np.uint8)


def random_crop(image: Image, min_area: float, generator: np.random.Generator, aspect: float = 1.0) -> Image:
    """Cut out a window of ``min_area`` to all of the area, of the image's aspect ratio, or one changed by ``aspect``.

    It is changed by at most that factor, up or down. The released trainings of CAM, SPG and DGL keep it.
    """
    height, width = image.shape[:2]
    share = generator.uniform(min_area, 1)
    stretch = np.exp(generator.uniform(*np.log([1 / aspect, aspect])) / 2)
    crop_width = min(width, max(1, round(width * np.sqrt(share) * stretch)))
    crop_height = min(height, max(1, round(height * np.sqrt(share) / stretch)))
    x = int(generator.integers(0, width - crop_width + 1))
    y = int(generator.integers(0, height - crop_height + 1))
    return image[y : y + crop_height, x : x + crop_width]


def largest_asked_for(sizes: Iterable[tuple[int, int]], min_area: float, aspect: float = 1.0) -> tuple[int, int]:
    """Return the (width, height) up to which an image has pixels of use: its smallest crop then is as large as a size.

    >>> largest_asked_for([(64, 64), (96, 48)], min_area=0.25)
    (192, 128)
    """
    factor = np.sqrt(aspect / min_area)
    width, height = (int(np.ceil(max(sides) * factor)) for sides in zip(*sizes, strict=True))
    return width, height


class Key(NamedTuple):
    """One training image to make: which sample, in which epoch, at which size (width, height).

    Background images have the iteration as their epoch: they may be drawn many times in one epoch.
    """

    image: int
    epoch: int
    size: tuple[int, int]


@dataclass(frozen=True)
class TrainingImages:
    """Training images by ``Key``: randomly cropped, warped to the size, mirrored half of the time."""

    samples: Sequence[Sample]
    seed: int
    flip: bool
    min_crop: float
    crop_aspect: float = 1.0
    source: Source = read_sample

    def __getitem__(self, key: Key) -> tuple[Image, int]:
        """Return the image ``(H, W, 3 | 4)`` and the sample's index."""
        generator = np.random.default_rng([self.seed, key.epoch, key.image])
        image = self.source(self.samples[key.image])
        if self.min_crop < 1:
            image = random_crop(image, self.min_crop, generator, self.crop_aspect)
        image = resize(image, key.size)
        if self.flip and generator.random() < 0.5:
            image = np.asarray(cv2.flip(image, 1), np.uint8)  # many times as fast as stacking a mirrored view
        return image, key.image


@dataclass(frozen=True)
class EvaluationImages:
    """Whole images warped to one size (width, height), as the paper tests."""

    samples: Sequence[Sample]
    size: tuple[int, int]
    source: Source = read_sample

    def __getitem__(self, index: int) -> tuple[Image, int]:
        """Return the image ``(H, W, 3 | 4)`` and the sample's index."""
        return resize(self.source(self.samples[index]), self.size), index


def collate(items: Sequence[tuple[npt.NDArray[Any], int]]) -> tuple[Tensor, Tensor]:
    """Stack images to uint8 ``(B, 3 | 4, H, W)``, channels last in memory, and indices to ``(B,)``."""
    images = torch.from_numpy(np.stack([image for image, _ in items])).permute(0, 3, 1, 2)
    return images, torch.tensor([index for _, index in items])


class Items(Protocol):
    """What batches are made of: arrays ``(H, W, channels)`` of one size, and the indices of their samples."""

    def __getitem__(self, key: Any, /) -> tuple[npt.NDArray[Any], int]:
        """Return one of them."""


def load_batches(images: Items, batches: Iterable[Sequence[Any]], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the collated ``batches`` of keys of ``images``, read ahead by ``workers`` threads (0: none)."""
    return map(collate, read_ahead(images.__getitem__, batches, workers))


def read_ahead(read: Callable[[K], T], batches: Iterable[Sequence[K]], workers: int) -> Iterator[list[T]]:
    """Yield what ``read`` makes of each batch of keys, a few batches ahead in ``workers`` threads (0: none).

    Threads suffice, because OpenCV lets go of the interpreter while it decodes and resizes; and unlike processes they
    can be started next to a network that already runs.
    """
    if workers == 0:
        yield from ([read(key) for key in keys] for keys in batches)
        return
    ahead: deque[list[Future[T]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for keys in batches:
            ahead.append([pool.submit(read, key) for key in keys])
            if len(ahead) > BATCHES_AHEAD:
                yield [future.result() for future in ahead.popleft()]
        while ahead:
            yield [future.result() for future in ahead.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class TrainingBatches:
    """The batches of iterations ``start`` to ``stop``: every epoch a new permutation, every batch one size.

    A size out of ``sizes`` is drawn with probability proportional to its side to the power -4, so that time goes to
    the small ones and the large ones are seen now and then.

    Behind every batch come ``backgrounds_per_batch`` of the ``backgrounds`` images without objects, drawn with
    replacement; their indices follow those of the ``count`` others.
    """

    count: int
    batch_size: int
    sizes: tuple[tuple[int, int], ...]
    seed: int
    start: int
    stop: int
    backgrounds: int = 0
    backgrounds_per_batch: int = 0

    @property
    def per_epoch(self) -> int:
        """Full batches in one epoch; the rest of the permutation is left out (a lone image ruins batch norm)."""
        return max(1, self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield lists of keys."""
        chances = np.array([max(size) ** -4.0 for size in self.sizes])
        order, order_epoch = np.zeros(0, np.int64), -1
        for iteration in range(self.start, self.stop):
            epoch, step = divmod(iteration, self.per_epoch)
            if epoch != order_epoch:
                order, order_epoch = np.random.default_rng([self.seed, epoch]).permutation(self.count), epoch
            draw = np.random.default_rng([self.seed, epoch, self.count, step]).choice(
                len(self.sizes), p=chances / chances.sum()
            )
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            size = self.sizes[int(draw)]
            behind = [Key(self.count + index, iteration, size) for index in self._draw_backgrounds(iteration)]
            yield [Key(int(index), epoch, size) for index in chosen] + behind

    def _draw_backgrounds(self, iteration: int) -> list[int]:
        """Draw with a generator of their own, so that everything else is as it would be without them."""
        if not self.backgrounds_per_batch:
            return []
        generator = np.random.default_rng([self.seed, iteration, self.count, self.backgrounds, 1])
        return [int(index) for index in generator.integers(0, self.backgrounds, self.backgrounds_per_batch)]


def image_labels(samples: Sequence[Sample], classes: int) -> tuple[Tensor, Tensor]:
    """Return labels and label mask, ``(n, C)`` in {0, 1}; the mask is 0 where a class is only difficult."""
    labels, label_mask = torch.zeros(len(samples), classes), torch.ones(len(samples), classes)
    for row, sample in enumerate(samples):
        labels[row, list(sample.labels)] = 1
        label_mask[row, list(sample.ignored)] = 0
    return labels, label_mask
