"""Images that cannot be read are found before a model is built, and left out where that is asked for."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwapctl.config import DetectorConfig, TrainConfig
from gwapctl.datasets import check
from gwapctl.errors import DataError
from gwapctl.progress import Progress
from gwapctl.train.check import ImageCheck
from gwapctl.train.data import TrainData, load_detector_data, load_train_data
from gwapctl.train.task import Listener
from tests.factories import make_voc, save_image, start, voc_object, voc_xml

Cli = Callable[..., Any]
OPTIONS = ["--backbone", "resnet-s", "--weights", "none", "--image-size", 32, "--iterations", 2, "--batch-size", 2]
OPTIONS += ["--device", "cpu", "--workers", 0, "--val-fraction", 0, "--set", "keep=last"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        for number in range(4):
            save_image(tmp_path / "photos" / name / f"{number}.jpg")
    truncate(tmp_path / "photos" / "cat" / "1.jpg")
    (tmp_path / "photos" / "dog" / "2.jpg").write_bytes(b"")
    return tmp_path / "photos"


def config_for(dataset: Path, **more: Any) -> TrainConfig:
    settings: dict[str, Any] = {"backbone": "resnet-s", "weights": "none", "image_size": (32, 32), "batch_size": 2}
    return TrainConfig(dataset=str(dataset), **{**settings, "iterations": 4, "val_fraction": 0.25, **more})


def test_a_broken_image_stops_before_the_model_is_built(
    photos: Path, tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gwapctl.train.classification.build_model", lambda *_: pytest.fail("the model was built"))
    result = run_cli("train", photos, *OPTIONS, "--out", tmp_path / "run")
    assert result.code == 4
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "cat/1.jpg is truncated" in line
    assert "1 more images cannot be read" in line
    assert "--skip-broken leaves them out" in line
    assert not (tmp_path / "run" / "run.json").exists()


def test_broken_images_are_left_out_counted_and_recorded(photos: Path, tmp_path: Path, run_cli: Cli) -> None:
    result = run_cli("train", photos, *OPTIONS, "--skip-broken", "--out", tmp_path / "run")
    assert result.code == 0, result.stderr
    assert "warning: 2 of 8 images cannot be read and are left out. The first: " in result.stderr
    described = json.loads((tmp_path / "run" / "run.json").read_text())["dataset"]
    assert described["n_train"] == 6
    assert described["n_skipped"] == 2
    assert described["skipped"] == {"train": ["cat/1.jpg", "dog/2.jpg"]}


def test_a_sound_data_set_is_described_as_before(photos: Path) -> None:
    for name in ("cat/1.jpg", "dog/2.jpg"):
        save_image(photos / name)
    config = config_for(photos)
    plain, checked = load_train_data(config, None), load_train_data(config, None, ImageCheck(skip=True))
    assert plain.describe() == checked.describe()
    assert "skipped" not in checked.describe()


def test_what_is_held_out_does_not_depend_on_what_is_broken(photos: Path) -> None:
    """So that ``evaluate --split held-out`` finds the same images again."""
    config = config_for(photos)
    whole, checked = load_train_data(config, None), load_train_data(config, None, ImageCheck(skip=True))
    broken = {"cat/1.jpg", "dog/2.jpg"}
    assert {s.id for s in checked.val} == {s.id for s in whole.val} - broken
    assert {s.id for s in checked.train} == {s.id for s in whole.train} - broken
    assert whole.describe()["fingerprint"] == checked.describe()["fingerprint"]


def test_a_resumed_run_sees_the_same_images(photos: Path, tmp_path: Path) -> None:
    config = config_for(photos)
    whole = start(config, tmp_path / "whole", skip_broken=True)
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "parts", skip_broken=True, progress=stop_after(2))
    save_image(photos / "cat" / "1.jpg")  # mended meanwhile: left out all the same
    resumed = start(config, tmp_path / "parts", resume=True)
    assert resumed.document["dataset"] == whole.document["dataset"]
    assert resumed.history()[-1]["loss"] == whole.history()[-1]["loss"]
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("parts", "whole")]
    assert weights[0] == weights[1]


def test_an_image_that_broke_meanwhile_is_named(photos: Path, tmp_path: Path) -> None:
    config = config_for(photos)
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "run", skip_broken=True, progress=stop_after(2))
    truncate(photos / "cat" / "3.jpg")
    with pytest.raises(DataError, match=r"cat/3\.jpg is truncated"):
        start(config, tmp_path / "run", resume=True, skip_broken=True)


def stop_after(iteration: int) -> Callable[[Progress], None]:
    """Return a progress callback that presses Ctrl-C after an iteration."""
    return lambda state: os.kill(os.getpid(), signal.SIGINT) if state.done == iteration else None


def test_a_class_that_loses_all_its_images_is_named(photos: Path) -> None:
    for file in (photos / "dog").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"classes have no training image.*dog"):
        load_train_data(config_for(photos), None, ImageCheck(skip=True))


def test_many_images_are_checked_by_their_headers(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "DECODED", 7)
    monkeypatch.setattr("gwapctl.train.check.DECODED", 7)
    said: list[str] = []
    with pytest.raises(DataError, match=r"dog/2\.jpg is empty \(0 bytes\)[^0-9]*`gwapctl data check`"):
        load_train_data(config_for(photos), None, ImageCheck(listener=Listener(announce=said.append)))
    assert said == ["checking the headers of 8 images; skip_broken=True reads them whole"]
    assert skipped(load_train_data(config_for(photos), None, ImageCheck(skip=True))) == {"cat/1.jpg", "dog/2.jpg"}


def skipped(data: TrainData) -> set[str]:
    return {name for ids in data.skipped.values() for name in ids}


def test_a_detector_leaves_them_out_before_it_chooses_its_boxes(tmp_path: Path) -> None:
    images = {f"{n}": voc_xml(voc_object("cat"), voc_object("dog")) for n in range(8)}
    root = make_voc(tmp_path / "set", images)
    truncate(root / "JPEGImages" / "3.jpg")
    config = DetectorConfig(dataset=str(root), backbone="resnet18", box_proportion=0.5)
    with pytest.raises(DataError, match=r"3\.jpg is (truncated|damaged)"):
        load_detector_data(config, None, ImageCheck())
    data = load_detector_data(config, None, ImageCheck(skip=True))
    assert data.skipped == {"train": ["3"]}
    assert "3" not in data.subset
    assert all(data.train[index].id == sample.id for index, sample in data.boxed.items())
    assert len(data.train) == 7
