"""One writer at a time: while a folder is written, a file in it says who writes, since when, and that it still lives.

The file appears whole, so that of two that come at once one wins. Whoever holds it touches it every ``BEAT`` seconds.
It counts as left behind when its process is gone, as far as that can be seen from here, and otherwise ``STALE`` seconds
after its last sign of life. Times are those of the file system: clocks of several machines need not agree, and a clock
that is set back does no harm.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gwapctl.errors import DataError, UsageError
from gwapctl.files import OWN, changing, write_json

LOCK = f"{OWN}lock"
BEAT, STALE = 15.0, 120.0  # seconds
_held: dict[tuple[int, Path], int] = {}  # process and folder: the thread that writes it


@contextmanager
def locked(folder: Path, notice: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Keep others from writing ``folder``, which is made if it is not there, and removed if it stays empty.

    Where the same thread has it locked already, nothing happens: what a verb calls may lock for itself.
    ``notice`` hears that a lock was left behind by a process that is gone, and taken over.

    Raises:
        UsageError: another process, or thread, is writing there.
        DataError: the folder cannot be written.

    """
    folder = folder.resolve()
    key = os.getpid(), folder
    if _held.get(key) == threading.get_ident():
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        mine = _take(folder, notice)
    except BaseException:
        _remove_empty(made)
        raise
    _held[key] = threading.get_ident()
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(folder / LOCK, stop), name="gwapctl-lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        _held.pop(key, None)
        if _read(folder / LOCK).get("token") == mine:
            with suppress(OSError):
                (folder / LOCK).unlink()
        _remove_empty(made)


def is_left(folder: Path) -> bool:
    """Tell whether what writes ``folder``, or wrote there until it was killed, has not come to its end."""
    return (folder / LOCK).exists()


def is_held(folder: Path) -> bool:
    """Tell whether a process that is still there writes ``folder``."""
    file = folder / LOCK
    return file.exists() and not _left_behind(_read(file), file)


def _take(folder: Path, notice: Callable[[str], None]) -> str:
    """Write the lock and return what tells it from others."""
    file, token = folder / LOCK, secrets.token_hex(8)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file. Give a folder.")
    with changing(file):
        if file.exists():
            owner = _read(file)
            if not _left_behind(owner, file):
                raise UsageError(_in_the_way(owner, folder))
            notice(f"{folder}: {_who(owner)} stopped without an end; going on in its place.")
        since = datetime.now(UTC).isoformat(timespec="seconds")
        me = {"pid": os.getpid(), "host": platform.node(), "since": since}
        write_json(file, {**me, "machine": _machine(), "process": _process(os.getpid()), "token": token})
    if _read(file).get("token") != token:  # where the system has no locks on folders, the last one has it
        raise UsageError(_in_the_way(_read(file), folder))
    return token


def _read(file: Path) -> dict[str, Any]:
    """Return what a lock says; nothing where it is gone or empty, as after a loss of power."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _who(owner: dict[str, Any]) -> str:
    if not owner:
        return "somebody unknown"
    return f"process {owner.get('pid')} on {owner.get('host')}, which began {owner.get('since')},"


def _in_the_way(owner: dict[str, Any], folder: Path) -> str:
    seen = "" if owner.get("machine") == _machine() else f", at most {STALE:.0f} seconds after it has gone"
    return f"{folder} is being written by {_who(owner)} and two would mix. Wait until it has ended{seen}."


def _left_behind(owner: dict[str, Any], file: Path) -> bool:
    """Tell whether whoever holds the lock is gone."""
    if owner.get("machine") == _machine() and os.name == "posix":
        if owner.get("pid") == os.getpid():  # of this process: another thread's, or that of one who had our number
            return (os.getpid(), file.parent) not in _held
        return _process(int(owner.get("pid", 0))) != owner.get("process")
    return abs(_age(file)) > STALE


def _age(file: Path) -> float:
    """Return the seconds since ``file`` was touched, by the clock of its file system."""
    try:
        with tempfile.TemporaryFile(dir=file.parent) as now:
            return os.fstat(now.fileno()).st_mtime - file.stat().st_mtime
    except OSError as error:
        raise DataError(f"cannot write {file.parent}: {error.strerror or error}. Choose another place.") from error


def _machine() -> str:
    """Return what two processes share that see each other's numbers: the host since it was started, and a container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(Path("/proc/self/ns/pid").readlink().name)
    return " ".join(parts)


def _process(pid: int) -> str:
    """Return what tells a living process from a later one of the same number; nothing where there is none."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except (PermissionError, OverflowError):  # somebody else's
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return "alive"
    return "" if fields[0] in "ZX" else fields[19]  # ended and not waited for; else the time of its start


def _beat(file: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with suppress(OSError):
            os.utime(file)


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # not empty
        for folder in folders:
            folder.rmdir()
