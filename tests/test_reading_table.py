"""``benchmarks/reading_table.py`` reads maps in one go for many readings: each must be what ``evaluate`` measures."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from reading_table import Reading, measure

from tests.factories import start, train_config


def test_a_reading_is_what_evaluate_measures(voc: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    first = {"backbone": "resnet-s", "weights": "resnet-s-gwap-tiny-imagenet", "image_size": (64, 64)}
    config = train_config(voc, **first, epochs=40, lr=0.05, schedule="cosine", precision="fp32")
    run = start(config, tmp_path / "run")
    ways = product(("class", "fused"), ((48, 64),), ("otsu+grabcut", "fixed:0.5", "fixed:0.7"))
    readings = [Reading(*way) for way in ways]
    title, found = measure(str(run.folder), readings, None)
    assert title == f"{voc.name} test (8)"
    assert len({found[reading] for reading in readings}) > 1
    for reading in readings:
        scales = ",".join(map(str, reading.scales))
        asked = ["--map", reading.map, "--scales", scales, "--box-rule", reading.rule, "--precision", "fp32", "--json"]
        result = run_cli("evaluate", run.folder, *asked)
        assert result.code == 0, result.stderr
        assert found[reading] == pytest.approx(json.loads(result.stdout)["metrics"]["cor_loc"])
