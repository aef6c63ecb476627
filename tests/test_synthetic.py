"""The synthetic data set: exact, varied, honest, and the same bytes for the same seed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gwapctl import boxes
from gwapctl.datasets import open_dataset, reporting_split, training_splits
from gwapctl.datasets.base import BoxedSample
from gwapctl.datasets.synthetic import SHAPES, draw, make_backgrounds, make_synthetic_voc, pose
from gwapctl.errors import UsageError
from gwapctl.images.decode import read_image
from gwapctl.inputs import find_inputs
from gwapctl.progress import Progress


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic") / "scenes"
    make_synthetic_voc(path, images=60, seed=3, size=(80, 130))
    return path


@pytest.fixture(scope="module")
def samples(folder: Path) -> list[BoxedSample]:
    dataset = open_dataset(str(folder))
    return [sample for split in dataset.splits() for sample in dataset.boxed_samples(split)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_reads_back_as_voc(folder: Path) -> None:
    dataset = open_dataset(str(folder))
    assert {item.name for item in dataset.classes} == set(SHAPES)
    assert {split: len(dataset.samples(split)) for split in dataset.splits()} == {"train": 36, "val": 12, "test": 12}
    assert training_splits(dataset) == ("train", "val")
    assert reporting_split(dataset) == "test"
    assert not dataset.problems.warnings
    assert not list(folder.parent.glob(".*")), "nothing temporary is left"


def test_sizes_and_pictures(samples: list[BoxedSample]) -> None:
    for sample in samples:
        image = read_image(sample.path)
        assert sample.size == (image.shape[1], image.shape[0])
        assert 80 <= max(image.shape) <= 130
        assert image.std() > 5
    assert len({sample.size for sample in samples}) > 30
    assert {sample.size[0] > sample.size[1] for sample in samples if sample.size} == {True, False}


def test_boxes_are_tight_around_the_masks(samples: list[BoxedSample]) -> None:
    for sample in samples:
        assert sample.mask is not None
        numbers = np.asarray(Image.open(sample.mask))
        assert sample.size == numbers.shape[::-1]
        assert numbers.max() == len(sample.boxes)
        for number, box in enumerate(sample.boxes, start=1):
            rows, columns = np.nonzero(numbers == number)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_one_to_four_objects_of_every_class(samples: list[BoxedSample]) -> None:
    counts = {len(sample.boxes) for sample in samples}
    assert counts <= {0, 1, 2, 3, 4}
    assert {1, 2, 3, 4} <= counts
    easy = np.bincount([label for sample in samples for label in sample.labels], minlength=len(SHAPES))
    assert easy.min() >= 8


def test_some_objects_are_difficult_but_not_many(samples: list[BoxedSample]) -> None:
    difficult = np.concatenate([sample.difficult for sample in samples])
    assert 0 < difficult.mean() < 0.2


def test_the_whole_image_is_a_bad_box(samples: list[BoxedSample]) -> None:
    shares = np.concatenate(
        [boxes.area(sample.boxes) / (sample.size[0] * sample.size[1]) for sample in samples if sample.size]
    )
    assert 0.08 < np.median(shares) < 0.25
    assert (shares > 0.5).mean() < 0.05


def test_colour_does_not_give_the_class_away(samples: list[BoxedSample]) -> None:
    """The classes' mean colours are as close together as those of random halves would be."""
    colours: dict[int, list[np.ndarray]] = {}
    for sample in samples:
        image, numbers = read_image(sample.path), np.asarray(Image.open(sample.mask))
        for number, label in enumerate(sample.box_labels, start=1):
            colours.setdefault(int(label), []).append(image[numbers == number].mean(axis=0))
    means = np.array([np.mean(values, axis=0) for values in colours.values()])
    within = np.mean([np.std(values, axis=0) for values in colours.values()])
    assert means.std(axis=0).max() < 0.75 * within


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    steps: list[Progress] = []
    make_synthetic_voc(tmp_path / "a", images=7, seed=5, size=(64, 90), progress=steps.append)
    make_synthetic_voc(tmp_path / "b", images=7, seed=5, size=(64, 90))
    make_synthetic_voc(tmp_path / "c", images=7, seed=6, size=(64, 90))
    make_synthetic_voc(tmp_path / "d", images=9, seed=5, size=(64, 90))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    first, other, longer = (files(tmp_path / name) for name in "acd")
    assert first["JPEGImages/000003.jpg"] != other["JPEGImages/000003.jpg"]
    assert all(longer[name] == data for name, data in first.items() if not name.startswith("ImageSets"))
    assert [step.done for step in steps] == list(range(1, 8))
    assert steps[0].total == 7


def test_nothing_is_overwritten_by_accident(tmp_path: Path) -> None:
    target = tmp_path / "scenes"
    make_synthetic_voc(target, images=5, seed=0, size=(64, 64))
    before = files(target)
    with pytest.raises(UsageError, match="overwrite=True"):
        make_synthetic_voc(target, images=5, seed=1, size=(64, 64))
    assert files(target) == before
    make_synthetic_voc(target, images=5, seed=1, size=(64, 64), overwrite=True)
    assert files(target) != before
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    with pytest.raises(UsageError, match="in use"):
        make_synthetic_voc(precious, images=5, seed=0, size=(64, 64), overwrite=True)


def test_what_a_killed_replacing_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / "set"
    (left / "Annotations").mkdir(parents=True)  # all its files are gone by then, and a list of them with them
    with pytest.raises(UsageError, match="in use"):
        make_synthetic_voc(left, images=5, seed=0, size=(64, 64))
    make_synthetic_voc(left, images=5, seed=0, size=(64, 64), overwrite=True)
    assert len(list((left / "Annotations").iterdir())) == 5


@pytest.mark.parametrize(("images", "size"), [(4, (64, 64)), (5, (20, 64)), (5, (90, 80))])
def test_wrong_arguments(tmp_path: Path, images: int, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="at least 5 images"):
        make_synthetic_voc(tmp_path / "scenes", images=images, seed=0, size=size)


def test_backgrounds(tmp_path: Path) -> None:
    make_backgrounds(tmp_path / "grounds", images=3, seed=0, size=(64, 80))
    pictures = [read_image(item.path) for item in find_inputs([str(tmp_path / "grounds")])]
    assert len(pictures) == 3
    assert all(64 <= max(picture.shape) <= 80 for picture in pictures)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_one_piece_of_a_fair_size(name: str) -> None:
    for seed in range(8):
        solid, second = draw(name, pose(90, np.random.default_rng(seed)), 60, 55, (110, 120))
        assert cv2.connectedComponents(solid.astype(np.uint8))[0] == 2
        assert 0.1 < solid.sum() / 90**2 < 0.75
        assert not solid[[0, -1]].any()
        assert not solid[:, [0, -1]].any()
        assert 0.1 < second[solid].mean() < 0.75, "patterned"


def test_a_shape_over_the_edge_is_the_same_shape_cut() -> None:
    matrix = pose(60, np.random.default_rng(4))
    whole, cut = (draw("mug", matrix, x, 40, (80, 100))[0] for x in (50, 10))
    assert np.array_equal(cut[:, :60], whole[:, 40:])
