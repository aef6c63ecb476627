"""Composed images: objects of boxes that are little in doubt, cut out of their images and pasted onto others.

Boxes from a classifier's maps hold several objects that touch, or half of one, and a detector that learns from them
learns that, too. Here what the boxes of every class show that are least in doubt, or that a file is sure of, is pasted
in other sizes and places, beside and upon each other: there the boxes are right by construction, and small and touching
objects are as frequent as lone ones. Cutting and pasting to learn a detector is
Dwibedi et al.'s (ICCV 2017, arXiv 1708.01642), with masks from a network; here GrabCut cuts inside of the box. Shares,
sizes and numbers are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from gwapctl.boxes import FloatArray, area, as_boxes, clip, iou, scale
from gwapctl.datasets.base import BoxedSample, ClassName, Sample
from gwapctl.files import atomic_path
from gwapctl.geometry import Geometry
from gwapctl.images.decode import image_size, read_image
from gwapctl.networks.transforms import Image, read_ahead, resize
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.regions.components import BoolMask, FloatMap, largest_component
from gwapctl.regions.edges import grabcut
from gwapctl.regions.masks import enlarged
from gwapctl.train.pseudo import PseudoBoxes, pseudo_boxes, read_boxes, with_boxes, write_boxes

TRUSTED = 0.35  # share of a class's boxes that are cut out: those least in doubt
MOST_IMAGES = 1_000  # composed, however many there are
MOST_PASTED = 5  # objects of a composed image
ONE_CLASS = 0.6  # how often all of them are of one class
SIZES = 0.4, 1.2  # of a pasted object, in units of its own: as shares of the image's shorter side
TRIES = 10  # to find a place for an object
OUTSIDE = 0.1  # share of an object that may lie beyond the border
MOST_OVERLAP, HIDDEN = 0.3, 0.6  # IoU of two boxes, and the share of one that is covered, from which it is left out
GROUND_SHARE = 0.25  # the image is shrunk so far before its objects are painted over
RIM = 7  # pixels around an object that are painted over, too
CUT_SIDE, CUT_STEPS, SLACK = 160, 3, 0.04  # GrabCut's image; its steps; how far beyond a box it may go
WHOLE_BOX = 0.25  # a mask that fills less of its box is none: all that is in the box is cut out then
SMALLEST = 8  # pixels
SIDE = 512  # of composed images, at least where a detector sees more
SOFT = 1.0  # pixels over which the edge of what is pasted fades
QUALITY = 95  # of the JPEG files
MOST_KEPT = 256  # images in memory


class Cutout(NamedTuple):
    """An object in its box: ``image`` (h, w, 3) and ``opacity`` (h, w) in 0..1.

    ``share`` is its longer side as a share of the shorter one of the image that it was in.
    """

    image: Image
    opacity: FloatMap
    share: float


class Source(NamedTuple):
    """A box to cut out: the index of its ``sample``, and the ``box`` (4,) in that one's pixels."""

    sample: int
    box: FloatArray


def sure(found: Sequence[PseudoBoxes]) -> list[list[bool]]:
    """Tell of every box whether it is trusted: it weighs more than 1 - ``TRUSTED``, or more than all of its class.

    Where boxes weigh by their rank (``pseudo.ranked``), these are the ``TRUSTED`` share of their class.

    >>> sure([pseudo_boxes([[0, 0, 9, 9]], [label], [weight]) for label, weight in ((0, 0.9), (0, 0.5), (1, 0.2))])
    [[True], [False], [True]]
    """
    best: dict[int, float] = {}
    for one in found:
        for weight, label in zip(one.weights.tolist(), one.labels.tolist(), strict=True):
            best[label] = max(weight, best.get(label, 0.0))
    pairs = [zip(one.weights.tolist(), one.labels.tolist(), strict=True) for one in found]
    return [[weight > 1 - TRUSTED or weight == best[label] for weight, label in pair] for pair in pairs]


def how_many(share: float, images: int) -> int:
    """Return how many images are composed: so many for each of the ``images`` that has boxes, up to a limit."""
    return min(MOST_IMAGES, round(share * images))


class Composites:
    """Images composed of training images and of the boxes found in them, each a pure function of its number.

    Args:
        samples: the training images.
        found: their boxes, one value for each.
        seed: of what is drawn.
        side: the longer side of composed images, at most.

    """

    def __init__(self, samples: Sequence[Sample], found: Sequence[PseudoBoxes], *, seed: int, side: int = SIDE) -> None:
        self.samples, self.found, self.seed, self.side = samples, found, seed, side
        self.sources: dict[int, list[Source]] = {}
        for index, (one, flags) in enumerate(zip(found, sure(found), strict=True)):
            for box, label, flag in zip(one.boxes, one.labels.tolist(), flags, strict=True):
                if flag:
                    self.sources.setdefault(label, []).append(Source(index, box))
        self.grounds = [index for index, one in enumerate(found) if len(one) or not samples[index].labels]
        self._image = lru_cache(MOST_KEPT)(self._read)
        self._cutout = lru_cache(MOST_KEPT)(self._cut)

    def compose(self, number: int) -> tuple[Image, PseudoBoxes]:
        """Return the composed image of that number, and the boxes of what was pasted."""
        draw = np.random.default_rng([self.seed, number])
        canvas = self._ground(self.grounds[draw.integers(len(self.grounds))])
        classes = sorted(self.sources)
        only = classes[draw.integers(len(classes))] if draw.random() < ONE_CLASS else None
        boxes, labels = as_boxes([]), np.zeros(0, np.int64)
        for _ in range(draw.integers(1, MOST_PASTED + 1)):
            label = classes[draw.integers(len(classes))] if only is None else only
            members = self.sources[label]
            box = _paste(canvas, self._cutout(label, int(draw.integers(len(members)))), boxes, draw)
            if box is not None:
                seen = _covered(boxes, box) < HIDDEN
                boxes, labels = np.vstack([boxes[seen], box]), np.append(labels[seen], label)
        return canvas, pseudo_boxes(boxes, labels, np.ones(len(labels)))

    def _read(self, index: int) -> Image:
        image = read_image(self.samples[index].path)
        size = Geometry.fit(image.shape[1], image.shape[0], self.side)
        return resize(image, (size.input_width, size.input_height))

    def _on_image(self, index: int, boxes: FloatArray) -> FloatArray:
        """Return boxes of a sample in pixels of its smaller image, whole pixels that hold them."""
        path, image = self.samples[index].path, self._image(index)
        size = image_size(path)
        height, width = image.shape[:2]
        own = scale(boxes, *size, width, height)
        return clip(np.concatenate([np.floor(own[:, :2]), np.ceil(own[:, 2:])], axis=1), width, height)

    def _cut(self, label: int, number: int) -> Cutout:
        source = self.sources[label][number]
        image, box = self._image(source.sample), self._on_image(source.sample, source.box[None])[0]
        mask, (left, top, right, bottom) = object_mask(image, box), box.astype(int).tolist()
        rows, columns = np.nonzero(mask)
        if len(rows):  # else the box is beyond the image
            left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        window = slice(top, bottom), slice(left, right)
        share = max(bottom - top, right - left) / min(image.shape[:2])
        return Cutout(image[window], mask[window].astype(np.float32), share)

    def _ground(self, index: int) -> Image:
        """Return a new image of a sample, all that was found in it painted over with what is around it."""
        image, found = self._image(index).copy(), self.found[index]
        height, width = image.shape[:2]
        over = np.zeros((height, width), np.uint8)
        for left, top, right, bottom in self._on_image(index, found.boxes).astype(int).tolist():
            over[max(0, top - RIM) : bottom + RIM, max(0, left - RIM) : right + RIM] = 1
        if over.any():
            size = max(1, round(width * GROUND_SHARE)), max(1, round(height * GROUND_SHARE))
            small_over = cv2.resize(over, size, interpolation=cv2.INTER_NEAREST)
            painted = cv2.inpaint(resize(image, size), small_over, 3, cv2.INPAINT_TELEA)
            image[over > 0] = resize(np.asarray(painted, np.uint8), (width, height))[over > 0]
        return image


def object_mask(image: Image, box: FloatArray) -> BoolMask:
    """Return the pixels (H, W) of the object in ``box`` (4,) of ``image`` (H, W, 3): what GrabCut finds.

    They may reach a little beyond the box, whose edges may be inside of the object. Where there is next to nothing they
    are those of the box.
    """
    height, width = image.shape[:2]
    grid = Geometry.fit(width, height, CUT_SIDE)
    small = resize(image, (grid.input_width, grid.input_height))
    ratio = np.array([small.shape[1] / width, small.shape[0] / height] * 2)
    slack = SLACK * np.concatenate([box[:2] - box[2:], box[2:] - box[:2]])
    left, top, right, bottom = clip(ratio * (box + slack), *small.shape[1::-1]).astype(int).ravel().tolist()
    inside = np.zeros(small.shape[:2], np.bool_)
    inside[top:bottom, left:right] = True
    cut = grabcut(small, sure=np.zeros_like(inside), likely=inside, never=~inside, steps=CUT_STEPS)
    largest = None if cut is None else largest_component(cut)
    mask = np.zeros((height, width), np.bool_) if largest is None else enlarged(largest, width, height)
    if mask.sum() < WHOLE_BOX * float(area(box[None])[0]):
        left, top, right, bottom = box.astype(int).tolist()
        mask = np.zeros((height, width), np.bool_)
        mask[top:bottom, left:right] = True
    return mask


def _paste(canvas: Image, cutout: Cutout, others: FloatArray, draw: np.random.Generator) -> FloatArray | None:
    """Paste an object into ``canvas`` (H, W, 3) at a size and place that are drawn, and return its box (4,).

    None where no place was found at which its box and those of the ``others`` (N, 4) do not overlap too much, or where
    it is nothing.
    """
    if not cutout.opacity.size:
        return None
    height, width = canvas.shape[:2]
    low, high = np.log(SIZES)
    share = min(1.0, cutout.share * float(np.exp(draw.uniform(low, high))))
    factor = share * min(height, width) / max(cutout.opacity.shape)
    across, down = (max(SMALLEST, round(side * factor)) for side in cutout.opacity.shape[::-1])
    image, opacity = resize(cutout.image, (across, down)), cv2.resize(cutout.opacity, (across, down))
    if draw.random() < 0.5:
        image, opacity = image[:, ::-1], opacity[:, ::-1]
    for _ in range(TRIES):
        left = round(draw.uniform(-OUTSIDE * across, width - (1 - OUTSIDE) * across))
        top = round(draw.uniform(-OUTSIDE * down, height - (1 - OUTSIDE) * down))
        box = clip(as_boxes([[left, top, left + across, top + down]]), width, height)
        if not len(others) or iou(box, others).max() < MOST_OVERLAP:
            break
    else:
        return None
    x0, y0, x1, y1 = box[0].astype(int).tolist()
    part = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    alpha = cv2.GaussianBlur(np.ascontiguousarray(opacity), (0, 0), SOFT)[part][..., None]
    under = canvas[y0:y1, x0:x1]
    canvas[y0:y1, x0:x1] = np.round(under * (1 - alpha) + image[part] * alpha).astype(np.uint8)
    return np.asarray(box[0])


def _covered(boxes: FloatArray, box: FloatArray) -> FloatArray:
    """Return the share (N,) of each of ``boxes`` (N, 4) that ``box`` (4,) covers."""
    sides = np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None)
    return np.asarray(sides.prod(axis=1) / np.maximum(area(boxes), 1))


def write_composites(
    folder: Path,
    composites: Composites,
    count: int,
    names: Sequence[ClassName],
    *,
    workers: int = 0,
    progress: ProgressCallback = lambda _: None,
) -> list[BoxedSample]:
    """Write ``count`` composed images to ``folder``, and return them with their boxes, which ``boxes.jsonl`` holds.

    What was written before is read: the list comes last. ``progress`` may raise to stop.
    """
    samples = [Sample(f"{folder.name}/{n:04d}", folder / f"{n:04d}.jpg", ()) for n in range(count)]
    listing = folder / "boxes.jsonl"
    if not listing.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        found: list[PseudoBoxes] = []
        for [one] in read_ahead(composites.compose, ([n] for n in range(count)), workers):
            image, boxes = one
            _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
            with atomic_path(samples[len(found)].path) as temporary:
                temporary.write_bytes(data.tobytes())
            found.append(boxes)
            progress(Progress(len(found), count, "images", "composing images"))
        write_boxes(listing, samples, found, names)
    pairs = zip(samples, read_boxes(listing, samples, names), strict=True)
    return [with_boxes(replace(one, labels=tuple(sorted(set(boxes.labels.tolist())))), boxes) for one, boxes in pairs]
