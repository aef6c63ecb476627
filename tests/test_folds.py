"""``train --folds``: every image is held out once, the estimate has an interval, and the last training sees all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factories import make_manifest, save_image

from gwapctl.config import stored_config
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import holdout
from gwapctl.evaluate.folds import interval, keep_none_threshold
from gwapctl.files import read_json, write_json
from gwapctl.metrics import FRACTION, NUMBER, PERCENT, POINTS
from gwapctl.runs import STATE, Run, find_runs, fold_folder

Cli = Callable[..., Any]
QUICK = ("--backbone", "resnet-s", "--weights", "none", "--image-size", 32, "--batch-size", 4, "--iterations", 2)
QUICK += ("--set", "keep=last", "--device", "cpu", "--workers", 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Boxed images of three classes, with a val split of their own."""
    return make_manifest(tmp_path / "data")


def held_out(run: Run) -> set[str]:
    """Return the ids of the images that a run held out."""
    config = run.document["config"]
    samples = open_dataset(config["dataset"]).samples("train")
    return {one.id for one in holdout(samples, config["val_fraction"], config["seed"], config["fold"])[1]}


def test_folds_part_the_images_and_every_class_evenly(tmp_path: Path) -> None:
    for index in range(17):
        save_image(tmp_path / "set" / ("cat", "dog", "_none")[index % 3] / f"{index}.jpg", 8, 6)
    samples = open_dataset(str(tmp_path / "set")).samples("train")
    parts = [holdout(samples, 1 / 3, 0, fold) for fold in range(3)]
    assert sorted(one.id for _, held in parts for one in held) == sorted(one.id for one in samples)
    for train, held in parts:
        assert {one.id for one in train} | {one.id for one in held} == {one.id for one in samples}
        assert len(held) in (5, 6)
        for labels in ((0,), (1,), ()):
            assert sum(one.labels == labels for one in held) in (1, 2, 3)
    assert parts[0] == holdout(samples, 1 / 3, 0)  # as without folds


def test_a_first_fold_that_fails_leaves_no_folder(data: Path, tmp_path: Path, run_cli: Cli) -> None:
    (open_dataset(str(data)).samples("train")[0].path).write_bytes(b"no image")
    done = run_cli("train", data, *QUICK, "--folds", 3, "--out", tmp_path / "run")
    assert done.code == 4
    assert not (tmp_path / "run").exists()


def test_the_interval_is_students() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0], NUMBER)
    half = 3.182446 * 1.290994 / 2  # t of 3 degrees of freedom, standard deviation, root of 4
    assert (found["mean"], found["values"]) == (2.5, [1.0, 2.0, 3.0, 4.0])
    assert (found["low"], found["high"]) == pytest.approx((2.5 - half, 2.5 + half), abs=1e-5)
    assert interval([0.0, 100.0], PERCENT) == {"mean": 50.0, "low": 0, "high": 100, "values": [0.0, 100.0]}
    assert interval([0.0, 1.0], FRACTION)["high"] == 1
    assert interval([-1.0, 0.0], POINTS)["low"] < -1  # a margin may be negative


def test_folds_estimate_and_the_last_training_sees_all(data: Path, tmp_path: Path, run_cli: Cli) -> None:
    out = tmp_path / "run"
    done = run_cli("train", data, *QUICK, "--folds", 3, "--out", out)
    assert done.code == 0, done.stderr
    runs = [Run.open(fold_folder(out, fold)) for fold in range(3)]
    held = [held_out(run) for run in runs]
    assert sorted(name for part in held for name in part) == sorted(
        one.id for one in open_dataset(str(data)).samples("train")
    )
    final = Run.open(out)
    assert final.finished
    assert final.document["dataset"]["n_train"] == 16
    assert (final.document["config"]["fold"], final.document["dataset"]["n_val"]) == (None, 0)

    estimate = json.loads((out / "folds.json").read_text())
    measured = [run.evaluations()[0] for run in runs]
    assert {one["split"] for one in measured} == {
        f"held-out 0.333333 of train, seed 0, fold {fold}" for fold in range(3)
    }
    for key in ("gt_known_error", "top1_error"):
        found = estimate["metrics"][key]
        assert found == interval([one["metrics"][key] for one in measured], PERCENT)
        assert key in done.stdout
    assert estimate["floors"]["centred_box"]["gt_known_error"] == pytest.approx(
        sum(one["floors"]["centred_box"]["gt_known_error"] for one in measured) / 3
    )
    assert "95 % interval" in done.stdout


def test_what_was_stopped_goes_on_and_what_is_done_is_kept(data: Path, tmp_path: Path, run_cli: Cli) -> None:
    out = tmp_path / "run"
    asked = ("train", data, "--folds", 3, "--out", out, "--device", "cpu", "--workers", 0)
    first = run_cli(*asked, *QUICK, "--json")
    assert first.code == 0, first.stderr
    document = json.loads(first.stdout)
    assert document["run"] == str(out)
    weights = (out / "weights.safetensors").read_bytes()
    kept = Run.open(fold_folder(out, 0)).document["finished"]
    for folder in (fold_folder(out, 2), out):  # as if it had been killed in the last fold
        for file in ("run.json", "weights.safetensors", "model.json", "history.jsonl"):
            (folder / file).unlink()
    (out / "folds.json").unlink()
    (fold_folder(out, 1) / STATE).touch()  # as if it had been killed at its very end
    again = run_cli(*asked, "--resume", "--json")
    assert again.code == 0, again.stderr
    assert not (fold_folder(out, 1) / STATE).exists()
    assert json.loads(again.stdout)["metrics"].keys() == document["metrics"].keys()
    assert Run.open(fold_folder(out, 0)).document["finished"] == kept
    assert (out / "weights.safetensors").read_bytes() == weights
    (out / STATE).touch()
    assert run_cli(*asked, "--resume", "--json").code == 0
    assert not (out / STATE).exists()
    other = run_cli(*asked, "--resume", "--lr", 0.1)
    assert other.code == 2
    assert len(find_runs(out)) == 4


def test_settings_that_do_not_go_with_folds_are_refused_first(data: Path, tmp_path: Path, run_cli: Cli) -> None:
    both = run_cli("train", data, *QUICK, "--folds", 3, "--val-fraction", 0.2, "--out", tmp_path / "a")
    assert both.code == 2
    assert "Leave out --val-fraction" in both.stderr
    photos = tmp_path / "photos"
    for index in range(6):
        save_image(photos / ("cat", "dog")[index % 2] / f"{index}.jpg")
    best = run_cli("train", photos, *QUICK, "--set", "keep=best", "--folds", 2, "--out", tmp_path / "b")
    assert best.code == 2
    assert "keep=best needs validation images" in best.stderr
    assert not (tmp_path / "b" / "folds").exists()


def test_the_last_model_gets_the_folds_threshold_for_nothing(tmp_path: Path) -> None:
    for fold, threshold in enumerate((0.2, None, 0.4)):
        said = {"none": {"n_shown": 8, "n_nothing": 2}} if threshold else {}
        write_json(fold_folder(tmp_path, fold) / "model.json", {"none_threshold": threshold, "provenance": said})
    write_json(tmp_path / "model.json", {"none_threshold": None, "provenance": {"seed": 0}})
    keep_none_threshold(tmp_path, 3)
    model = read_json(tmp_path / "model.json")
    assert model["none_threshold"] == pytest.approx(0.3)
    assert model["provenance"] == {"seed": 0, "none": {"n_shown": 16, "n_nothing": 4}}


def test_a_fold_is_a_setting_like_any_other(data: Path, tmp_path: Path, run_cli: Cli) -> None:
    asked = ("--set", "fold=1", "--val-fraction", 0.25, "--out", tmp_path / "run")
    assert run_cli("train", data, *QUICK, *asked).code == 0
    run = Run.open(tmp_path / "run")
    assert stored_config(run.document["config"]).fold == 1
    assert run.document["dataset"]["val_split"] == "0.25 of train, seed 0, fold 1"
    judged = run_cli("evaluate", tmp_path / "run", "--split", "held-out", "--json")
    assert json.loads(judged.stdout)["n"] == len(held_out(run)) == 4
