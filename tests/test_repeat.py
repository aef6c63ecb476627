"""``gwapctl train --from-run``: the same weights again, and in one line what stands in the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CliResult
from tests.factories import make_manifest

Cli = Callable[..., CliResult]
HERE = ("--device", "cpu", "--workers", "0")
TINY = ("--backbone", "resnet-s", "--weights", "none", "--image-size", "32x24", "--batch-size", "4", "--epochs", "1")


@pytest.fixture
def run(tmp_path: Path, run_cli: Cli) -> Path:
    data = make_manifest(tmp_path / "photos", images=24)
    done = run_cli("train", data, *TINY, *HERE, "--seed", "7", "--set", "flip=false", "--out", tmp_path / "run")
    assert done.code == 0, done.stderr
    return tmp_path / "run"


def test_a_run_gives_its_weights_again(run: Path, run_cli: Cli) -> None:
    again = run.with_name("again")
    done = run_cli("train", "--from-run", run, *HERE, "--out", again)
    assert (done.code, "numbers may differ" in done.stderr) == (0, False), done.stderr
    assert (again / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()
    documents = [json.loads((folder / "run.json").read_text()) for folder in (run, again)]
    assert documents[0]["config"] == documents[1]["config"]
    assert documents[0]["threads"] > 0


def test_what_changed_since_is_said(run: Path, run_cli: Cli) -> None:
    document = json.loads((run / "run.json").read_text())
    document["versions"] |= {"torch": "1.0"}
    document |= {"device": "NVIDIA T4"}
    (run / "run.json").write_text(json.dumps(document))
    done = run_cli("train", "--from-run", run, *HERE, "--out", run.with_name("again"), "--dry-run")
    assert done.code == 0
    said = " ".join(done.stderr.split())
    assert "(torch 1.0 is " in said
    assert "was trained on NVIDIA T4, and this is cpu: numbers may differ" in said


@pytest.mark.parametrize("more", [("--seed", "8"), ("voc",), ("--folds", "3"), ("--set", "flip=true")])
def test_a_repeated_run_takes_nothing_else(run: Path, more: tuple[str, ...], run_cli: Cli) -> None:
    done = run_cli("train", "--from-run", run, *more)
    wrong = {"voc": "DATASET", "--set": "--set flip"}.get(more[0], more[0])
    assert (done.code, f"Leave out {wrong}." in " ".join(done.stderr.split())) == (2, True), done.stderr


def test_other_images_are_refused(run: Path, run_cli: Cli) -> None:
    folder = run.with_name("photos")
    for file in sorted(folder.rglob("*.csv")):
        lines = file.read_text().splitlines()
        file.write_text("\n".join(lines[:-2]) + "\n")
    done = run_cli("train", "--from-run", run, *HERE, "--out", run.with_name("again"))
    assert (done.code, "training images" in done.stderr) == (4, True), done.stderr
    assert not run.with_name("again").exists()
