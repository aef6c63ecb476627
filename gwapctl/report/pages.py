"""HTML: the papers' tables, and one self-contained page per run. No scripts, nothing fetched; every text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwapctl import __version__
from gwapctl.errors import UsageError
from gwapctl.files import write_text
from gwapctl.report.curves import Line, Picture, draw_chart, learning_curves
from gwapctl.report.examples import Example, find_examples
from gwapctl.report.fill import FilledTable
from gwapctl.report.grid import Entry, Grid, Note, make_grid, note_mark
from gwapctl.runs import Run

if TYPE_CHECKING:
    from jinja2 import Environment

RUN_PAGE = "report.html"

# what a number of an evaluation is called, and how it is written; in the order of importance
METRICS: dict[str, tuple[str, str]] = {
    "voc_map_11pt": ("VOC mAP, 11-point (%)", ".1f"),
    "voc_map_area": ("VOC mAP, area (%)", ".1f"),
    "top1_error": ("top-1 error (%)", ".2f"),
    "top5_error": ("top-5 error (%)", ".2f"),
    "gt_known_error": ("GT-known localization error (%)", ".2f"),
    "top1_loc_error": ("top-1 localization error (%)", ".2f"),
    "top5_loc_error": ("top-5 localization error (%)", ".2f"),
    "cor_loc": ("CorLoc (%)", ".1f"),
    "f_measure": ("F-measure", ".4f"),
    "f_of_means": ("F of mean precision, recall", ".4f"),
    "mean_iou": ("mean IoU", ".4f"),
    "max_box_acc": ("MaxBoxAcc (%)", ".2f"),
    "max_box_acc_v2": ("MaxBoxAccV2 (%)", ".2f"),
    "px_ap": ("PxAP (%)", ".2f"),
    "det_map_11pt": ("detection mAP, 11-point (%)", ".2f"),
    "coco_map": ("COCO mAP (%)", ".2f"),
}
