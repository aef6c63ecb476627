"""Maps on disk: a folder of ``.npy`` files with ``maps.json``, whoever made them. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from gwapctl.errors import DataError, printable, reading
from gwapctl.files import atomic_path, json_text, read_json
from gwapctl.images.files import find_file, name_problem, same_name
from gwapctl.maps.reading import UNKNOWN, ResolvedReading
from gwapctl.predict.prediction import LONGEST, SCHEMA_VERSION, check_schema, first_problem

MAPS = "maps"
MAPS_INFO = "maps.json"
LARGEST = 1e37  # that a map may hold: differences of two are float32, too


@dataclass(frozen=True)
class MapImage:
    """Of one image with maps: original size and, for one map per class, the classes in the order of the channels.

    ``ranges``: for each channel the values that 0 and 1 stand for; none: channels hold the values themselves.
    """

    width: int
    height: int
    labels: tuple[str, ...] = ()
    label_ids: tuple[str, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be true of any image."""
        if not (0 <= self.width < LONGEST and 0 <= self.height < LONGEST):
            raise ValueError("an image has a size that none has")
        if self.label_ids and len(self.label_ids) != len(self.labels):
            raise ValueError("an image has not as many label_ids as labels")

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """The label and the id of each class; the label is the id where none is said."""
        return tuple(zip(self.labels, self.label_ids or self.labels, strict=True))


@dataclass(frozen=True)
class MapsInfo:
    """What ``maps.json`` says: how the maps were made. There the fields of ``reading`` stand beside the others.

    ``values`` is ``minmax`` (one scale: the map's own numbers, stretched to [0, 1]; ``ranges`` of each image has the
    lowest and highest), ``minmax_mean`` (mean over scales and flips of maps in [0, 1]), ``raw`` (one scale, as version
    0.1.0 wrote it: the map's own numbers) or ``unknown`` (somebody else's maps). ``class_agnostic``: one map for all
    ``labels`` of an image. ``box_rule`` is the one that the boxes beside the maps were made with, ``min_score`` is what
    they score at least; None: not known. ``engine`` and ``precision`` are what the network ran in, as
    ``engines.Choice`` has it; empty: not known. ``refine`` is how a detector's boxes were moved, empty for others.
    """

    reading: ResolvedReading = UNKNOWN
    model: str = ""
    values: Literal["raw", "minmax", "minmax_mean", "unknown"] = "unknown"
    class_agnostic: bool = True
    box_rule: str = ""
    min_score: float | None = None
    engine: str = ""
    precision: str = ""
    images: dict[str, MapImage] = field(default_factory=dict)
    refine: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """What must be the same for maps and boxes that go into one folder, as far as it is known."""
        found = {} if self.min_score is None else {"min_score": self.min_score}
        moved = {"refine": self.refine} if self.refine else {}
        runs = {"engine": self.engine, "precision": self.precision} if self.engine else {}
        return {**vars(self.reading), "box_rule": self.box_rule, **found, **moved, **runs}

    @property
    def raw(self) -> bool:
        """Tell whether values of different images, as ``MapFolder.channels`` gives them, can be compared."""
        return self.values in ("raw", "minmax")


_INFO = TypeAdapter(MapsInfo)
_READING = TypeAdapter(ResolvedReading)
_MAP_IMAGE = TypeAdapter(MapImage)
HOW_TO_MAKE = "gwapctl localize IMAGES --save map --out OUT."


class MapFolder:
    """A folder of ``.npy`` maps: ``OUT``, ``OUT/maps``, or any tree of ``<image id>.npy`` files that others made.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = write_map(Path(folder.name), "cats/a.jpg", np.zeros((30, 40), np.float16))
    >>> maps = MapFolder(folder.name)
    >>> maps.ids(), maps.load("cats/a.jpg").shape, maps.info.values
    (['cats/a.jpg'], (30, 40), 'unknown')
    >>> folder.cleanup()

    Raises:
        DataError: the folder does not exist.

    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        if not path.is_dir():
            raise DataError(f"{path} is not a folder of maps. Make one with: {HOW_TO_MAKE}")
        below = path / MAPS
        self.path = below if below.is_dir() and not any(path.glob("[!.]*.npy")) else path

    def ids(self) -> list[str]:
        """Return the sorted image ids.

        Raises:
            DataError: there is no ``.npy`` file.

        """
        files = self.path.rglob("[!.]*.npy")  # a hidden one is only being written
        found = sorted(printable(file.relative_to(self.path).as_posix()[: -len(".npy")]) for file in files)
        if not found:
            raise DataError(f"{self.path} holds no .npy maps. Make them with: {HOW_TO_MAKE}")
        return found

    def load(self, image_id: str) -> npt.NDArray[Any]:
        """Return the map ``(H, W)`` or maps ``(C, H, W)`` of one image, with the dtype they were saved in.

        Raises:
            DataError: no such file, not a plain numeric array of that shape, or values that are not finite.

        """
        file = map_path(self.path, image_id)
        file = find_file(file) or file
        with reading(file, advice="Make it again."):
            try:
                array = _read_array(file)
            except FileNotFoundError as error:
                raise DataError(f"{self.path} has no map of {image_id!r} ({file.name} is missing).") from error
            except (ValueError, EOFError) as error:
                raise DataError(f"{file} is not a plain .npy array (cut off, or pickled): {error}.") from error
        if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "fiub":
            raise DataError(f"{file} holds {array.dtype} {array.shape}; a map is a numeric array (H, W) or (C, H, W).")
        if not np.isfinite(array).all():
            raise DataError(f"{file} holds values that are not finite (NaN or infinity).")
        return array

    def channels(self, image_id: str) -> npt.NDArray[Any]:
        """Return the maps ``(C, H, W)`` of one image with their own values, a single map as one channel.

        Raises:
            DataError: what ``load`` raises, or ``maps.json`` has ranges for another number of channels.

        """
        array, ranges = self.load(image_id), self.about(image_id).ranges
        channels = array[None] if array.ndim == 2 else array
        if not ranges:
            return channels
        if not all(abs(end) < LARGEST for pair in ranges for end in pair):  # nor NaN
            raise DataError(f"{self.path / MAPS_INFO} has a range of {image_id!r} that is none. Make the maps again.")
        if len(ranges) != len(channels):
            raise DataError(
                f"{self.path / MAPS_INFO} has {len(ranges)} ranges for the {len(channels)} maps of {image_id}.npy. "
                f"Make them again: {HOW_TO_MAKE}"
            )
        from gwapctl.regions import unstretch  # reading maps.json needs no OpenCV

        return np.stack([unstretch(*pair) for pair in zip(channels, ranges, strict=True)])

    def about(self, image_id: str) -> MapImage:
        """Return what ``maps.json`` says about one image; nothing (a size of 0) where it does not know it."""
        found = self.info.images.get(image_id) or self._same_names.get(same_name(image_id))
        return found or MapImage(0, 0)

    @cached_property
    def _same_names(self) -> dict[str, MapImage]:
        return {same_name(image_id): image for image_id, image in self.info.images.items()}

    @cached_property
    def info(self) -> MapsInfo:
        """What ``maps.json`` says, or defaults where there is none.

        Raises:
            DataError: ``maps.json`` is broken.

        """
        file = self.path / MAPS_INFO
        if not file.is_file():
            return MapsInfo()
        document = read_json(file)
        check_schema(document, str(file))
        with reading(file, advice=f"Make it again: {HOW_TO_MAKE}"):
            try:
                return _INFO.validate_python({**document, "reading": _READING.validate_python(document)})
            except ValidationError as error:
                raise DataError(f"{file}: {first_problem(error)}.") from error


def _read_array(file: Path) -> npt.NDArray[Any]:
    """Return the array of a ``.npy`` file; it is mapped first, so that a header that states too much costs nothing."""
    with file.open("rb") as stream:
        head = stream.read(12)
    if head.startswith(b"PK\x03\x04"):
        raise DataError(f"{file} is an .npz archive. Save one array (H, W) or (C, H, W) per image.")
    # of later versions of the format; numpy asks for as much memory before it reads
    if head[6:7] in (b"\x02", b"\x03") and int.from_bytes(head[8:], "little") > file.stat().st_size:
        raise DataError(f"{file} cannot be read: its header is longer than the file. Make it again.")
    return np.array(np.load(file, mmap_mode="r", allow_pickle=False))


def map_path(folder: Path, image_id: str) -> Path:
    """Return ``folder/<image id>.npy``.

    Raises:
        DataError: the id would leave the folder.

    """
    if PurePosixPath(image_id).is_absolute() or ".." in PurePosixPath(image_id).parts or not image_id:
        raise DataError(f"image id {image_id!r} points outside {folder}. Ids are relative paths.")
    problem = name_problem(image_id) if os.name == "nt" else None
    if problem is not None:
        raise DataError(f"image id {image_id!r}: {problem}. Rename the image.")
    return folder / f"{image_id}.npy"


def write_map(folder: Path, image_id: str, heatmaps: npt.NDArray[Any]) -> Path:
    """Save maps ``(H, W)`` or ``(C, H, W)`` of one image below ``folder``, whole or not at all, and return the path."""
    path = map_path(folder, image_id)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, heatmaps, allow_pickle=False)
    return path


def write_maps_info(folder: Path, info: MapsInfo, images: Iterable[tuple[str, MapImage]] = ()) -> None:
    """Write ``folder/maps.json``; ``images`` come one at a time, so that any number of them takes no memory."""
    about = _INFO.dump_python(info, mode="json", exclude={"images"})
    document = {"schema_version": SCHEMA_VERSION, **about.pop("reading"), **about}
    with atomic_path(folder / MAPS_INFO) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json_text(document, indent=2).removesuffix("\n}") + ',\n  "images": {')
        separator = "\n"
        for image_id, image in images:
            entry = json_text(_MAP_IMAGE.dump_python(image, mode="json"))
            file.write(f"{separator}    {json_text(image_id)}: {entry}")
            separator = ",\n"
        file.write("\n  }\n}\n")
