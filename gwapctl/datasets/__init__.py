"""Data sets by name, or by looking at a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gwapctl.datasets.base import Dataset
from gwapctl.datasets.class_folders import only_folder, open_class_folders, passed_through, subfolders
from gwapctl.datasets.coco import open_coco
from gwapctl.datasets.cub import Cub, is_cub, open_cub
from gwapctl.datasets.imagenet import is_imagenet, open_imagenet
from gwapctl.datasets.lid import open_lid
from gwapctl.datasets.manifest import csv_files, most_likely, open_manifest, what_is_missing
from gwapctl.datasets.places import data_places, list_images
from gwapctl.datasets.subset import evenly_spread, split_name
from gwapctl.datasets.tiny_imagenet import TinyImageNet, open_tiny_imagenet
from gwapctl.datasets.voc import open_voc0712, open_voc2007, open_voc2012, open_voc_layout
from gwapctl.datasets.wsoleval import WsolevalDataset, is_wsoleval
from gwapctl.datasets.yolo import open_yolo, require_labels
from gwapctl.errors import DataError, unknown_name

DATASETS: dict[str, Callable[..., Dataset]] = {
    "voc": open_voc2007,
    "voc2012": open_voc2012,
    "voc07+12": open_voc0712,
    "tiny-imagenet": open_tiny_imagenet,
    "imagenet": open_imagenet,
    "cub": open_cub,
    "lid": open_lid,
}

_PAPER_TRAINS_ON_TRAINVAL = ("voc", "voc07+12")


def open_dataset(name_or_folder: str, root: Path | None = None) -> Dataset:
    """Open a data set by name, or a folder (a CSV manifest, a COCO JSON file) recognised by looking at it.

    Names, and folders that do not exist as given, are looked for below ``root``; without one below ``$GWAPCTL_DATA``,
    ``./data`` and the cache. A number after a colon takes a part of the classes: ``tiny-imagenet:40``.

    Raises:
        UsageError: neither a known name nor a path, or more classes than there are.
        DataError: the data set is not there, or cannot be recognised; the message says what was looked for.

    """
    whole, count = split_name(name_or_folder)
    if count is not None:
        return evenly_spread(open_dataset(whole, root), count)
    places = data_places(root)
    if name_or_folder in DATASETS:
        return DATASETS[name_or_folder](places)
    for path in [Path(name_or_folder), *(place / name_or_folder for place in places)]:
        if path.exists():
            return recognise(path)
    if os.sep in name_or_folder or "." in name_or_folder:
        raise DataError(f"{name_or_folder} does not exist. Give a folder, or one of: {', '.join(DATASETS)}.")
    raise unknown_name("dataset", name_or_folder, DATASETS)


def recognise(path: Path) -> Dataset:
    """Open the data set that ``path`` holds, whatever its layout.

    Raises:
        DataError: it is in no layout that we know; the message says what was looked for.

    """
    if not path.is_dir():
        return _recognise_file(path)
    if (path / "wnids.txt").is_file():
        return TinyImageNet(path)
    if is_cub(path):
        return Cub(path)
    if is_wsoleval(path):
        return WsolevalDataset(path)
    if is_imagenet(path):
        return open_imagenet([path])
    for opener in (open_voc_layout, open_coco, open_yolo, open_manifest):
        dataset = opener(path)
        if dataset is not None:
            return dataset
    return _recognise_folders(path)


def _recognise_folders(path: Path) -> Dataset:
    """Open class folders, or what the only folder in ``path`` holds; a table that says no labels is not passed over."""
    dataset = open_class_folders(path)
    tables = csv_files(path)
    if dataset is not None and (len(dataset.classes) > 1 or not tables):
        for file in tables:
            dataset.problems.warn(f"{what_is_missing(file)}. It is not read: the class folders beside it are.")
        return dataset
    inner = only_folder(path)
    if dataset is None:
        require_labels(path)
    if inner is not None and not tables:
        within = recognise(inner)
        within.problems.warn(passed_through(path, inner))
        return within
    if tables:
        raise DataError(
            f"{what_is_missing(most_likely(tables))}. Name its columns image,label, or give the data set itself."
        )
    images = [name for name, folder in subfolders(path).items() if list_images(folder)]
    found = f" It has images in {', '.join(images[:3])}, which are no class names." if images else ""
    raise DataError(
        f"{path} is no data set that we recognise. Looked for: Annotations/ + JPEGImages/ (VOC), annotations/*.json"
        " (COCO), images/ + labels/ with data.yaml or classes.txt (YOLO), a .csv with columns image,label, folders"
        " <class>/ or <split>/<class>/ of images, Tiny ImageNet, ImageNet, CUB, metadata of wsolevaluation." + found
    )


def _recognise_file(path: Path) -> Dataset:
    openers: dict[str, Callable[[Path], Dataset | None]] = {
        ".csv": open_manifest,
        ".tsv": open_manifest,
        ".json": open_coco,
        ".yaml": open_yolo,
        ".yml": open_yolo,
    }
    opener = openers.get(path.suffix.lower())
    dataset = opener(path) if opener is not None else None
    if dataset is None:
        raise DataError(
            f"{path} is no data set that we recognise. Give a folder, a CSV manifest or a COCO JSON"
            " file, or a data.yaml of YOLO."
        )
    return dataset


def training_splits(dataset: Dataset) -> tuple[str, str | None]:
    """Return the split to train on, and the set's own validation split unless results are reported on that.

    Without one, hold out a part of the first (``datasets.base.holdout``).

    Raises:
        DataError: the set has several splits and none is for training.

    """
    present = dataset.splits()
    tests = "test" in present
    if "trainval" in present and tests and (dataset.name in _PAPER_TRAINS_ON_TRAINVAL or "train" not in present):
        return "trainval", None
    if "train" in present:
        return "train", "val" if "val" in present and tests else None
    if len(present) == 1:
        return present[0], None
    raise DataError(
        f"{dataset.name} at {dataset.root} has no split to train on. Present: {', '.join(present) or 'none'}."
    )


def reporting_split(dataset: Dataset) -> str:
    """Return the split that results are reported on: ``test``, else ``val``, else the only one if it is not ``train``.

    Raises:
        DataError: there is none.

    """
    present = dataset.splits()
    for split in ("test", "val"):
        if split in present:
            return split
    if len(present) == 1 and present[0] not in ("train", "trainval"):
        return present[0]
    listed = ", ".join(present) or "none"
    raise DataError(
        f"{dataset.name} at {dataset.root} has no test or val split. Choose with --split. Present: {listed}."
    )
