"""How the numbers of an evaluation are called and written on a page."""

from __future__ import annotations

# what a page shows of an evaluation: name and number format, in the order of importance
METRICS: dict[str, tuple[str, str]] = {
    "voc_map_11pt": ("VOC mAP, 11 points (%)", ".1f"),
    "voc_map_area": ("VOC mAP, area (%)", ".1f"),
    "top1_error": ("top-1 error (%)", ".2f"),
    "top5_error": ("top-5 error (%)", ".2f"),
    "gt_known_error": ("GT-known localization error (%)", ".2f"),
    "top1_loc_error": ("top-1 localization error (%)", ".2f"),
    "top5_loc_error": ("top-5 localization error (%)", ".2f"),
    "cor_loc": ("CorLoc (%)", ".1f"),
    "f_measure": ("F-measure", ".4f"),
    "f_of_means": ("F-measure of mean precision and recall", ".4f"),
    "fg_precision": ("precision of Otsu's foreground", ".4f"),
    "fg_recall": ("recall of the ground-truth area", ".4f"),
    "fg_area": ("share of the image that is foreground", ".4f"),
    "mean_iou": ("mean IoU", ".4f"),
    "max_box_acc": ("MaxBoxAcc (%)", ".2f"),
    "max_box_acc_v2": ("MaxBoxAccV2 (%)", ".2f"),
    "px_ap": ("PxAP (%)", ".2f"),
    "fg_iou": ("foreground IoU", ".4f"),
    "det_map_11pt": ("detection mAP, 11 points (%)", ".2f"),
    "det_map_area": ("detection mAP, area (%)", ".2f"),
    "coco_map": ("COCO mAP (%)", ".2f"),
    "images_per_second": ("images per second", ".0f"),
    "extra_memory_mib": ("memory of the maps (MiB per image)", ".2f"),
}
# 0..1; all other metrics are percent
FRACTIONS = frozenset(("f_measure", "f_of_means", "fg_precision", "fg_recall", "fg_area", "mean_iou", "fg_iou"))

# further numbers, of classes and curves
_OTHERS: dict[str, tuple[str, str]] = {
    "ap_11pt": ("AP, 11 points (%)", ".1f"),
    "ap_area": ("AP, area (%)", ".1f"),
    "max_box_acc_30": ("box accuracy at IoU 0.3 (%)", ".2f"),
    "max_box_acc_50": ("box accuracy at IoU 0.5 (%)", ".2f"),
    "max_box_acc_70": ("box accuracy at IoU 0.7 (%)", ".2f"),
}
_KNOWN = METRICS | _OTHERS


def metric_name(key: str) -> str:
    """Return what a person reads; an unknown key as it is, without underscores."""
    return _KNOWN[key][0] if key in _KNOWN else key.replace("_", " ")


def metric_text(key: str, value: float | None) -> str:
    """Write a number with the decimals that suit it; nothing where there is none."""
    return "" if value is None else f"{value:{_KNOWN[key][1] if key in _KNOWN else '.2f'}}"
