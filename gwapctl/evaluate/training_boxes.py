"""What a model, maps or a file of boxes say of the images of a training, as boxes that a detector learns from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gwapctl.boxes import FloatArray
from gwapctl.datasets.base import BoxedSample, Dataset, Sample
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.errors import DataError
from gwapctl.evaluate.from_disk import from_maps, stored_images
from gwapctl.evaluate.from_model import from_detector, predictions_from_model
from gwapctl.evaluate.predictions import some
from gwapctl.evaluate.result import GroundTruth
from gwapctl.evaluate.subject import Subject, find_subject
from gwapctl.predict.cut import Cut
from gwapctl.predict.map_folder import MapFolder
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.regions import parse_box_rule
from gwapctl.regions.rules import DEFAULT_RULE
from gwapctl.train.pseudo import PseudoBoxes, pseudo_boxes, ranked

# per class and image: nine of ten further boxes were wrong; of the image's area: what is smaller is a crumb of a map
MOST_BOXES, MIN_AREA = 1, 0.01

Found = tuple[bool, Iterator[PseudoBoxes]]  # whether boxes count by their doubt, and those of each image


@dataclass(frozen=True)
class TrainingBoxes:
    """Finds boxes of training images in what ``spec`` names: a run, another model, a folder of maps, a file of boxes.

    They are of the classes that the image-level labels name, in the numbers of the data set. Maps are cut by the rule
    that is stored with them, one box per class. Boxes that have a doubt count by its rank.

    Raises:
        DataError: there is no such file, or it is broken, or shares no image or class with the data set.
        ModelError: there is no such model.

    """

    spec: str
    device: str = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        """Find out early what is there."""
        find_subject(self.spec)

    def __call__(
        self, dataset: Dataset, samples: Sequence[Sample], progress: ProgressCallback
    ) -> Sequence[PseudoBoxes]:
        """Return the boxes of each sample."""
        subject = find_subject(self.spec)
        nowhere = [BoxedSample(one.id, one.path, one.labels, one.ignored, one.size) for one in samples]
        truth = GroundTruth(dataset, "train", nowhere)  # without a single box
        read = {"model": self._from_model, "maps": _from_maps, "boxes": _from_file}[subject.kind]
        doubted, boxes = read(subject, truth)
        found = []
        for sample, one in zip(samples, boxes, strict=True):
            found.append(one.of_classes(sample.labels))
            progress(Progress(len(found), len(samples), "images"))
        return ranked(found) if doubted else found

    def _from_model(self, subject: Subject, truth: GroundTruth) -> Found:
        from gwapctl.maps.localizer import Localizer
        from gwapctl.predict.classifier import load_model

        model = load_model(subject.path, device=self.device)
        if model.detects:
            items = from_detector(model.predictor(), truth, name=subject.name, workers=self.workers).items
            every = (item.detections for item in items if item.detections is not None)
            return False, (pseudo_boxes(one.boxes, one.labels, one.scores) for one in every)
        localizer = Localizer(model.classifier, precision=model.precision, device=self.device)
        cut = Cut(parse_box_rule(model.info.box_rule), MOST_BOXES, MIN_AREA)
        read = predictions_from_model(localizer, truth, None, name=subject.name, workers=self.workers)
        return True, (_from_heatmaps(item, sample, cut) for sample, item in zip(truth.samples, read, strict=True))


def _from_maps(subject: Subject, truth: GroundTruth) -> Found:
    rule = parse_box_rule(MapFolder(subject.path).info.box_rule or DEFAULT_RULE)
    items = from_maps(subject.path, truth, box_rule=rule.without_image()).items
    cut = Cut(rule, MOST_BOXES, MIN_AREA)
    return True, (_from_heatmaps(item, sample, cut) for sample, item in zip(truth.samples, items, strict=True))


def _from_heatmaps(item: Prediction, sample: Sample, cut: Cut) -> PseudoBoxes:
    """Return the boxes of the classes that a sample shows; a score is the class's times the heat beside the hottest's.

    The class's is 1 where it is not known: the label says that it is there. A box counts as much as its doubt leaves.
    """
    boxes, labels, scores, weights = list[FloatArray](), list[int](), list[float](), list[float]()
    seen = cut.on_image(sample.path)
    for label in sample.labels:
        heatmap = item.map_of(label)
        found = [] if heatmap is None else seen.boxes(heatmap, item.width, item.height, item.terms_of(label))
        hottest = max((one.region.score for one in found), default=0.0)
        chance = 1.0 if item.probabilities is None else float(item.probabilities[label])
        boxes += [one.region.box for one in found]
        labels += [label] * len(found)
        scores += [chance * (one.region.score / hottest if hottest > 0 else 1.0) for one in found]
        weights += [1 - one.doubt for one in found]
    return pseudo_boxes(boxes, labels, scores).counting(weights)


def _from_file(subject: Subject, truth: GroundTruth) -> Found:
    """Return the boxes of a file; an image that it leaves out, or that failed, has none."""
    file, dataset = subject.path, truth.dataset
    images = stored_images(file, truth.samples, [])
    if not images:
        raise DataError(f"{file} has no image of {dataset.name}: expected names like {truth.samples[0].id!r}.")
    matcher = ClassMatcher(dataset.classes)
    every = {(one.label, one.label_id) for image in images.values() for one in image.predictions}
    numbers = {pair: matcher.index(*pair) for pair in every}
    if set(numbers.values()) <= {FOREIGN}:
        raise DataError(
            f"{file} and {dataset.name} share no class name or id: it has {some(sorted(label for label, _ in every))}, "
            f"{dataset.name} has {some(item.name for item in dataset.classes)}."
        )
    shown = [images[sample.id].predictions if sample.id in images else () for sample in truth.samples]
    found = [[one for one in predictions if one.box] for predictions in shown]
    doubted = all(one.doubt is not None for boxes in found for one in boxes)
    return doubted, (_from_rows(boxes, numbers) for boxes in found)


def _from_rows(rows: Sequence[ClassPrediction], numbers: Mapping[tuple[str, str], int]) -> PseudoBoxes:
    labels = [numbers[one.label, one.label_id] for one in rows]
    boxes = pseudo_boxes([np.array(one.box) for one in rows], labels, [one.score for one in rows])
    return boxes.counting([_weight(one) for one in rows])


def _weight(prediction: ClassPrediction) -> float:
    """Return how much a box counts: what its doubt leaves of it where it has one, else its score."""
    return prediction.score if prediction.doubt is None else 1 - prediction.doubt
