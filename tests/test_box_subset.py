"""Which images show their boxes: the same share of every class, nested, and nothing but ids and seed decide."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwapctl.datasets.base import BoxedSample
from gwapctl.errors import DataError, UsageError
from gwapctl.train.data import box_labelled_subset

PROPORTIONS = (0.01, 0.02, 0.05, 0.1, 0.37, 1.0)
Objects = list[tuple[int, bool]]


def sample(name: str, objects: Objects) -> BoxedSample:
    labels = np.array([label for label, _ in objects], np.int64)
    difficult = np.array([flag for _, flag in objects], np.bool_)
    counting = tuple(sorted({label for label, flag in objects if not flag}))
    return BoxedSample(
        name, Path(name), counting, boxes=np.zeros((len(objects), 4)), box_labels=labels, difficult=difficult
    )


def images_of(samples: list[BoxedSample], label: int) -> set[str]:
    return {s.id for s in samples if label in s.box_labels[~s.difficult]}


def complete(samples: list[BoxedSample], chosen: list[str], classes: int, proportion: str) -> bool:
    """Tell whether ``chosen`` holds its share of every class; ``proportion`` in hundredths, for exact arithmetic."""
    members = [images_of(samples, label) for label in range(classes)]
    return all(len(images & set(chosen)) >= -(-int(proportion) * len(images) // 100) for images in members)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=4), min_size=1, max_size=60),
    st.integers(0, 2**31),
)
def test_subsets_nest_and_hold_their_share_of_every_class(images: list[Objects], seed: int) -> None:
    samples = [sample(f"{place:03d}", objects) for place, objects in enumerate(images)]
    usable = set().union(*(images_of(samples, label) for label in range(5)))
    if not usable:
        with pytest.raises(DataError, match="no image of the training split has a box"):
            box_labelled_subset(samples, 5, 0.1, seed)
        return
    found = [box_labelled_subset(samples, 5, proportion, seed) for proportion in PROPORTIONS]
    for proportion, chosen, larger in zip(PROPORTIONS, found, [*found[1:], found[-1]], strict=True):
        percent = str(round(100 * proportion))
        assert larger[: len(chosen)] == chosen
        assert len(set(chosen)) == len(chosen)
        assert complete(samples, chosen, 5, percent)
        assert not complete(samples, chosen[:-1], 5, percent), "the shortest prefix"
        assert set(chosen) <= usable
    assert set(found[-1]) == usable
    assert box_labelled_subset(samples[::-1], 5, 0.1, seed) == found[3]


def test_single_label_images_give_exactly_their_share() -> None:
    samples = [sample(f"{label}-{n:02d}", [(label, False)] * 2) for label in range(3) for n in range(30 + 10 * label)]
    chosen = box_labelled_subset(samples, 3, 0.1, seed=1)
    assert sorted(name[0] for name in chosen) == ["0"] * 3 + ["1"] * 4 + ["2"] * 5
    assert math.ceil(0.07 * 100) == 8  # what binary fractions would ask for
    hundred = [sample(f"{n:03d}", [(0, False)]) for n in range(100)]
    assert len(box_labelled_subset(hundred, 1, 0.07, seed=1)) == 7


def test_seeds_choose_differently() -> None:
    samples = [sample(f"{n:03d}", [(n % 2, False)]) for n in range(100)]
    found = {tuple(box_labelled_subset(samples, 2, 0.1, seed)) for seed in range(5)}
    assert len(found) == 5


@pytest.mark.parametrize("proportion", [0.0, -0.1, 1.01])
def test_a_proportion_out_of_range_is_refused(proportion: float) -> None:
    with pytest.raises(UsageError, match="box_proportion= must be above 0 and at most 1"):
        box_labelled_subset([sample("a", [(0, False)])], 1, proportion, 0)
