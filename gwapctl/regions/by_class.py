"""A box rule with a threshold of its own for some classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy.typing as npt

from gwapctl.regions.components import BoolMask, BoxRule, ComponentRule, FloatMap, Region


@dataclass(frozen=True)
class ClassThresholds(BoxRule):
    """A ``plain`` rule, with another one for the classes of some ids; who does not say the class gets the plain one."""

    name: str
    plain: ComponentRule
    others: Mapping[str, ComponentRule]
    by_class: bool = True

    @property
    def threshold(self) -> float | None:
        """The plain rule's."""
        return self.plain.threshold

    def of_class(self, class_id: str) -> BoxRule:
        """Return the rule of that class, or the plain one."""
        return self.others.get(class_id, self.plain)

    def level(self, heat: FloatMap) -> float:
        """Return the plain rule's threshold, whatever the map (H, W)."""
        del heat
        return self.plain.threshold or 0.0

    def mask(self, heatmap: npt.ArrayLike) -> BoolMask:
        """Return the plain rule's."""
        return self.plain.mask(heatmap)

    def regions(self, heatmap: npt.ArrayLike, max_boxes: int, min_area: float) -> list[Region]:
        """Return the plain rule's."""
        return self.plain.regions(heatmap, max_boxes, min_area)
