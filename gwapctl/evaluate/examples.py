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

    def update(self, sample: BoxedSample, label: str, box: FloatArray | None, ground_truth: FloatArray) -> None:
        """Look at one image: the box (4,) found for the class called ``label``, and its ``ground_truth`` (N, 4)."""
        iou = best_iou(box, ground_truth)
        self._n += 1
        self._keep(self._best, iou, sample, label, box, ground_truth)
        self._keep(self._worst, -iou, sample, label, box, ground_truth)

    def _keep(
        self,
        heap: list[tuple[float, int, dict[str, Any]]],
        worth: float,
        sample: BoxedSample,
        label: str,
        box: FloatArray | None,
        ground_truth: FloatArray,
    ) -> None:
        if len(heap) == KEPT and worth <= heap[0][0]:
            return
        example = {
            "image": sample.id,
            "path": sample.path.as_posix(),
            "label": label,
            "iou": abs(worth),
            "box": None if box is None else to_list(box),
            "truth": [to_list(item) for item in ground_truth],
        }
        (heapq.heappush if len(heap) < KEPT else heapq.heapreplace)(heap, (worth, -self._n, example))

    def chosen(self) -> list[dict[str, Any]]:
        """Return the examples, the best first, each image once."""
        every = {example["image"]: example for _, _, example in [*self._worst, *self._best]}
        return sorted(every.values(), key=lambda example: -example["iou"])
