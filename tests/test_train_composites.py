"""Images composed of what is least in doubt: which boxes are kept, what is cut out, where it lands, exact resume."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gwapctl.boxes import iou
from gwapctl.config import build_train_config
from gwapctl.datasets.base import ClassName, Dataset, Sample
from gwapctl.draw import write_png
from gwapctl.errors import UsageError
from gwapctl.images.decode import read_image
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.runs import Run, remove_run
from gwapctl.train.composites import (
    HIDDEN,
    MOST_OVERLAP,
    MOST_PASTED,
    Composites,
    object_mask,
    sure,
    write_composites,
)
from gwapctl.train.loop import train_with
from gwapctl.train.pseudo import PseudoBoxes, pseudo_boxes, ranked
from gwapctl.train.task import Listener, Resources
from tests.factories import SMALL_DETECTOR, assert_same_weights, stop_after, train_config

RED, BLUE, GREY = (220, 20, 20), (20, 20, 220), (128, 128, 128)
NAMES = [ClassName("red", "red"), ClassName("blue", "blue")]
SIZES = [(100, 70), (60, 90), (120, 80)]
config_for = partial(train_config, **SMALL_DETECTOR, boxes_from="somebody", composites=1.0)


def painted(folder: Path) -> tuple[list[Sample], list[PseudoBoxes]]:
    """Images of a red and of a blue rectangle on noisy grey, and an image of nothing, with the boxes of each."""
    rng, samples, found = np.random.default_rng(0), list[Sample](), list[PseudoBoxes]()
    for number, (width, height) in enumerate(SIZES):
        image = np.full((height, width, 3), GREY, np.uint8)
        labels = [] if number == 2 else [number]
        for label in labels:
            image[20:50, 15:40] = (RED, BLUE)[label]
        noise = rng.integers(0, 12, image.shape, np.uint8)
        write_png(folder / f"{number}.png", image + noise)
        samples.append(Sample(str(number), folder / f"{number}.png", tuple(labels)))
        found.append(pseudo_boxes([[15, 20, 40, 50]] * len(labels), labels, [0.9] * len(labels)))
    return samples, found


# ---------------------------------------------------------------------------------------------------- what is trusted


def test_every_class_keeps_the_boxes_that_weigh_most() -> None:
    rng = np.random.default_rng(1)
    weights, labels = rng.random(40), rng.integers(0, 3, 40)
    pairs = zip(weights, labels, strict=True)
    found = ranked([pseudo_boxes([[0, 0, 9, 9]], [label], [weight]) for weight, label in pairs])
    flags = np.array([one[0] for one in sure(found)])
    for label in range(3):
        own = labels == label
        assert flags[own].sum() == -(-own.sum() * 35 // 100)
        assert weights[own & flags].min() > weights[own & ~flags].max()


def test_a_class_that_nothing_is_sure_of_has_its_best_box() -> None:
    found = [pseudo_boxes([[0, 0, 9, 9]], [label], [score]) for label, score in ((0, 0.9), (1, 0.2), (1, 0.3))]
    assert sure(found) == [[True], [False], [True]]


def test_boxes_without_doubt_are_all_trusted() -> None:
    found = [pseudo_boxes([[0, 0, 9, 9]], [n % 2], [1.0]) for n in range(7)]
    assert sure(found) == [[True]] * 7


# --------------------------------------------------------------------------------------------------- what is composed


def test_the_object_is_cut_out_of_its_box(tmp_path: Path) -> None:
    samples, _ = painted(tmp_path)
    mask = object_mask(read_image(samples[0].path), np.array([10.0, 14, 46, 58]))  # much larger than the object
    expected = np.zeros_like(mask)
    expected[20:50, 15:40] = True
    assert (mask & expected).sum() / (mask | expected).sum() > 0.9


def test_a_box_that_fills_its_image_is_cut_out_whole() -> None:
    image = np.full((30, 50, 3), 90, np.uint8)
    assert object_mask(image, np.array([0.0, 0, 50, 30])).all()


def test_boxes_hold_what_was_pasted(tmp_path: Path) -> None:
    composites = Composites(*painted(tmp_path), seed=3)
    for number in range(12):
        image, found = composites.compose(number)
        assert image.shape[:2] in {(height, width) for width, height in SIZES}
        assert 1 <= len(found) <= MOST_PASTED
        colours = image.astype(int)
        coloured = np.abs(colours[..., 0] - colours[..., 2]) > 60
        inside = np.zeros_like(coloured)
        for (left, top, right, bottom), label in zip(found.boxes.astype(int).tolist(), found.labels, strict=True):
            inside[top:bottom, left:right] = True
            own = colours[top:bottom, left:right]
            strong = own[..., 0] > own[..., 2] + 60 if label == 0 else own[..., 2] > own[..., 0] + 60
            assert strong.mean() > 1 - HIDDEN - 0.1
        assert (coloured & ~inside).mean() < 0.06  # the edges of objects that others hide: no rectangle of the ground
        between = iou(found.boxes, found.boxes)[np.triu_indices(len(found), 1)]
        assert between.max(initial=0) < MOST_OVERLAP


def test_boxes_beyond_their_image_and_of_a_pixel_show_nothing(tmp_path: Path) -> None:
    samples, _ = painted(tmp_path)
    found = [pseudo_boxes([[200, 20, 240, 50]], [0], [1.0]), pseudo_boxes([[3, 3, 4, 4]], [1], [1.0])]
    composites = Composites(samples[:2], found, seed=0)
    labels = {int(label) for number in range(20) for label in composites.compose(number)[1].labels}
    assert labels == {1}


def test_a_composed_image_is_a_function_of_its_number(tmp_path: Path) -> None:
    parts = painted(tmp_path)
    first, second = Composites(*parts, seed=3), Composites(*parts, seed=3)
    second.compose(0)
    (image, found), (again, same) = first.compose(5), second.compose(5)
    assert np.array_equal(image, again)
    assert np.array_equal(found.boxes, same.boxes)
    assert not np.array_equal(image, Composites(*parts, seed=4).compose(5)[0])


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    composites = Composites(*painted(tmp_path), seed=0)
    made = write_composites(tmp_path / "composites", composites, 4, NAMES, workers=2)
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "composites").iterdir()}
    assert sorted(before) == ["0000.jpg", "0001.jpg", "0002.jpg", "0003.jpg", "boxes.jsonl"]
    again = write_composites(tmp_path / "composites", composites, 4, NAMES)
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "composites").iterdir()} == before
    for number, (one, other) in enumerate(zip(made, again, strict=True)):
        image, found = composites.compose(number)
        assert one.labels == other.labels == tuple(sorted(set(found.labels.tolist())))
        assert np.array_equal(one.boxes, found.boxes)
        assert np.abs(read_image(one.path).astype(int) - image).mean() < 12  # noise, in a JPEG file


# -------------------------------------------------------------------------------------------------------- in training


def found_boxes(dataset: Dataset, samples: Sequence[Sample], progress: ProgressCallback) -> list[PseudoBoxes]:
    """One box in every image, of its first class, each in more doubt than the one before."""
    del dataset, progress
    weights = np.linspace(1, 0.1, len(samples))
    return [pseudo_boxes([[8, 8, 40, 40]], [one.labels[0]], [w]) for one, w in zip(samples, weights, strict=True)]


def train_from(config: Any, out: Path, **options: Any) -> Run:
    out.mkdir(parents=True, exist_ok=True)
    listener = Listener(
        **{name: options.pop(name) for name in ("announce", "progress", "check_progress") if name in options}
    )
    return train_with(Resources(torch.device("cpu"), boxes=found_boxes), config, out, listener=listener, **options)


def test_a_training_sees_composed_images_and_resumes_to_the_bit(voc: Path, tmp_path: Path) -> None:
    said: list[str] = []
    whole = train_from(config_for(voc, iterations=4), tmp_path / "whole", announce=said.append)
    assert any(" images composed of the " in text for text in said)
    n_train = whole.document["dataset"]["n_train"]
    assert len(list((whole.folder / "composites").glob("*.jpg"))) == n_train
    with pytest.raises(KeyboardInterrupt):
        train_from(config_for(voc, iterations=4), tmp_path / "cut", progress=stop_after(2))
    train_from(config_for(voc, iterations=4), tmp_path / "cut", resume=True)
    assert_same_weights(whole.folder, tmp_path / "cut")


def test_one_that_stops_while_images_are_composed_resumes(voc: Path, tmp_path: Path) -> None:
    def stop(done: Progress) -> None:
        if done.text == "composing images" and done.done == 3:
            raise KeyboardInterrupt

    config = config_for(voc, iterations=2)
    with pytest.raises(KeyboardInterrupt):
        train_from(config, tmp_path / "cut", check_progress=stop)
    assert Run.open(tmp_path / "cut").document["status"] == "interrupted"
    assert len(list((tmp_path / "cut" / "composites").iterdir())) == 3
    train_from(config, tmp_path / "cut", resume=True)
    assert_same_weights(train_from(config, tmp_path / "whole").folder, tmp_path / "cut")


def test_composites_are_of_found_boxes() -> None:
    with pytest.raises(UsageError, match="composites are of boxes_from"):
        build_train_config("voc", None, {"detector": "rfcn", "composites": 1.0})


def test_a_run_that_is_replaced_leaves_nothing(voc: Path, tmp_path: Path) -> None:
    """Neither its boxes nor its composed images reach the next one; what others put there stays."""
    first = train_from(config_for(voc, iterations=2), tmp_path / "run").folder
    (first / "evaluations").mkdir()
    (first / "evaluations" / "old.json").write_text("{}")
    (first / "state.pt").write_bytes(b"old")
    others = [first / "notes.txt", first / "composites" / "mine.png"]
    for file in others:
        file.write_text("mine")
    train_from(config_for(voc, iterations=2, seed=1), first)
    assert_same_weights(train_from(config_for(voc, iterations=2, seed=1), tmp_path / "fresh").folder, first)
    names = {str(file.relative_to(first)) for file in first.rglob("*") if file.is_file() and file not in others}
    fresh = tmp_path / "fresh"
    assert names == {str(file.relative_to(fresh)) for file in fresh.rglob("*") if file.is_file()}
    assert all(file.read_text() == "mine" for file in others)


def test_what_lies_behind_a_link_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.json").write_text("{}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "evaluations").symlink_to(tmp_path / "elsewhere")
    remove_run(tmp_path / "run")
    assert (tmp_path / "elsewhere" / "a.json").is_file()
