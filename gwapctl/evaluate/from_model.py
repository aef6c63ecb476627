"""Evidence from a model: images through the network once, with the maps of the classes that the metrics look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from gwapctl.datasets.base import BoxedSample, Dataset
from gwapctl.datasets.class_names import FOREIGN
from gwapctl.evaluate.paper import TOP
from gwapctl.evaluate.predictions import ANY, Evidence, Heatmap, boxes_from_maps, match_classes, spread
from gwapctl.images.decode import read_image
from gwapctl.metrics.foreground import boxes_mask
from gwapctl.regions import BoxRule

if TYPE_CHECKING:
    from gwapctl.maps.heatmap import PreparedImage
    from gwapctl.maps.localizer import Localizer, MapResult
    from gwapctl.networks.heads.base import Head


def evidence_from_model(
    localizer: Localizer,
    dataset: Dataset,
    samples: Sequence[BoxedSample],
    rule: BoxRule | None,
    *,
    name: str = "the model",
    workers: int | None = None,
) -> Iterator[Evidence]:
    """Yield the evidence of each of ``samples``; classes of model and data set are matched by id or name.

    One map per image where it stands for all classes, otherwise those of the classes present and of the five best. A
    head that sees boxes gets the union of all objects of an image, difficult ones included.

    Raises:
        DataError: the classes do not match, or an image cannot be read.

    """
    from gwapctl.predict.threads import in_threads

    classes = localizer.model.info.classes
    present = {label for sample in samples for label in sample.labels}
    match = match_classes(classes, dataset.classes, present, name, dataset.name)
    of_model = {int(label): index for index, label in enumerate(match) if label != FOREIGN}

    def work(part: list[BoxedSample]) -> list[Evidence]:
        images, rules = zip(*(_seen(localizer, rule, sample) for sample in part), strict=True)
        wanted = [[of_model[label] for label in sample.labels] for sample in part]
        regions = object_regions(localizer, part, images)
        results = localizer.run(images, wanted, top_k=1 if localizer.shared else TOP, regions=regions)
        return [
            _evidence(result, match, len(dataset.classes), seen, sample.labels, (image.width, image.height))
            for sample, image, seen, result in zip(part, images, rules, results, strict=True)
        ]

    yield from in_threads(work, samples, chunk=localizer.batch_size, workers=workers)


def _seen(localizer: Localizer, rule: BoxRule | None, sample: BoxedSample) -> tuple[PreparedImage, BoxRule | None]:
    """Return what is kept of an image: the network's inputs, and the box rule that has seen it."""
    image = read_image(sample.path)
    return localizer.prepare(image), None if rule is None else rule.on_image(image)


def sees_boxes(localizer: Localizer) -> bool:
    """Tell whether the model's head pools inside ground-truth boxes, so that its numbers are no results of its own."""
    return cast("Head", localizer.model.head).sees_boxes


def object_regions(
    localizer: Localizer, samples: Sequence[BoxedSample], images: Sequence[PreparedImage]
) -> list[npt.NDArray[np.uint8]] | None:
    """Return the union (H, W) of all objects of each image for a head that sees boxes, None for any other."""
    if not sees_boxes(localizer):
        return None
    pairs = zip(samples, images, strict=True)
    return [boxes_mask(sample.boxes, image.width, image.height).astype(np.uint8) for sample, image in pairs]


def _evidence(
    result: MapResult,
    match: npt.NDArray[np.int64],
    classes: int,
    rule: BoxRule | None,
    labels: Sequence[int],
    size: tuple[int, int],
) -> Evidence:
    maps = _maps(result, match)
    best = np.argsort(-result.probabilities, kind="stable")[:TOP]
    return Evidence(
        *size,
        scores=spread(result.probabilities.astype(np.float64), match, classes),
        ranked=tuple(match[best].tolist()),
        maps=maps,
        boxes=boxes_from_maps(maps, rule, *size, labels),
    )


def _maps(result: MapResult, match: npt.NDArray[np.int64]) -> Mapping[int, Heatmap]:
    if result.shared:
        return {ANY: result.heatmap(0)}
    labels = match[list(result.classes)].tolist()
    return {label: result.heatmap(place) for place, label in enumerate(labels) if label != FOREIGN}
