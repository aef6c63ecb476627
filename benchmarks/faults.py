"""Faults at file operations: a process that counts what it does to files below a folder, and meets its end at the N-th.

Counted are opening for writing, writing, flushing to disk, renaming, truncating, removing, and making folders: those of
Python by its audit events, and those of file objects and ``os.fsync`` by taking their place. What a library writes in C
is not counted, but its file is opened before and flushed and renamed after, and a torn one is made there.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KILLED = 9  # what a process that was killed ends with
CHANGING = {  # audit events, and where in their arguments paths stand, each with that of a folder it counts from
    "os.rename": ((0, 2), (1, 3)),
    "os.remove": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
TEARABLE = ("write", "fsync", "os.rename")


@dataclass
class Faults:
    """What happens to the file operations of this process below ``folder``.

    Attributes:
        folder: operations elsewhere do not count.
        at: the operation that meets the fault, counted from 0; None: all go well.
        torn: whether what is being written then is left half written.
        error: raised at that operation and all that follow, as a full disk does; None: the process ends there.
        log: the operations so far, as (name, path below the folder).

    """

    folder: Path
    at: int | None = None
    torn: bool = False
    error: OSError | None = None
    log: list[tuple[str, str]] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.RLock)
    _busy: bool = False

    def install(self) -> None:
        """Count from now on; there is no way back in this process."""
        sys.addaudithook(self._audit)
        fsync, opened = os.fsync, io.open

        def counted_fsync(handle: Any) -> None:
            number = handle if isinstance(handle, int) else handle.fileno()
            self.count("fsync", _opened(number))
            fsync(handle)

        def counted_open(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
            writes = isinstance(file, str | os.PathLike) and set(mode) & set("wax+")
            if not writes or "+" in mode or named.keys() & {"closefd", "opener"} or not self._below(file):
                return opened(file, mode, buffering, *more, **named)
            raw = _CountedFile(os.fspath(file), mode.replace("b", "").replace("t", ""))
            raw.faults = self
            if buffering == 0:
                return raw
            buffered = io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *more, **named)

        os.fsync = counted_fsync  # type: ignore[assignment]
        io.open = builtins.open = counted_open  # type: ignore[assignment]

    def count(self, name: str, path: Any, tear: Callable[[], None] | None = None) -> None:
        """Take note of an operation, and let it meet its fault if it is the one; ``tear`` writes half of it."""
        below = self._below(path)
        if below is None or self._busy:
            return
        with self._lock:
            self.log.append((name, below))
            if self.at is None or len(self.log) <= self.at:
                return
            if self.error is not None:
                raise type(self.error)(self.error.errno, self.error.strerror, str(path))
            self._busy = True
            if self.torn:
                with suppress(OSError):
                    tear() if tear is not None else _halve(path)
            os._exit(KILLED)

    def _below(self, path: Any) -> str | None:
        try:
            full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (links count by their own names)
        except TypeError:
            return None
        top = f"{self.folder}{os.sep}"
        return full.removeprefix(top) if full.startswith(top) else None

    def _audit(self, event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = values
            if not isinstance(path, int) and flags & WRITING:
                self.count("open", path)
        elif event in CHANGING:
            self.count(event, _path(values, *CHANGING[event][0]))


class _CountedFile(io.FileIO):
    faults: Faults

    def write(self, data: Any) -> int:
        """Write ``data``, or half of it at the point of a fault."""
        part = bytes(data)
        self.faults.count("write", self.name, lambda: os.write(self.fileno(), part[: len(part) // 2]) and None)
        return super().write(part) or 0


def _path(values: tuple[Any, ...], place: int, folder: int | None) -> Any:
    """Return the path of an event, which may count from an open folder or be an open file."""
    path = values[place]
    if isinstance(path, int):
        return _opened(path)
    start = values[folder] if folder is not None and folder < len(values) else -1
    return _opened(start) / os.fsdecode(path) if isinstance(start, int) and start >= 0 else path


def _opened(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()


def _halve(path: Any) -> None:
    if Path(path).is_file():
        os.truncate(path, Path(path).stat().st_size // 2)


@dataclass(frozen=True)
class Outcome:
    """How a forked process ended: its exit code, its file operations, and what it said."""

    code: int
    log: list[tuple[str, str]]
    said: str


def attempt(work: Callable[[], int], faults: Faults | None, notes: Path) -> Outcome:
    """Call ``work`` in a forked process with ``faults``; ``notes`` is a file for what it says.

    The process must not have used torch's autograd or threads before, for a forked one could not go on with them.
    """
    log = notes.with_suffix(".log")
    log.unlink(missing_ok=True)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            handle = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for stream in (1, 2):
                os.dup2(handle, stream)
            if faults is not None:
                faults.install()
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if faults is not None:
                log.write_text("".join(f"{name}\t{path}\n" for name, path in faults.log), encoding="utf-8")
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    pairs = [line.partition("\t")[::2] for line in lines]
    return Outcome(code, pairs, notes.read_text(encoding="utf-8", errors="replace"))
