"""Names of files, folders and splits as strangers write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gwapctl.images.files import HEIC_SUFFIXES, SUFFIXES, find_file

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "trainval": "trainval",
}
CONTAINERS = frozenset(  # folders that hold parts of a data set; alone, or among themselves, they are no classes
    "images image imgs img jpegimages annotations annotation labels label masks mask data".split()  # noqa: SIM905
)

_YEAR = re.compile(r"(19|20)\d\d$")
_SPLIT = re.compile(r"(?<![a-z])(trainval|training|train|validation|valid|val|testing|test)(?![a-z])")


def split_of(folder: str) -> str | None:
    """Return the split that a folder of this name is (``valid``, ``train2017``); None for any other."""
    return SPLIT_NAMES.get(_YEAR.sub("", folder.lower()))


def split_in(text: str) -> str | None:
    """Return the split that the name of a file contains (``instances_val2017``, ``train_labels``); None if none."""
    match = _SPLIT.search(text.lower())
    return SPLIT_NAMES[match[1]] if match is not None else None


def is_container(folder: str) -> bool:
    """Tell whether a folder of this name is rather a part of a data set than a class."""
    return folder.lower() in CONTAINERS or split_of(folder) is not None


def has_images(folder: Path) -> bool:
    """Tell whether an image or a HEIC photo lies in ``folder`` itself; none does in one that is not there."""
    names = (entry.name for entry in os.scandir(folder)) if folder.is_dir() else iter(())
    known = SUFFIXES | HEIC_SUFFIXES
    return any(os.path.splitext(name)[1].lower() in known and name[0] != "." for name in names)  # noqa: PTH122


def file_in(folder: Path, name: str) -> Path | None:
    """Return the file ``name`` (a posix path) below ``folder``, however its name is spelled on disk, or None."""
    found = find_file(folder / name)
    return found if found is not None and found.is_file() else None
