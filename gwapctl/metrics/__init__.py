"""Protocols that judge class scores, boxes, maps and masks: one per file, numpy, OpenCV and numba, never torch.

Every metric is made by an ``Accumulator`` (``metrics.judged``): ``judge`` once per image, ``compute`` returns the
numbers under their public names, ``replicates`` the same on resamples of the images.
Rates are in percent, F-measure and IoU in 0..1, nothing is rounded. A number that the data cannot give is left out.

``METRICS`` says of each of these names what a person reads, how it is written, which number is the best one and what
it needs. Help texts, tables, pages, cards, gates, floors and notes read it. This file imports nothing heavy: help does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

Direction = Literal["highest", "lowest", "none"]
Shown = Literal["card", "page", "document", "class"]
Need = Literal[
    "class scores",
    "ranked classes",
    "five ranked classes",
    "five guesses",
    "boxes",
    "maps",
    "maps of predicted classes",
    "detections",
    "ground-truth boxes",
    "masks",
    "images of nothing",
    "a model",
]


@dataclass(frozen=True)
class Unit:
    """What numbers are in: ``sign`` stands behind a label, ``decimals`` are those of the terminal.

    Numbers times ``to_percent`` are percent: a bar of a page. No number is below ``lowest`` or above ``highest``.
    """

    name: str
    sign: str = ""
    decimals: int = 2
    to_percent: float = 1
    lowest: float = 0.0
    highest: float = math.inf

    def text(self, value: float | None) -> str:
        """Write a number as the terminal does; nothing where there is none."""
        return "" if value is None else f"{value:.{self.decimals}f}"


PERCENT = Unit("percent", "%", highest=100.0)
POINTS = Unit("percent points", "points", lowest=-100.0, highest=100.0)
FRACTION = Unit("0..1", decimals=4, to_percent=100, highest=1.0)
LEVEL = Unit("0..255", decimals=0, highest=255.0)
SPEED = Unit("images per s")
MEMORY = Unit("MiB per image", "MiB per image")
NUMBER = Unit("number", lowest=-math.inf)  # of a name that is not registered


@dataclass(frozen=True)
class Metric:
    """A number of an evaluation, under its key in ``METRICS``.

    Attributes:
        label: its name for a person, without the unit.
        help: one line that says what it is.
        unit: what it is in.
        needs: what every image must have, in the predictions and in the data set.
        direction: which number is the best one. ``none``: neither is better, so no gate can be set on it.
        decimals: as a page writes it, like the papers; None: those of the unit.
        protocols: which ones give it; none where it is measured beside them.
        floor: whether the blind boxes are measured by it, too.
        path: the accumulator that makes it, ``"module:Name"``, called without arguments; several metrics may share one.
            None (empty): it is made beside the accumulators.
        class_key: the metric of one class, in the rows of classes, of which this one is the mean over classes.
        shown: how far it gets. ``card``: on the cards of models; ``page``: on pages; ``document``: only in the document
            and the terminal; ``class``: only in the rows of classes.
        calibrated: whether its box threshold is chosen on images that it does not judge: there only if that is asked.
        group: under which heading the terminal and the page of a run show it.
        accuracy: of an error in percent, what 100 minus it is called: the terminal and the page of a run show that, for
            they have accuracies beside it.

    """

    label: str
    help: str
    unit: Unit
    needs: tuple[Need, ...] = ()
    direction: Direction = "highest"
    decimals: int | None = None
    protocols: tuple[str, ...] = ("paper",)
    floor: bool = False
    shown: Shown = "page"
    calibrated: bool = False
    path: str = ""
    class_key: str = ""
    group: str = "other"
    accuracy: str = ""

    @property
    def title(self) -> str:
        """The label with the sign of the unit: the heading of a column."""
        return f"{self.label} ({self.unit.sign})" if self.unit.sign else self.label

    @property
    def shown_title(self) -> str:
        """The title where accuracies are shown in the place of errors.

        >>> METRICS["top1_error"].shown_title, METRICS["top1_error"].as_shown(12.5)
        ('top-1 accuracy (%)', 87.5)
        """
        return f"{self.accuracy} ({self.unit.sign})" if self.accuracy else self.title

    def as_shown(self, value: float | None) -> float | None:
        """Return the number under ``shown_title``: an error as an accuracy, any other as it is."""
        return 100 - value if self.accuracy and value is not None else value

    @property
    def on_pages(self) -> bool:
        """Whether pages show it beside the main numbers."""
        return self.shown in ("card", "page")

    @property
    def has_gate(self) -> bool:
        """Whether an evaluation can be refused because of it."""
        return self.direction != "none" and self.shown != "class"

    def text(self, value: float | None) -> str:
        """Write a number as a page does; nothing where there is none."""
        if value is None or self.decimals is None:
            return self.unit.text(value)
        return f"{value:.{self.decimals}f}"

    def is_worse(self, value: float, bound: float) -> bool:
        """Tell whether ``value`` lies on the wrong side of ``bound``."""
        return value > bound if self.direction == "lowest" else value < bound


BOTH = ("paper", "wsoleval")
ONE_BOX = "one box per class"
# what the metrics of one kind have in common
_scored = partial(
    Metric,
    unit=PERCENT,
    needs=("class scores",),
    decimals=1,
    path="gwapctl.metrics.classification:ClassificationAP",
    group="classification",
)
_nothing = partial(
    Metric,
    unit=PERCENT,
    needs=("images of nothing",),
    direction="lowest",
    decimals=1,
    floor=True,
    shown="document",
    path="gwapctl.metrics.nothing:NothingErrors",
    group="classification",
)
_ranked = partial(
    Metric,
    unit=PERCENT,
    group="classification",
    needs=("ranked classes",),
    direction="lowest",
    shown="card",
    path="gwapctl.metrics.classification:TopKError",
)
_top5 = partial(_ranked, needs=("ranked classes", "five ranked classes"))
_guessed = "gwapctl.metrics.localization:TopKLocalization"
_boxed = partial(
    Metric,
    unit=PERCENT,
    group=ONE_BOX,
    needs=("boxes", "ground-truth boxes"),
    floor=True,
    path="gwapctl.metrics.localization:GtKnownLocalization",
)
_mapped = partial(Metric, needs=("maps", "ground-truth boxes"), floor=True)
_margin = partial(Metric, unit=POINTS, needs=("boxes", "ground-truth boxes"), decimals=1, group=ONE_BOX)
_calibrated = partial(
    Metric,
    unit=PERCENT,
    needs=("maps", "ground-truth boxes"),
    floor=True,
    calibrated=True,
    group="one box per class, at a threshold that other images chose",
)
_margin_calibrated = partial(_calibrated, unit=POINTS, decimals=1, floor=False)
_otsu = partial(
    _mapped,
    unit=FRACTION,
    path="gwapctl.metrics.foreground:FMeasure",
    group="foreground of the maps by Otsu's threshold",
)
_swept = partial(
    _mapped,
    unit=PERCENT,
    protocols=BOTH,
    path="gwapctl.metrics.box_accuracy:BoxAccuracy",
    group="boxes at the threshold that is best on these very images (an oracle)",
)
_contours = partial(_swept, protocols=("wsoleval",), path="", shown="document")
_transferred = partial(
    _contours, calibrated=True, group="boxes of all contours, at a threshold that other images chose"
)
_levels = "gwapctl.metrics.foreground:ForegroundIoU"
_masked = partial(Metric, unit=FRACTION, needs=("maps", "masks"), floor=True, path=_levels, group="maps beside masks")
_level = partial(_masked, unit=LEVEL, direction="none", shown="document", floor=False)
_predicted = partial(
    Metric,
    unit=FRACTION,
    needs=("maps of predicted classes", "ground-truth boxes"),
    shown="document",
    group="foreground of the predicted classes",
)
_predicted_masked = partial(_predicted, needs=("maps of predicted classes", "masks"))
_detected = partial(
    Metric,
    unit=PERCENT,
    needs=("detections", "ground-truth boxes"),
    path="gwapctl.metrics.detection:voc_and_coco",
    group="detection",
)
_cost = partial(Metric, needs=("a model",), protocols=(), group="cost")

# in the order in which they are shown
METRICS: dict[str, Metric] = {
    # several classes per image
    "voc_map_11pt": _scored(
        "classification mAP, 11 points", "classification AP of VOC 2007, mean over classes", class_key="ap_11pt"
    ),
    "voc_map_area": _scored("classification mAP, area", "classification AP of VOC from 2010 on, mean over classes"),
    "ap_11pt": _scored("classification AP, 11 points", "classification AP of VOC 2007, of one class", shown="class"),
    "ap_area": _scored("classification AP, area", "classification AP of VOC from 2010 on, of one class", shown="class"),
    # images that show none of the classes
    "false_box_rate": _nothing("false boxes", "images of none of the classes that get a box"),
    "false_none_rate": _nothing("objects taken for nothing", "images of some class that are taken for images of none"),
    # one class per image
    "top1_error": _ranked("top-1 error", "images whose true class is not the best one", accuracy="top-1 accuracy"),
    "top5_error": _top5("top-5 error", "images whose true class is not among the five best", accuracy="top-5 accuracy"),
    # one box per class
    "gt_known_error": _boxed(
        "GT-known localization error",
        "true classes whose box has an IoU below 0.5",
        direction="lowest",
        shown="card",
        accuracy="GT-known accuracy",
    ),
    "top1_loc_error": _ranked(
        "top-1 localization error",
        "images whose best class, or its box, is wrong (IoU below 0.5)",
        needs=("ranked classes", "ground-truth boxes"),
        floor=True,
        path=_guessed,
        group=ONE_BOX,
        accuracy="top-1 localization accuracy",
    ),
    "top5_loc_error": _top5(
        "top-5 localization error",
        "images of whose five guesses none has class and box right",
        needs=("ranked classes", "five ranked classes", "five guesses", "ground-truth boxes"),
        floor=True,
        path=_guessed,
        group=ONE_BOX,
        accuracy="top-5 localization accuracy",
    ),
    "cor_loc": _boxed("CorLoc", "true classes whose box has an IoU of at least 0.5, mean over classes", decimals=1),
    # what is better than a box that never looks at the image
    "margin": _margin("margin over the better floor", "GT-known accuracy minus that of the better floor"),
    "margin_small": _margin(
        "margin, small objects", "margin where the object is under 25 % of the image", shown="document"
    ),
    "margin_medium": _margin(
        "margin, medium objects", "margin where the object is 25 to 50 % of the image", shown="document"
    ),
    "margin_large": _margin(
        "margin, large objects", "margin where the object is over 50 % of the image", shown="document"
    ),
    # at box thresholds that were chosen on other images
    "gt_known_error_calibrated": _calibrated(
        "GT-known localization error, calibrated",
        "gt_known_error at a calibrated box threshold",
        direction="lowest",
        accuracy="GT-known accuracy, calibrated",
    ),
    "top1_loc_error_calibrated": _calibrated(
        "top-1 localization error, calibrated",
        "top1_loc_error at a calibrated box threshold",
        direction="lowest",
        needs=("ranked classes", "maps", "ground-truth boxes"),
        accuracy="top-1 localization accuracy, calibrated",
    ),
    "cor_loc_calibrated": _calibrated("CorLoc, calibrated", "cor_loc at a calibrated box threshold", decimals=1),
    "mean_iou_calibrated": _calibrated("mean IoU, calibrated", "mean_iou at a calibrated box threshold", unit=FRACTION),
    "margin_calibrated": _margin_calibrated("margin, calibrated", "margin at a calibrated box threshold"),
    "margin_small_calibrated": _margin_calibrated(
        "margin, small objects, calibrated", "margin_small at a calibrated box threshold", shown="document"
    ),
    "margin_medium_calibrated": _margin_calibrated(
        "margin, medium objects, calibrated", "margin_medium at a calibrated box threshold", shown="document"
    ),
    "margin_large_calibrated": _margin_calibrated(
        "margin, large objects, calibrated", "margin_large at a calibrated box threshold", shown="document"
    ),
    # Otsu's foreground of the maps
    "f_measure": _otsu("F-measure", "F-measure of Otsu's foreground, mean over images", shown="card"),
    "f_of_means": _otsu("F-measure of mean precision and recall", "F-measure of fg_precision and fg_recall"),
    "f_measure_predicted": _predicted("F-measure, predicted classes", "f_measure with maps of the predicted classes"),
    "f_of_means_predicted": _predicted(
        "F-measure of means, predicted classes", "f_of_means with maps of the predicted classes"
    ),
    "fg_precision": _otsu("precision of Otsu's foreground", "share of Otsu's foreground that lies in true boxes"),
    "fg_recall": _otsu("recall of the ground-truth area", "share of the true boxes that is Otsu's foreground"),
    "fg_area": _otsu("share of the image that is foreground", "share that Otsu's foreground covers", direction="none"),
    "mean_iou": _boxed("mean IoU", "IoU of the boxes of the true classes, mean over all of them", unit=FRACTION),
    # boxes at every threshold of the maps
    "max_box_acc": _swept("MaxBoxAcc", "boxes with an IoU of at least 0.5, at the best threshold", shown="card"),
    "max_box_acc_30": _swept("box accuracy at IoU 0.3", "the same at an IoU of at least 0.3", shown="document"),
    "max_box_acc_50": _swept("box accuracy at IoU 0.5", "the same as max_box_acc", shown="document"),
    "max_box_acc_70": _swept("box accuracy at IoU 0.7", "the same at an IoU of at least 0.7", shown="document"),
    "max_box_acc_threshold": _swept(
        "threshold of MaxBoxAcc",
        "the lowest threshold that gives max_box_acc",
        unit=FRACTION,
        direction="none",
        floor=False,
        shown="document",
    ),
    "max_box_acc_v2": _swept("MaxBoxAccV2", "mean of the accuracies at IoU 0.3, 0.5 and 0.7", shown="card"),
    "max_box_acc_v2_30": _contours("box accuracy of all contours at IoU 0.3", "part of max_box_acc_v2 at IoU 0.3"),
    "max_box_acc_v2_50": _contours("box accuracy of all contours at IoU 0.5", "part of max_box_acc_v2 at IoU 0.5"),
    "max_box_acc_v2_70": _contours("box accuracy of all contours at IoU 0.7", "part of max_box_acc_v2 at IoU 0.7"),
    "box_acc": _transferred("box accuracy", "max_box_acc at a threshold that other images chose", shown="page"),
    "box_acc_v2": _transferred("box accuracy V2", "max_box_acc_v2 at thresholds that other images chose", shown="page"),
    "box_acc_v2_30": _transferred("box accuracy V2 at IoU 0.3", "part of box_acc_v2 at IoU 0.3"),
    "box_acc_v2_50": _transferred("box accuracy V2 at IoU 0.5", "part of box_acc_v2 at IoU 0.5"),
    "box_acc_v2_70": _transferred("box accuracy V2 at IoU 0.7", "part of box_acc_v2 at IoU 0.7"),
    # maps beside masks
    "px_ap": _masked(
        "PxAP",
        "average precision of the pixels of all images",
        unit=PERCENT,
        protocols=BOTH,
        path="gwapctl.metrics.pixel_ap:PixelAP",
    ),
    "fg_iou": _masked("foreground IoU", "IoU of map and mask, mean over images, at the best level"),
    "fg_iou_threshold": _level("level of foreground IoU", "the lowest level that gives fg_iou"),
    "fg_iou_pooled": _masked("foreground IoU, pooled", "fg_iou of all pixels together", shown="document"),
    "fg_iou_pooled_threshold": _level("level of foreground IoU, pooled", "the lowest level that gives fg_iou_pooled"),
    "fg_iou_predicted": _predicted_masked(
        "foreground IoU, predicted classes", "fg_iou with maps of the predicted classes"
    ),
    "fg_iou_pooled_predicted": _predicted_masked(
        "foreground IoU, pooled, predicted classes", "fg_iou_pooled with maps of the predicted classes"
    ),
    # many boxes per image
    "det_map_11pt": _detected(
        "detection mAP, 11 points", "detection AP of VOC 2007, mean over classes", class_key="det_ap_11pt"
    ),
    "det_map_area": _detected("detection mAP, area", "detection AP of VOC from 2010 on, mean over classes"),
    "det_ap_11pt": _detected("detection AP, 11 points", "detection AP of VOC 2007, of one class", shown="class"),
    "det_ap_area": _detected("detection AP, area", "detection AP of VOC from 2010 on, of one class", shown="class"),
    "coco_map": _detected("detection mAP, COCO", "detection AP of COCO, mean over IoU 0.50 to 0.95 and classes"),
    # what reading maps costs
    "images_per_second": _cost(
        "images per second", "speed of reading maps, the network's time included", SPEED, decimals=0, shown="card"
    ),
    "extra_memory_mib": _cost(
        "memory of the maps", "memory of reading maps beyond that of classifying", MEMORY, direction="lowest"
    ),
}


def describe(key: str) -> Metric:
    """Return what is known of ``key``: its entry; of a name that is not registered (a document of others) itself.

    >>> describe("cor_loc").title, describe("cor_loc").text(61.25)
    ('CorLoc (%)', '61.2')
    """
    return METRICS.get(key) or Metric(key.replace("_", " "), "", NUMBER, direction="none", shown="document")


def needing(need: Need, protocol: str, calibrated: bool = True) -> tuple[str, ...]:
    """Return the metrics of ``protocol`` that need ``need`` of every image, with or without the calibrated ones."""
    every = [(key, one) for key, one in METRICS.items() if calibrated or not one.calibrated]
    return tuple(key for key, one in every if need in one.needs and protocol in one.protocols)
