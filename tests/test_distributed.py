"""Several processes that train one model: the same numbers as one, one writer, resumed, killed and started again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gwapctl import cli
from gwapctl.datasets.synthetic import make_backgrounds
from gwapctl.errors import UsageError
from gwapctl.runs import Run
from gwapctl.train.distributed import Processes
from tests.factories import SMALL_DETECTOR, make_manifest, weights_of
from tests.processes import ROOT, SECONDS, train_in, train_one

CLASSIFIER: dict[str, Any] = {
    "backbone": "resnet-s",
    "weights": "none",
    "image_size": (32, 40),
    "batch_size": 4,
    "iterations": 6,
    "lr": 0.05,
    "warmup": 1,
    "batch_norm": "frozen",
    "precision": "fp32",
}
DETECTOR: dict[str, Any] = {
    **SMALL_DETECTOR,
    "batch_size": 4,
    "iterations": 4,
    "box_proportion": 0.5,
    "weak": "gwap",
    "lr": 1e-2,
    "val_fraction": 0.2,
}


@pytest.fixture(scope="module")
def trunk(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a classifier: with them, a detector's batch norms stand still."""
    folder = tmp_path_factory.mktemp("trunk")
    train_one({**CLASSIFIER, "iterations": 1}, folder, dataset=str(voc))
    return folder / "weights.safetensors"


def assert_alike(first: Path, second: Path, *, resumed: bool = False) -> None:
    """Fail where two runs differ in a row of their history, or by more than 1e-5 in a weight.

    The losses of a run that was ``resumed`` are means of what came behind that.
    """
    rows, others = Run.open(first).history(), Run.open(second).history()
    assert len(rows) == len(others) > 0
    for row, other in zip(rows, others, strict=True):
        assert list(row) == list(other)
        names = [name for name in row if name.startswith("val_" if resumed else "") and name != "images_per_second"]
        assert [row[name] for name in names] == pytest.approx([other[name] for name in names], rel=1e-4)
    weights, theirs = weights_of(first), weights_of(second)
    assert weights.keys() == theirs.keys()
    assert max(float((weights[name] - theirs[name]).abs().max()) for name in weights) < 1e-5


def compare(jobs: dict[str, dict[str, Any]], folder: Path) -> None:
    """Train every job in one process and in two, and compare."""
    (folder / "two").mkdir()
    said = train_in(2, [{**job, "out": str(folder / "two" / name)} for name, job in jobs.items()], folder)
    assert said == ["", ""]
    for name, job in jobs.items():
        train_one(**job, out=folder / "one" / name)
        assert_alike(folder / "one" / name, folder / "two" / name)


def test_two_processes_with_two_images_each_are_one_with_four(voc: Path, trunk: Path, tmp_path: Path) -> None:
    detector = {**DETECTOR, "weights": str(trunk)}
    compare(
        {
            "classifier": {"settings": CLASSIFIER, "dataset": str(voc)},
            "detector": {"settings": detector, "dataset": str(voc)},
        },
        tmp_path,
    )


@pytest.mark.slow
def test_whatever_is_trained_is_trained_alike(voc: Path, trunk: Path, tmp_path: Path) -> None:
    """Uneven shares, several batches a step, mixed images, background images, averages, caches, rounds."""
    singles = str(make_manifest(tmp_path / "set"))
    make_backgrounds(tmp_path / "grounds", images=3, seed=1, size=(64, 70))
    uneven = {**CLASSIFIER, "batch_size": 5, "accumulate": 2, "iterations": 4}
    detector = {**DETECTOR, "weights": str(trunk), "batch_size": 3}
    rounds = {"boxes_from": "somebody", "rounds": 2, "cache_features": True, "frozen_stages": 5, "iterations": 6}
    narrow = {"hidden": 8, "foreground_hidden": 4}
    grounds = {
        "head": "background",
        "background": str(tmp_path / "grounds"),
        "iterations": 20,
        "head_options": narrow,
    }
    compare(
        {
            "uneven": {"settings": {**uneven, "ema": 0.9}, "dataset": str(voc)},
            "mixed": {"settings": {**uneven, "augment": "cutmix"}, "dataset": singles},
            "hidden": {"settings": {**uneven, "augment": "has", "train_sizes": (32, 48)}, "dataset": str(voc)},
            "background": {"settings": {**CLASSIFIER, **grounds}, "dataset": str(voc)},
            "no loss of the foreground": {
                "settings": {**CLASSIFIER, "head": "background", "head_options": {**narrow, "l1": 0, "l2": 0}},
                "dataset": str(voc),
            },
            "cached": {
                "settings": {**CLASSIFIER, "freeze_backbone": True, "cache_features": True},
                "dataset": str(voc),
                "cache": str(tmp_path / "cache"),
            },
            "uneven detector": {"settings": {**detector, "accumulate": 2, "ema": 0.9}, "dataset": str(voc)},
            "rounds": {
                "settings": {**detector, **rounds, "weak": "none", "box_proportion": 1.0},
                "dataset": str(voc),
                "cache": str(tmp_path / "cache"),
            },
        },
        tmp_path,
    )


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(voc: Path, trunk: Path, tmp_path: Path) -> None:
    jobs = {
        "classifier": {"settings": CLASSIFIER, "dataset": str(voc)},
        "detector": {"settings": {**DETECTOR, "weights": str(trunk)}, "dataset": str(voc)},
    }
    stopped = [{**job, "out": str(tmp_path / name), "stop": 3} for name, job in jobs.items()]
    assert train_in(2, stopped, tmp_path) == ["", ""]
    for name, job in jobs.items():
        assert (Run.open(tmp_path / name).document["status"], Run.open(tmp_path / name).document["iterations"]) == (
            "interrupted",
            3,
        )
        shutil.copytree(tmp_path / name, tmp_path / f"{name} in two")
        train_one(**job, out=tmp_path / name, resume=True)
        train_one(**job, out=tmp_path / f"{name} in one")
        assert_alike(tmp_path / name, tmp_path / f"{name} in one", resumed=True)
    resumed = [{**job, "out": str(tmp_path / f"{name} in two"), "resume": True} for name, job in jobs.items()]
    assert train_in(2, resumed, tmp_path) == ["", ""]
    for name in jobs:
        assert_alike(tmp_path / f"{name} in two", tmp_path / f"{name} in one", resumed=True)


def test_shares_are_all_of_a_batch_and_none_twice() -> None:
    for count in (1, 2, 3, 7):
        for number in (7, 8, 20):
            parts = [Processes(rank, count).part(range(number)) for rank in range(count)]
            assert [one for part in parts for one in part] == list(range(number))
            assert all(parts)


def test_what_several_processes_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match=r"3 processes share batches of 2: .* Use batch_size=3 or more"):
        Processes(0, 3).require_batch(2)
    with pytest.raises(UsageError, match="2 processes cannot share cuda:1"):
        Processes(0, 2).device("cuda:1")
    assert Processes(0, 2).device("cpu") == "cpu"
    assert Processes().device("cuda:1") == "cuda:1"


def test_a_process_that_is_alone_says_its_errors_and_waits_for_nobody() -> None:
    assert Processes().spoken("so") == "so"
    assert Processes().on_first(lambda: 3) == 3
    assert list(Processes().collect(iter([1, 2]))) == [1, 2]
    with Processes().in_turn() as first, Processes().together():
        assert first


@pytest.mark.slow
def test_killed_workers_are_started_again_and_resume(voc: Path, tmp_path: Path) -> None:
    """Under torchrun, the first or the second worker is killed once in the second epoch; nothing is typed again."""
    settings = [f"--set={name}={value}" for name, value in (("batch_norm", "frozen"), ("precision", "fp32"))]
    words = ["train", str(voc), "--backbone=resnet-s", "--weights=none", "--image-size=40x32", "--batch-size=4"]
    words += ["--epochs=2", "--lr=0.05", "--device=cpu", *settings]
    assert cli.run([*words, "--out", str(tmp_path / "one")]) == 0
    for victim in (0, 1):
        out = tmp_path / f"killed {victim}"
        said = torchrun([*words, "--out", str(out)], tmp_path, victim=victim, iteration=8)
        assert "training resnet-s" in said
        document = Run.open(out).document
        assert (document["status"], document["processes"]["count"]) == ("finished", 2)
        assert_alike(tmp_path / "one", out, resumed=True)


def torchrun(words: list[str], folder: Path, *, victim: int, iteration: int) -> str:
    """Run ``gwapctl`` in two workers of torchrun, of which one is killed once, and return what was said."""
    (folder / "sitecustomize.py").write_text(KILL_ONCE)
    mark = folder / f"killed {victim}.txt"
    env = {"VICTIM": str(victim), "ITERATION": str(iteration), "MARK": str(mark)}
    path = os.pathsep.join([str(folder), str(ROOT)])
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    done = subprocess.run(
        [*started, "-m", "gwapctl", *words],
        env={**os.environ, **env, "PYTHONPATH": path, "GWAPCTL_TIME_LIMIT": "300"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert mark.is_file()
    return done.stderr


# what Python imports as it starts: the victim ends as if the system had killed it
KILL_ONCE = """
import os, pathlib, signal
if os.environ.get("RANK") == os.environ["VICTIM"] and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
    import gwapctl.train.loop as loop
    step = loop.train_step
    def train_step(training, batches, lr):
        if training.iteration == int(os.environ["ITERATION"]):
            pathlib.Path(os.environ["MARK"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return step(training, batches, lr)
    loop.train_step = train_step
"""
