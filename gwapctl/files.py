"""Files appear whole or not at all: written under a temporary name in the same folder, flushed, renamed."""

from __future__ import annotations

import codecs
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from gwapctl.errors import DataError, UsageError, option, printable, reading

_MARKS = (  # byte order marks, as Windows programs write them; of two that begin alike the longer first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MOST_DOTS = 100  # in a key of TOML: the parser's time grows with their square, and 100 KB of them took a minute
_NOT_ASCII = re.compile("[^\0-\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UMASK = os.umask(0)  # can only be read by setting it, which is safe here: no thread writes while modules are imported
os.umask(_UMASK)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on any failure.

    A link is followed: what it points to is replaced.

    Raises:
        DataError: the file cannot be written (disk full, no permission, ...).

    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a regular file, so it cannot be replaced. Choose another name.")
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(path)
    except OSError as error:
        if error.filename is not None and Path(error.filename).parent != path.parent:
            raise  # not about this file
        raise DataError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another place."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep other processes that change files in the folder of ``path`` waiting, so that none undoes what another wrote.

    Where the system has no such locks (Windows), nobody waits.

    Raises:
        DataError: the folder cannot be made.

    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder = path.resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}. Choose another place.") from error
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all; bytes of a path that are no text as ``errors.printable`` does."""
    with atomic_path(path) as temporary:
        temporary.write_text(printable(text), encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` as indented JSON, whole or not at all. NaN is refused: readers differ on it."""
    write_text(path, json_text(document, indent=2) + "\n")


def json_text(document: Any, *, indent: int | None = None) -> str:
    """Return ``document`` as JSON that UTF-8 can hold: bytes of a path that are no text are escaped. No NaN."""
    text = json.dumps(document, indent=indent, allow_nan=False, ensure_ascii=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_ascii(text: str) -> str:
    """Return JSON, or a part of it, in ASCII alone: other characters stand in its strings only, and are escaped."""
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


def decode_text(data: bytes, errors: str = "strict") -> str:
    """Return the text of a file that somebody else wrote: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises:
        UnicodeDecodeError: it is neither.

    """
    return data.decode(text_encoding(data), errors)


def text_encoding(head: bytes) -> str:
    """Return the encoding that the first bytes of a file say: that of its byte order mark, or UTF-8."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8-sig")


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open the text file of a user for reading; encodings are those of ``decode_text``, ``newline`` as ``open`` has it.

    Raises:
        DataError: the file cannot be read, or is no such text.

    """
    try:
        with path.open("rb") as file:
            encoding = text_encoding(file.read(4))
        with path.open(encoding=encoding, newline=newline) as lines:
            yield lines
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    except UnicodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error


def read_text(path: Path) -> str:
    """Return the text file of a user; encodings are those of ``decode_text``.

    Raises:
        DataError: the file cannot be read, or is no such text.

    """
    with open_text(path) as lines:
        text = lines.read()
    if "\0" in text:
        raise DataError(f"{path} holds zero bytes: it is no text, or UTF-16 without a mark. Save it as UTF-8.")
    return text


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not JSON.

    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more than 4,300 digits
        raise DataError(f"{path} is not valid JSON: {error}.") from error


def parse_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of a user.

    Raises:
        DataError: the file is missing, is not TOML, or has a key of very many parts.

    """
    import tomllib  # only where there is such a file: help is instant

    text = read_text(path)
    if max(part.count(".") for part in re.split("[=\n]", text)) > MOST_DOTS:
        raise DataError(f"{path} has a key of more than {MOST_DOTS} parts: it is no recipe or table. Repair it.")
    with reading(path):
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise DataError(f"{path} is not valid TOML: {error}.") from error


def prepare_output_folder(folder: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Create ``folder``; refuse one that already holds files unless told to overwrite or resume.

    Raises:
        UsageError: the folder is not empty, or is a file.

    """
    require_output_folder(folder, overwrite=overwrite, resume=resume)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create {folder}: {error.strerror or error}.") from error


def require_output_folder(folder: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Refuse what ``prepare_output_folder`` refuses, before any work, and create nothing."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file. Give a folder with {option('out')}.")
    if folder.is_dir() and any(folder.iterdir()) and not (overwrite or resume):
        others = f"replace with {option('overwrite', True)}, or choose another {option('out')}"
        raise UsageError(f"{folder} is not empty. Continue with {option('resume', True)}, {others}.")
