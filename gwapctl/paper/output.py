"""Reports as files: whole or not at all, and never over an existing one unless told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gwapctl.errors import UsageError
from gwapctl.files import write_text


def write_report(path: Path, make: Callable[[], str], *, overwrite: bool) -> None:
    """Write the text that ``make`` returns; it is not called where the file must stay as it is.

    Raises:
        UsageError: the file exists and ``overwrite`` is not set, or ``path`` is a folder.
        DataError: it cannot be written.

    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Give a file with --out.")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists. Replace it with --overwrite, or choose another --out.")
    write_text(path, make())
