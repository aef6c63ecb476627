"""What ``localize`` writes and ``evaluate``, ``boxes`` and ``report`` read: predictions and maps on disk. No torch.

A folder ``OUT`` holds ``predictions.jsonl`` (one image per line), ``maps/<image id>.npy`` with ``maps/maps.json``,
``overlays/`` and ``masks/``. An image id is the image's path below the common root of the inputs, posix style, suffix
kept. Any folder of ``.npy`` maps that somebody else made can be read as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from gwapctl.errors import DataError
from gwapctl.files import atomic_path, open_text, read_json
from gwapctl.predict.prediction import Prediction, check_schema

PREDICTIONS = "predictions.jsonl"


def read_predictions(path: Path | str) -> Iterator[Prediction]:
    """Yield the images of a folder written by ``localize --out``, a ``.jsonl`` or a ``.json`` file, one at a time.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     line = '{"schema_version": 1, "image": "a.jpg", "width": 80, "height": 60, "predictions": []}'
    ...     written = (Path(folder) / "predictions.jsonl").write_text(line)
    ...     [(found.image, found.width, found.height) for found in read_predictions(folder)]
    [('a.jpg', 80, 60)]

    Raises:
        DataError: there is no such file, or a line is broken (the message names it).

    """
    path = Path(path)
    file = path / PREDICTIONS if path.is_dir() else path
    if not file.is_file():
        where, out = (f"{path} has no {PREDICTIONS}", path) if path.is_dir() else (f"{path} does not exist", "OUT")
        raise DataError(f"{where}. Make it with: gwapctl localize IMAGES --out {out}.")
    if file.suffix.lower() == ".json":
        document = read_json(file)
        check_schema(document, str(file))
        images = document.get("images")
        if not isinstance(images, list):
            raise DataError(f'{file} has no list "images". Write it with gwapctl localize --format json.')
        for index, image in enumerate(images):
            yield Prediction.from_json(image, f"{file}, image {index}")
        return
    with open_text(file) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Prediction.from_json(_parse(line, file, number), f"{file}, line {number}")


def _parse(line: str, file: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        advice = "Repeat gwapctl localize with --resume to finish a file that was cut off."
        raise DataError(f"{file}, line {number} is not valid JSON ({error.msg}). {advice}") from error


def logged_ids(file: Path) -> list[str]:
    """Return the ids of all images that ``file``, a ``predictions.jsonl``, tells of; broken lines do not count."""
    found = []
    for line in file.read_bytes().splitlines() if file.is_file() else []:
        with suppress(DataError, ValueError):
            found.append(Prediction.from_json(json.loads(line)).id)
    return found


def finished_ids(file: Path, *, lost: Callable[[Prediction], bool] = lambda _: False) -> set[str]:
    """Return the ids of the images that ``file`` (a ``predictions.jsonl``) holds without an error, and repair it.

    A last line torn by a crash is cut off, and images that failed, or whose files are ``lost``, are dropped, so that
    all of them are tried again. A loss of power may leave zero bytes: what follows them is cut off, too.
    """
    if not file.is_file():
        return set()
    done: set[str] = set()
    with file.open("rb") as lines, atomic_path(file) as temporary, temporary.open("wb") as kept:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n") or b"\0" in line:
                break
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")
            image = Prediction.from_json(_parse(text, file, number), f"{file}, line {number}")
            if image.error is None and image.id not in done and not lost(image):
                kept.write(line)
                done.add(image.id)
    return done
