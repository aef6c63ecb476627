"""Images without any object, for the head that learns from them: a folder of them, or some classes of a data set."""

from __future__ import annotations

from collections.abc import Sequence

from gwapctl.datasets.base import Dataset, Sample
from gwapctl.datasets.subset import ClassSubset
from gwapctl.errors import DataError, UsageError, closest
from gwapctl.images import find_inputs


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

    Raises:
        UsageError: there is no such class, or fewer than two classes remain.

    """
    index_of = {item.name: index for index, item in enumerate(dataset.classes)}
    index_of |= {item.id: index for index, item in enumerate(dataset.classes)}
    for name in names:
        if name not in index_of:
            raise UsageError(
                f"--background-classes: {dataset.name} has no class {name!r}.{closest(name, index_of)} "
                f"`gwapctl data check -v {dataset.root}` lists them."
            )
    removed = {index_of[name] for name in names}
    keep = [index for index in range(len(dataset.classes)) if index not in removed]
    if len(keep) < 2:
        raise UsageError(f"--background-classes leaves {len(keep)} classes of {dataset.name}. Keep at least two.")
    return ClassSubset(dataset, keep, f"{dataset.name}-without-{len(removed)}")


def background_samples(kept: ClassSubset, split: str) -> list[Sample]:
    """Return the images of ``split`` that show classes, but none of those ``kept``: without any label.

    Raises:
        DataError: there is none.

    """
    remaining = set(kept.kept)
    samples = [
        Sample(sample.id, sample.path, (), size=sample.size)
        for sample in kept.base.samples(split)
        if sample.labels and remaining.isdisjoint((*sample.labels, *sample.ignored))
    ]
    if not samples:
        raise DataError(f"split {split!r} of {kept.base.name} has no image of the --background-classes alone.")
    return samples
