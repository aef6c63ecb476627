"""The tour leaves behind what it says, and only where it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwapctl import demo
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
