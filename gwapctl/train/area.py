"""How much of a box's score is its size: what image-level labels choose, after a detector learned from found boxes.

A classifier finds what tells classes apart, often a part: the head of a dog. What learned from such boxes scores parts
as high as wholes, and a factor ``(share of the image)^e`` sets that right; where boxes were whole already it makes them
too large. Which exponent it is, labels tell: cut out, a whole object is named more surely than its parts, and than a
box with much else in it. The criterion is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from gwapctl.boxes import Detections, FloatArray
from gwapctl.datasets.base import Sample
from gwapctl.images.decode import ImageArray, read_image
from gwapctl.networks.rfcn.inference import DetectorReader
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.train.rounds import Find

EXPONENTS = (0.0, 0.1, 0.2, 0.4, 0.8)
MOST_IMAGES = 1000  # that are looked at: the mean logits differ by little more than their error
SUREST = 1e-6  # chances closer to 0 and 1 are the same


def choose_area_exponent(
    reader: DetectorReader, samples: Mapping[int, Sample], find: Find, seed: int, progress: ProgressCallback
) -> Mapping[float, float]:
    """Set the exponent of the reader's model, and return how sure the weak branch was with each that was tried.

    Of each image and class in it the best box is cut out, and the weak branch asked for the class. The exponent with
    the largest mean logit is taken; without images that show something, 0.

    Args:
        reader: of a detector that has a weak branch.
        samples: training images and their labels, by index; 1,000 of them are drawn where there are more.
        find: finds objects in one of them, by its index, from a score on.
        seed: of the draw.
        progress: is told how far it is, and may raise to stop.

    """
    shown = [index for index, sample in samples.items() if sample.labels]
    drawn = np.random.default_rng([seed, len(shown)]).permutation(shown)[:MOST_IMAGES].tolist()
    logits: list[list[float]] = []  # of a pair of image and class, by exponent
    for done, index in enumerate(drawn, start=1):
        best = _best_boxes(reader, samples[index].labels, partial(find, index, 0.0))
        image = read_image(samples[index].path)
        logits += [_sureness(reader, image, label, boxes) for label, boxes in best.items()]
        progress(Progress(done, len(drawn), "images", "choosing how much the size of a box counts"))
    if not logits:
        _set(reader, 0.0)
        return {}
    means = np.mean(logits, axis=0)
    _set(reader, EXPONENTS[int(means.argmax())])
    return dict(zip(EXPONENTS, means.tolist(), strict=True))


def _set(reader: DetectorReader, exponent: float) -> None:
    reader.model.info = reader.model.info.model_copy(update={"area_exponent": exponent})


def _best_boxes(
    reader: DetectorReader, labels: Sequence[int], find: Callable[[], Detections]
) -> dict[int, list[FloatArray]]:
    """Return the best box (4,) of each label with every exponent; labels without any box are left out."""
    best: dict[int, list[FloatArray]] = {label: [] for label in labels}
    for exponent in EXPONENTS:
        _set(reader, exponent)
        found = find()
        for label in labels:
            own = np.flatnonzero(found.labels == label)
            best[label] += [found.boxes[own[found.scores[own].argmax()]]] if len(own) else []
    return {label: boxes for label, boxes in best.items() if len(boxes) == len(EXPONENTS)}


def _sureness(reader: DetectorReader, image: ImageArray, label: int, boxes: Sequence[FloatArray]) -> list[float]:
    """Return the weak branch's logit of ``label`` for what each box holds of an image (H, W, 3)."""
    corners = [tuple(box.round().astype(int).tolist()) for box in boxes]
    distinct = [*dict.fromkeys(corners)]
    chances = np.clip(reader.image_chances([_cut(image, one) for one in distinct])[:, label], SUREST, 1 - SUREST)
    logits = np.log(chances / (1 - chances))
    return [float(logits[distinct.index(one)]) for one in corners]


def _cut(image: ImageArray, corners: tuple[int, ...]) -> ImageArray:
    """Return the pixels of a box, at least one."""
    left, top = min(corners[0], image.shape[1] - 1), min(corners[1], image.shape[0] - 1)
    return image[top : max(corners[3], top + 1), left : max(corners[2], left + 1)]
