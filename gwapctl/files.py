"""Files appear whole or not at all: written under a temporary name in the same folder, flushed, renamed.

What a folder holds for gwapctl's own sake (temporary files, lists of what was written, locks) begins with ``OWN``.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from gwapctl.errors import DataError, UsageError, option, printable

OWN = ".gwapctl-"  # how the names of files begin that are nobody's data
_MARKS = (  # byte order marks, as Windows programs write them; of two that begin alike the longer first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_ASCII = re.compile("[^\0-\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_unsynced: ContextVar[set[Path] | None] = ContextVar("unsynced", default=None)  # folders with new names
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_beside(path) as temporary:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_UMASK)
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename is not None and Path(error.filename).parent != path.parent:
            raise  # not about this file
        raise DataError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another place."
        ) from error


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """Yield an empty file beside ``path``, and remove it unless all goes well.

    Its name follows from that of ``path``, so that what a killed process left is used again by the next that writes
    the same file. Whoever writes it holds a lock on it; somebody else gets another name meanwhile.
    """
    begin = f"{OWN}{path.stem[:40]}-"
    known = path.with_name(f"{begin}{zlib.crc32(os.fsencode(path.name)):08x}{path.suffix}")
    handle = _claim(known)
    if handle is None:
        handle, name = tempfile.mkstemp(prefix=begin, suffix=path.suffix, dir=path.parent)
        known = Path(name)
    try:
        yield known
    except BaseException:
        known.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _claim(path: Path) -> int | None:
    """Open ``path``, made or emptied, and lock it; None where it is in use, not ours, or the system has no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:  # mkstemp says why, if that fails, too
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(handle)
            if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise PermissionError
            if found.st_nlink == 1 and os.path.samestat(found, path.stat()):
                os.ftruncate(handle, 0)
                return handle
        except FileNotFoundError:
            pass
        except OSError:
            os.close(handle)
            return None
        os.close(handle)  # renamed or removed between opening and locking: once more


@contextmanager
def synced_once() -> Iterator[None]:
    """Flush the folders of the files that are written inside of this once, at the end, for it takes milliseconds."""
    folders = set[Path]()
    token = _unsynced.set(folders)
    try:
        yield
    finally:
        _unsynced.reset(token)
    for folder in folders:
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Flush the names in ``folder``, so that a renamed file is there after a loss of power."""
    waiting = _unsynced.get()
    if waiting is not None:
        waiting.add(folder)
        return
    with suppress(OSError):  # Windows has no such call, and some file systems refuse it
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from error


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
    if in_use(folder) and not (overwrite or resume):
        others = f"replace with {option('overwrite', True)}, or choose another {option('out')}"
        raise UsageError(f"{folder} is not empty. Continue with {option('resume', True)}, {others}.")


def in_use(folder: Path) -> bool:
    """Tell whether ``folder`` holds anything but files of gwapctl's own bookkeeping."""
    return folder.is_dir() and any(not path.name.startswith(OWN) for path in folder.iterdir())


class Written:
    """Which files a verb writes below ``folder``, so that it can take back those and no others.

    A name is noted before its file appears: what a killed process left is known, too. At the end the names become the
    list ``.gwapctl-KIND``, and what was noted on the way is dropped.

    Args:
        folder: where the files are.
        kind: of what is written: ``export``, ``review``, ``localize``.

    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.list = folder / f"{OWN}{kind}"
        self.begun = folder / f"{OWN}{kind}-begun"

    def names(self) -> set[str]:
        """Return what was noted or listed; nothing that would lie outside of the folder.

        Raises:
            DataError: the list is broken.

        """
        listed = read_json(self.list) if self.list.is_file() else []
        return {str(name) for name in map(PurePosixPath, [*map(str, listed), *self.noted()]) if _is_below(name)}

    def noted(self) -> list[str]:
        """Return the names that were noted and not listed yet."""
        lines = self.begun.read_bytes().split(b"\n") if self.begun.is_file() else []
        return [json.loads(line) for line in lines[:-1] if line]  # of a torn one nothing was written

    def note(self, *names: str) -> None:
        """Write down that files of these ``names`` are about to be written; from any thread.

        Raises:
            DataError: the disk is full.

        """
        text = "".join(json.dumps(name) + "\n" for name in names)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.begun.open("ab", buffering=0) as file:  # one write, so that threads do not mix
                file.write(text.encode())
        except OSError as error:
            raise DataError(f"cannot write {self.begun}: {error.strerror or error}. Free space.") from error

    def keep(self, names: Iterable[str]) -> None:
        """Make ``names`` the list; what was noted counts no more."""
        write_json(self.list, sorted(names))
        self.forget()

    def forget(self) -> None:
        """Drop what was noted."""
        self.begun.unlink(missing_ok=True)

    def remove(self) -> None:
        """Drop the list, too: none of its files is there any more."""
        self.forget()
        self.list.unlink(missing_ok=True)


def remove_below(folder: Path, names: Iterable[str]) -> None:
    """Remove the files ``names`` below ``folder``, and the folders that this empties; nothing behind links.

    Raises:
        DataError: one cannot be removed.

    """
    for name in names:
        path, inner = folder / name, PurePosixPath(name)
        above = [folder / parent for parent in inner.parents if str(parent) != "."]
        if not _is_below(inner) or any(parent.is_symlink() for parent in above):
            continue
        try:
            if path.is_file() or path.is_symlink():
                path.unlink()
        except OSError as error:
            raise DataError(f"cannot remove {path}: {error.strerror or error}.") from error
        with suppress(OSError):  # not empty, or never made
            for parent in above:
                parent.rmdir()


def _is_below(name: PurePosixPath) -> bool:
    return not name.is_absolute() and ".." not in name.parts and bool(name.parts)
