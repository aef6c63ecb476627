"""``--accept-error`` of ``gwapctl boxes``: which boxes are written without anybody looking at them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gwapctl.cli import console, parse
from gwapctl.cli.options import option
from gwapctl.errors import UsageError

if TYPE_CHECKING:
    from gwapctl.predict.prediction import Prediction

ACCEPTING = "Accepting boxes unseen"
GATE_NOT_MET = 10  # as in evaluate --fail-under

AcceptError = Annotated[
    str | None,
    option(
        "--accept-error",
        "Write only boxes that need no look: the largest set, by doubt, of which at most such a share is wrong (IoU "
        "below 0.5) with 90 % confidence, by the images that --calibrated-on says somebody checked. From 150 checked "
        "boxes on, a third of them teaches what doubt is.",
        ACCEPTING,
        metavar="5%",
    ),
]
CalibratedOn = Annotated[
    str | None,
    option(
        "--calibrated-on",
        "Checked images for --accept-error: decisions.json of the review page, a file of true boxes, or a data set: "
        "its folder, or its name with --root.",
        ACCEPTING,
        metavar="FILE|DATASET",
    ),
]


def accepted_error(text: str | None, calibrated_on: str | None, apply: Path | None) -> float | None:
    """Read ``--accept-error``; it and ``--calibrated-on`` go together, and ``--apply`` is something else."""
    if text is not None and apply is not None:
        raise UsageError("--accept-error judges boxes as they were found, --apply changes them. Call both, one by one.")
    if (text is None) != (calibrated_on is None):
        raise UsageError(
            "--accept-error 5% and --calibrated-on FILE|DATASET go together. Give both, or leave both out."
        )
    share = parse.parse_share(text, "--accept-error")
    if share == 0:
        raise UsageError("--accept-error 0 would accept nothing: nobody can be sure of that. Write it like 5%.")
    return share


def accepted(items: list[Prediction], calibrated_on: str, root: Path | None, error: float) -> list[Prediction]:
    """Return the images with the boxes that are accepted, and say how sure that is; without any, leave with 10."""
    from gwapctl.evaluate.acceptance import accepted_boxes, checked_images
    from gwapctl.metrics.acceptance import CONFIDENCE

    found, by, kept = accepted_boxes(items, checked_images(calibrated_on, root), error)
    seen = f"{found.wrong} of {found.checked} checked boxes {{}}are wrong"
    if found.cut is not None:
        console.note(
            f"accepted {found.accepted:,} of {found.total:,} boxes, with a {by} of at most {found.cut:.3f}: "
            f"{seen.format('among them ')}, so with {CONFIDENCE:.0%} confidence at most {found.bound:.1%} are. "
            f"{found.total - found.accepted:,} are left to look at."
        )
        return kept
    why = f"of those that are least in doubt (by {by}), {seen.format('')}"
    advice = f"Check some {found.more or 0:,} more boxes, drawn by chance."
    if found.bound == 1:
        why = f"{seen.format('')}, too few to be sure"
        advice = f"Check at least {found.more or 0:,} more boxes, drawn by chance."
    if found.more is None:
        other = (
            f"Allow more errors (--accept-error {math.ceil(100 * found.bound)}%), or look"
            if found.bound < 1
            else "Look"
        )
        advice = f"Checking more of them cannot settle it. {other} at all."
    console.error(f"with {CONFIDENCE:.0%} confidence no set has at most {error:.1%} wrong boxes: {why}. {advice}")
    raise typer.Exit(GATE_NOT_MET)
