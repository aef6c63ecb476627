"""A part of the classes of a data set: for quick experiments, and for classes that serve as background."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gwapctl.datasets.base import BoxedSample, Dataset, Sample
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.errors import DataError, UsageError, closest, option
from gwapctl.inputs import find_inputs


class ClassSubset(Dataset):
    """The images of ``base`` that show a class of ``keep`` (indices), with the labels and boxes of these classes alone.

    Classes keep their order and are numbered anew; splits and ids stay as they are.
    """

    def __init__(self, base: Dataset, keep: Sequence[int], name: str) -> None:
        self.base, self.name, self.root = base, name, base.root
        self.multi_label, self.blacklist, self.reported = base.multi_label, base.blacklist, base.reported
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

    def _read(self, split: str) -> list[BoxedSample]:
        """Return the samples that show a kept class."""
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


def background_folder(folder: str) -> list[Sample]:
    """Return the images of ``folder`` and its subfolders, without any label.

    Raises:
        DataError: there is no such folder, or no image in it.

    """
    try:
        return [Sample(found.id, found.path, ()) for found in find_inputs([folder])]
    except (DataError, UsageError) as error:
        raise DataError(f"background images: {error}") from None


def without_classes(dataset: Dataset, names: Sequence[str]) -> ClassSubset:
    """Return ``dataset`` without the classes ``names`` (names or ids): images that show nothing else are left out.

    Of a part such as ``tiny-imagenet:25`` the names may be any of the whole data set.

    Raises:
        UsageError: there is no such class, or fewer than two classes remain.

    """
    whole, part = _whole(dataset)
    removed = _indices(whole, names)
    keep = [index for index in part if index not in removed]
    if len(keep) < 2:
        asked = option("background_classes")
        raise UsageError(f"{asked} leaves {len(keep)} classes of {dataset.name}. Keep at least two.")
    return ClassSubset(whole, keep, f"{dataset.name}-without-{len(removed)}")


def background_samples(dataset: Dataset, names: Sequence[str], split: str) -> list[Sample]:
    """Return the images of ``split`` that show the classes ``names`` and no other: without any label.

    Raises:
        UsageError: there is no such class.
        DataError: there is no such image.

    """
    whole, _ = _whole(dataset)
    backgrounds = _indices(whole, names)
    samples = [
        Sample(sample.id, sample.path, (), size=sample.size)
        for sample in whole.samples(split)
        if sample.labels and backgrounds.issuperset((*sample.labels, *sample.ignored))
    ]
    if not samples:
        raise DataError(f"split {split!r} of {whole.name} has no image of {option('background_classes')} alone.")
    return samples


def _whole(dataset: Dataset) -> tuple[Dataset, Sequence[int]]:
    """Return the data set that ``dataset`` is a part of, or itself, and the classes of the part."""
    if isinstance(dataset, ClassSubset):
        return dataset.base, dataset.kept
    return dataset, range(len(dataset.classes))


def _indices(dataset: Dataset, names: Sequence[str]) -> set[int]:
    matcher = ClassMatcher(dataset.classes)
    found = {name: matcher.index(name) for name in names}
    for name, index in found.items():
        if index == FOREIGN:
            known = [text for item in dataset.classes for text in (item.name, item.id)]
            raise UsageError(
                f"background classes: {dataset.name} has no class {name!r}.{closest(name, known)} "
                f"`gwapctl data check -v {dataset.root}` lists them."
            )
    return set(found.values())
