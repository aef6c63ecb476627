"""The box rule that a run stores: another threshold where held-out images say it is better, and the old one back.

A threshold that is best on few images is good there by luck. So it is the best of a smoothed curve, what it is worth is
estimated by cross-validation (on images that had no say in it), as a paired difference to the stored rule with its
interval over images, and it is stored where that is above nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from gwapctl.boxes import FloatArray
from gwapctl.datasets.class_names import ClassMatcher
from gwapctl.errors import UsageError, option
from gwapctl.evaluate.calibration import divide, sweep
from gwapctl.evaluate.class_thresholds import class_thresholds
from gwapctl.evaluate.from_model import predictions_from_model
from gwapctl.evaluate.ground_truth import true_boxes
from gwapctl.evaluate.result import GroundTruth
from gwapctl.maps.reading import store_reading
from gwapctl.metrics.box_accuracy import IOU_LEVELS, THRESHOLDS, AccuracyCurve, BoxAccuracy
from gwapctl.metrics.localization import IOU_THRESHOLD, best_iou
from gwapctl.metrics.replicates import resamples, weighted_mean
from gwapctl.metrics.verdict import Interval, with_interval
from gwapctl.predict.cut import Cut
from gwapctl.progress import ProgressCallback
from gwapctl.regions import BoxRule, parse_box_rule
from gwapctl.regions.rules import fixed_rule

if TYPE_CHECKING:
    from gwapctl.maps.localizer import Localizer

LEAST = 50  # images with boxes: fewer choose by luck
FOLDS = 5
SMOOTH = 0.025  # standard deviation of the Gaussian by which the curve is smoothed, in units of the threshold


@dataclass(frozen=True)
class Held:
    """The held-out images with boxes, in folds of nearly one size; of each the curve over all thresholds.

    ``by_class`` are the curves of each fold's classes by themselves, by the model's ids.
    """

    folds: Sequence[GroundTruth]
    curves: Sequence[AccuracyCurve]
    by_class: Sequence[Mapping[str, AccuracyCurve]]

    def rule(self, refinement: str | None, left_out: int | None = None) -> BoxRule:
        """Return the rule that all folds but one choose, with thresholds of its own for classes that are better off."""
        threshold, curves = self.threshold(left_out), dict[str, list[AccuracyCurve]]()
        for fold, of_class in enumerate(self.by_class):
            for class_id, curve in of_class.items() if fold != left_out else ():
                curves.setdefault(class_id, []).append(curve)
        own = class_thresholds({class_id: AccuracyCurve.joined(some) for class_id, some in curves.items()}, threshold)
        return parse_box_rule(fixed_rule(threshold, own), refine=refinement)

    def threshold(self, left_out: int | None = None) -> float:
        """Return the best threshold of all folds but one: the highest point of their smoothed curve."""
        row = IOU_LEVELS.index(round(100 * IOU_THRESHOLD))
        chosen = [curve for fold, curve in enumerate(self.curves) if fold != left_out]
        right = np.sum([curve.accuracy[row] * curve.n for curve in chosen], axis=0)
        step = float(THRESHOLDS[1] - THRESHOLDS[0])
        return float(THRESHOLDS[gaussian_filter1d(right, SMOOTH / step, mode="nearest").argmax()])


def calibrate(
    localizer: Localizer,
    ground_truth: GroundTruth,
    folder: Path,
    *,
    stored: Localizer | None = None,
    refine: str | None = None,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Choose the box threshold by held-out images, and store it where it is better than the stored rule.

    Boxes are right at IoU >= 0.5, their class is given. ``model.json`` in ``folder`` gets the new ``box_rule`` along
    with the reading that it was chosen for (a threshold is good for that alone), and keeps what it replaced for
    ``undo``. Thresholds are chosen on plain maps; a refinement, the model's or the one to ``refine`` by, is put on top,
    and what is compared has it. ``stored`` reads maps as the model does until now, where ``localizer`` does not.
    ``force``: fewer than ``LEAST`` images may choose, too.

    Returns where it was chosen, the ``box_rule`` that the model now has, whether that is new (``stored``), the one that
    was ``tried``, its cross-validated accuracy and that of the rule ``before`` in percent, and their difference.

    Raises:
        UsageError: too few images have boxes.
        DataError: there is no box to choose by.

    """
    from gwapctl.networks.classifier import save_info

    info = localizer.model.info
    held = _look(localizer, ground_truth, force, progress)
    kept = parse_box_rule(info.box_rule, refine=refine).refinement
    tried = [held.rule(kept, fold) for fold in range(len(held.folds))]
    new = _right(localizer, held.folds, tried)
    old = _right(stored or localizer, held.folds, [parse_box_rule(info.box_rule)] * len(held.folds))
    difference, n = _difference(new, old), len(new)
    rule = held.rule(kept).name
    is_better = difference.low > 0
    chosen = {
        "box_rule": rule if is_better else info.box_rule,
        "split": ground_truth.split,
        "n": n,
        "accuracy": _accuracy(new),
        "tried": rule,
        "before": info.box_rule,
        "accuracy_before": _accuracy(old),
        "difference": difference.value,
        "interval": [difference.low, difference.high],
        "stored": is_better,
    }
    if is_better:
        changed = store_reading(info, localizer.reading).model_copy(update={"box_rule": rule})
        names = [name for name in type(info).model_fields if getattr(info, name) != getattr(changed, name)]
        replaced = {"calibration": info.provenance.get("calibration"), **{name: getattr(info, name) for name in names}}
        provenance = {**info.provenance, "calibration": {**chosen, "replaced": replaced}}
        save_info(changed.model_copy(update={"provenance": provenance}), folder)
    return chosen


def undo(folder: Path) -> str:
    """Put back what the last ``calibrate`` replaced in ``model.json``, and return the box rule that is stored again.

    Raises:
        UsageError: nothing was replaced, or by a version that did not keep it.

    """
    from gwapctl.networks.classifier import load_info, save_info

    info = load_info(folder)
    replaced = (info.provenance.get("calibration") or {}).get("replaced")
    if replaced is None:
        raise UsageError(f"{folder} keeps no earlier box rule, so there is nothing to undo. It has {info.box_rule}.")
    earlier = {"calibration": replaced["calibration"]} if replaced["calibration"] else {}
    provenance = {key: value for key, value in info.provenance.items() if key != "calibration"} | earlier
    fields = {key: value for key, value in replaced.items() if key != "calibration"}
    info = type(info).model_validate({**info.model_dump(), **fields, "provenance": provenance})
    save_info(info, folder)
    return info.box_rule


def _look(localizer: Localizer, ground_truth: GroundTruth, force: bool, progress: ProgressCallback | None) -> Held:
    """Divide the images that have boxes, and look at their maps at all thresholds."""
    boxed = [sample for sample in ground_truth.samples if true_boxes(sample)]
    least = 2 if force else LEAST
    if len(boxed) < least:
        insist = "" if force else f", or insist with {option('force', True)}"
        raise UsageError(
            f"{ground_truth.split} of {ground_truth.dataset.name} has {len(boxed)} images with boxes, and fewer than "
            f"{least} choose a threshold by luck. Draw boxes on {least - len(boxed)} more{insist}."
        )
    parts = divide(boxed, min(FOLDS, len(boxed)))
    samples: list[list[Any]] = [[] for _ in set(parts.values())]
    for sample in boxed:
        samples[parts[sample.id]].append(sample)
    folds = [replace(ground_truth, samples=part) for part in samples]
    known, classes = localizer.model.info.classes, ground_truth.dataset.classes
    matcher, curves, by_class = ClassMatcher(known), list[AccuracyCurve](), list[dict[str, AccuracyCurve]]()
    for fold in folds:
        accuracy, of_class = BoxAccuracy(), dict[int, AccuracyCurve]()
        sweep(accuracy, fold, predictions_from_model(localizer, fold, None), progress, of_class)
        curves.append(accuracy.curve)
        places = {label: matcher.index(classes[label].name, classes[label].id) for label in of_class}
        by_class.append({known[places[label]].id: curve for label, curve in of_class.items()})
    return Held(folds, curves, by_class)


def _right(localizer: Localizer, folds: Sequence[GroundTruth], rules: Sequence[BoxRule]) -> list[list[bool]]:
    """Return for each image which of its true classes have a right box, where each fold has its own rule."""
    found = []
    for fold, rule in zip(folds, rules, strict=True):
        items = predictions_from_model(localizer, fold, Cut(rule))
        for sample, prediction in zip(fold.samples, items, strict=True):
            pairs = [(prediction.boxes_of(label), objects) for label, objects in true_boxes(sample).items()]
            found.append([_best(boxes, objects) >= IOU_THRESHOLD for boxes, objects in pairs])
    return found


def _best(boxes: FloatArray | None, objects: FloatArray) -> float:
    return best_iou(None if boxes is None or not len(boxes) else boxes[0], objects)


def _accuracy(right: Sequence[Sequence[bool]]) -> float:
    return 100 * float(np.mean([one for image in right for one in image]))


def _difference(new: Sequence[Sequence[bool]], old: Sequence[Sequence[bool]]) -> Interval:
    """Return by how many percent points ``new`` is right more often, with the bootstrap's interval over images."""
    images = np.repeat(np.arange(len(new)), [len(image) for image in new])
    gains = np.array([100.0 * (a - b) for pair in zip(new, old, strict=True) for a, b in zip(*pair, strict=True)])
    replicates = weighted_mean(resamples(len(new))[:, images], gains)
    return with_interval(float(gains.mean()), replicates, len(new))
