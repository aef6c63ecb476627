"""Reads one broken input and says what is wrong with how that went: a traceback, a hang, too much memory, no name."""

from __future__ import annotations

import resource
import shutil
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

from gwapctl.datasets import download
from gwapctl.errors import GwapctlError
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, Target, broken_files

CORPUS = Path(__file__).parent / "corpus"
SECONDS = 5.0  # of the processor: others may be at work on the machine
BYTES = 1 << 30
EXPANDED = 20 << 20  # bytes that an archive may hold here: a gigabyte takes a disk too long


class OutOfTime(BaseException):
    """An input took longer than ``SECONDS``."""


@contextmanager
def limits() -> Iterator[None]:
    """Let the process take no more than a gigabyte beyond what it has, so that who wants more gets ``MemoryError``."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, always = resource.getrlimit(resource.RLIMIT_AS), download._ALWAYS
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, before[1]))
    download._ALWAYS = EXPANDED
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        download._ALWAYS = always


@contextmanager
def _clock() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def problem(target: Target, folder: Path, file: Path) -> str | None:
    """Read what lies in ``folder``, of which ``file`` is broken, and return what went wrong, None where nothing did."""
    started = time.process_time()
    try:
        with _clock():
            target.read(folder)
    except GwapctlError as error:
        if error.exit_code not in target.codes:
            return f"exit code {error.exit_code}: {error}"
        if _lacked_memory(error):
            return f"wants more than a gigabyte: {error}"
        names = [file.name, *([folder.name] if any(map(file.match, target.lists)) else [])]
        if not any(name in str(error) for name in names):
            return f"does not name {file.name}: {error}"
    except OutOfTime:
        return f"still busy after {SECONDS} s"
    except BaseException as error:  # a finding, whatever it is
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "gwapctl" in frame.filename]
        where = ours[-1] if ours else last
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno} {where.name})"
    if time.process_time() - started > SECONDS:
        return f"took {time.process_time() - started:.1f} s"
    return None


def _lacked_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass(frozen=True)
class Finding:
    """An input that went wrong: its target and number, the file that was broken, what was in it, what happened."""

    target: str
    number: int
    file: str
    data: bytes
    problem: str

    def keep(self) -> Path:
        """Put the broken file into the corpus, so that it is read again by every test."""
        path = CORPUS / self.target / f"{self.number:05d}" / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)
        return path


def fuzz(name: str, numbers: range, folder: Path) -> Iterator[Finding]:
    """Read the inputs of target ``name`` with these ``numbers`` below ``folder``, and yield what went wrong."""
    target, place = TARGETS[name], Place(name, folder)
    with limits():
        for number in numbers:
            random = Random(f"{name} {number}")
            file = random.choice(place.files)
            data = mutated(file, place.good[file], random)
            found = place.problem(target, file, data)
            if found is not None:
                yield Finding(name, number, file, data, found)


class Place:
    """The good files of a target, one of which is broken at a time."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        TARGETS[name].make(self.folder)
        TARGETS[name].read(self.folder)  # they are good
        paths = list(broken_files(TARGETS[name], self.folder))
        self.files = [path.relative_to(self.folder).as_posix() for path in paths]
        self.good = {file: path.read_bytes() for file, path in zip(self.files, paths, strict=True)}

    def problem(self, target: Target, file: str, data: bytes) -> str | None:
        """Return what goes wrong where ``file`` holds ``data``."""
        path = self.folder / file
        path.write_bytes(data)
        try:
            return problem(target, self.folder, path)
        finally:
            for name, good in self.good.items():
                (self.folder / name).write_bytes(good)
            shutil.rmtree(self.folder / "out", ignore_errors=True)


def kept(name: str) -> list[tuple[str, str]]:
    """Return the inputs of the corpus of target ``name``: the folder of each, and the file below it."""
    files = sorted(path for path in (CORPUS / name).rglob("*") if path.is_file())
    parts = [path.relative_to(CORPUS / name).parts for path in files]
    return [(first, "/".join(rest)) for first, *rest in parts]
