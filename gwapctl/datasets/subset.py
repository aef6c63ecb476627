"""A part of the classes of a data set: for quick experiments, and for classes that serve as background."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gwapctl.datasets.base import BoxedSample, Dataset
from gwapctl.errors import UsageError


class ClassSubset(Dataset):
    """The images of ``base`` that show a class of ``keep`` (indices), with the labels and boxes of these classes alone.

    Classes keep their order and are numbered anew; splits and ids stay as they are.
    """

    def __init__(self, base: Dataset, keep: Sequence[int], name: str) -> None:
        self.base, self.name, self.root = base, name, base.root
        self.multi_label, self.blacklist = base.multi_label, base.blacklist
        self.problems = base.problems
        self.kept = tuple(sorted(set(keep)))
        self.classes = tuple(base.classes[index] for index in self.kept)
        self._renumbered = {old: new for new, old in enumerate(self.kept)}

    def splits(self) -> tuple[str, ...]:
        """Return the splits of the whole data set."""
        return self.base.splits()

    def notes(self, split: str) -> list[str]:
        """Return what there is to know of the whole data set."""
        return self.base.notes(split)

    def boxed_samples(self, split: str) -> list[BoxedSample]:
        """Return the samples of ``split`` that show a kept class."""
        samples = self.base.boxed_samples(split)
        return [self._narrowed(sample) for sample in samples if not self._renumbered.keys().isdisjoint(sample.labels)]

    def _narrowed(self, sample: BoxedSample) -> BoxedSample:
        own = np.isin(sample.box_labels, self.kept)
        return replace(
            sample,
            labels=self._numbers(sample.labels),
            ignored=self._numbers(sample.ignored),
            boxes=sample.boxes[own],
            box_labels=np.searchsorted(self.kept, sample.box_labels[own]),
            difficult=sample.difficult[own],
        )

    def _numbers(self, labels: Sequence[int]) -> tuple[int, ...]:
        return tuple(self._renumbered[label] for label in labels if label in self._renumbered)


def split_name(text: str) -> tuple[str, int | None]:
    """Split ``tiny-imagenet:40`` into the data set's name and the number of classes; None where none is given."""
    match = re.fullmatch(r"(.+):(\d+)", text)
    return (match.group(1), int(match.group(2))) if match else (text, None)


def evenly_spread(dataset: Dataset, count: int) -> ClassSubset:
    """Return ``count`` classes of ``dataset``, spread evenly over its list of classes: the same ones everywhere.

    Raises:
        UsageError: fewer than two classes, or more than there are.

    """
    total = len(dataset.classes)
    if not 2 <= count <= total:
        raise UsageError(f"{dataset.name}:{count} asks for {count} classes, and {dataset.name} has 2 to {total}.")
    return ClassSubset(dataset, [index * total // count for index in range(count)], f"{dataset.name}:{count}")
