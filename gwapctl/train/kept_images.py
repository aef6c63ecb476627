"""Decoded images, kept from one epoch to the next: in memory while they fit, else in a folder, else not at all.

What is kept is what ``Reader`` makes of an image: no larger than the training can ask for. Where it is not kept, it is
made anew in every epoch and is the same to the bit: keeping decides how long a training takes and nothing else.

On disk ``00000.images`` and on hold consecutive images each: a table with a row per image (``_ROW``), then the pixels.
A row says which file it was made of, by size, time of change and boxes; a shard that tells of another file, or is torn,
is written anew. It appears whole or not at all, and trainings share it.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.datasets.base import BoxedSample, Sample
from gwapctl.errors import DataError
from gwapctl.files import atomic_path, write_json
from gwapctl.networks.transforms import Image, Source, read_ahead, read_sample, resize
from gwapctl.progress import Progress
from gwapctl.train.feature_cache import cache_folder, free_bytes, size_text
from gwapctl.train.task import Listener

SCHEMA_VERSION = 1  # part of the hash: raise it where the same description would stand for other pixels
MEMORY_SHARE = 0.25  # of the memory that is free: the network, the system's cache of files and others need the rest
DISK_SHARE = 0.25  # of the free disk, which is not ours
ASSUMED_MEMORY = 4_000_000_000  # where the system does not say how much is free
SHARD_IMAGES = 64  # little is lost to Ctrl-C, and one shard in the making fits memory
ABANDONED = 3600  # seconds after which nobody is still writing a temporary file

_CONTAINER = (  # files with the limit on memory and with what is used: control groups of version 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
_ROW = ("bytes", "changed_ns", "boxes", "height", "width", "channels")
_Table = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reader:
    """Reads ``samples`` as a training sees them.

    To train, each is shrunk to at most ``size`` (width, height), decoded at a reduced size where that does. To validate
    (``exact``), it is decoded whole and warped to that size.
    """

    samples: Sequence[Sample]
    size: tuple[int, int]
    exact: bool = False

    def __call__(self, sample: Sample) -> Image:
        """Return the image ``(H, W, 3 | 4)``."""
        return resize(read_sample(sample), self.size) if self.exact else read_sample(sample, self.size)

    @property
    def most_bytes(self) -> int:
        """How much memory all samples take at most."""
        limits = np.array([self.size if self.exact or s.size is None else s.size for s in self.samples]).reshape(-1, 2)
        channels = np.array([3 + isinstance(sample, BoxedSample) for sample in self.samples])
        return int((np.minimum(limits, self.size).prod(axis=1) * channels).sum())


@dataclass(frozen=True)
class InMemory:
    """Keeps what a reader made of each image. Threads share it: at worst two read the same image at once."""

    reader: Source
    _images: dict[Path, Image] = field(default_factory=dict)

    def __call__(self, sample: Sample) -> Image:
        """Return the image ``(H, W, 3 | 4)``, which nobody may change."""
        image = self._images.get(sample.path)
        if image is None:
            image = self._images[sample.path] = self.reader(sample)
            image.setflags(write=False)
        return image


class OnDisk:
    """Keeps what ``reader`` made of its samples in a folder in ``parent``, which is named after all that decides it."""

    def __init__(self, reader: Reader, parent: Path) -> None:
        self.reader = reader
        unique = {sample.path: sample for sample in reader.samples}
        self._samples = [unique[path] for path in sorted(unique)]
        paths = "\0".join(str(sample.path.absolute()) for sample in self._samples)
        self.description = {
            "schema_version": SCHEMA_VERSION,
            "size": list(reader.size),
            "exact": reader.exact,
            "images": len(self._samples),
            "paths": hashlib.sha256(os.fsencode(paths)).hexdigest()[:16],
            "images_per_shard": SHARD_IMAGES,
            "opencv": cv2.__version__,
        }
        self.folder = cache_folder(parent, "images", self.description)
        self._row = {sample.path: row for row, sample in enumerate(self._samples)}
        self._tables: dict[int, _Table] = {}

    def missing(self) -> list[int]:
        """Return the shards that have to be written."""
        return [shard for shard in range(math.ceil(len(self._samples) / SHARD_IMAGES)) if not self._is_there(shard)]

    def fill(self, workers: int, stop: Callable[[], bool], listener: Listener) -> None:
        """Decode what is missing, and write it.

        Raises:
            KeyboardInterrupt: ``stop()`` was true between two shards, which are kept.
            DataError: an image cannot be read, or a shard not be written.

        """
        missing = self.missing()
        if not missing:
            return
        write_json(self.folder / "cache.json", self.description)
        self._remove_leftovers()
        done, total = 0, sum(len(self._of(shard)) for shard in missing)
        pictures = read_ahead(self.reader, map(self._of, missing), workers)
        for shard, images in zip(missing, pictures, strict=True):
            self._write(shard, images)
            done += len(images)
            if listener.progress:
                listener.progress(Progress(done, total, "images", "keeping decoded images"))
            if stop():
                raise KeyboardInterrupt
        if self.missing():
            raise DataError(f"images of {self.folder} changed while they were read. Train again.")

    def __call__(self, sample: Sample) -> Image:
        """Return the image ``(H, W, 3 | 4)``."""
        shard, row = divmod(self._row[sample.path], SHARD_IMAGES)
        shapes = self._tables[shard][:, 3:]
        sizes = shapes.prod(axis=1)
        with self._path(shard).open("rb") as file:
            file.seek(self._tables[shard].nbytes + int(sizes[:row].sum()))
            return np.fromfile(file, np.uint8, int(sizes[row])).reshape(shapes[row])

    def _of(self, shard: int) -> list[Sample]:
        return self._samples[shard * SHARD_IMAGES : (shard + 1) * SHARD_IMAGES]

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.images"

    def _write(self, shard: int, images: Sequence[Image]) -> None:
        shapes = np.array([image.shape for image in images])
        table = np.hstack([_states(self._of(shard)), shapes])
        with atomic_path(self._path(shard)) as temporary, temporary.open("wb") as file:
            table.astype("<i8").tofile(file)
            for image in images:
                np.ascontiguousarray(image).tofile(file)

    def _is_there(self, shard: int) -> bool:
        """Look at a shard: whether it is whole, and made of the files that are there now."""
        members, path = self._of(shard), self._path(shard)
        try:
            table = np.fromfile(path, "<i8", len(members) * len(_ROW)).astype(np.int64).reshape(-1, len(_ROW))
            whole = path.stat().st_size == table.nbytes + int(table[:, 3:].prod(axis=1).sum())
        except (OSError, ValueError):  # no such file, or torn
            return False
        if not whole or not np.array_equal(table[:, :3], _states(members)):
            return False
        self._tables[shard] = table
        return True

    def _remove_leftovers(self) -> None:
        """Remove what a killed process was writing."""
        for path in self.folder.glob(".*.images"):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink(missing_ok=True)


def _states(samples: Sequence[Sample]) -> _Table:
    """Return what tells that an image or its boxes were changed, ``(n, 3)``; the first columns of ``_ROW``."""
    rows = []
    for sample in samples:
        try:
            state = sample.path.stat()
        except OSError as error:
            raise DataError(f"cannot read {sample.path}: {error.strerror or error}. Restore it.") from error
        boxes = zlib.crc32(sample.boxes.tobytes(), 1) if isinstance(sample, BoxedSample) else 0
        rows.append((state.st_size, state.st_mtime_ns, boxes))
    return np.array(rows, np.int64)


def keep_images(
    readers: Sequence[Reader],
    parent: Path,
    workers: int,
    stop: Callable[[], bool],
    listener: Listener,
    processes: int = 1,
) -> list[Source]:
    """Return what reads the samples of each of ``readers`` from now on.

    In memory where all fit ``MEMORY_SHARE`` of what is free, as often as there are ``processes`` that keep them; else
    in folders in ``parent``, filled before this returns; the readers themselves where the disk is too small for
    ``DISK_SHARE`` as well.

    Raises:
        KeyboardInterrupt: ``stop()`` was true; what is on disk by then is kept.
        DataError: an image cannot be read, or its copy not be written.

    """
    needed, size = sum(reader.most_bytes for reader in readers), sum(len(reader.samples) for reader in readers)
    if needed * processes <= MEMORY_SHARE * free_memory():
        listener.detail(f"decoded images are kept in memory: at most {size_text(needed)}")
        return [InMemory(reader) for reader in readers]
    kept = [OnDisk(reader, parent) for reader in readers if reader.samples]
    missing = any(one.missing() for one in kept)
    if missing and needed > DISK_SHARE * free_bytes(parent):
        listener.detail(f"images are decoded in every epoch: {size_text(needed)} would not fit memory, nor {parent}")
        return list(readers)
    what = f"{size:,} decoded images, at most {size_text(needed)}"
    listener.announce(f"keeping {what}, in {parent}" if missing else f"reading {what}, from {parent}")
    for one in kept:
        one.fill(workers, stop, listener)
    filled = {id(one.reader): one for one in kept}
    return [filled.get(id(reader), reader) for reader in readers]


def free_memory() -> int:
    """Return how many bytes are free for this process: what the system has left, or its container."""
    free = _available()
    for limit, used in _CONTAINER:
        top, now = _number(Path(limit)), _number(Path(used))
        if top is not None and now is not None:
            free = min(free, max(0, top - now))
    return free


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return ASSUMED_MEMORY


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file; "max"
        return None
