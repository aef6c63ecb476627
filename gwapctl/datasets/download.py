"""Fetching and unpacking data sets: announced, checked, resumable, and only where it was asked for.

VOC comes by itself when a command needs it and may use the network; every other set only by ``gwapctl data get``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import ssl
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from gwapctl.datasets import DATASETS, refuse_ambiguous
from gwapctl.datasets.folders import data_folders
from gwapctl.datasets.published import Archive
from gwapctl.datasets.subset import split_name
from gwapctl.errors import DataError, GwapctlError, UsageError, lookup, option
from gwapctl.images.files import name_problem
from gwapctl.offline import is_offline
from gwapctl.progress import Progress, ProgressCallback

_ATTEMPTS = 4  # a download that breaks off goes on from there
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18
_EXPANSION = 100  # times its own size that an archive may hold: photos hardly shrink, a bomb is 1,000 times as large
_ALWAYS = 1 << 30  # bytes that any archive may hold
# LZMA is left out: the header of a file of a few bytes asks for gigabytes of memory, and gets them.
_TAR_MODES: tuple[Literal["r:", "r:gz", "r:bz2"], ...] = ("r:", "r:gz", "r:bz2")
_ZIP_KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_BLOCK = 4096  # bytes that a file takes at least

TRAINING = ("train", "trainval")  # the splits that are for training

Announce = Callable[[str], None]


def missing_archives(name: str, root: Path | None, splits: Sequence[str] | None = None) -> list[Archive]:
    """Return the archives of data set ``name`` that are not unpacked here; of ``splits`` only, if given."""
    archives = DATASETS[name].archives if name in DATASETS else ()
    wanted = [item for item in archives if splits is None or not set(splits).isdisjoint(item.splits)]
    return [item for item in wanted if not item.is_here(root)]


def ensure_dataset(
    name: str,
    root: Path | None,
    *,
    offline: bool,
    splits: Sequence[str] = TRAINING,
    progress: ProgressCallback | None = None,
    announce: Announce | None = None,
) -> None:
    """Fetch what ``splits`` of data set ``name`` lack, if it is one that comes by itself (VOC); do nothing otherwise.

    Raises:
        DataError: it is missing and the network may not be used (``offline`` or ``$GWAPCTL_OFFLINE``), or fails.

    """
    name, _ = split_name(name)  # of a part such as voc:5 the whole is fetched
    if name in DATASETS and DATASETS[name].automatic:
        if missing_archives(name, root, splits):
            refuse_ambiguous(name, root)
        for archive in missing_archives(name, root, splits):
            _fetch(name, archive, root, offline, progress, announce)


def get_dataset(
    name: str,
    root: Path | None,
    *,
    files: Sequence[Path] = (),
    verify: bool = True,
    offline: bool = False,
    progress: ProgressCallback | None = None,
    announce: Announce | None = None,
) -> None:
    """Unpack the archives ``files`` of data set ``name``; without any, download all that is missing.

    Raises:
        UsageError: we do not know the name, or a file is not there.
        DataError: a checksum is wrong, an archive is damaged, or the network cannot be used.

    """
    entry = lookup("dataset", name, DATASETS)
    if not entry.archives:
        by_hand = entry.by_hand.format(folder=data_folders(root)[0] / name)
        raise DataError(f"{name} cannot be fetched for you: {by_hand or 'say where it is with ' + option('root')}.")
    for file in files:
        archive = _identify(name, file, verify, progress)
        _unpack(archive, file, archive.folder_for(root), progress)
    if not files:
        for archive in missing_archives(name, root):
            _fetch(name, archive, root, offline, progress, announce)


def _unpack(archive: Archive, file: Path, folder: Path, progress: ProgressCallback | None) -> None:
    last = str(Path(archive.folder, archive.proof).relative_to(archive.into))
    unpack(file, folder / archive.into, last=last, progress=progress)


def download(archive: Archive, file: Path, progress: ProgressCallback | None = None) -> None:
    """Download ``archive`` to ``file``, which appears only when it is whole and its checksum is right.

    What has arrived stays in ``.<name>.part`` beside it, and the next call goes on from there.

    Raises:
        DataError: no mirror delivers the right file.

    """
    part = file.with_name(f".{file.name}.part")
    size, failure = archive.size, Exception("no address")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for url in [url for url in archive.urls for _ in range(_ATTEMPTS)]:
            try:
                _append(url, part, size, progress)
            except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
                failure = error
                continue
            if part.stat().st_size != size or digest_of(part, archive.algorithm) != archive.checksum:
                failure = Exception("what arrived has the wrong size or checksum")
                part.unlink()
                continue
            part.replace(file)
            return
    except OSError as error:
        raise DataError(
            f"cannot write {file}: {error.strerror or error}. Free space or choose another {option('root')}."
        ) from error
    raise DataError(f"cannot download {' or '.join(archive.urls)}: {failure}.")


def digest_of(file: Path, algorithm: str) -> str:
    """Return the digest of a file, ``sha256`` or ``md5``, as hexadecimal digits."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}.") from error


def _append(url: str, part: Path, size: int, progress: ProgressCallback | None) -> None:
    """Add the rest of ``url`` to ``part``, or all of it where the server cannot continue."""
    done = part.stat().st_size if part.exists() else 0
    if done >= size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        done = done if _continues_at(response, done) else 0
        with part.open("ab" if done else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(Progress(done // 1_000_000, size // 1_000_000, "MB", part.name[1:-5]))
    if done < size:
        raise ConnectionError(f"the connection ended after {done} of {size} bytes")


def _continues_at(response: HTTPResponse, start: int) -> bool:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == 206 and match is not None and int(match[1]) == start


def _fetch(
    name: str,
    archive: Archive,
    root: Path | None,
    offline: bool,
    progress: ProgressCallback | None,
    announce: Announce | None,
) -> None:
    if not archive.urls:
        names = ", ".join(item.file for item in missing_archives(name, root))
        raise DataError(
            f"{name} needs an account and cannot be downloaded for you. Fetch what you need of {names} and run: gwapctl"
            f" data get {name} --archive FILE (once per file); or say where the data is with {option('root')}."
        )
    manual = (
        f"Fetch {archive.file} ({archive.size / 1e6:.0f} MB) from {archive.urls[0]} and run: gwapctl data get {name}"
        f" --archive {archive.file}; or say where the data is with {option('root')}."
    )
    if offline or is_offline():
        what = archive.splits[-1]
        forbidden = f"{option('offline', True)} forbids to download it"
        raise DataError(f"{name} is not here ({what}), and {forbidden}. {manual}")
    folder = archive.folder_for(root)
    if announce is not None:
        announce(f"downloading {archive.file}: {archive.size / 1e6:.0f} MB from {archive.urls[0]} to {folder}")
    file = folder / archive.file
    try:
        download(archive, file, progress)
    except DataError as error:
        raise DataError(f"{error} {manual}") from error
    _unpack(archive, file, folder, progress)
    file.unlink()


def _identify(name: str, file: Path, verify: bool, progress: ProgressCallback | None) -> Archive:
    """Return the archive that ``file`` is, by its checksum, or by its name where it is not to be verified."""
    if not file.is_file():
        raise UsageError(f"{file} does not exist. Give the downloaded archive.")
    archives = DATASETS[name].archives
    if not verify:
        return next((archive for archive in archives if archive.file == file.name), archives[0])
    if progress is not None:
        progress(Progress(0, None, "files", f"checking {file.name}"))
    digests = {algorithm: digest_of(file, algorithm) for algorithm in {archive.algorithm for archive in archives}}
    for archive in archives:
        if archive.checksum == digests[archive.algorithm]:
            return archive
    found = ", ".join(f"{algorithm.upper()} {digest}" for algorithm, digest in digests.items())
    expected = ", ".join(f"{archive.file} {archive.checksum}" for archive in archives)
    raise DataError(
        f"{file} has {found}, which is no archive of {name} ({expected}). Fetch it again, or use "
        f"{option('verify', False)}."
    )


def unpack(archive: Path, folder: Path, *, last: str | None = None, progress: ProgressCallback | None = None) -> None:
    """Unpack a tar or zip file into ``folder``, beside what is there; files of the same name are replaced.

    A tar file in a tar file becomes a folder of its name (the training images of ImageNet).

    Everything is unpacked and checked elsewhere first and then moved, the path ``last`` (what proves that a data set is
    complete) at the end: an interruption leaves nothing that looks finished.

    Raises:
        DataError: the archive is damaged, or holds absolute paths, ``..``, links or devices, or the disk is full.

    """
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder))
        names = []
        expanded, most = 0, max(_ALWAYS, _EXPANSION * archive.stat().st_size)
        for name, stream in _members(archive):
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            expanded += max(_BLOCK, _copy(stream, path, most - expanded))
            if expanded > most:
                much = f"more than {most / 1e9:.1f} GB, over {_EXPANSION} times its own size"
                raise DataError(f"{archive} holds {much}: refused. Fetch it again.")
            names.append(name)
            if progress is not None:
                progress(Progress(len(names), None, "files", f"unpacking {archive.name}"))
        for name in sorted(names, key=lambda name: str(name) == last):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).replace(folder / name)
    except OSError as error:
        raise DataError(f"cannot unpack {archive} to {folder}: {error.strerror or error}.") from error
    except GwapctlError:
        raise
    except Exception as error:  # the modules for archives raise what each kind of compression does
        reason = str(error) or type(error).__name__
        raise DataError(f"{archive} is damaged, or of a kind that is not read ({reason}). Fetch it again.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _copy(stream: IO[bytes], path: Path, most: int) -> int:
    """Write what ``stream`` holds to ``path``, and return how many bytes; no more are read than just over ``most``."""
    size = 0
    with path.open("wb") as file:
        while size <= most and (chunk := stream.read(_CHUNK)):
            size += file.write(chunk)
    return size


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """Yield the checked name and the content of every file."""
    yield from _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{archive} holds a link or device, {member.filename}, which is refused.")
            if member.compress_type not in _ZIP_KINDS:
                raise DataError(f"{archive} packs {member.filename} neither by deflate nor by bzip2: refused.")
            name = _checked(member.filename, archive)
            if not member.is_dir():
                with file.open(member) as stream:
                    yield name, stream


def _tar_members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    with _open_tar(archive) as file:
        for name, stream in _read_tar(file, archive):
            if name.suffix != ".tar":
                yield name, stream
                continue
            with tarfile.open(fileobj=stream, mode="r:") as inner:
                yield from ((name.with_suffix("") / below, data) for below, data in _read_tar(inner, archive))


def _open_tar(archive: Path) -> tarfile.TarFile:
    """Open a tar file, whole or packed."""
    for mode in _TAR_MODES:
        with suppress(tarfile.ReadError):
            return tarfile.open(archive, mode)
    raise DataError(f"{archive} is neither a zip nor a tar file, plain or packed by gzip or bzip2. Fetch it again.")


def _read_tar(file: tarfile.TarFile, archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    for member in file:
        if not (member.isfile() or member.isdir()):
            raise DataError(f"{archive} holds a link or device, {member.name}, which is refused.")
        name = _checked(member.name, archive)
        stream = file.extractfile(member)
        if stream is not None:
            yield name, stream


def _checked(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or "\0" in name:
        raise DataError(f"{archive} holds a file without a name, which is refused.")
    problem = name_problem(path.as_posix()) if os.name == "nt" else None
    if problem is not None:
        raise DataError(f"{archive} holds {name!r}, and {problem}.")
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise DataError(f"{archive} holds {name!r}, which leads out of the folder; it is refused.")
    return path
