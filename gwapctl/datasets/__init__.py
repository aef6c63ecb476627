"""Data sets by name or by looking at a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gwapctl.datasets.base import Dataset
from gwapctl.datasets.tiny_imagenet import TinyImageNet
from gwapctl.errors import DataError, unknown_name

DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "tiny-imagenet": TinyImageNet,
}
OFFICIAL_FOLDERS: dict[str, str] = {
    "tiny-imagenet": "tiny-imagenet-200",
}


def open_dataset(name_or_folder: str, root: Path | None = None) -> Dataset:
    """Open a data set by name (below ``root``, ``$GWAPCTL_DATA``, ``./data`` or the cache)."""
    if name_or_folder not in DATASETS:
        raise unknown_name("dataset", name_or_folder, DATASETS)
    folder = OFFICIAL_FOLDERS[name_or_folder]
    for place in data_roots(root):
        for candidate in (place / folder, place):
            if (candidate / "wnids.txt").is_file():
                return DATASETS[name_or_folder](candidate)
    raise DataError(
        f"{name_or_folder} is not below {', '.join(map(str, data_roots(root)))}. Give its place with --root."
    )


def data_roots(root: Path | None = None) -> list[Path]:
    """Return the folders in which named data sets are looked for: ``root`` alone if given, else the usual places."""
    if root is not None:
        return [root]
    from platformdirs import user_cache_path

    given = os.environ.get("GWAPCTL_DATA")
    return [*([Path(given)] if given else []), Path("data"), user_cache_path("gwapctl")]


def training_splits(dataset: Dataset) -> tuple[str, str | None]:
    """Return the split to train on, and the set's own validation split unless results are reported on it."""
    present = dataset.splits()
    report = reporting_split(dataset)
    val = "val" if "val" in present and report != "val" else None
    if "trainval" in present and val is None:
        return "trainval", None
    return "train", val


def reporting_split(dataset: Dataset) -> str:
    """Return the split that results are reported on: ``test``, else ``val``."""
    return "test" if "test" in dataset.splits() else "val"
