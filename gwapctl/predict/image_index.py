"""Which image a name means that somebody else chose, and where the image behind a stored map is. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from gwapctl.errors import UsageError, option
from gwapctl.images.files import same_name, stem
from gwapctl.inputs import ImageInput, find_inputs


class ImageIndex:
    """Finds an image among ids that others chose: with or without folders in front, with or without the suffix.

    ``JPEGImages/000005.jpg``, ``000005.jpg`` and ``000005`` name the same image as long as only one image fits; two
    different suffixes or folders never do. The Unicode form of a name (NFC, NFD) does not matter.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        ids = list(ids)
        self._exact = set(ids)  # of two that differ in their Unicode form alone
        self._whole: dict[str, str | None] = {}
        self._tails: dict[str, str | None] = {}
        for image_id in ids:
            whole, *tails = _tails(image_id)
            self._add(self._whole, whole, image_id)
            for tail in tails:
                self._add(self._tails, tail, image_id)

    @staticmethod
    def _add(table: dict[str, str | None], name: str, image_id: str) -> None:
        bare = stem(name)
        for key in (name,) if bare == name else (name, f"{bare}.*"):
            table[key] = image_id if table.get(key, image_id) == image_id else None

    def find(self, *candidates: str) -> str | None:
        """Return the id that fits the first of ``candidates`` (an id, a path) that fits exactly one, or None."""
        for name in candidates:
            if name in self._exact:
                return name
            whole, *tails = _tails(name)
            found = _first(self._whole, whole) or _first(self._tails, whole) or _first(self._whole, *tails)
            if found is not None:
                return found
        return None


def _tails(name: str) -> list[str]:
    """Return ``a/b/c``, ``b/c``, ``c`` for ``a/b/c``."""
    text = same_name(name).replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]  # PurePosixPath is slow
    if text.startswith("/"):
        parts.insert(0, "/")
    return ["/".join(parts[start:]) for start in range(max(1, len(parts)))]


def _first(table: Mapping[str, str | None], *names: str) -> str | None:
    """Return the first entry that is not ambiguous; only one of the two sides may lack a suffix."""
    for name in names:
        bare = stem(name)
        for key in (name, f"{name}.*" if bare == name else bare):
            if table.get(key) is not None:
                return table[key]
    return None


class ImageFiles:
    """The images below ``folder``, None: none are named.

    Raises:
        UsageError: the folder does not exist.
        DataError: it holds no image.

    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._below = {} if folder is None else {entry.id: entry for entry in find_inputs([str(folder)])}
        self._index = ImageIndex(self._below)

    def find(self, image_id: str, recorded: str | Path = "") -> ImageInput | None:
        """Return the image that fits an id, or the path ``recorded`` with it: below the folder, else at that path."""
        path = Path(recorded)
        found = self._index.find(image_id, path.as_posix()) if self._below else None
        if found is not None:
            return self._below[found]
        return ImageInput(path, image_id) if recorded and path.is_file() else None

    def needed(self, images: Iterable[tuple[str, str | Path]], rule: str) -> dict[str, Path]:
        """Return the files of ``images`` (id, recorded path) by id, for the box rule ``rule``, which looks at them.

        Raises:
            UsageError: some are not there; the message counts and names them.

        """
        found: dict[str, Path] = {}
        missing: list[str] = []
        for image_id, recorded in images:
            image = self.find(image_id, recorded)
            if image is None:
                missing.append(str(recorded) or image_id)
            else:
                found[image_id] = image.path
        if missing:
            raise UsageError(
                f"box rule {rule} looks at the images, and {len(missing)} of {len(missing) + len(found)} are not "
                f"there, such as {missing[0]!r}. Give their folder with {option('images')}, or use "
                f"{option('refine', 'none')}."
            )
        return found
