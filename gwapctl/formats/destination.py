"""Which format is meant, and where it goes: decided before any work starts."""

from __future__ import annotations

from pathlib import Path

from gwapctl.errors import DataError, UsageError, any_of, file_exists, lookup, option
from gwapctl.files import in_use, read_text
from gwapctl.formats import EXPORTERS, by_suffix
from gwapctl.formats.base import ClassList


def format_name(name: str | None, out: Path | None) -> str:
    """Return the format asked for, else the one that the suffix of ``out`` says, else ``csv``.

    Raises:
        UsageError: no such format.

    """
    if name is None:
        suffix = "" if out is None or out.exists() else out.suffix.lower()
        if suffix and suffix not in by_suffix():
            choose = f"Choose with {option('format')}"
            raise UsageError(f"{out} ends in no suffix of a format: {any_of(by_suffix())}. {choose}.")
        return by_suffix().get("" if out is None or out.is_dir() else out.suffix.lower(), "csv")
    lookup("format", name, EXPORTERS)
    return name


def check_destination(name: str, out: Path | None, *, overwrite: bool) -> Path | None:
    """Return the file or folder to write, or None for stdout. A file format given a folder takes its usual name there.

    Raises:
        UsageError: a folder is needed, the suffix is that of another format, or something is there already.

    """
    entry = EXPORTERS[name]
    if not entry.filename:
        return _check_folder(name, out, overwrite=overwrite)
    if out is None or str(out) == "-":
        return None
    path = out / entry.filename if out.is_dir() else out
    if path.suffix.lower() in by_suffix() and path.suffix.lower() != entry.suffix:
        change = f"Change {option('format')} or {option('out')}"
        raise UsageError(f"{option('format', name)} writes {entry.suffix} files, not {path.name}. {change}.")
    if path.exists() and not path.is_file():  # replacing /dev/stdout or a socket would break it for everybody
        raise UsageError(f"{path} is not a regular file. Leave out {option('out')} to print.")
    if path.exists() and not overwrite:
        raise file_exists(path)
    return path


def _check_folder(name: str, out: Path | None, *, overwrite: bool) -> Path:
    give = f"Give a folder with {option('out')}"
    if out is None or str(out) == "-":
        raise UsageError(f"{option('format', name)} writes one file per image. {give}.")
    if out.suffix.lower() in (*by_suffix(), ".txt", ".yaml") and not out.is_dir():
        raise UsageError(f"{option('format', name)} writes a folder of files, not {out.name}. {give}.")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file. {give}.")
    if in_use(out) and not overwrite:
        instead = f"Replace with {option('overwrite', True)}, or choose another {option('out')}"
        raise UsageError(f"{out} is not empty. {instead}.")
    return out


def read_class_list(file: Path) -> ClassList:
    """Return the class names of a text file, one per line; empty lines do not count.

    Raises:
        DataError: the file cannot be read, or names no class.

    """
    names = ClassList(filter(None, map(str.strip, read_text(file).split("\n"))))
    if not names:
        raise DataError(f"{file} names no class. Write one name per line.")
    names.file = file
    return names
