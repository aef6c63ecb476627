"""The protocol of the papers: VOC AP, ILSVRC's errors, CorLoc, F-measure; boxes in original pixels, largest component.

Every localization metric is computed for three candidates on the same images: what is judged, and the two floors that
never look at the image. The floors of top-1 and top-5 localization use the judged model's own classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray, iou
from gwapctl.datasets.base import BoxedSample, Dataset
from gwapctl.evaluate.detections import add_detections, detection_rows
from gwapctl.evaluate.document import Verdict
from gwapctl.evaluate.examples import Examples
from gwapctl.evaluate.ground_truth import Masks, Truth
from gwapctl.evaluate.predictions import ANY, Evidence, Heatmap
from gwapctl.metrics import METRICS, Need, needing
from gwapctl.metrics.box_accuracy import IOU_LEVELS, THRESHOLDS, AccuracyCurve, BoxAccuracy
from gwapctl.metrics.classification import ClassificationAP, TopKError
from gwapctl.metrics.detection import DetectionAP
from gwapctl.metrics.foreground import FMeasure, ForegroundIoU, boxes_mask, otsu_foreground, union_of_maps
from gwapctl.metrics.localization import FLOORS, GtKnownLocalization, Guess, TopKLocalization
from gwapctl.metrics.pixel_ap import PixelAP
from gwapctl.regions.components import BoolMask, FloatMap, normalise, resize_map

SURE = 0.5  # a class counts as predicted above this score
TOP = 5
ONE_THRESHOLD = np.zeros(1)  # a floor's box is the same at every threshold


class PaperProtocol:
    """Judges one image after the other; ``verdict`` ends it."""

    def __init__(self, dataset: Dataset, masks: Masks) -> None:
        self._dataset = dataset
        self._masks = masks
        self._average_precision = ClassificationAP(len(dataset.classes))
        self._detections = DetectionAP(coco=True)
        self._top_k_error = TopKError()
        self._judged = _Candidate(dataset.multi_label)
        self._floors = {name: _Candidate(dataset.multi_label, ONE_THRESHOLD) for name in FLOORS}
        self._predicted, self._predicted_iou = FMeasure(), ForegroundIoU()
        self._examples = Examples()
        self._omissions = _Omissions(dataset.multi_label, len(dataset.classes))
        self._images = np.zeros(len(dataset.classes), np.int64)
        self._n = self._n_degenerate = self._blacklisted = 0

    def update(self, sample: BoxedSample, evidence: Evidence) -> None:
        """Judge one image."""
        width, height = evidence.width, evidence.height
        self._n += 1
        self._images[list(sample.labels)] += 1
        self._judge_classes(sample, evidence)
        if evidence.detections is not None:
            add_detections(self._detections, sample, evidence.detections)
        if sample.id in self._dataset.blacklist:
            self._blacklisted += 1
            return
        truth = Truth.of(sample, width, height, self._masks)
        self._n_degenerate += any(_is_empty(evidence.boxes_of(label)) for label in sample.labels)
        self._omissions.update(truth, evidence)
        self._judged.update(truth, evidence)
        self._judged.update_sweep(truth, evidence)
        self._keep_example(sample, truth, evidence)
        heat = _heatmap(evidence, sample.labels)
        if heat is not None:
            self._judged.update_foreground(truth, otsu_foreground(heat, width, height), to_image(heat, width, height))
        for name, floor in FLOORS.items():
            self._judge_floor(self._floors[name], floor(width, height), truth, evidence)
        self._judge_predicted(truth, evidence)

    def _keep_example(self, sample: BoxedSample, truth: Truth, evidence: Evidence) -> None:
        for label, objects in list(truth.boxes.items())[:1]:
            boxes = evidence.boxes_of(label)
            if boxes is not None:
                self._examples.update(sample, self._dataset.classes[label].name, _first(boxes), objects)

    def _judge_floor(self, floor: _Candidate, box: FloatArray, truth: Truth, evidence: Evidence) -> None:
        width, height = evidence.width, evidence.height
        guesses = evidence.guesses and tuple(replace(guess, box=box[0]) for guess in evidence.guesses)
        blind = Evidence(width, height, ranked=evidence.ranked, boxes={ANY: box}, guesses=guesses)
        floor.update(truth, blind)
        if evidence.maps:
            floor.update_fixed(truth, box)
            inside = boxes_mask(box, width, height)
            floor.update_foreground(truth, inside, inside.astype(np.float32))

    def _judge_classes(self, sample: BoxedSample, evidence: Evidence) -> None:
        if self._dataset.multi_label:
            if evidence.scores is not None:
                self._average_precision.update(evidence.scores, sample.labels, sample.ignored)
        elif evidence.ranked is not None:
            self._top_k_error.update(evidence.ranked, sample.labels[0])

    def _judge_predicted(self, truth: Truth, evidence: Evidence) -> None:
        """Judge the foreground of the predicted classes' maps, where every class has its own."""
        if not evidence.maps or ANY in evidence.maps or evidence.scores is None:
            return
        width, height = evidence.width, evidence.height
        sure = np.flatnonzero(evidence.scores > SURE).tolist() or [int(evidence.scores.argmax())]
        heat = _heatmap(evidence, tuple(label for label in sure if evidence.map_of(label) is not None))
        if heat is not None and truth.area is not None:
            self._predicted.update(otsu_foreground(heat, width, height), truth.area)
        if heat is not None and truth.mask is not None:
            self._predicted_iou.update(to_bytes(to_image(heat, width, height)), truth.mask)

    def verdict(self) -> Verdict:
        """Return all metrics that the data allows."""
        omissions = [(needing(need, "paper"), reason) for need, reason in self._omissions.found().items()]
        omitted = {key for keys, _ in omissions for key in keys}
        found = self._predicted.compute() | self._predicted_iou.compute()
        predicted = {f"{key}_predicted": value for key, value in found.items() if f"{key}_predicted" in METRICS}
        parts = [self._classification().compute(), self._judged.compute(), predicted, self._detections.compute()]
        metrics = {key: value for part in parts for key, value in part.items() if key not in omitted}
        floors = {
            name: {k: v for k, v in floor.compute().items() if k in metrics and METRICS[k].floor}
            for name, floor in self._floors.items()
        }
        notes = [f"{', '.join(keys)} left out: {reason}" for keys, reason in omissions]
        notes += [f"localization leaves out {self._blacklisted} blacklisted images"] * bool(self._blacklisted)
        fg_iou = self._judged.fg_iou
        return Verdict(
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
        )

    def _classification(self) -> ClassificationAP | TopKError:
        return self._average_precision if self._dataset.multi_label else self._top_k_error

    def _per_class(self, omitted: set[str]) -> list[dict[str, Any]]:
        parts = [
            self._classification().per_class(),
            self._judged.gt_known.per_class(),
            detection_rows(self._detections),
        ]
        rows = []
        for label in np.flatnonzero(self._images).tolist():
            item = self._dataset.classes[label]
            numbers = {key: value for part in parts for key, value in part.get(label, {}).items() if key not in omitted}
            rows.append({"class": item.name, "id": item.id, "n": int(self._images[label]), **numbers})
        return rows


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

    def update(self, truth: Truth, evidence: Evidence) -> None:
        """Add the boxes of one image."""
        if not truth.boxes:
            return
        self.gt_known.update({label: _first(evidence.boxes_of(label)) for label in truth.boxes}, truth.boxes)
        if not self._multi_label and evidence.ranked is not None:
            guesses = [Guess(label, _first(evidence.boxes_of(label))) for label in evidence.ranked[:TOP]]
            self._top_k.update(guesses, truth.boxes, evidence.guesses)

    def update_sweep(self, truth: Truth, evidence: Evidence) -> None:
        """Add the boxes of one image's maps at all thresholds."""
        for label, objects in truth.boxes.items():
            heatmap = evidence.map_of(label)
            if heatmap is not None:
                self.accuracy.update(heatmap, objects, evidence.width, evidence.height)

    def update_fixed(self, truth: Truth, box: FloatArray) -> None:
        """Add one box (1, 4) that is the same for all classes and at all thresholds."""
        for objects in truth.boxes.values():
            self.accuracy.curve.add(iou(box, objects).max(axis=1))

    def update_foreground(self, truth: Truth, found: BoolMask, heat: FloatMap) -> None:
        """Add the foreground ``found`` (H, W) of ``heat`` (H, W) in [0, 1], both in pixels of the image."""
        if truth.area is not None:
            self._f_measure.update(found, truth.area)
        if truth.mask is not None:
            self._pixels.update(heat, truth.mask)
            self.fg_iou.update(to_bytes(heat), truth.mask)  # bytes are not stretched: a floor is constant inside

    def compute(self) -> dict[str, float]:
        """Return what there is of each metric."""
        parts = (self.gt_known, self._top_k, self.accuracy, self._f_measure, self._pixels, self.fg_iou)
        return {key: value for part in parts for key, value in part.compute().items()}


class _Omissions:
    """Counts what keeps a metric from being computed over all images, so that none is computed over some of them."""

    def __init__(self, multi_label: bool, classes: int) -> None:
        self._multi_label = multi_label
        self._ranks_needed = min(TOP, classes)
        self._n = self._unscored = self._unranked = self._short = self._no_box = self._no_map = self._no_guess = 0

    def update(self, truth: Truth, evidence: Evidence) -> None:
        """Look at one image."""
        self._n += 1
        self._unscored += evidence.scores is None
        self._unranked += evidence.ranked is None
        self._short += bool(evidence.ranked) and len(evidence.ranked or ()) < self._ranks_needed
        self._no_box += any(evidence.boxes_of(label) is None for label in truth.boxes)
        self._no_map += any(evidence.map_of(label) is None for label in truth.labels)
        self._no_guess += evidence.guesses == ()

    def found(self) -> dict[Need, str]:
        """Return ``{what some images lack: how many}``; the metrics that need it are left out."""
        several = self._multi_label
        rows: list[tuple[int, Need, str]] = [
            (several and self._unscored, "class scores", "without a score for every class"),
            (not several and self._unranked, "ranked classes", "without predicted classes"),
            (
                not several and self._short,
                "five ranked classes",
                f"with fewer than {self._ranks_needed} ranked classes",
            ),
            (self._no_guess, "five guesses", "without maps of their three best classes"),
            (self._no_box, "boxes", "without a box of a class that is there"),
            (self._no_map, "maps", "without a map of a class that is there"),
        ]
        return {need: f"{count} of {self._n} images are {why}" for count, need, why in rows if count}


def threshold_curve(curve: AccuracyCurve) -> dict[str, list[float]]:
    """Return the accuracy in percent at every tenth threshold, one list per IoU level."""
    rows = {f"max_box_acc_{level}": row for level, row in zip(IOU_LEVELS, curve.accuracy, strict=True)}
    return {key: values[::10].tolist() for key, values in {"thresholds": curve.thresholds, **rows}.items()}


def _heatmap(evidence: Evidence, labels: Sequence[int]) -> Heatmap | None:
    """Return the map that stands for all of ``labels``: the shared one, or the maximum of their own."""
    maps = [evidence.map_of(label) for label in labels]
    if ANY in evidence.maps:
        return evidence.maps[ANY]
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


def _is_empty(boxes: FloatArray | None) -> bool:
    return boxes is not None and not len(boxes)
