"""What is in a data set, and what is broken in it: every file opened, every problem kept."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gwapctl.datasets import DATASETS, open_named, training_splits
from gwapctl.datasets.base import BoxedSample, Dataset, Sample, warn_of_one_class
from gwapctl.datasets.download import missing_archives
from gwapctl.errors import DataError
from gwapctl.images.decode import image_size, read_image
from gwapctl.images.files import same_files
from gwapctl.progress import Progress, ProgressCallback

T = TypeVar("T")
R = TypeVar("R")
Document = dict[str, Any]
AHEAD = 16  # images per thread that wait for it, or for whoever asked
DECODED = 5000  # images up to which each is decoded, not only its header read


def check_dataset(dataset: Dataset, progress: ProgressCallback | None = None) -> Document:
    """Return counts per split and class, the range of sizes, and all broken files; every image is decoded once.

    The document is that of ``gwapctl data check --json``. ``broken`` is what stops training or evaluation, ``warnings``
    what readers mend or what only looks wrong.
    """
    dataset.problems.collecting = True
    samples = {split: _read_split(dataset, split) for split in dataset.splits()}
    sizes = _check_images([sample for split in samples.values() for sample in split], dataset, progress)
    _warn_about_missing_classes(dataset, samples)
    dataset.problems.warn(*same_files(sample.path for part in samples.values() for sample in part), kind="same files")
    return {
        "schema_version": 1,
        "dataset": dataset.name,
        "root": str(dataset.root),
        "multi_label": dataset.multi_label,
        "splits": [_describe_split(split, members, sizes) for split, members in samples.items()],
        "classes": _describe_classes(dataset, samples),
        "broken": list(dict.fromkeys(dataset.problems.errors)),
        "warnings": list(dataset.problems.warnings),
    }


def unreadable_images(
    samples: Sequence[Sample], *, every: bool, progress: ProgressCallback | None = None
) -> dict[Path, str]:
    """Map the images that cannot be read to what is wrong with them, in the order of ``samples``.

    All are decoded where there are at most ``DECODED``, or ``every`` says so; else their headers alone are read, which
    finds what is missing, empty or no image, and not what is truncated.
    """
    paths = list(dict.fromkeys(sample.path for sample in samples))
    check = partial(_problem, read_image if every or len(paths) <= DECODED else image_size)
    problems = _in_threads(check, paths, progress, "checking")
    return {path: problem for path, problem in zip(paths, problems, strict=True) if problem is not None}


def _problem(read: Callable[[Path], object], path: Path) -> str | None:
    try:
        read(path)
    except DataError as error:
        return str(error)
    return None


def list_datasets(root: Path | None) -> list[Document]:
    """Return one row per data set that has a name: where it is, its splits, and how to get what is missing."""
    rows = []
    for name in DATASETS:
        try:
            dataset = open_named(name, root)
        except DataError:
            dataset = None
        missing = [archive for archive in missing_archives(name, root) if archive.urls]
        rows.append(
            {
                "name": name,
                "root": str(dataset.root) if dataset is not None else None,
                "splits": list(dataset.splits()) if dataset is not None else [],
                "download_mb": round(sum(archive.size for archive in missing) / 1e6),
                "how": _how(name),
            }
        )
    return rows


def _how(name: str) -> str:
    if DATASETS[name].automatic:
        return "when needed"
    return f"gwapctl data get {name}" if any(archive.urls for archive in DATASETS[name].archives) else "by hand"


def _read_split(dataset: Dataset, split: str) -> list[BoxedSample]:
    try:
        return dataset.boxed_samples(split)
    except DataError as error:  # nothing of the split can be read
        dataset.problems.error(str(error))
        return []


def _check_images(
    samples: Iterable[BoxedSample], dataset: Dataset, progress: ProgressCallback | None
) -> dict[Path, tuple[int, int]]:
    """Decode all images and masks; return the (width, height) of those that can be."""
    unique = {sample.path: sample for sample in samples}
    sizes: dict[Path, tuple[int, int]] = {}
    for (path, sample), (size, errors) in zip(
        unique.items(), _in_threads(_check_image, list(unique.values()), progress), strict=True
    ):
        for message in errors:
            dataset.problems.error(message)
        if size is not None:
            sizes[path] = size
            if sample.size not in (None, size):
                stated = f"{sample.size[0]} x {sample.size[1]}"
                dataset.problems.warn(f"{path} is {size[0]} x {size[1]}, but its annotation says {stated}.")
    return sizes


def _check_image(sample: BoxedSample) -> tuple[tuple[int, int] | None, list[str]]:
    """Return (width, height) if the image can be decoded, and what is wrong with it and its mask."""
    errors: list[str] = []
    size = _decoded_size(sample.path, errors)
    mask = _decoded_size(sample.mask, errors) if sample.mask is not None else None
    if mask is not None and size is not None and mask != size:
        errors.append(f"{sample.mask} is {mask[0]} x {mask[1]}, its image {size[0]} x {size[1]}.")
    return size, errors


def _in_threads(
    work: Callable[[T], R], items: Sequence[T], progress: ProgressCallback | None, label: str = ""
) -> Iterator[R]:
    """Yield the results of ``work`` on each of ``items``, in their order, from one thread per core."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        stream = iter(items)
        waiting = deque(pool.submit(work, item) for item in islice(stream, AHEAD * threads))  # all would take 1 GB
        for done in range(1, len(items) + 1):
            yield waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(stream, 1))
            if progress is not None:
                progress(Progress(done, len(items), "images", label))


def _decoded_size(path: Path, errors: list[str]) -> tuple[int, int] | None:
    try:
        height, width = read_image(path).shape[:2]
    except DataError as error:
        errors.append(str(error))
        return None
    return width, height


def _warn_about_missing_classes(dataset: Dataset, samples: dict[str, list[BoxedSample]]) -> None:
    try:
        split, _ = training_splits(dataset)
    except DataError as error:
        dataset.problems.warn(str(error))
        return
    warn_of_one_class(dataset, samples[split], split)
    present = {label for sample in samples[split] for label in sample.labels}
    where = f"split {split!r}" + (" beside what is broken" if dataset.problems.errors else "")
    for index, item in enumerate(dataset.classes):
        if index not in present:
            dataset.problems.warn(f"class {item.name!r} has no image in {where}.")


def _describe_split(split: str, samples: list[BoxedSample], sizes: dict[Path, tuple[int, int]]) -> Document:
    found = np.array([sizes[sample.path] for sample in samples if sample.path in sizes]).reshape(-1, 2)
    return {
        "split": split,
        "images": len(samples),
        "images_without_label": sum(not sample.labels for sample in samples),
        "boxes": sum(len(sample.boxes) for sample in samples),
        "difficult": int(sum(sample.difficult.sum() for sample in samples)),
        "masks": sum(sample.mask is not None for sample in samples),
        "width": _spread(found[:, 0]),
        "height": _spread(found[:, 1]),
    }


def _spread(values: np.ndarray[Any, Any]) -> Document | None:
    return {key: int(getattr(np, key)(values)) for key in ("min", "median", "max")} if len(values) else None


def _describe_classes(dataset: Dataset, samples: dict[str, list[BoxedSample]]) -> list[Document]:
    images = {split: Counter(label for sample in part for label in sample.labels) for split, part in samples.items()}
    boxes = {
        split: Counter(label for sample in part for label in sample.box_labels.tolist())
        for split, part in samples.items()
    }
    return [
        {
            "name": item.name,
            "id": item.id,
            "images": {split: count[index] for split, count in images.items()},
            "boxes": {split: count[index] for split, count in boxes.items()},
        }
        for index, item in enumerate(dataset.classes)
    ]
