"""Maps as masks: F-measure with Otsu's threshold, and foreground IoU over all 256 thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.boxes import BoxesLike, FloatArray, as_boxes
from gwapctl.errors import DataError
from gwapctl.metrics.judged import Accumulator, JudgedImage, Replicates
from gwapctl.metrics.replicates import weighted_mean
from gwapctl.regions.components import BoolMask, FloatMap, normalise, otsu_mask, resize_map

BETA_SQUARED = 0.3  # precision counts more than recall, as in salient object detection
IGNORED = 255
LEVELS = 256


class FMeasure(Accumulator):
    """``f_measure`` (mean of the images' own) and ``f_of_means`` (of mean precision and mean recall), all in 0..1.

    With M the foreground of the map and G the ground truth: P = |M & G| / |M|, R = |M & G| / |G|,
    F = (1 + b) P R / (b P + R), b = beta squared = 0.3, and 0 where P + R = 0 (Qiu, GWAP, Table II). Beside them, as
    means over images, ``fg_precision`` P, ``fg_recall`` R, and ``fg_area``, the share of the image that M covers: they
    tell a map that grew over the object from one that grew over everything.

    >>> metric = FMeasure()
    >>> metric.update(foreground=[[1, 1, 0]], ground_truth=[[0, 1, 1]])
    >>> metric.compute()["fg_precision"], metric.compute()["fg_recall"]
    (0.5, 0.5)
    """

    ROWS = ("_rows",)

    def __init__(self) -> None:
        self._rows: list[tuple[float, float, float]] = []

    def update(self, foreground: npt.ArrayLike, ground_truth: npt.ArrayLike) -> None:
        """Add one image: two masks (H, W). An image without any true pixel has no recall and is left out.

        Raises:
            DataError: the masks differ in shape.

        """
        found, real = np.asarray(foreground, dtype=bool), np.asarray(ground_truth, dtype=bool)
        if found.shape != real.shape:
            raise DataError(f"the foreground has shape {found.shape} but the ground truth {real.shape}.")
        if not real.any():
            return
        common, covered = int(np.count_nonzero(found & real)), int(np.count_nonzero(found))
        self._rows.append((common / max(covered, 1), common / int(np.count_nonzero(real)), covered / found.size))

    @property
    def units(self) -> int:
        """The images."""
        return len(self._rows)

    def judge(self, image: JudgedImage) -> None:
        """Add one image that has a foreground and true boxes."""
        if image.foreground is not None and image.area is not None:
            self.update(image.foreground, image.area)

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return the means over resamples of the images."""
        precision, recall, _ = np.transpose(self._rows)
        own = np.array([f_beta(one, other) for one, other, _ in self._rows])
        parts = {"f_measure": own, "fg_precision": precision, "fg_recall": recall}
        return Replicates({key: weighted_mean(weights, values) for key, values in parts.items()}, {})

    def compute(self) -> dict[str, float]:
        """Return the means over all images."""
        if not self._rows:
            return {}
        precision, recall, area = np.mean(self._rows, axis=0).tolist()
        return {
            "f_measure": float(np.mean([f_beta(one, other) for one, other, _ in self._rows])),
            "f_of_means": f_beta(precision, recall),
            "fg_precision": precision,
            "fg_recall": recall,
            "fg_area": area,
        }


def f_beta(precision: float, recall: float) -> float:
    """Return the weighted harmonic mean of precision and recall; 0 where both are 0."""
    if precision + recall == 0:
        return 0.0
    return (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)


def otsu_foreground(heatmap: npt.ArrayLike, width: int, height: int) -> BoolMask:
    """Return the mask (height, width) of a map (h, w): bilinear to the image's pixels, then strictly above Otsu."""
    return otsu_mask(normalise(resize_map(normalise(heatmap), (width, height))))


def boxes_mask(boxes: BoxesLike, width: int, height: int) -> BoolMask:
    """Return the union (height, width) of boxes (N, 4); a pixel belongs to it when its centre lies in a box."""
    mask: BoolMask = np.zeros((height, width), dtype=np.bool_)
    # half-open: centre c is inside when x0 <= c < x1
    for x0, y0, x1, y1 in np.ceil(as_boxes(boxes) - 0.5).astype(int).clip(0).tolist():
        mask[y0:y1, x0:x1] = True
    return mask


def union_of_maps(heatmaps: Sequence[npt.ArrayLike]) -> FloatMap:
    """Return the maximum (H, W) of several maps, each stretched to [0, 1]: the map of all classes of a CAM model."""
    return np.asarray(np.max([normalise(heatmap) for heatmap in heatmaps], axis=0))


class ForegroundIoU(Accumulator):
    """``fg_iou`` in 0..1: IoU of {map > t} with the true mask for t = 0..255, mean over images, at its best t.

    That is the peak of the curve of LID 2020, track 3. ``fg_iou_pooled`` sums intersections and unions over all images
    before dividing. The best t of each is given as ``..._threshold``; the curves stay available, (256,) each.
    """

    SUMS, ROWS = ("_intersection", "_union"), ("_ious",)

    def __init__(self) -> None:
        self._ious: list[FloatArray] = []
        self._intersection = np.zeros(LEVELS)
        self._union = np.zeros(LEVELS)

    def update(self, heatmap: npt.ArrayLike, ground_truth: npt.ArrayLike) -> None:
        """Add one image: a map (h, w) and a mask (H, W) with 0, 1 and 255 (not counted). The map is fitted to the mask.

        Maps of bytes are taken as they are; others are stretched to [0, 1] and rounded to 256 levels.

        Raises:
            DataError: the mask is not (H, W), or the map holds NaN or infinity.

        """
        mask = np.asarray(ground_truth)
        if mask.ndim != 2:
            raise DataError(f"a mask has shape (H, W), this one {mask.shape}.")
        levels = _levels(np.asarray(heatmap), mask.shape[1], mask.shape[0])
        inside = np.bincount(levels[(mask != 0) & (mask != IGNORED)], minlength=LEVELS)
        outside = np.bincount(levels[mask == 0], minlength=LEVELS)
        intersection, false = _above(inside), _above(outside)
        union = inside.sum() + false
        self._intersection += intersection
        self._union += union
        self._ious.append(_ratio(intersection, union))

    @property
    def units(self) -> int:
        """The images."""
        return len(self._ious)

    def judge(self, image: JudgedImage) -> None:
        """Add one image that has a map and a mask."""
        if image.heat is not None and image.mask is not None:
            self.update(to_bytes(image.heat), image.mask)  # bytes are not stretched: a floor is constant inside

    def replicates(self, weights: FloatArray) -> Replicates:
        """Return ``fg_iou`` on resamples, each at its own best level."""
        return Replicates({"fg_iou": weighted_mean(weights, np.stack(self._ious)).max(axis=1)}, {})

    @property
    def curve(self) -> FloatArray:
        """The mean IoU over images at t = 0..255."""
        return np.mean(self._ious, axis=0) if self._ious else np.zeros(LEVELS)

    @property
    def pooled_curve(self) -> FloatArray:
        """The IoU of all pixels together at t = 0..255."""
        return _ratio(self._intersection, self._union)

    def compute(self) -> dict[str, float]:
        """Return the peaks and where they are."""
        if not self._ious:
            return {}
        curve, pooled = self.curve, self.pooled_curve
        return {
            "fg_iou": float(curve.max()),
            "fg_iou_threshold": float(curve.argmax()),
            "fg_iou_pooled": float(pooled.max()),
            "fg_iou_pooled_threshold": float(pooled.argmax()),
        }


def _levels(heatmap: npt.NDArray[Any], width: int, height: int) -> npt.NDArray[np.uint8]:
    if heatmap.dtype == np.uint8 and heatmap.shape == (height, width):
        return heatmap.astype(np.uint8)
    heat = heatmap / np.float32(255) if heatmap.dtype == np.uint8 else normalise(heatmap)
    return np.asarray(cv2.convertScaleAbs(resize_map(np.asarray(heat, np.float32), (width, height)), alpha=255))


def _above(histogram: npt.NDArray[np.intp]) -> FloatArray:
    """Return how many values are strictly above t, for t = 0..255."""
    return np.asarray(histogram.sum() - np.cumsum(histogram), dtype=np.float64)


def _ratio(intersection: FloatArray, union: FloatArray) -> FloatArray:
    return np.asarray(np.divide(intersection, union, out=np.zeros(LEVELS), where=union > 0))


def to_bytes(heat: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Round a map in [0, 1] to 256 levels."""
    return np.asarray(cv2.convertScaleAbs(heat, alpha=255), dtype=np.uint8)
