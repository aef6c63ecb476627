"""The best and the worst localizations of an evaluation, for people to look at."""

from __future__ import annotations

import heapq
from typing import Any

from gwapctl.boxes import FloatArray, to_list
from gwapctl.datasets.base import BoxedSample
from gwapctl.metrics.localization import best_iou

KEPT = 12  # of each kind: more than a report shows, because images may have moved


class Examples:
    """Keeps the images with the highest and the lowest IoU; of equals those that came first."""

    def __init__(self) -> None:
        self._best: list[tuple[float, int, dict[str, Any]]] = []
        self._worst: list[tuple[float, int, dict[str, Any]]] = []
        self._n = 0

    def update(self, sample: BoxedSample, label: str, box: FloatArray | None, objects: FloatArray) -> None:
        """Look at one image: the box (4,) found for the class called ``label``, and the true ``objects`` (N, 4)."""
        iou = best_iou(box, objects)
        self._n += 1
        example = {
            "image": sample.id,
            "path": sample.path.as_posix(),
            "label": label,
            "iou": iou,
            "box": None if box is None else to_list(box),
            "truth": [to_list(item) for item in objects],
        }
        for heap, worth in ((self._best, iou), (self._worst, -iou)):
            (heapq.heappush if len(heap) < KEPT else heapq.heappushpop)(heap, (worth, -self._n, example))

    def chosen(self) -> list[dict[str, Any]]:
        """Return the examples, the best first, each image once."""
        every = {example["image"]: example for _, _, example in [*self._worst, *self._best]}
        return sorted(every.values(), key=lambda example: -example["iou"])
