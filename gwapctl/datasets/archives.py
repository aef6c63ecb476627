"""Archives of data sets: unpacked member by member, each checked, none outside of its folder."""

from __future__ import annotations

import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from gwapctl.errors import DataError
from gwapctl.progress import Progress, ProgressCallback


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
        for name, stream in _members(archive):
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
            names.append(name)
            if progress is not None:
                progress(Progress(len(names), None, "files", f"unpacking {archive.name}"))
        for name in sorted(names, key=lambda name: str(name) == last):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).replace(folder / name)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(f"{archive} is damaged ({error}). Fetch it again.") from error
    except OSError as error:
        raise DataError(f"cannot unpack {archive} to {folder}: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """Yield the checked name and the content of every file."""
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    elif tarfile.is_tarfile(archive):
        yield from _tar_members(archive)
    else:
        raise DataError(f"{archive} is neither a tar nor a zip file. Fetch it again.")


def _zip_members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{archive} holds a link or device, {member.filename}, which is refused.")
            name = _checked(member.filename, archive)
            if not member.is_dir():
                with file.open(member) as stream:
                    yield name, stream


def _tar_members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    with tarfile.open(archive) as file:
        for name, stream in _read_tar(file, archive):
            if name.suffix != ".tar":
                yield name, stream
                continue
            with tarfile.open(fileobj=stream) as inner:
                yield from ((name.with_suffix("") / below, data) for below, data in _read_tar(inner, archive))


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
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise DataError(f"{archive} holds {name!r}, which leads out of the folder; it is refused.")
    return path
