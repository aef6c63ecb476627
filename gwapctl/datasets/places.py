"""Where data sets lie on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gwapctl.errors import DataError
from gwapctl.images.files import Overlooked, walk_images


def data_places(root: Path | None = None) -> list[Path]:
    """Return where named data sets are looked for: ``root`` alone if given, else the usual folders, best first.

    These are ``$GWAPCTL_DATA``, ``./data`` and the user's cache.
    """
    if root is not None:
        return [root]
    from platformdirs import user_cache_path

    given = os.environ.get("GWAPCTL_DATA")
    return [*([Path(given)] if given else []), Path("data"), user_cache_path("gwapctl")]


def candidates(place: Path, folder: str) -> list[Path]:
    """Return where ``folder`` (``VOCdevkit/VOC2007``) may be: below ``place``, or ``place`` is a part of it or all."""
    parts = Path(folder).parts
    below = [place.joinpath(*parts[start:]) for start in range(len(parts))]
    return [*below, place] if place.resolve().name == parts[-1] else below


def find_folder(name: str, folder: str, places: Sequence[Path], proof: str) -> Path:
    """Return the first of the candidates for ``folder`` that holds ``proof``.

    Raises:
        DataError: it is nowhere; the message says where it was looked for and how to get it.

    """
    for place in places:
        for candidate in candidates(place, folder):
            if (candidate / proof).exists():
                return candidate
    looked = ", ".join(str(place / folder) for place in places)
    raise DataError(f"{name} is not here: no {looked}. Say where with --root, or run: gwapctl data get {name}.")


def recorded_place(name: str, root: Path) -> Path | None:
    """Return where the data set ``name``, a folder or file, is that was read at ``root``; None where it is gone.

    A run knows the name as it was given, which may count from another folder than today's, and the reader's root.
    """
    last = Path(name).name
    if last in ("", ".."):
        return root if root.exists() else None
    # a CSV file lies in its root, and the root of ImageNet below the folder that was given
    places = [*([root] if root.name == last else []), root / last, *(top for top in root.parents if top.name == last)]
    return next((place for place in [*places, root] if place.exists()), None)


def list_images(folder: Path, overlooked: Overlooked | None = None) -> dict[str, Path]:
    """Map the names (posix paths from ``folder``) of all images below it to their paths, sorted.

    Hidden files do not count. A folder that does not exist has none. ``overlooked`` collects what was passed by.
    """
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for place, names in walk_images(str(folder), Overlooked() if overlooked is None else overlooked):
        start = Path(place)
        prefix = "" if start == folder else f"{start.relative_to(folder).as_posix()}/"
        for name in names:
            found[prefix + name] = start / name
    return dict(sorted(found.items()))
