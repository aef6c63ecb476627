"""What version 0.1.0 wrote keeps loading, with the numbers that it had then: ``from_0_1_0`` was made by that version.

``data`` came from ``gwapctl data synth -n 20 --image-size 64-80``, without its masks; ``run``, ``interrupted``
(stopped after two iterations), ``detector`` (in float16, to be small), ``entry`` and ``maps`` from the verbs of that
name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gwapctl

OLD = Path(__file__).parent / "from_0_1_0"
READ_AS = ("--scales", "32,48", "--resize", "keep", "--map", "class")
METRICS = {
    "maps": {"voc_map_11pt": 47.803, "max_box_acc_v2": 2.5641, "mean_iou": 0.1403, "f_of_means": 0.2894},
    # 0.1.0 had 6.4103, 0.1509 and 0.319: what keeps its aspect ratio has been whole cells long since then
    "run": {"voc_map_11pt": 49.7348, "max_box_acc_v2": 7.6923, "mean_iou": 0.1403, "f_of_means": 0.3567},
    "detector": {"det_map_11pt": 0.3282, "det_map_area": 0.2996, "coco_map": 0.038},
}


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of what the old version wrote, for commands write into run folders; commands run inside it."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize(("what", "options"), [("maps", ()), ("run", READ_AS), ("detector", ())])
def test_old_folders_give_their_numbers(
    old: Path, run_cli: Callable[..., Any], what: str, options: tuple[str, ...]
) -> None:
    device = () if what == "maps" else ("--device", "cpu")
    done = run_cli("evaluate", what, "--dataset", "data", "--split", "train", *device, *options, "--json")
    assert done.code == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    tolerance = 0.001 if what == "maps" else 0.2  # networks round otherwise on other processors
    assert {key: metrics[key] for key in METRICS[what]} == pytest.approx(METRICS[what], abs=tolerance)


def test_an_old_run_resumes_to_the_weights_of_one_that_was_never_stopped(
    old: Path, run_cli: Callable[..., Any]
) -> None:
    done = run_cli(
        "train", "data", "--recipe", "recipe.toml", "--seed", 1, "--out", "interrupted", "--resume", "--device", "cpu"
    )
    assert done.code == 0, done.stderr
    whole, resumed = (load_file(folder / "weights.safetensors") for folder in (old / "run", old / "interrupted"))
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0.1, atol=0.05, msg=name)


@pytest.mark.parametrize("model", ["run", "entry", "detector"])
def test_old_models_localize(old: Path, model: str) -> None:
    options = {"min_score": 0.0} if model == "detector" else {}
    (found,) = gwapctl.load_model(old / model, device="cpu").localize(old / "data/JPEGImages/000000.jpg", **options)
    assert (found.width, found.height) == (78, 59)
    assert set(found.classes) <= {"ball", "brick", "leaf", "mug", "ring", "star"}
    assert found.boxes.shape == (len(found.classes), 4)


def test_old_maps_become_boxes(old: Path, run_cli: Callable[..., Any]) -> None:
    assert run_cli("boxes", "maps", "--format", "coco", "--out", "boxes.json").code == 0
    document = json.loads((old / "boxes.json").read_text())
    assert [image["file_name"] for image in document["images"]][:2] == ["000000.jpg", "000001.jpg"]
    assert len(document["annotations"]) >= 20


def test_an_old_run_has_its_page_and_goes_to_the_zoo(old: Path, run_cli: Callable[..., Any]) -> None:
    page = run_cli("report", "run", "--out", "page")
    assert page.code == 0, page.stderr
    shown = run_cli("models", "show", "entry")
    assert (shown.code, "test_efficientnet" in shown.stdout) == (0, True)
