"""What ``localize`` writes and ``evaluate``, ``boxes`` and ``report`` read: predictions and maps on disk. No torch.

A folder ``OUT`` holds ``predictions.jsonl`` (one image per line), ``maps/<image id>.npy`` with ``maps/maps.json``,
``overlays/`` and ``masks/``. An image id is the image's path below the common root of the inputs, posix style, suffix
kept. Any folder of ``.npy`` maps that somebody else made can be read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, FiniteFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from gwapctl.errors import DataError
from gwapctl.files import atomic_path, open_text, read_json

SCHEMA_VERSION = 1
PREDICTIONS = "predictions.jsonl"
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
            raise DataError(f"{source}: {first_problem(error)}.") from error


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


def first_problem(error: ValidationError) -> str:
    """Return the first of the problems, with the field that has it."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"field {place!r}: {first['msg']}"


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
