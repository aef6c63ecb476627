"""Images without any object, for the head that learns from them: a folder of them, or some classes of a data set."""

from __future__ import annotations

from collections.abc import Sequence

from gwapctl.datasets.base import Dataset, Sample
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.datasets.subset import ClassSubset
from gwapctl.errors import DataError, UsageError, closest
from gwapctl.inputs import find_inputs


def background_folder(folder: str) -> list[Sample]:
    """Return the images of ``folder`` and its subfolders, without any label.

    Raises:
        DataError: there is no such folder, or no image in it.

    """
    try:
        return [Sample(found.id, found.path, ()) for found in find_inputs([folder])]
    except (DataError, UsageError) as error:
        raise DataError(f"--background: {error}") from None


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
        raise UsageError(f"--background-classes leaves {len(keep)} classes of {dataset.name}. Keep at least two.")
    return ClassSubset(whole, keep, f"{dataset.name}-without-{len(removed)}")


def background_samples(dataset: Dataset, names: Sequence[str], split: str) -> list[Sample]:
    """Return the images of ``split`` that show the classes ``names`` and no other: without any label.

    Raises:
        UsageError: there is no such class.
        DataError: there is no such image.

    """
    whole, _ = _whole(dataset)
    scenery = _indices(whole, names)
    samples = [
        Sample(sample.id, sample.path, (), size=sample.size)
        for sample in whole.samples(split)
        if sample.labels and scenery.issuperset((*sample.labels, *sample.ignored))
    ]
    if not samples:
        raise DataError(f"split {split!r} of {whole.name} has no image of the --background-classes alone.")
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
                f"--background-classes: {dataset.name} has no class {name!r}.{closest(name, known)} "
                f"`gwapctl data check -v {dataset.root}` lists them."
            )
    return set(found.values())
