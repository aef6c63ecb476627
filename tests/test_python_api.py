"""The promises of docs/python-api.md: its examples run, and what it lists is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import gwapctl
from gwapctl.networks.classifier import save_model
from tests.factories import make_classifier

DOCS = (Path(__file__).parents[1] / "docs" / "python-api.md").read_text(encoding="utf-8")
WIDTH, HEIGHT = 60, 44


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make what the examples speak of: the run ``runs/a``, ``a.jpg`` and ``b.jpg``; they are in the current folder."""
    save_model(make_classifier(classes=("cat", "dog"), input_size=(224, 224)), tmp_path / "runs" / "a")
    noise = np.random.default_rng(0).integers(0, 255, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name, image in zip(("a.jpg", "b.jpg"), noise, strict=True):
        cv2.imwrite(str(tmp_path / name), image)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_run(folder: Path, run_cli: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    done = run_cli("localize", "a.jpg", "b.jpg", "--model", "runs/a", "--out", "out", "--quiet")
    assert done.code == 0, done.stderr
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL):
        exec(example, names)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["a.jpg", "b.jpg"] * 2
    assert all(re.search(r" (cat|dog) ", line) for line in printed)
    assert (folder / "found.png").is_file()
    assert np.asarray(names["heatmap"]).shape == (HEIGHT, WIDTH)


def test_a_prediction_has_what_is_listed(folder: Path) -> None:
    table = DOCS.split("## `Prediction`")[1].split("##")[0]
    listed = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert {"image", "width", "classes", "class_ids", "scores", "boxes", "maps", "shared", "error", "mask"} < {*listed}
    (found,) = gwapctl.load_model("runs/a", device="cpu").localize("a.jpg", top_k=2)
    assert [name for name in listed if not hasattr(found, name)] == []
    assert type(found) is gwapctl.Prediction is gwapctl.Localization
    assert (found.width, found.height, len(found.predictions)) == (WIDTH, HEIGHT, 2)
    assert found.scores.tolist() == [item.score for item in found.predictions]
    assert found.boxes.shape == (2, 4)
    again = gwapctl.Prediction.from_json(found.to_json())
    assert again == found
    assert not len(again.maps)
