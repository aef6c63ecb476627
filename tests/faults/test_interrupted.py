"""Signals, a full disk, an output that cannot be written, an input that vanishes: a clear end, and nothing lost."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gwapctl.config import build_train_config
from gwapctl.errors import DataError
from gwapctl.networks.classifier import save_model
from gwapctl.predict import folder as localizing
from gwapctl.progress import Progress
from gwapctl.runs import Run
from gwapctl.train import loop
from gwapctl.train.task import Listener
from tests.factories import make_classifier, save_image

Cli = Callable[..., Any]
HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, HANGUP])


def train(voc: Path, folder: Path, resume: bool = False, **ears: Any) -> Run:
    """Train three epochs of three iterations."""
    asked = {"backbone": "resnet-s", "weights": "none", "image_size": (32, 32), "batch_size": 8, "epochs": 3}
    config = build_train_config(str(voc), None, asked)
    return loop.train(config, folder, device="cpu", workers=0, resume=resume, listener=Listener(**ears))


@pytest.fixture(scope="module")
def weights(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the training ends with that nothing disturbs."""
    return (train(voc, tmp_path_factory.mktemp("whole") / "run").folder / "weights.safetensors").read_bytes()


def at(iteration: int, act: Callable[[], object]) -> Callable[[Progress], None]:
    return lambda progress: act() and None if progress.done == iteration else None


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def handled(number: int, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@SIGNALS
def test_a_signal_leaves_a_run_that_goes_on(voc: Path, tmp_path: Path, weights: bytes, number: int) -> None:
    folder = tmp_path / "run"
    with handled(HANGUP, signal.SIG_DFL), pytest.raises(KeyboardInterrupt):
        train(voc, folder, progress=at(4, lambda: signal.raise_signal(number)))
    run = Run.open(folder)
    assert (run.document["status"], run.document["iterations"]) == ("interrupted", 4)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    train(voc, folder, resume=True)
    assert (folder / "weights.safetensors").read_bytes() == weights
    assert not (folder / "state.pt").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_nohup_is_heard(voc: Path, tmp_path: Path) -> None:
    with handled(HANGUP, signal.SIG_IGN):
        assert train(voc, tmp_path / "run", progress=at(4, lambda: signal.raise_signal(HANGUP))).finished


def test_a_run_is_finished_before_its_state_goes(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, unlink = tmp_path / "run", Path.unlink

    def killed(path: Path, **how: bool) -> None:
        if path.name == "state.pt":
            raise KeyboardInterrupt
        unlink(path, **how)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        train(voc, folder)
    monkeypatch.undo()
    assert Run.open(folder).finished
    with pytest.raises(Exception, match="nothing to resume"):
        train(voc, folder, resume=True)
    assert not (folder / "state.pt").exists()


@pytest.mark.parametrize("what", ["fsync", "history"])
def test_a_full_disk_stops_a_training_that_goes_on(
    voc: Path, tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = tmp_path / "run"

    def fill() -> None:
        if what == "fsync":
            monkeypatch.setattr(os, "fsync", full_disk)
        else:
            (folder / "history.jsonl").unlink()
            (folder / "history.jsonl").symlink_to("/dev/full")

    with pytest.raises(DataError, match=r"cannot write .*: No space left on device\."):
        train(voc, folder, progress=at(4, fill))
    monkeypatch.undo()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    (folder / "history.jsonl").unlink()
    train(voc, folder, resume=True)
    assert (folder / "weights.safetensors").read_bytes() == weights


def test_a_training_image_that_vanishes(
    voc: Path, tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gwapctl.train.kept_images.MEMORY_SHARE", 0)  # else no image is read twice
    monkeypatch.setattr("gwapctl.train.kept_images.DISK_SHARE", 0)
    data = tmp_path / "data" / voc.name
    shutil.copytree(voc, data)
    first = (data / "ImageSets" / "Main" / "train.txt").read_text().split()
    pictures = [data / "JPEGImages" / f"{name}.jpg" for name in first]

    def vanish() -> None:
        for picture in pictures:
            picture.rename(picture.with_suffix(".away"))

    with pytest.raises(DataError, match=r"\.jpg"):
        train(data, tmp_path / "run", progress=at(3, vanish))
    assert Run.open(tmp_path / "run").document["status"] == "failed"
    for picture in pictures:
        picture.with_suffix(".away").rename(picture)
    train(data, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos, and a model beside them."""
    place = tmp_path_factory.mktemp("photos")
    for index in range(12):
        save_image(place / "photos" / f"{index:02d}.jpg", 40 + index, 30)
    save_model(make_classifier(), place / "model")
    return place


def localize(run_cli: Cli, place: Path, out: Path, *more: object, pictures: Path | None = None) -> Any:
    how = ("--device", "cpu", "--workers", 1, "--batch-size", 2, "--format", "jsonl")
    return run_cli("localize", pictures or place / "photos", "--model", place / "model", *how, "--out", out, *more)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["interrupt", "fsync", "log"])
def test_localize_goes_on(
    run_cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert localize(run_cli, photos, whole).code == 0
    begin, seen = localizing._Output.begin, list[int]()

    def disturbed(self: Any, items: Any) -> None:
        begin(self, items)
        seen.append(len(items))
        if len(seen) == 4 and how == "interrupt":
            raise KeyboardInterrupt
        if len(seen) == 4 and how == "fsync":
            monkeypatch.setattr(os, "fsync", full_disk)

    monkeypatch.setattr(localizing._Output, "begin", disturbed)
    if how == "log":
        out.mkdir()
        (out / "predictions.jsonl").symlink_to("/dev/full")
    stopped = localize(run_cli, photos, out, *(["--resume"] * (how == "log")))
    monkeypatch.undo()
    assert stopped.code == (130 if how == "interrupt" else 4), stopped.stderr
    assert len([line for line in stopped.stderr.splitlines() if line.startswith("error:")]) == 1
    assert "internal" not in stopped.stderr
    assert [name for name in content(out) if "gwapctl" in name] == []
    if how == "log":
        (out / "predictions.jsonl").unlink()
    assert localize(run_cli, photos, out, "--resume").code == 0
    assert content(out) == content(whole)


def test_a_photo_that_vanishes_fails_by_name(
    run_cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, begin = tmp_path / "pictures", localizing._Output.begin
    shutil.copytree(photos / "photos", pictures)

    def disturbed(self: Any, items: Any) -> None:
        begin(self, items)
        for item in items:
            if item.id == "05.jpg":
                item.path.unlink()

    monkeypatch.setattr(localizing._Output, "begin", disturbed)
    result = localize(run_cli, photos, tmp_path / "out", pictures=pictures)
    assert result.code == 3
    assert "05.jpg" in result.stderr
    assert len(list((tmp_path / "out" / "maps").glob("*.npy"))) == 11


@pytest.mark.parametrize(
    "words",
    [
        ("train", "{voc}", "--backbone", "resnet-s", "--weights", "none", "--device", "cpu"),
        ("localize", "{photos}/photos", "--model", "{photos}/model", "--device", "cpu"),
        ("boxes", "{photos}/photos", "--model", "{photos}/model", "--device", "cpu", "--format", "yolo"),
        ("data", "synth", "--images", "5", "--image-size", "64"),
    ],
)
def test_an_output_that_cannot_be_written(run_cli: Cli, voc: Path, photos: Path, words: tuple[str, ...]) -> None:
    result = run_cli(*(word.format(voc=voc, photos=photos) for word in words), "--out", "/proc/gwapctl-out")
    assert result.code == 4, result.stderr
    assert "error: cannot write /proc/" in result.stderr.splitlines()[-1]
