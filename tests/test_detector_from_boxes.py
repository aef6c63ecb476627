"""benchmarks/detector_from_boxes.py: how boxes are judged, and the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detector_from_boxes import COLUMNS, append, judge, page, rows_of

from gwapctl.boxes import Detections, as_boxes
from gwapctl.datasets.base import BoxedSample


def sample(name: str, *rows: tuple[list[float], int]) -> BoxedSample:
    boxes, labels = zip(*rows, strict=True)
    present = tuple(sorted(set(labels)))
    found = as_boxes(boxes), np.array(labels), np.zeros(len(labels), np.bool_)
    return BoxedSample(name, Path(f"{name}.jpg"), present, (), (100, 80), *found)


def detections(*rows: tuple[list[float], int, float]) -> Detections:
    boxes, labels, scores = zip(*rows, strict=True)
    return Detections(as_boxes(boxes), np.array(scores), np.array(labels, np.int64))


def test_the_best_box_of_each_class_decides_corloc() -> None:
    truth = [sample("a", ([0, 0, 40, 20], 0), ([50, 0, 90, 20], 1)), sample("b", ([0, 0, 40, 20], 0))]
    found = [
        detections(([0, 0, 40, 20], 0, 0.4), ([0, 40, 40, 60], 0, 0.6), ([50, 0, 90, 20], 1, 0.9)),
        detections(([0, 0, 40, 20], 0, 0.5)),
    ]
    every, first = judge(found, truth, [0, 1]), judge(found, truth, [0])
    assert every["cor_loc"] == pytest.approx(66.67)
    assert first["cor_loc"] == 50
    assert every["det_map_area"] == pytest.approx((100 + first["det_map_area"]) / 2, abs=0.01)


def test_the_page_says_means_ranges_and_the_gain(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    common = {"dataset": "mine", "split": "test", "n": 60, "recipe": "photos", "settings": ""}
    for seed, ap in ((0, 40.0), (1, 44.0)):
        append(file, {**common, "seed": seed, "what": "single", "det_map_11pt": 33.0, "cor_loc": 70.0, "minutes": 1.0})
        append(file, {**common, "seed": seed, "what": "detector", "det_map_11pt": ap, "cor_loc": 69.0, "minutes": 5.0})
    append(
        file, {**common, "split": "trainval held-out", "seed": 0, "what": "single", "det_map_11pt": 1.0, "cor_loc": 2.0}
    )
    assert list(rows_of(file).columns) == COLUMNS
    text = page(rows_of(file))
    assert "| 60 | detector from these boxes | 2 | 42.0 (40.0 to 44.0) | 69.0 (69.0 to 69.0) | 5.0 (5.0" in text
    assert "- mine test: AP +9.0, CorLoc -1.0 against" in text
    append(file, {**common, "recipe": "other", "seed": 0, "what": "single", "det_map_11pt": 35.0, "cor_loc": 71.0})
    assert "| mine test (`other`) | 60 | classifier's boxes, single | 1 | 35.0 |" in page(rows_of(file))
    assert "mine trainval" not in text
    assert page(rows_of(tmp_path / "none.csv")).startswith("# A detector from found boxes")
