"""Margins over the floors: how much more often a box is right than the better box that never looks at the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import BoxesLike, area, as_boxes
from gwapctl.metrics.localization import FLOORS, IOU_THRESHOLD, best_iou
from gwapctl.metrics.merging import Mergeable, State

# what share of the image the box of the object covers: under a quarter, a quarter to a half, over a half
AREAS = {"small": (0.0, 0.25), "medium": (0.25, 0.5), "large": (0.5, 1.0)}

Bools = npt.NDArray[np.bool_]


class Margin(Mergeable):
    """``margin``: GT-known accuracy minus that of the better floor, percent points; also by the size of the object.

    The unit is a class in an image, as in ``GtKnownLocalization``; its size is the share of the image that its largest
    object's box covers. The better floor is the one that is right more often over the same units: over all of them for
    ``margin``, among those of the size for ``margin_small``, ``margin_medium`` and ``margin_large``.
    """

    ROWS = ("_shares", "_right")

    def __init__(self) -> None:
        self._shares: list[float] = []
        self._right: list[bool] = []
        self._floors: dict[str, list[bool]] = {name: [] for name in FLOORS}

    def update(
        self, boxes: Mapping[int, BoxesLike | None], ground_truth: Mapping[int, BoxesLike], width: int, height: int
    ) -> None:
        """Add one image: ``{class: box (4,) or None}`` and ``{class: boxes (N, 4)}`` of the objects in it."""
        blind = {name: floor(width, height) for name, floor in FLOORS.items()}
        for label, objects in ground_truth.items():
            self._shares.append(float(area(as_boxes(objects)).max()) / (width * height))
            self._right.append(best_iou(boxes.get(label), objects) >= IOU_THRESHOLD)
            for name, box in blind.items():
                self._floors[name].append(best_iou(box[0], objects) >= IOU_THRESHOLD)

    def state(self) -> State:
        """Return what was gathered, of the floors, too."""
        return super().state() | {"_floors": self._floors}

    def extend(self, state: State) -> Self:
        """Add what another one gathered of the images that follow."""
        for name, right in self._floors.items():
            right.extend(state["_floors"][name])
        return super().extend(state)

    def compute(self, calibrated: Bools | None = None) -> dict[str, float]:
        """Return the margins; of ``calibrated``, right or wrong per unit in order ``(units,)``, as ``_calibrated``."""
        every = [({"area": ""}, np.ones(len(self._shares), np.bool_)), *self._strata()]
        found: dict[str, float] = {}
        for stratum, chosen in every:
            name = f"margin_{stratum['area']}".rstrip("_")
            row = self._row(chosen, calibrated)
            found |= {key.replace("margin", name): row[key] for key in ("margin", "margin_calibrated") if key in row}
        return found

    def by_area(self, calibrated: Bools | None = None) -> list[dict[str, Any]]:
        """Return a row per size: its name and bounds, how many units, accuracies in percent, the floors, the margins.

        A size that no unit has says only that. Nothing of no unit at all.
        """
        return [stratum | self._row(chosen, calibrated) for stratum, chosen in self._strata() if self._shares]

    def _strata(self) -> list[tuple[dict[str, Any], Bools]]:
        """Return each size with the units ``(units,)`` that have it: under 25 %, 25 to 50 %, over 50 % of the image."""
        shares = np.array(self._shares)
        large = shares > AREAS["large"][0]
        small = shares < AREAS["small"][1]
        masks = {"small": small, "medium": ~small & ~large, "large": large}
        return [({"area": name, "from": low, "to": high}, masks[name]) for name, (low, high) in AREAS.items()]

    def _row(self, chosen: Bools, calibrated: Bools | None) -> dict[str, Any]:
        if not chosen.any():
            return {"n": 0}
        floors = {name: _percent(right, chosen) for name, right in self._floors.items()}
        better = max(floors.values())
        row: dict[str, Any] = {"n": int(chosen.sum()), "gt_known": _percent(self._right, chosen)}
        if calibrated is not None:
            row["gt_known_calibrated"] = _percent(calibrated, chosen)
        margins = {key.replace("gt_known", "margin"): row[key] - better for key in row if key != "n"}
        return row | {"floors": floors} | margins


def _percent(right: list[bool] | Bools, chosen: Bools) -> float:
    return 100 * float(np.asarray(right)[chosen].mean())
