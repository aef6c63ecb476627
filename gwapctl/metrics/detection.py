"""Detection: average precision of many boxes per image (VOC development kit, VOCevaldet), and COCO's."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import BoxesLike, FloatArray, as_boxes, iou, to_xywh
from gwapctl.errors import DataError
from gwapctl.metrics.average_precision import ap_replicates, both_ap, mean_ap, mean_replicates, ranking
from gwapctl.metrics.judged import Accumulator, JudgedImage, Replicates
from gwapctl.metrics.localization import IOU_THRESHOLD
from gwapctl.metrics.merging import State

RIGHT, NEITHER, WRONG = np.int8(1), np.int8(0), np.int8(-1)


@dataclass(frozen=True)
class _Image:
    """Boxes (N, 4), scores (N,) and classes (N,) found in an image; boxes (M, 4), classes and difficult flags (M,)."""

    boxes: FloatArray
    scores: FloatArray
    labels: npt.NDArray[np.int64]
    true_boxes: FloatArray
    true_labels: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]


class _Found(NamedTuple):
    """Scores (n,) of the detections of a class, whether each is right, and in which image."""

    scores: FloatArray
    outcomes: npt.NDArray[np.int8]
    images: npt.NDArray[np.intp]


class DetectionAP(Accumulator):
    """``det_map_11pt`` and ``det_map_area`` in percent at IoU >= 0.5; with ``coco=True`` also ``coco_map``.

    Per class all detections are ranked by score. Each one looks at the true box it overlaps most: a difficult one
    makes it count neither way, the first match is right, a second one on the same box and everything else is wrong.
    ``coco_map`` is COCO's mean over IoU 0.50 to 0.95 with at most 100 detections per image; difficult objects are
    crowd.
    """

    def __init__(self, coco: bool = False) -> None:
        self._coco = coco
        self._images: list[_Image] = []  # COCO's code wants them all at the end
        self._found: dict[int, list[_Found]] = defaultdict(list)
        self._objects: list[Counter[int]] = []  # how many of each class an image has that count

    def update(
        self,
        boxes: BoxesLike,
        scores: npt.ArrayLike,
        labels: npt.ArrayLike,
        true_boxes: BoxesLike,
        true_labels: npt.ArrayLike,
        difficult: npt.ArrayLike,
    ) -> None:
        """Add one image: detections (N, 4), (N,), (N,) and objects (M, 4), (M,), (M,).

        Raises:
            DataError: the arrays of one side differ in length.

        """
        image = _Image(
            as_boxes(boxes),
            np.asarray(scores, dtype=np.float64).reshape(-1),
            np.asarray(labels, dtype=np.int64).reshape(-1),
            as_boxes(true_boxes),
            np.asarray(true_labels, dtype=np.int64).reshape(-1),
            np.asarray(difficult, dtype=np.bool_).reshape(-1),
        )
        if not len(image.boxes) == len(image.scores) == len(image.labels):
            raise DataError("detections need one box, one score and one class each.")
        if not len(image.true_boxes) == len(image.true_labels) == len(image.difficult):
            raise DataError("objects need one box, one class and one difficult flag each.")
        if self._coco:
            self._images.append(image)
        for label in np.unique(image.labels).tolist():
            self._found[label].append(_judge(image, label, len(self._objects)))
        self._objects.append(Counter(image.true_labels[~image.difficult].tolist()))

    def state(self) -> State:
        """Return the images, which are judged again where they are added."""
        return {"images": [[*vars(image).values()] for image in self._images]}

    def extend(self, state: State) -> Self:
        """Add the images that another one with ``coco=True`` was given."""
        for image in state["images"]:
            self.update(*image)
        return self

    def compute(self) -> dict[str, float]:
        """Return the means over classes; nothing where no class has an object that counts."""
        means = mean_ap("det_map", self._rows().values())
        return means | ({"coco_map": _coco_map(self._images)} if means and self._coco else {})

    def per_class(self) -> dict[int, dict[str, float]]:
        """Return ``{class: {"det_ap_11pt", "det_ap_area"}}`` in percent, of the classes with an object that counts."""
        return {label: {f"det_{key}": value for key, value in row.items()} for label, row in self._rows().items()}

    def _rows(self) -> dict[int, dict[str, float]]:
        return {label: self._row(label, positives) for label, positives in self._positives().items()}

    def _positives(self) -> dict[int, int]:
        total: Counter[int] = Counter()
        for objects in self._objects:
            total.update(objects)
        return dict(sorted(total.items()))

    def _row(self, label: int, positives: int) -> dict[str, float]:
        ranked = self._ranked(label)
        return both_ap(ranked.outcomes == RIGHT, ranked.outcomes != NEITHER, positives)

    def _ranked(self, label: int) -> _Found:
        """Return the detections of one class in all images, the highest score first."""
        none = _Found(np.zeros(0), np.zeros(0, np.int8), np.zeros(0, np.intp))
        scores, outcomes, images = map(np.concatenate, zip(none, *self._found.get(label, []), strict=True))
        order = ranking(scores)
        return _Found(scores[order], outcomes[order], images[order])

    @property
    def units(self) -> int:
        """The images."""
        return len(self._objects)

    def judge(self, image: JudgedImage) -> None:
        """Add one image that has detections; those of classes that the data set does not have are left out."""
        found, truth = image.detections, image.sample
        if found is not None:
            known = found.labels >= 0
            boxes, scores, labels = found.boxes[known], found.scores[known], found.labels[known]
            self.update(boxes, scores, labels, truth.boxes, truth.box_labels, truth.difficult)

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return the 11-point AP of each class, and their mean, on resamples of the images."""
        rows = {}
        for label in self._positives():
            ranked, objects = self._ranked(label), np.array([one[label] for one in self._objects])
            right, counted = ranked.outcomes == RIGHT, ranked.outcomes != NEITHER
            rows[label] = {"det_ap_11pt": ap_replicates(right, counted, weights, ranked.images, weights @ objects)}
        return Replicates(mean_replicates("det_map_11pt", rows), rows)


def voc_and_coco() -> DetectionAP:
    """Return what evaluations judge detections by."""
    return DetectionAP(coco=True)


def _judge(image: _Image, label: int, number: int) -> _Found:
    """Judge the detections of one class in one image, the highest score first; ``number`` is the image's."""
    found, real = image.labels == label, image.true_labels == label
    order = ranking(image.scores[found])
    overlaps = iou(image.boxes[found][order], image.true_boxes[real])  # (n, m)
    outcomes = np.full(len(order), WRONG)
    difficult, taken = image.difficult[real], set[int]()
    for rank, row in enumerate(overlaps if overlaps.shape[1] else ()):
        nearest = int(row.argmax())
        if row[nearest] < IOU_THRESHOLD:
            continue
        if difficult[nearest]:
            outcomes[rank] = NEITHER
        elif nearest not in taken:
            outcomes[rank] = RIGHT
            taken.add(nearest)
    return _Found(image.scores[found][order], outcomes, np.full(len(order), number))


def _coco_map(images: list[_Image]) -> float:
    """Return COCO's AP in percent (faster-coco-eval), of classes that have an object at all."""
    from faster_coco_eval import COCO, COCOeval_faster

    objects: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        for box, label, crowd in zip(to_xywh(image.true_boxes), image.true_labels, image.difficult, strict=True):
            area, crowded = float(box[2] * box[3]), int(crowd)
            objects.append(_item(number, box, label) | {"id": len(objects) + 1, "area": area, "iscrowd": crowded})
        for box, label, score in zip(to_xywh(image.boxes), image.labels, image.scores, strict=True):
            detections.append(_item(number, box, label) | {"score": float(score)})
    if not detections:
        return 0.0
    ground_truth = COCO(
        {
            "images": [{"id": number} for number in range(1, len(images) + 1)],
            "annotations": objects,
            "categories": [{"id": label} for label in sorted({item["category_id"] for item in objects})],
        }
    )
    evaluation = COCOeval_faster(ground_truth, ground_truth.loadRes(detections), "bbox")
    evaluation.run()
    return 100 * float(evaluation.stats[0])


def _item(image: int, box: FloatArray, label: np.int64) -> dict[str, Any]:
    return {"image_id": image, "category_id": int(label), "bbox": box.tolist()}
