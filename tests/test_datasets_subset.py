"""A part of the classes: the same labels and boxes as in the whole set, under new numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gwapctl.config import build_train_config
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import without_boxes
from gwapctl.datasets.subset import ClassSubset, evenly_spread
from gwapctl.datasets.synthetic import make_synthetic_voc
from gwapctl.errors import UsageError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("subset") / "scenes"
    make_synthetic_voc(folder, images=24, seed=3)
    return folder


def test_a_subset_is_the_whole_seen_through_its_classes(scenes: Path) -> None:
    whole = open_dataset(str(scenes))
    keep = [0, 2]
    part = ClassSubset(whole, keep, "part")
    split = whole.splits()[0]
    expected = {s.id: s for s in whole.boxed_samples(split) if set(s.labels) & set(keep)}
    found = part.boxed_samples(split)
    assert [s.id for s in found] == list(expected)
    assert 0 < len(found) < len(whole.boxed_samples(split))
    for sample in found:
        original = expected[sample.id]
        assert {part.classes[label] for label in sample.labels} == {
            whole.classes[label] for label in original.labels if label in keep
        }
        own = np.isin(original.box_labels, keep)
        np.testing.assert_array_equal(sample.boxes, original.boxes[own])
        names = [part.classes[label].name for label in sample.box_labels]
        assert names == [whole.classes[label].name for label in original.box_labels[own]]
        assert len(sample.difficult) == len(sample.boxes)
    assert part.samples(split) == [without_boxes(sample) for sample in found]


def test_classes_after_a_colon_are_spread_evenly(scenes: Path) -> None:
    whole = open_dataset(str(scenes))
    total = len(whole.classes)
    part = open_dataset(f"{scenes}:2")
    assert part.name == f"{whole.name}:2"
    assert part.classes == (whole.classes[0], whole.classes[total // 2])
    assert evenly_spread(whole, total).classes == whole.classes


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_number_of_classes_that_is_not_there_is_refused(scenes: Path, count: int) -> None:
    with pytest.raises(UsageError, match=f"asks for {count} classes"):
        open_dataset(f"{scenes}:{count}")


def test_a_part_of_tiny_imagenet_has_its_settings() -> None:
    whole = build_train_config("tiny-imagenet", None, {})
    part = build_train_config("tiny-imagenet:40", None, {})
    assert part.model_dump() == whole.model_dump() | {"dataset": "tiny-imagenet:40"}
