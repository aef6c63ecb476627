"""The tour leaves behind what it says, and only where it says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data

from gwapctl import demo
from gwapctl.boxes import iou
from gwapctl.images.decode import read_image
from gwapctl.runs import Run

SHORT = {"image_size": (32, 32), "batch_size": 8, "epochs": 1}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SETTINGS", demo.SETTINGS | SHORT)


def test_demo_goes_the_whole_way(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "tour"
    result = run_cli("demo", "--out", folder, "--images", 60, "--json")
    assert result.code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["split"] == "test"
    assert document["n"] == 12
    for floor in ("full_image", "centred_box"):
        assert {"f_measure", "gt_known_error", "cor_loc"} <= document["floors"][floor].keys()
        assert document["floors"][floor].keys() <= document["metrics"].keys()
    run = Run.open(folder / "run")
    assert run.finished
    assert run.document["dataset"]["n_train"] == 36
    assert run.evaluations()[0]["metrics"] == document["metrics"]
    assert len(list((folder / "found" / "overlays").glob("*.jpg"))) == 12
    boxes = json.loads((folder / "boxes.json").read_text())
    assert len(boxes["images"]) == 12
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    for place in ("overlays", "boxes.json", "report.html", "--model"):
        assert place in result.stderr


def test_demo_prints_the_floors_and_starts_over_only_when_told(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "tour"
    first = run_cli("demo", "--out", folder, "--images", 60)
    assert "centred box" in first.stdout
    again = run_cli("demo", "--out", folder, "--images", 60)
    assert again.code == 2
    assert "--overwrite" in again.stderr
    third = run_cli("demo", "--out", folder, "--images", 60, "--overwrite")
    assert third.code == 0, third.stderr
    assert third.stdout == first.stdout  # the same seed, the same numbers
    assert len(Run.open(folder / "run").history()) == 1


def test_it_shows_first_what_the_default_model_finds(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    """The cat and the cup are named, and their boxes are near those that a person drew; the rocket is no rocket."""
    result = run_cli("demo", "--out", tmp_path / "tour", "--images", 60)
    rows = {row.split()[0]: row for row in result.stdout.splitlines()[1:4]}
    assert re.search(r"Egyptian cat +0\.[5-9]", rows["cat"])
    assert re.search(r"espresso +0\.[5-9]", rows["coffee"])
    assert "drilling platform" in rows["rocket"]
    drawn = {"cat": (20, 0, 440, 300), "coffee": (75, 18, 480, 392)}  # cup and saucer
    for name, box in drawn.items():
        found = tuple(map(int, rows[name].split()[-4:]))
        assert float(iou(found, box)[0, 0]) > 0.6, name
    assert read_image(tmp_path / "tour" / "photos.jpg").shape[0] == demo.PHOTO_HEIGHT
    cat = read_image(tmp_path / "tour" / "photos" / "cat.png")
    assert np.array_equal(cat, skimage.data.chelsea())
