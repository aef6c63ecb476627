"""Where data sets lie on this machine, and the names of files, folders and splits as strangers write them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from gwapctl.errors import DataError, option
from gwapctl.files import read_text
from gwapctl.images.files import HEIC_SUFFIXES, SUFFIXES, Overlooked, find_file, walk_images

SPLIT_ORDER = ("train", "val", "test", "trainval")
SPLIT_NAMES = {split: split for split in SPLIT_ORDER} | {
    "training": "train", "valid": "val", "validation": "val", "testing": "test",
}  # fmt: skip
CONTAINERS = frozenset(  # folders that hold parts of a data set; alone, or among themselves, they are no classes
    "images image imgs img jpegimages annotations annotation labels label masks mask data".split()  # noqa: SIM905
)

_YEAR = re.compile(r"(19|20)\d\d$")
_SPLIT = re.compile(r"(?<![a-z])(trainval|training|train|validation|valid|val|testing|test)(?![a-z])")


def split_of(folder: str) -> str | None:
    """Return the split that a folder of this name is (``valid``, ``train2017``); None for any other."""
    return SPLIT_NAMES.get(_YEAR.sub("", folder.lower()))


def split_in(text: str) -> str | None:
    """Return the split that the name of a file contains; None if none.

    Example:
        >>> split_in("instances_val2017"), split_in("training_labels"), split_in("valley")
        ('val', 'train', None)

    """
    match = _SPLIT.search(text.lower())
    return SPLIT_NAMES[match[1]] if match is not None else None


def split_folders(folder: Path) -> list[tuple[str, Path]]:
    """Return the folders in ``folder`` that are called as splits are, sorted by name, and which split each is."""
    inner = sorted(folder.iterdir()) if folder.is_dir() else []
    return [(split, path) for path in inner if path.is_dir() and (split := split_of(path.name)) is not None]


def is_container(folder: str) -> bool:
    """Tell whether a folder of this name is rather a part of a data set than a class."""
    return folder.lower() in CONTAINERS or split_of(folder) is not None


def has_images(folder: Path) -> bool:
    """Tell whether an image or a HEIC photo lies in ``folder`` itself; none does in one that is not there."""
    names = (entry.name for entry in os.scandir(folder)) if folder.is_dir() else iter(())
    known = SUFFIXES | HEIC_SUFFIXES
    return any(os.path.splitext(name)[1].lower() in known and name[0] != "." for name in names)  # noqa: PTH122


def photos_in(folder: Path) -> list[str]:
    """Return the names of the JPEG and PNG files right in ``folder``, sorted; none are in one that is not there."""
    names = (entry.name for entry in os.scandir(folder)) if folder.is_dir() else iter(())
    return sorted(name for name in names if name.lower().endswith((".jpeg", ".jpg", ".png")))


def file_in(folders: Iterable[Path], name: str) -> Path | None:
    """Return the file ``name`` (a posix path) below the first folder that has it, however it is spelled on disk."""
    found = (find_file(folder / name) for folder in folders)
    return next((path for path in found if path is not None and path.is_file()), None)


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file that are not blank.

    Raises:
        DataError: the file cannot be read.

    """
    return [line for line in read_text(file).splitlines() if line.strip()]


def data_folders(root: Path | None = None) -> list[Path]:
    """Return where named data sets are looked for: ``root`` alone if given, else the usual folders, best first.

    These are ``$GWAPCTL_DATA``, ``./data`` and the user's cache.
    """
    if root is not None:
        return [root]
    from platformdirs import user_cache_path

    given = os.environ.get("GWAPCTL_DATA")
    return [*([Path(given)] if given else []), Path("data"), user_cache_path("gwapctl")]


def candidates(root: Path, folder: str) -> list[Path]:
    """Return where ``folder`` (``VOCdevkit/VOC2007``) may be: below ``root``, or ``root`` is a part of it or all."""
    parts = Path(folder).parts
    below = [root.joinpath(*parts[start:]) for start in range(len(parts))]
    return [*below, root] if root.resolve().name == parts[-1] else below


def find_folder(name: str, folder: str, roots: Sequence[Path], proof: str) -> Path:
    """Return the first of the candidates for ``folder`` that holds ``proof``.

    Raises:
        DataError: it is nowhere; the message says where it was looked for and how to get it.

    """
    for root in roots:
        for candidate in candidates(root, folder):
            if (candidate / proof).exists():
                return candidate
    looked = ", ".join(str(root / folder) for root in roots)
    where = f"Say where with {option('root')}, or run: gwapctl data get {name}"
    raise DataError(f"{name} is not here: no {looked}. {where}.")


def recorded_path(name: str, root: Path) -> Path | None:
    """Return where the data set ``name``, a folder or file, is that was read at ``root``; None where it is gone.

    A run knows the name as it was given, which may count from another folder than today's, and the reader's root.
    """
    last = Path(name).name
    if last in ("", ".."):
        return root if root.exists() else None
    # a CSV file lies in its root, and the root of ImageNet below the folder that was given
    paths = [*([root] if root.name == last else []), root / last, *(top for top in root.parents if top.name == last)]
    return next((path for path in [*paths, root] if path.exists()), None)


def relative_id(path: Path, root: Path) -> str:
    """Return the posix path from ``root``; of a file elsewhere its whole path, without what leads out of a folder."""
    full, top = Path(os.path.normpath(path.absolute())), Path(os.path.normpath(root.absolute()))
    return full.relative_to(top if full.is_relative_to(top) else full.anchor).as_posix()


def list_images(folder: Path, overlooked: Overlooked | None = None) -> dict[str, Path]:
    """Map the names (posix paths from ``folder``) of all images below it to their paths, sorted.

    Hidden files do not count. A folder that does not exist has none. ``overlooked`` collects what was passed by.
    """
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for inside, names in walk_images(str(folder), Overlooked() if overlooked is None else overlooked):
        start = Path(inside)
        prefix = "" if start == folder else f"{start.relative_to(folder).as_posix()}/"
        for name in names:
            found[prefix + name] = start / name
    return dict(sorted(found.items()))
