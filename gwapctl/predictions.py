"""What ``localize`` writes and ``evaluate``, ``boxes`` and ``report`` read: predictions and maps on disk. No torch.

A folder ``OUT`` holds ``predictions.jsonl`` (one image per line), ``maps/<image id>.npy`` with ``maps/maps.json``,
``overlays/`` and ``masks/``. An image id is the image's path below the common root of the inputs, posix style, suffix
kept. Any folder of ``.npy`` maps that somebody else made can be read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, FiniteFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from gwapctl.errors import DataError, printable
from gwapctl.files import atomic_path, json_text, open_text, read_json
from gwapctl.image_files import find_file, same_name, stem

SCHEMA_VERSION = 1
PREDICTIONS = "predictions.jsonl"
MAPS = "maps"
MAPS_INFO = "maps.json"
Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]


@dataclass(frozen=True, config=ConfigDict(coerce_numbers_to_str=True))
class Prediction:
    """One class in one image: ``score`` in 0..1, ``box`` in original pixels (or none), ``map`` file below OUT.

    A ``label_id`` that is a number may stand in a document as one.
    """

    label: str
    label_id: str
    score: FiniteFloat
    box: Box | None = None
    map: str | None = None


@dataclass(frozen=True)
class PredictionError:
    """Why an image has no predictions: the ``type`` of the exception and its ``message``."""

    type: str
    message: str


@dataclass(frozen=True)
class ImagePrediction:
    """Everything said about one image; one line of ``predictions.jsonl``.

    ``image`` is its path as given, ``id`` its name below the inputs' common root (the same as ``image`` where a
    document does not say). ``width, height`` are pixels of the upright image, 0 where it could not be read.
    """

    image: str
    width: int
    height: int
    model: str = ""
    scales: tuple[int, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    error: PredictionError | None = None
    id: str = ""

    def __post_init__(self) -> None:
        """Fall back to the path where there is no id."""
        if not self.id:
            object.__setattr__(self, "id", self.image)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document (plain dicts and lists)."""
        document = _IMAGE.dump_python(self, mode="json")
        return {"schema_version": SCHEMA_VERSION, **document}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], source: str = "prediction") -> ImagePrediction:
        """Read a document; fields that this version does not know are ignored. ``source`` names it in errors.

        Raises:
            DataError: a newer schema, a missing field or a value of the wrong type.

        """
        check_schema(document, source)
        try:
            return _IMAGE.validate_python(document)
        except ValidationError as error:
            raise DataError(f"{source}: {_first_problem(error)}.") from error


_IMAGE = TypeAdapter(ImagePrediction)


def merge(parts: Sequence[ImagePrediction], source: str) -> ImagePrediction:
    """Return what ``source`` says about one image in several places, each prediction once.

    Of an image that failed and of another try of it, the one that worked counts.

    Raises:
        DataError: the parts differ in the image's size.

    """
    worked = [part for part in parts if part.error is None] or [*parts[-1:]]
    sizes = dict.fromkeys((part.width, part.height) for part in worked if part.width and part.height)
    if len(sizes) > 1:
        stated = " and ".join(f"{width} x {height}" for width, height in sizes)
        raise DataError(f"{source} says of {parts[0].image} that it is {stated}. Correct its size.")
    width, height = next(iter(sizes), (0, 0))
    predictions = dict.fromkeys(prediction for part in worked for prediction in part.predictions)
    return replace(worked[0], width=width, height=height, predictions=tuple(predictions))


def check_schema(document: object, source: str) -> None:
    """Raise ``DataError`` unless ``document`` is a JSON object of a schema version that we read."""
    if not isinstance(document, Mapping):
        raise DataError(f"{source}: expected a JSON object, found {type(document).__name__}.")
    version = document.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise DataError(f"{source}: schema_version {version!r} is not {SCHEMA_VERSION}. Update gwapctl to read it.")


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"field {place!r}: {first['msg']}"


# --- predictions -----------------------------------------------------------------------------------------------------


def read_predictions(path: Path | str) -> Iterator[ImagePrediction]:
    """Yield the images of a folder written by ``localize --out``, a ``.jsonl`` or a ``.json`` file, one at a time.

    Raises:
        DataError: there is no such file, or a line is broken (the message names it).

    """
    file = _predictions_file(Path(path))
    if file.suffix.lower() == ".json":
        document = read_json(file)
        check_schema(document, str(file))
        images = document.get("images")
        if not isinstance(images, list):
            raise DataError(f'{file} has no list "images". Write it with gwapctl localize --format json.')
        for place, image in enumerate(images):
            yield ImagePrediction.from_json(image, f"{file}, image {place}")
        return
    with open_text(file) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield ImagePrediction.from_json(_parse(line, file, number), f"{file}, line {number}")


def _predictions_file(path: Path) -> Path:
    file = path / PREDICTIONS if path.is_dir() else path
    if not file.is_file():
        where = f"{path} has no {PREDICTIONS}" if path.is_dir() else f"{path} does not exist"
        raise DataError(f"{where}. Make it with: gwapctl localize IMAGES --out {path if path.is_dir() else 'OUT'}.")
    return file


def _parse(line: str, file: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        advice = "Repeat gwapctl localize with --resume to finish a file that was cut off."
        raise DataError(f"{file}, line {number} is not valid JSON ({error.msg}). {advice}") from error


def finished_ids(file: Path) -> set[str]:
    """Return the ids of the images that ``file`` (a ``predictions.jsonl``) holds without an error, and repair it.

    A last line torn by a crash is cut off, and images that failed are dropped, so that both are tried again.
    """
    if not file.is_file():
        return set()
    done: set[str] = set()
    with file.open("rb") as lines, atomic_path(file) as temporary, temporary.open("wb") as kept:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")
            image = ImagePrediction.from_json(_parse(text, file, number), f"{file}, line {number}")
            if image.error is None and image.id not in done:
                kept.write(line)
                done.add(image.id)
    return done


# --- maps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MapImage:
    """Of one image with maps: original size and, for one map per class, the classes in the order of the channels."""

    width: int
    height: int
    labels: tuple[str, ...] = ()
    label_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class MapsInfo:
    """What ``maps.json`` says: how the maps were made.

    ``values`` is ``raw`` (one scale: the map's own numbers) or ``minmax_mean`` (mean over scales and flips of maps in
    [0, 1]) or ``unknown`` (somebody else's maps). ``class_agnostic``: one map for all ``labels`` of an image.
    ``layer``: where a gradient map was read; several are fused by ``fuse``. ``close``: share of the shorter side up to
    which gaps are closed. ``crops`` and ``backprop_seg`` are ``none`` or what took the place of scales, and of values.
    ``box_rule`` is the one that the boxes beside the maps were made with.
    """

    method: str = "unknown"
    model: str = ""
    scales: tuple[int, ...] = ()
    flip: bool = False
    resize: str = "warp"
    values: Literal["raw", "minmax_mean", "unknown"] = "unknown"
    class_agnostic: bool = True
    box_rule: str = ""
    layer: tuple[str, ...] = ()
    fuse: str = "mean"
    close: float = 0.0
    crops: str = "none"
    backprop_seg: str = "none"
    images: dict[str, MapImage] = field(default_factory=dict)

    @property
    def raw(self) -> bool:
        """Tell whether values of different images can be compared."""
        return self.values == "raw"


_INFO = TypeAdapter(MapsInfo)
_MAP_IMAGE = TypeAdapter(MapImage)
_MAKE_MAPS = "Make some with: gwapctl localize IMAGES --save map --out OUT."


class MapFolder:
    """A folder of ``.npy`` maps: ``OUT``, ``OUT/maps``, or any tree of ``<image id>.npy`` files that others made."""

    def __init__(self, path: Path | str) -> None:
        """Open the folder.

        Raises:
            DataError: it does not exist.

        """
        path = Path(path)
        if not path.is_dir():
            raise DataError(
                f"{path} is not a folder of maps. Make one with: gwapctl localize IMAGES --save map --out OUT."
            )
        below = path / MAPS
        self.path = below if below.is_dir() and not any(path.glob("*.npy")) else path

    def ids(self) -> list[str]:
        """Return the sorted image ids.

        Raises:
            DataError: there is no ``.npy`` file.

        """
        # a hidden one is only being written
        files = (file for file in self.path.rglob("*.npy") if not file.name.startswith("."))
        found = sorted(printable(file.relative_to(self.path).as_posix()[: -len(".npy")]) for file in files)
        if not found:
            raise DataError(
                f"{self.path} holds no .npy maps. Make them with: gwapctl localize IMAGES --save map --out OUT."
            )
        return found

    def load(self, image_id: str) -> npt.NDArray[Any]:
        """Return the map ``(H, W)`` or maps ``(C, H, W)`` of one image, with the dtype they were saved in.

        Raises:
            DataError: no such file, not a plain numeric array of that shape, or values that are not finite.

        """
        file = map_path(self.path, image_id)
        file = find_file(file) or file
        try:
            array = np.load(file, allow_pickle=False)
        except FileNotFoundError as error:
            raise DataError(f"{self.path} has no map of {image_id!r} ({file.name} is missing).") from error
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{file} is not a plain .npy array (cut off, or pickled): {error}.") from error
        if not isinstance(array, np.ndarray):
            raise DataError(f"{file} is an .npz archive. Save one array (H, W) or (C, H, W) per image.")
        if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "fiub":
            raise DataError(f"{file} holds {array.dtype} {array.shape}; a map is a numeric array (H, W) or (C, H, W).")
        if not np.isfinite(array).all():
            raise DataError(f"{file} holds values that are not finite (NaN or infinity).")
        return array

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
        try:
            return _INFO.validate_python(document)
        except ValidationError as error:
            raise DataError(f"{file}: {_first_problem(error)}.") from error


def map_path(folder: Path, image_id: str) -> Path:
    """Return ``folder/<image id>.npy``.

    Raises:
        DataError: the id would leave the folder.

    """
    if PurePosixPath(image_id).is_absolute() or ".." in PurePosixPath(image_id).parts or not image_id:
        raise DataError(f"image id {image_id!r} points outside {folder}. Ids are relative paths.")
    return folder / f"{image_id}.npy"


def write_map(folder: Path, image_id: str, heatmaps: npt.NDArray[Any]) -> Path:
    """Save maps ``(H, W)`` or ``(C, H, W)`` of one image below ``folder``, whole or not at all, and return the path."""
    path = map_path(folder, image_id)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, heatmaps, allow_pickle=False)
    return path


def write_maps_info(folder: Path, info: MapsInfo, images: Iterable[tuple[str, MapImage]] = ()) -> None:
    """Write ``folder/maps.json``; ``images`` come one at a time, so that any number of them takes no memory."""
    document = {"schema_version": SCHEMA_VERSION, **_INFO.dump_python(info, mode="json", exclude={"images"})}
    with atomic_path(folder / MAPS_INFO) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json_text(document, indent=2).removesuffix("\n}") + ',\n  "images": {')
        separator = "\n"
        for image_id, image in images:
            entry = json_text(_MAP_IMAGE.dump_python(image, mode="json"))
            file.write(f"{separator}    {json_text(image_id)}: {entry}")
            separator = ",\n"
        file.write("\n  }\n}\n")


# --- whose map is it? ------------------------------------------------------------------------------------------------


class ImageIndex:
    """Finds an image among ids that others chose: with or without folders in front, with or without the suffix.

    ``JPEGImages/000005.jpg``, ``000005.jpg`` and ``000005`` name the same image as long as only one image fits; two
    different suffixes or folders never do. The Unicode form of a name (NFC, NFD) does not matter.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        ids = list(ids)
        self._exact = set(ids)  # of two that differ in their Unicode form alone
        self._whole: dict[str, str | None] = {}
        self._tails: dict[str, str | None] = {}
        for image_id in ids:
            whole, *tails = _tails(image_id)
            self._add(self._whole, whole, image_id)
            for tail in tails:
                self._add(self._tails, tail, image_id)

    @staticmethod
    def _add(table: dict[str, str | None], name: str, image_id: str) -> None:
        bare = stem(name)
        for key in (name,) if bare == name else (name, f"{bare}.*"):
            table[key] = image_id if table.get(key, image_id) == image_id else None

    def find(self, *candidates: str) -> str | None:
        """Return the id that fits the first of ``candidates`` (an id, a path) that fits exactly one, or None."""
        for name in candidates:
            if name in self._exact:
                return name
            whole, *tails = _tails(name)
            found = _first(self._whole, whole) or _first(self._tails, whole) or _first(self._whole, *tails)
            if found is not None:
                return found
        return None


def _tails(name: str) -> list[str]:
    """Return ``a/b/c``, ``b/c``, ``c`` for ``a/b/c``."""
    parts = PurePosixPath(same_name(name).replace("\\", "/")).parts
    return ["/".join(parts[start:]) for start in range(max(1, len(parts)))]


def _first(table: Mapping[str, str | None], *names: str) -> str | None:
    """Return the first entry that is not ambiguous; only one of the two sides may lack a suffix."""
    for name in names:
        bare = stem(name)
        for key in (name, f"{name}.*" if bare == name else bare):
            if table.get(key) is not None:
                return table[key]
    return None
