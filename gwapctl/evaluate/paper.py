"""The protocol of the papers: VOC AP, ILSVRC's errors, CorLoc, F-measure; boxes in original pixels, largest component.

Every localization metric is computed for three candidates on the same images: what is judged, and the two floors that
never look at the image. The floors of top-1 and top-5 localization use the judged model's own classes. Detections are
judged by average precision over all boxes of all images, as VOC's and COCO's development kits do.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from gwapctl.boxes import FloatArray, to_list
from gwapctl.datasets.base import BoxedSample, Dataset
from gwapctl.errors import DataError
from gwapctl.evaluate.calibration import Calibration
from gwapctl.evaluate.ground_truth import Annotation, Masks
from gwapctl.evaluate.measures import Judging, Measures, at_calibrated, registered, replicates_document
from gwapctl.evaluate.predictions import FiveGuesses
from gwapctl.evaluate.result import EvaluationResult, class_row
from gwapctl.metrics import METRICS, Need, needing
from gwapctl.metrics.box_accuracy import IOU_LEVELS, AccuracyCurve, BoxAccuracy
from gwapctl.metrics.calibrated import CalibratedLocalization
from gwapctl.metrics.foreground import FMeasure, ForegroundIoU, boxes_mask, otsu_foreground, to_bytes, union_of_maps
from gwapctl.metrics.judged import Guess, JudgedImage
from gwapctl.metrics.localization import FLOORS, TOP, best_iou
from gwapctl.metrics.margin import Margin
from gwapctl.metrics.merging import Mergeable, State
from gwapctl.predict.prediction import ANY, Heatmap, Prediction
from gwapctl.regions.components import FloatMap, normalise, resize_map

SURE = 0.5  # a class counts as predicted above this score
EXAMPLES = 12  # of the best and of the worst: more than a report shows, because images may have moved


class PaperProtocol(Judging):
    """Judges one image after the other; ``result`` ends it.

    ``guesses`` take the place of the five best classes and their boxes in the top-5 localization error.
    ``calibration`` asks for the localization metrics at box thresholds that other images choose, too.
    """

    SUMS = ("_n", "_n_degenerate", "_blacklisted", "_images")
    PARTS = ("_margin", "_predicted", "_predicted_iou", "_examples", "_omissions")

    def __init__(
        self,
        dataset: Dataset,
        masks: Masks,
        guesses: FiveGuesses | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self._dataset = dataset
        self._guesses = guesses
        self._masks = masks
        accumulators = registered()
        sweep = next(one for one in accumulators if isinstance(one, BoxAccuracy))
        self._calibration = calibration
        self._calibrated: CalibratedLocalization | None = None
        if calibration is not None:
            self._calibrated = CalibratedLocalization(calibration.curve, sweep, calibration.part)
        self._judged = Measures([*accumulators, *([self._calibrated] if self._calibrated else [])])
        self._floors = {name: Measures(registered(floor=True)) for name in FLOORS}
        self._margin = Margin()
        self._predicted, self._predicted_iou = FMeasure(), ForegroundIoU()
        self._examples = _Examples()
        self._omissions = _Omissions(dataset.multi_label, len(dataset.classes))
        self._images = np.zeros(len(dataset.classes), np.int64)
        self._n = self._n_degenerate = self._blacklisted = 0

    def update(self, sample: BoxedSample, prediction: Prediction) -> None:
        """Judge one image."""
        place, several = self._n, self._dataset.multi_label
        self._n += 1
        self._images[list(sample.labels)] += 1
        image = JudgedImage(
            sample,
            prediction.width,
            prediction.height,
            scores=prediction.probabilities if several else None,
            ranked=None if several else prediction.ranked,
            detections=prediction.detections,
            none=prediction.none,
        )
        if sample.id in self._dataset.blacklist:
            self._blacklisted += 1
            self._judged.judge(place, image)
            return
        annotation = Annotation.of(sample, image.width, image.height, self._masks)
        boxes_present = [prediction.boxes_of(label) for label in sample.labels]
        self._n_degenerate += any(boxes is not None and not len(boxes) for boxes in boxes_present)
        guesses = None if self._guesses is None else self._guesses.of(prediction)
        self._omissions.update(annotation, prediction, guesses)
        image = replace(image, objects=annotation.boxes, area=annotation.area, mask=annotation.mask, five=guesses)
        image = _localized(image, prediction)
        self._judged.judge(place, image)
        self._margin.update(image.boxes, annotation.boxes, image.width, image.height)
        for label, objects in list(annotation.boxes.items())[:1]:
            boxes = prediction.boxes_of(label)
            if boxes is not None:
                self._examples.update(sample, self._dataset.classes[label].name, _first(boxes), objects)
        for name, floor in FLOORS.items():
            box = floor(image.width, image.height)
            self._floors[name].judge(place, _blind(image, box, swept=bool(prediction.maps_by_class)))
        self._judge_predicted(annotation, prediction)

    def _judge_predicted(self, annotation: Annotation, prediction: Prediction) -> None:
        """Judge the foreground of the predicted classes' maps, where every class has its own."""
        if not prediction.maps_by_class or ANY in prediction.maps_by_class or prediction.probabilities is None:
            return
        width, height = prediction.width, prediction.height
        sure = np.flatnonzero(prediction.probabilities > SURE).tolist() or [int(prediction.probabilities.argmax())]
        heat = _heatmap(prediction, tuple(label for label in sure if prediction.map_of(label) is not None))
        if heat is not None and annotation.area is not None:
            self._predicted.update(otsu_foreground(heat, width, height), annotation.area)
        if heat is not None and annotation.mask is not None:
            self._predicted_iou.update(to_bytes(to_image(heat, width, height)), annotation.mask)

    def result(self) -> EvaluationResult:
        """Return all metrics that the data allows."""
        asked = self._calibrated is not None
        omissions = [(needing(need, "paper", asked), reason) for need, reason in self._omissions.found().items()]
        omitted = {key for keys, _ in omissions for key in keys}
        found = self._predicted.compute() | self._predicted_iou.compute()
        predicted = {f"{key}_predicted": value for key, value in found.items() if f"{key}_predicted" in METRICS}
        right = self._calibrated.right() if self._calibrated and "margin_calibrated" not in omitted else None
        parts = [self._judged.compute(), self._margin.compute(right), predicted]
        metrics = {key: value for part in parts for key, value in part.items() if key not in omitted}
        floors = {
            name: {k: v for k, v in at_calibrated(floor.compute(), metrics).items() if METRICS[k].floor}
            for name, floor in self._floors.items()
        }
        notes = [f"{', '.join(keys)} left out: {reason}" for keys, reason in omissions]
        notes += [f"localization leaves out {self._blacklisted} blacklisted images"] * bool(self._blacklisted)
        fg_iou = self._judged.find(ForegroundIoU)
        return EvaluationResult(
            self._n,
            self._n_degenerate,
            metrics,
            floors,
            self._per_class(omitted),
            notes,
            threshold_curve=threshold_curve(self._judged.find(BoxAccuracy).curve) if "max_box_acc" in metrics else {},
            fg_iou_curve={"mean": fg_iou.curve.tolist(), "pooled": fg_iou.pooled_curve.tolist()}
            if "fg_iou" in metrics
            else {},
            examples=self._examples.chosen(),
            calibration=self._thresholds(),
            by_area=self._margin.by_area(right) if "margin" in metrics else [],
            replicates=replicates_document(self._judged, self._floors, self._n, self._dataset.classes, metrics),
        )

    def _thresholds(self) -> dict[str, Any]:
        if self._calibration is None or self._calibrated is None:
            return {}
        return self._calibration.document({"gt_known_error_calibrated": self._calibrated.accuracy.thresholds()})

    def _per_class(self, omitted: set[str]) -> list[dict[str, Any]]:
        found = self._judged.per_class()
        rows = []
        for label in np.flatnonzero(self._images).tolist():
            numbers = {key: value for key, value in found.get(label, {}).items() if key not in omitted}
            rows.append(class_row(self._dataset.classes[label], self._images[label], numbers))
        return rows


def _localized(image: JudgedImage, prediction: Prediction) -> JudgedImage:
    """Return the image with what is said of its true classes, and of the best ones: boxes, maps and foreground."""
    maps = {label: heatmap for label in image.objects if (heatmap := prediction.map_of(label)) is not None}
    boxes = {label: _first(prediction.boxes_of(label)) for label in (*image.objects, *(image.ranked or ())[:TOP])}
    image, heat = replace(image, maps=maps, boxes=boxes), _heatmap(prediction, image.sample.labels)
    if heat is None:
        return image
    size = image.width, image.height
    return replace(image, foreground=otsu_foreground(heat, *size), heat=to_image(heat, *size))


def _blind(image: JudgedImage, box: FloatArray, *, swept: bool) -> JudgedImage:
    """Return the image as a floor answers: with a box (1, 4) for all classes, ``swept`` at all thresholds as well."""
    labels = (*image.objects, *(image.ranked or ())[:TOP])
    five = image.five and tuple(replace(guess, box=box[0]) for guess in image.five)
    image = replace(image, boxes=dict.fromkeys(labels, box[0]), five=five, none=False)
    if not swept:
        return image
    inside = boxes_mask(box, image.width, image.height)
    return replace(image, blind=box, foreground=inside, heat=inside.astype(np.float32))


class DetectionProtocol(Judging):
    """``det_map_11pt``, ``det_map_area`` (IoU >= 0.5, difficult objects count neither way) and ``coco_map``.

    There are no floors: a box that never looks at the image has no score to be ranked by. ``n_degenerate`` counts the
    images in which nothing was found.
    """

    SUMS = ("_n", "_n_degenerate", "_images")

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._judged = Measures(registered())
        self._images = np.zeros(len(dataset.classes), np.int64)
        self._n = self._n_degenerate = 0

    def update(self, sample: BoxedSample, prediction: Prediction) -> None:
        """Judge one image.

        Raises:
            DataError: nothing says what was found in it.

        """
        found = prediction.detections
        if found is None:
            raise DataError(f"there are no detections for {sample.id!r}. Detect on the whole split.")
        self._judged.judge(self._n, JudgedImage(sample, prediction.width, prediction.height, detections=found))
        self._n += 1
        self._n_degenerate += not len(found.boxes)
        self._images[list(sample.labels)] += 1

    def result(self) -> EvaluationResult:
        """Return the metrics; none where no class has an object that counts."""
        classes, metrics = self._dataset.classes, self._judged.compute()
        rows = [
            class_row(classes[label], self._images[label], numbers)
            for label, numbers in self._judged.per_class().items()
        ]
        replicates = replicates_document(self._judged, {}, self._n, classes, metrics)
        return EvaluationResult(self._n, self._n_degenerate, metrics, {}, rows, replicates=replicates)


class _Omissions(Mergeable):
    """Counts what keeps a metric from being computed over all images, so that none is computed over some of them."""

    SUMS = ("_n", "_lacking")

    def __init__(self, multi_label: bool, classes: int) -> None:
        self._multi_label = multi_label
        self._ranks_needed = min(TOP, classes)
        self._n = 0
        self._lacking: Counter[Need] = Counter()

    def update(self, annotation: Annotation, prediction: Prediction, guesses: tuple[Guess, ...] | None) -> None:
        """Look at one image."""
        ranked, single = prediction.ranked, not self._multi_label
        lacks: dict[Need, bool] = {
            "class scores": self._multi_label and prediction.probabilities is None,
            "ranked classes": single and ranked is None,
            "five ranked classes": single and bool(ranked) and len(ranked or ()) < self._ranks_needed,
            "five guesses": guesses == (),
            "boxes": any(prediction.boxes_of(label) is None for label in annotation.boxes),
            "maps": any(prediction.map_of(label) is None for label in annotation.labels),
        }
        self._n += 1
        self._lacking.update(need for need, lacking in lacks.items() if lacking)

    def found(self) -> dict[Need, str]:
        """Return ``{what some images lack: how many}``; the metrics that need it are left out."""
        why: dict[Need, str] = {
            "class scores": "without a score for every class",
            "ranked classes": "without predicted classes",
            "five ranked classes": f"with fewer than {self._ranks_needed} ranked classes",
            "five guesses": "without maps of their three best classes",
            "boxes": "without a box of a class that is there",
            "maps": "without a map of a class that is there",
        }
        counts = {need: self._lacking[need] for need in why}
        return {need: f"{count} of {self._n} images are {why[need]}" for need, count in counts.items() if count}


class _Examples(Mergeable):
    """Keeps the images with the highest and the lowest IoU; of equals those that came first."""

    def __init__(self) -> None:
        self._best: list[tuple[float, int, dict[str, Any]]] = []
        self._worst: list[tuple[float, int, dict[str, Any]]] = []
        self._n = 0

    def update(self, sample: BoxedSample, label: str, box: FloatArray | None, objects: FloatArray) -> None:
        """Look at one image: the box (4,) found for the class called ``label``, and the true ``objects`` (N, 4)."""
        iou = best_iou(box, objects)
        self._n += 1
        example = {
            "image": sample.id,
            "path": sample.path.as_posix(),
            "label": label,
            "iou": iou,
            "box": None if box is None else to_list(box),
            "truth": [to_list(item) for item in objects],
        }
        self._keep(self._n, example)

    def _keep(self, number: int, example: dict[str, Any]) -> None:
        for heap, worth in ((self._best, example["iou"]), (self._worst, -example["iou"])):
            (heapq.heappush if len(heap) < EXAMPLES else heapq.heappushpop)(heap, (worth, -number, example))

    def _kept(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the examples with their numbers, which tell them apart, in order."""
        return sorted({-number: example for _, number, example in [*self._worst, *self._best]}.items())

    def state(self) -> State:
        """Return the examples with their numbers, and how many images there were."""
        return {"kept": self._kept(), "n": self._n}

    def extend(self, state: State) -> Self:
        """Add the examples of the images that follow."""
        for number, example in state["kept"]:
            self._keep(self._n + number, example)
        self._n += state["n"]
        return self

    def chosen(self) -> list[dict[str, Any]]:
        """Return the examples, the best first, of equals the one that came first, each image once."""
        every = {example["image"]: example for _, example in self._kept()}
        return sorted(every.values(), key=lambda example: -example["iou"])


def threshold_curve(curve: AccuracyCurve) -> dict[str, list[float]]:
    """Return the accuracy in percent at every tenth threshold, one list per IoU level."""
    rows = {f"max_box_acc_{level}": row for level, row in zip(IOU_LEVELS, curve.accuracy, strict=True)}
    return {key: values[::10].tolist() for key, values in {"thresholds": curve.thresholds, **rows}.items()}


def _heatmap(prediction: Prediction, labels: Sequence[int]) -> Heatmap | None:
    """Return the map that stands for all of ``labels``: the shared one, or the maximum of their own."""
    maps = [prediction.map_of(label) for label in labels]
    if ANY in prediction.maps_by_class:
        return prediction.maps_by_class[ANY]
    known = [heatmap for heatmap in maps if heatmap is not None]
    return union_of_maps(known) if known and len(known) == len(maps) else None


def to_image(heatmap: Heatmap, width: int, height: int) -> FloatMap:
    """Return a map (h, w) in [0, 1] in the pixels of its image: bilinear, from minimum to maximum."""
    heat = normalise(heatmap)
    if heat.shape != (height, width):
        heat = normalise(resize_map(heat, (width, height)))
    return heat


def _first(boxes: FloatArray | None) -> FloatArray | None:
    return None if boxes is None or not len(boxes) else boxes[0]
