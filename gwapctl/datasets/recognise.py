"""Which layout a folder or file is in, found out by looking at it."""

from __future__ import annotations

from pathlib import Path

from gwapctl.datasets.base import Dataset
from gwapctl.datasets.class_folders import only_folder, open_class_folders, passed_through, subfolders
from gwapctl.datasets.folders import list_images
from gwapctl.datasets.layouts import LAYOUTS
from gwapctl.datasets.manifest import csv_files, most_likely, what_is_missing
from gwapctl.datasets.yolo import require_labels
from gwapctl.errors import DataError


def recognise(path: Path) -> Dataset:
    """Open the data set that ``path`` holds, whatever its layout.

    Raises:
        DataError: it is in no layout that we know; the message says what was looked for.

    """
    if not path.is_dir():
        return _recognise_file(path)
    for name, layout in LAYOUTS.items():
        dataset = layout.load()(path) if name != "class-folders" else None
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
    looked_for = [layout.help for layout in sorted(LAYOUTS.values(), key=lambda layout: layout.published)]
    raise DataError(f"{path} is no data set that we recognise. Looked for: {', '.join(looked_for)}.{found}")


def _recognise_file(path: Path) -> Dataset:
    fitting = [layout for layout in LAYOUTS.values() if path.suffix.lower() in layout.suffixes]
    dataset = fitting[0].load()(path) if fitting else None
    if dataset is None:
        raise DataError(
            f"{path} is no data set that we recognise. Give a folder, a CSV manifest or a COCO JSON"
            " file, or a data.yaml of YOLO."
        )
    return dataset
