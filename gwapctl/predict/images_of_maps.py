"""Where the image behind a stored map is: below a folder that somebody names, or where it was when it was localized."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gwapctl.errors import UsageError
from gwapctl.inputs import ImageInput, find_inputs
from gwapctl.predict.image_index import ImageIndex


class ImageFiles:
    """The images below ``folder``, None: none are named."""

    def __init__(self, folder: Path | None) -> None:
        """List the folder.

        Raises:
            UsageError: it does not exist.
            DataError: it holds no image.

        """
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
                f"there, such as {missing[0]!r}. Give their folder with --images, or use --refine none."
            )
        return found
