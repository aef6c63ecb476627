"""The protocol ``wsoleval``: clovaai/wsolevaluation's numbers to the last digit, from maps of the true classes."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np

from gwapctl.datasets.base import BoxedSample, Dataset
from gwapctl.errors import DataError
from gwapctl.evaluate.calibration import Calibration
from gwapctl.evaluate.ground_truth import Masks, true_boxes
from gwapctl.evaluate.measures import Judging, Measures, replicates_document
from gwapctl.evaluate.paper import threshold_curve
from gwapctl.evaluate.result import EvaluationResult
from gwapctl.metrics import METRICS
from gwapctl.metrics.foreground import boxes_mask
from gwapctl.metrics.judged import JudgedImage
from gwapctl.metrics.localization import FLOORS
from gwapctl.metrics.pixel_ap import PixelAP
from gwapctl.metrics.wsoleval import SIDE, TransferredWsolevalAccuracy, WsolevalBoxAccuracy, grid_map
from gwapctl.predict.prediction import Prediction


class WsolevalProtocol(Judging):
    """MaxBoxAcc and MaxBoxAccV2 where there are boxes, PxAP where there are masks, on a grid of 224 x 224.

    The map of an image is that of its true class; the best threshold is chosen on the data it is reported on, an
    oracle; with ``calibration`` other images choose thresholds for ``box_acc`` and ``box_acc_v2`` beside it. Maps are
    resized to the grid bicubically, as there: those of a model from the size at which the network made them, means over
    several scales and saved maps from theirs.
    """

    SUMS, PARTS = ("_n", "_n_degenerate"), ("_transferred",)

    def __init__(self, dataset: Dataset, masks: Masks, calibration: Calibration | None = None) -> None:
        self._calibration = calibration
        chosen_on = None if calibration is None else calibration.chosen_on
        self._transferred = TransferredWsolevalAccuracy(cast("WsolevalBoxAccuracy | None", chosen_on))
        self._dataset = dataset
        self._masks = masks
        self._judged = _measures()
        self._floors = {name: _measures() for name in FLOORS}
        self._n = self._n_degenerate = 0

    def update(self, sample: BoxedSample, prediction: Prediction) -> None:
        """Judge one image.

        Raises:
            DataError: the image has no map of its class, or has several classes.

        """
        if len(sample.labels) != 1:
            raise DataError(f"{sample.id!r} has {len(sample.labels)} classes; protocol wsoleval needs exactly one.")
        heatmap = prediction.map_of(sample.labels[0])
        if heatmap is None:
            name = self._dataset.classes[sample.labels[0]].name
            raise DataError(
                f"there is no map of {name!r}, the true class of {sample.id!r}. Protocol wsoleval needs it."
            )
        scores = grid_map(heatmap)
        self._n_degenerate += not scores.any()
        image = JudgedImage(
            sample,
            prediction.width,
            prediction.height,
            objects=true_boxes(sample),
            mask=self._masks.at(sample, SIDE, SIDE),
        )
        self._judged.judge(self._n, replace(image, maps={sample.labels[0]: scores}, heat=scores))
        if self._calibration is not None:
            for largest, best in self._judged.find(WsolevalBoxAccuracy).latest:
                self._transferred.add(largest, best, self._calibration.part(sample))
        for name, floor in FLOORS.items():
            box = floor(SIDE, SIDE)
            heat = boxes_mask(box, SIDE, SIDE).astype(np.float64)
            self._floors[name].judge(self._n, replace(image, blind=box, heat=heat))
        self._n += 1

    def result(self) -> EvaluationResult:
        """Return the metrics that the data has positions for."""
        metrics = self._judged.compute() | self._transferred.compute()
        floors = {
            name: {k: v for k, v in floor.compute().items() if METRICS[k].floor} for name, floor in self._floors.items()
        }
        for floor in floors.values():  # its box is the same at every threshold
            floor |= {key: floor[f"max_{key}"] for key in metrics if f"max_{key}" in floor}
        chosen = self._calibration and self._calibration.document(self._transferred.thresholds())
        curve = self._judged.find(WsolevalBoxAccuracy).curve
        return EvaluationResult(
            self._n,
            self._n_degenerate,
            metrics,
            floors,
            [],
            threshold_curve=threshold_curve(curve) if curve.n else {},
            calibration=chosen or {},
            replicates=replicates_document(self._judged, self._floors, self._n, self._dataset.classes, metrics),
        )


def _measures() -> Measures:
    """Return the accumulators of the frozen protocol, which are its own and not those of ``METRICS``."""
    return Measures([WsolevalBoxAccuracy(), PixelAP()])
