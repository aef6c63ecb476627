"""Crashes: what lies in a folder at every file operation of a process, kept, so that each can be laid there again.

A process that is killed leaves what it had written until then, and nothing else of it can reach the next one. So one
process that goes through keeps, before each of its operations, what a kill there would leave: once whole and, where
something is being written, once with half of it. Files are kept by their digest, so that this takes little room.

Operations are opening for writing, writing, flushing to disk, renaming, truncating, removing, and making folders:
those of Python by its audit events, and those of file objects and ``os.fsync`` by taking their place. What a library
writes in C is not counted, but its file is opened before and flushed and renamed after, and a torn one is seen there.
"""

from __future__ import annotations

import builtins
import hashlib
import io
import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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

# by path below the folder: ("file", digest, time), ("link", where it leads) or ("folder",); lists once they were stored
Files = dict[str, Sequence[str]]


@dataclass(frozen=True)
class Crash:
    """What a kill just before an operation leaves.

    Attributes:
        at: the operation's number, from 0.
        name, path: the operation, and what it works on, below the folder.
        torn: whether half of what it writes, flushes or renames is there.
        files: what lies in the folder.

    """

    at: int
    name: str
    path: str
    torn: bool
    files: Files

    def __str__(self) -> str:
        return f"{self.name} {self.path}{', torn' * self.torn} ({self.at})"


class Store:
    """Keeps what lies in folders: each content once, as a file in ``place``."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)

    def keep(self, folder: Path) -> Files:
        """Keep what lies in ``folder``."""
        files: Files = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink():
                files[name] = ("link", str(path.readlink()))
            elif path.is_dir():
                files[name] = ("folder",)
            else:
                files[name] = ("file", self._digest(path.read_bytes()), str(path.stat().st_mtime_ns))
        return files

    def halved(self, file: Sequence[str], half: Callable[[bytes], bytes]) -> Sequence[str]:
        """Keep ``half`` of a kept file."""
        kind, digest, modified = file
        return kind, self._digest(half((self.place / digest).read_bytes())), modified

    def lay(self, files: Files, folder: Path) -> None:
        """Make ``folder`` hold these files and no others."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, what in files.items():
            path = folder / name
            match what:
                case ["folder"]:
                    path.mkdir()
                case ["link", aim]:
                    path.symlink_to(aim)
                case [_, digest, modified]:
                    shutil.copyfile(self.place / digest, path)
                    os.utime(path, ns=(int(modified), int(modified)))

    def _digest(self, data: bytes) -> str:
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        file = self.place / digest
        if not file.is_file():
            file.write_bytes(data)
        return digest


def distinct(crashes: list[Crash]) -> list[Crash]:
    """Return the first crash of those that leave the same, whatever the times of the files are."""
    first: dict[frozenset[tuple[str, ...]], Crash] = {}
    for crash in crashes:
        first.setdefault(frozenset((name, *what[:2]) for name, what in crash.files.items()), crash)
    return [*first.values()]


@dataclass
class Recorder:
    """Keeps a crash before every operation of this process below ``folder``, as lines of the file ``log``."""

    folder: Path
    store: Store
    log: Path
    operations: int = 0
    _lock: Any = field(default_factory=threading.RLock)
    _busy: int | None = None  # the thread that is keeping something; others wait

    def install(self) -> None:
        """Record from now on; there is no way back in this process."""
        self.log.write_text("", encoding="utf-8")
        sys.addaudithook(self._audit)
        fsync, opened = os.fsync, io.open

        def recorded_fsync(handle: Any) -> None:
            number = handle if isinstance(handle, int) else handle.fileno()
            self.note("fsync", _opened(number))
            fsync(handle)

        def recorded_open(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
            writes = isinstance(file, str | os.PathLike) and set(mode) & set("wax+")
            if not writes or "+" in mode or named.keys() & {"closefd", "opener"} or not self._below(file):
                return opened(file, mode, buffering, *more, **named)
            raw = _RecordedFile(os.fspath(file), mode.replace("b", "").replace("t", ""))
            raw.recorder = self
            if buffering == 0:
                return raw
            buffered = io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *more, **named)

        os.fsync = recorded_fsync  # type: ignore[assignment]
        io.open = builtins.open = recorded_open  # type: ignore[assignment]

    def note(self, name: str, path: Any, half: Callable[[bytes], bytes] = lambda data: data[: len(data) // 2]) -> None:
        """Keep what is there before an operation, and with ``half`` of what its file will hold."""
        below = self._below(path)
        me = threading.get_ident()
        if below is None or self._busy == me:
            return
        with self._lock:
            self._busy = me
            files = self._kept()
            crashes = [Crash(self.operations, name, below, False, files)]
            if name in TEARABLE and files.get(below, ("",))[0] == "file":
                torn = files | {below: self.store.halved(files[below], half)}
                crashes.append(Crash(self.operations, name, below, True, torn))
            with self.log.open("a", encoding="utf-8") as lines:
                lines.writelines(f"{json.dumps(asdict(crash))}\n" for crash in crashes)
            self.operations += 1
            self._busy = None

    def _kept(self) -> Files:
        """Keep what is there; what another thread was about to do may still happen meanwhile."""
        while True:
            with suppress(FileNotFoundError):
                return self.store.keep(self.folder)

    def crashes(self) -> list[Crash]:
        """Return what another process recorded."""
        return [Crash(**json.loads(line)) for line in self.log.read_text(encoding="utf-8").splitlines()]

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
                self.note("open", path)
        elif event in CHANGING:
            self.note(event, _path(values, *CHANGING[event][0]))


class _RecordedFile(io.FileIO):
    recorder: Recorder

    def write(self, data: Any) -> int:
        """Write ``data``, of which half would be there if the process ended meanwhile."""
        part, at = bytes(data), self.tell()
        written = part[: len(part) // 2]
        self.recorder.note("write", self.name, lambda whole: whole[:at] + written + whole[at + len(written) :])
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


@dataclass(frozen=True)
class Outcome:
    """How a forked process ended: its exit code, and what it said."""

    code: int
    said: str


def attempt(work: Callable[[], int], notes: Path, recorder: Recorder | None = None) -> Outcome:
    """Call ``work`` in a forked process, recorded if asked for; ``notes`` is a file for what it says.

    The process must not have used torch's autograd or threads before, for a forked one could not go on with them.
    """
    pid = os.fork()
    if not pid:
        code = 1
        try:
            handle = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for stream in (1, 2):
                os.dup2(handle, stream)
            if recorder is not None:
                recorder.install()
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Outcome(code, notes.read_text(encoding="utf-8", errors="replace"))
