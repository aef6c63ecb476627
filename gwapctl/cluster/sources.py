"""Images wherever a cluster has them: folders, lists, WebDataset tars and Parquet files at any address of fsspec.

The driver lists names alone; who localizes a part reads the bytes of its own images. No torch.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, Any

from gwapctl.errors import DataError, MissingDependencyError, UsageError, printable
from gwapctl.images.files import SUFFIXES
from gwapctl.inputs import ImageInput, find_inputs

NAMES = ("id", "__key__", "key", "path", "file_name")  # columns that can name an image, the first that is there
IMAGES = ("image", "jpg", "png", "bytes")  # columns that can hold the bytes of one, as they are or as {"bytes": ...}


@dataclass(frozen=True)
class Source:
    """One image: its id, and the file at ``address`` that it is, or in which its bytes or its row are."""

    id: str
    address: str
    offset: int = 0
    size: int | None = None
    row: int | None = None

    @property
    def is_local_file(self) -> bool:
        """Whether it is a file of its own that can be opened by its path."""
        return "://" not in self.address and self.size is None and self.row is None

    @property
    def name(self) -> str:
        """What results call the image: its path or address, in a tar or table with its id behind."""
        return self.address if self.size is None and self.row is None else f"{self.address}#{self.id}"


def find_sources(inputs: Sequence[str], *, recursive: bool = True) -> list[Source]:
    """Return the images that ``inputs`` mean, each once, sorted by id; those of local folders as ``find_inputs`` has.

    Raises:
        UsageError: an input does not exist.
        DataError: there is no image, two have one id, or a tar or table cannot be read.
        MissingDependencyError: an address needs fsspec, or a table pyarrow, which is not installed.

    """
    local = [text for text in inputs if "://" not in text and Path(text).suffix.lower() not in (".tar", ".parquet")]
    if len(local) == len(inputs):
        return [Source(item.id, str(item.path)) for item in find_inputs(inputs, recursive=recursive)]
    found = [Source(item.id, str(item.path)) for item in find_inputs(local, recursive=recursive)] if local else []
    for text in inputs:
        if text not in local:
            found += _listed(text)
    ordered = sorted(found, key=lambda source: source.id)
    if not ordered:
        raise DataError(f"no image in {', '.join(inputs)}. Known suffixes: {' '.join(sorted(SUFFIXES))}.")
    for first, second in pairwise(ordered):
        if first.id == second.id:
            raise DataError(f"{first.name} and {second.name} are both called {first.id!r}. Rename one.")
    return ordered


def _listed(address: str) -> Iterator[Source]:
    suffix = PurePosixPath(address).suffix.lower()
    if suffix not in (".tar", ".parquet"):
        yield from _below(address)
        return
    try:
        with _open(address) as file:
            yield from _in_tar(file, address) if suffix == ".tar" else _in_table(file, address)
    except FileNotFoundError as error:
        raise UsageError(f"{address} does not exist. Give a folder, a tar or a Parquet file.") from error
    except (OSError, tarfile.TarError, ValueError) as error:
        raise DataError(f"cannot read {address}: {error}.") from error


def _below(address: str) -> Iterator[Source]:
    """Yield the images below a folder at an address, or the one that it is."""
    system, root = file_systems().core.url_to_fs(address)
    try:
        paths = sorted(system.find(root))
    except OSError as error:
        raise DataError(f"cannot list {address}: {error}.") from error
    for path in paths:
        if PurePosixPath(path).suffix.lower() in SUFFIXES:
            below = path[len(root) :].strip("/") or PurePosixPath(path).name
            yield Source(_safe(below, address), system.unstrip_protocol(path))


def _in_tar(file: IO[bytes], address: str) -> Iterator[Source]:
    with tarfile.open(fileobj=file, mode="r:") as archive:  # not compressed: members are read where they lie
        for member in archive:
            if member.isfile() and PurePosixPath(member.name).suffix.lower() in SUFFIXES:
                image_id = _safe(f"{PurePosixPath(address).stem}/{member.name.removeprefix('./')}", address)
                yield Source(image_id, address, member.offset_data, member.size)


def _in_table(file: IO[bytes], address: str) -> Iterator[Source]:
    table = _parquet().ParquetFile(file)
    columns = table.schema_arrow.names
    named = next((name for name in NAMES if name in columns), None)
    if named is None or not set(IMAGES) & set(columns):
        raise DataError(
            f"{address} needs a column of names ({', '.join(NAMES)}) and one of images ({', '.join(IMAGES)})."
        )
    names = table.read(columns=[named]).column(named).to_pylist()
    for row, name in enumerate(names):
        yield Source(_safe(f"{PurePosixPath(address).stem}/{name}", address), address, row=row)


def _safe(image_id: str, address: str) -> str:
    """Return an id; one that would leave the folder of results is refused."""
    parts = PurePosixPath(image_id).parts
    if not parts or ".." in parts or PurePosixPath(image_id).is_absolute():
        raise DataError(f"{address} has an image called {image_id!r}, which points outside. Rename it.")
    return printable(image_id)


def fetched(sources: Sequence[Source], folder: Path) -> list[ImageInput]:
    """Return the images as files: those that are files as they are, copies of others below ``folder``.

    One whose bytes cannot be read is a path without a file, which fails by name when it is read.
    """
    inputs = []
    rows = _rows([source for source in sources if source.row is not None])
    for index, source in enumerate(sources):
        if source.is_local_file:
            inputs.append(ImageInput(Path(source.address), source.id))
            continue
        path = folder / f"{index}{PurePosixPath(source.id).suffix}"
        try:
            data = rows[source.id] if source.row is not None else _bytes(source)
        except (OSError, KeyError):
            data = None
        if data is not None:
            path.write_bytes(data)
        inputs.append(ImageInput(path, source.id))
    return inputs


def _bytes(source: Source) -> bytes:
    with _open(source.address) as file:
        file.seek(source.offset)
        return bytes(file.read() if source.size is None else file.read(source.size))


def _rows(sources: Sequence[Source]) -> dict[str, bytes]:
    """Return the bytes of images in tables by id; every group of rows is read once."""
    found: dict[str, bytes] = {}
    for address in dict.fromkeys(source.address for source in sources):
        wanted = {source.row: source.id for source in sources if source.address == address}
        with _open(address) as file:
            table, first = _parquet().ParquetFile(file), 0
            column = next(name for name in IMAGES if name in table.schema_arrow.names)
            for group in range(table.num_row_groups):
                count = table.metadata.row_group(group).num_rows
                mine = [row for row in range(first, first + count) if row in wanted]
                cells = table.read_row_group(group, columns=[column]).column(column) if mine else ()
                for row in mine:
                    cell = cells[row - first].as_py()
                    found[wanted[row]] = cell["bytes"] if isinstance(cell, dict) else cell
                first += count
    return found


def _open(address: str) -> Any:
    return Path(address).open("rb") if "://" not in address else file_systems().open(address, "rb").open()


def file_systems() -> Any:
    """Return fsspec."""
    return needed("fsspec")


def _parquet() -> Any:
    return needed("pyarrow.parquet")


def needed(module: str) -> Any:
    """Return a module of the extra ``ray``; a ``MissingDependencyError`` says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(f"{module} is not installed. Run: pip install 'gwapctl[ray]'.") from error


def addresses(sources: Iterable[Source]) -> dict[str, str]:
    """Return what results call each image, by id."""
    return {source.id: source.name for source in sources}
