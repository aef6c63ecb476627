"""The protocol of the papers: VOC AP, ILSVRC's errors, CorLoc, F-measure; boxes in original pixels, largest component.

Every localization metric is computed for three candidates on the same images: what is judged, and the two floors that
never look at the image. The floors of top-1 and top-5 localization use the judged model's own classes. Detections are
judged by average precision over all boxes of all images, as VOC's and COCO's development kits do.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.boxes import Detections, FloatArray, iou, to_list
from gwapctl.datasets.base import BoxedSample, Dataset
from gwapctl.errors import DataError
from gwapctl.evaluate.calibration import Calibration
from gwapctl.evaluate.ground_truth import Annotation, Masks
from gwapctl.evaluate.predictions import FiveGuesses
from gwapctl.evaluate.result import EvaluationResult, class_row
from gwapctl.metrics import METRICS, Need, needing
from gwapctl.metrics.box_accuracy import IOU_LEVELS, THRESHOLDS, AccuracyCurve, BoxAccuracy
from gwapctl.metrics.calibrated import CalibratedLocalization
from gwapctl.metrics.classification import ClassificationAP, TopKError
from gwapctl.metrics.detection import DetectionAP
from gwapctl.metrics.foreground import FMeasure, ForegroundIoU, boxes_mask, otsu_foreground, union_of_maps
from gwapctl.metrics.localization import FLOORS, GtKnownLocalization, Guess, TopKLocalization, best_iou
from gwapctl.metrics.margin import Margin
from gwapctl.metrics.pixel_ap import PixelAP
from gwapctl.predict.prediction import ANY, Heatmap, Prediction
from gwapctl.regions.components import BoolMask, FloatMap, normalise, resize_map

SURE = 0.5  # a class counts as predicted above this score
TOP = 5
EXAMPLES = 12  # of the best and of the worst: more than a report shows, because images may have moved
ONE_THRESHOLD = np.zeros(1)  # a floor's box is the same at every threshold


class PaperProtocol:
    """Judges one image after the other; ``result`` ends it.

    ``guesses`` take the place of the five best classes and their boxes in the top-5 localization error.
    ``calibration`` asks for the localization metrics at box thresholds that other images choose, too.
    """

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
        self._classification = ClassificationAP(len(dataset.classes)) if dataset.multi_label else TopKError()
        self._detections = DetectionAP(coco=True)
        self._judged = _Candidate(dataset.multi_label)
        self._floors = {name: _Candidate(dataset.multi_label, ONE_THRESHOLD) for name in FLOORS}
        self._margin = Margin()
        self._calibration = calibration
        self._calibrated = CalibratedLocalization(None if calibration is None else calibration.curve)
        self._predicted, self._predicted_iou = FMeasure(), ForegroundIoU()
        self._examples = _Examples()
        self._omissions = _Omissions(dataset.multi_label, len(dataset.classes))
        self._images = np.zeros(len(dataset.classes), np.int64)
        self._n = self._n_degenerate = self._blacklisted = 0

    def update(self, sample: BoxedSample, prediction: Prediction) -> None:
        """Judge one image."""
        width, height = prediction.width, prediction.height
        self._n += 1
        self._images[list(sample.labels)] += 1
        self._judge_classes(sample, prediction)
        if prediction.detections is not None:
            _add_detections(self._detections, sample, prediction.detections)
        if sample.id in self._dataset.blacklist:
            self._blacklisted += 1
            return
        annotation = Annotation.of(sample, width, height, self._masks)
        boxes_present = [prediction.boxes_of(label) for label in sample.labels]
        self._n_degenerate += any(boxes is not None and not len(boxes) for boxes in boxes_present)
        guesses = None if self._guesses is None else self._guesses.of(prediction)
        self._omissions.update(annotation, prediction, guesses)
        self._judged.update(annotation, prediction, guesses)
        boxes = {label: _first(prediction.boxes_of(label)) for label in annotation.boxes}
        self._margin.update(boxes, annotation.boxes, width, height)
        ious = self._judged.update_sweep(annotation, prediction)
        if self._calibration is not None:
            best = None if self._dataset.multi_label or not prediction.ranked else prediction.ranked[0]
            self._calibrated.update(ious, self._calibration.part(sample), best)
        for label, objects in list(annotation.boxes.items())[:1]:
            if prediction.boxes_of(label) is not None:
                self._examples.update(sample, self._dataset.classes[label].name, boxes[label], objects)
        heat = _heatmap(prediction, sample.labels)
        if heat is not None:
            self._judged.update_foreground(
                annotation, otsu_foreground(heat, width, height), to_image(heat, width, height)
            )
        for name, floor in FLOORS.items():
            self._judge_floor(self._floors[name], floor(width, height), annotation, prediction, guesses)
        self._judge_predicted(annotation, prediction)

    def _judge_floor(
        self,
        floor: _Candidate,
        box: FloatArray,
        annotation: Annotation,
        prediction: Prediction,
        guesses: tuple[Guess, ...] | None,
    ) -> None:
        """Judge a box (1, 4) that is the same for all classes and at all thresholds."""
        width, height = prediction.width, prediction.height
        blind = Prediction("", width, height, ranked=prediction.ranked, boxes_by_class={ANY: box})
        floor.update(annotation, blind, guesses and tuple(replace(guess, box=box[0]) for guess in guesses))
        if prediction.maps_by_class:
            for objects in annotation.boxes.values():
                floor.accuracy.curve.add(iou(box, objects).max(axis=1))
            inside = boxes_mask(box, width, height)
            floor.update_foreground(annotation, inside, inside.astype(np.float32))

    def _judge_classes(self, sample: BoxedSample, prediction: Prediction) -> None:
        if isinstance(self._classification, ClassificationAP):
            if prediction.probabilities is not None:
                self._classification.update(prediction.probabilities, sample.labels, sample.ignored)
        elif prediction.ranked is not None:
            self._classification.update(prediction.ranked, sample.labels[0])

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
        asked = self._calibration is not None
        omissions = [(needing(need, "paper", asked), reason) for need, reason in self._omissions.found().items()]
        omitted = {key for keys, _ in omissions for key in keys}
        found = self._predicted.compute() | self._predicted_iou.compute()
        predicted = {f"{key}_predicted": value for key, value in found.items() if f"{key}_predicted" in METRICS}
        right = self._calibrated.right() if asked and "margin_calibrated" not in omitted else None
        placed = self._calibrated.compute() | self._margin.compute(right)
        parts = [self._classification.compute(), self._judged.compute(), placed, predicted, self._detections.compute()]
        metrics = {key: value for part in parts for key, value in part.items() if key not in omitted}
        floors = {
            name: {k: v for k, v in at_calibrated(floor.compute(), metrics).items() if METRICS[k].floor}
            for name, floor in self._floors.items()
        }
        notes = [f"{', '.join(keys)} left out: {reason}" for keys, reason in omissions]
        notes += [f"localization leaves out {self._blacklisted} blacklisted images"] * bool(self._blacklisted)
        fg_iou = self._judged.fg_iou
        return EvaluationResult(
            self._n,
            self._n_degenerate,
            metrics,
            floors,
            self._per_class(omitted),
            notes,
            threshold_curve=threshold_curve(self._judged.accuracy.curve) if "max_box_acc" in metrics else {},
            fg_iou_curve={"mean": fg_iou.curve.tolist(), "pooled": fg_iou.pooled_curve.tolist()}
            if "fg_iou" in metrics
            else {},
            examples=self._examples.chosen(),
            calibration={}
            if self._calibration is None
            else self._calibration.document({"gt_known_error_calibrated": self._calibrated.accuracy.thresholds()}),
            by_area=self._margin.by_area(right) if "margin" in metrics else [],
        )

    def _per_class(self, omitted: set[str]) -> list[dict[str, Any]]:
        parts = [self._classification.per_class(), self._judged.gt_known.per_class(), _detection_rows(self._detections)]
        rows = []
        for label in np.flatnonzero(self._images).tolist():
            numbers = {key: value for part in parts for key, value in part.get(label, {}).items() if key not in omitted}
            rows.append(class_row(self._dataset.classes[label], self._images[label], numbers))
        return rows


class DetectionProtocol:
    """``det_map_11pt``, ``det_map_area`` (IoU >= 0.5, difficult objects count neither way) and ``coco_map``.

    There are no floors: a box that never looks at the image has no score to be ranked by. ``n_degenerate`` counts the
    images in which nothing was found.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._precision = DetectionAP(coco=True)
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
        self._n += 1
        self._n_degenerate += not len(found.boxes)
        self._images[list(sample.labels)] += 1
        _add_detections(self._precision, sample, found)

    def result(self) -> EvaluationResult:
        """Return the metrics; none where no class has an object that counts."""
        rows = [
            class_row(self._dataset.classes[label], self._images[label], numbers)
            for label, numbers in _detection_rows(self._precision).items()
        ]
        return EvaluationResult(self._n, self._n_degenerate, self._precision.compute(), {}, rows)


def _add_detections(precision: DetectionAP, sample: BoxedSample, found: Detections) -> None:
    """Hand one image to the metric; detections of classes that the data set does not have are left out."""
    known = found.labels >= 0
    boxes, scores, labels = found.boxes[known], found.scores[known], found.labels[known]
    precision.update(boxes, scores, labels, sample.boxes, sample.box_labels, sample.difficult)


def _detection_rows(precision: DetectionAP) -> dict[int, dict[str, float]]:
    """Return ``{class: {"det_ap_11pt", "det_ap_area"}}`` in percent: the names tell them from classification's."""
    return {label: {f"det_{key}": value for key, value in row.items()} for label, row in precision.per_class().items()}


class _Candidate:
    """The localization metrics of what is judged, or of a floor."""

    def __init__(self, multi_label: bool, thresholds: FloatArray = THRESHOLDS) -> None:
        self.gt_known = GtKnownLocalization()
        self._multi_label = multi_label
        self._top_k = TopKLocalization()
        self.accuracy = BoxAccuracy(thresholds)
        self._f_measure = FMeasure()
        self._pixels = PixelAP()
        self.fg_iou = ForegroundIoU()

    def update(self, annotation: Annotation, prediction: Prediction, five: tuple[Guess, ...] | None) -> None:
        """Add the boxes of one image; ``five`` guesses decide top-5 where they are not None."""
        if not annotation.boxes:
            return
        self.gt_known.update(
            {label: _first(prediction.boxes_of(label)) for label in annotation.boxes}, annotation.boxes
        )
        if not self._multi_label and prediction.ranked is not None:
            guesses = [Guess(label, _first(prediction.boxes_of(label))) for label in prediction.ranked[:TOP]]
            self._top_k.update(guesses, annotation.boxes, five)

    def update_sweep(self, annotation: Annotation, prediction: Prediction) -> dict[int, FloatArray]:
        """Add the boxes of one image's maps at all thresholds; returns their IoU ``(T,)`` by class."""
        size = prediction.width, prediction.height
        maps = {label: prediction.map_of(label) for label in annotation.boxes}
        return {
            label: self.accuracy.update(heatmap, annotation.boxes[label], *size)
            for label, heatmap in maps.items()
            if heatmap is not None
        }

    def update_foreground(self, annotation: Annotation, found: BoolMask, heat: FloatMap) -> None:
        """Add the foreground ``found`` (H, W) of ``heat`` (H, W) in [0, 1], both in pixels of the image."""
        if annotation.area is not None:
            self._f_measure.update(found, annotation.area)
        if annotation.mask is not None:
            self._pixels.update(heat, annotation.mask)
            self.fg_iou.update(to_bytes(heat), annotation.mask)  # bytes are not stretched: a floor is constant inside

    def compute(self) -> dict[str, float]:
        """Return what there is of each metric."""
        parts = (self.gt_known, self._top_k, self.accuracy, self._f_measure, self._pixels, self.fg_iou)
        return {key: value for part in parts for key, value in part.compute().items()}


class _Omissions:
    """Counts what keeps a metric from being computed over all images, so that none is computed over some of them."""

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


class _Examples:
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
        for heap, worth in ((self._best, iou), (self._worst, -iou)):
            (heapq.heappush if len(heap) < EXAMPLES else heapq.heappushpop)(heap, (worth, -self._n, example))

    def chosen(self) -> list[dict[str, Any]]:
        """Return the examples, the best first, each image once."""
        every = {example["image"]: example for _, _, example in [*self._worst, *self._best]}
        return sorted(every.values(), key=lambda example: -example["iou"])


def at_calibrated(floor: Mapping[str, float], metrics: Collection[str]) -> dict[str, float]:
    """Return what a floor has of ``metrics``: its box is the same at every threshold, a calibrated one, too."""
    pairs = [(key, key.removesuffix("_calibrated")) for key in metrics]
    return {key: floor[plain] for key, plain in pairs if plain in floor}


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


def to_bytes(heat: FloatMap) -> npt.NDArray[np.uint8]:
    """Round a map in [0, 1] to 256 levels."""
    return np.asarray(cv2.convertScaleAbs(heat, alpha=255), dtype=np.uint8)


def _first(boxes: FloatArray | None) -> FloatArray | None:
    return None if boxes is None or not len(boxes) else boxes[0]
