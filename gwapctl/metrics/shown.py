"""Which numbers of an evaluation a person sees, under which headings: on the terminal and on the page of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gwapctl.metrics import Metric, describe
from gwapctl.metrics.localization import TOP

FLOOR_NAMES = {"full_image": "full image", "centred_box": "centred box"}


class Group(NamedTuple):
    """Metrics under one ``title``; ``floors`` has the names of those that any of them was measured for."""

    title: str
    metrics: dict[str, Metric]
    floors: tuple[str, ...]

    def rows(self, document: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """Return a row of text per metric: what it is called, its value, and those of ``floors``."""
        columns = [document["metrics"], *(document["floors"][floor] for floor in self.floors)]
        return [
            (metric.shown_title, *(metric.unit.text(metric.as_shown(column.get(key))) for column in columns))
            for key, metric in self.metrics.items()
        ]


def groups(document: Mapping[str, Any], *, on_pages: bool = False) -> list[Group]:
    """Return the measured metrics of a document by group, in the order of the document.

    Left out are the margins by size, which have a table of their own, and top-5 numbers where there are at most five
    classes, of which one is always right; ``on_pages``: and what pages do not show.
    """
    floors: Mapping[str, Any] = document.get("floors") or {}
    found: dict[str, dict[str, Metric]] = {}
    for key in _keys(document):
        metric = describe(key)
        if document["metrics"][key] is not None and (metric.on_pages or not on_pages):
            found.setdefault(metric.group, {})[key] = metric
    return [
        Group(
            title,
            metrics,
            tuple(name for name in floors if any((floors[name] or {}).get(key) is not None for key in metrics)),
        )
        for title, metrics in found.items()
    ]


def _keys(document: Mapping[str, Any]) -> Iterator[str]:
    classes = document.get("n_classes") or len(document.get("per_class") or ())
    ways = ("", "_calibrated")
    strata = {f"margin_{row['area']}{way}" for row in document.get("by_area") or () for way in ways}
    for key in document.get("metrics") or {}:
        if key not in strata and not (key.startswith("top5_") and 0 < classes <= TOP):
            yield key
