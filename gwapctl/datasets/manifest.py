"""CSV manifest: ``image,label[,split][,x0,y0,x1,y1][,difficult]``, one row per label or box.

``image`` counts from the folder of the file. ``label`` may hold several, separated by ``|``, or none. Boxes are ours:
half-open, 0-based, in pixels of the upright image. Other columns are not looked at; comma, semicolon or tab separates.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from gwapctl.boxes import as_boxes
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.datasets.objects import Corners, LabelledObject, make_sample
from gwapctl.errors import DataError, closest

_CORNERS = ("x0", "y0", "x1", "y1")
_BOOLEANS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


class _Row(NamedTuple):
    labels: tuple[str, ...]
    corners: Corners | None
    difficult: bool


class Manifest(Dataset):
    """Images listed in a CSV file; multi-label as soon as one image has two labels."""

    def __init__(self, file: Path) -> None:
        self.name = file.stem
        self.root = file.parent
        self._file = file
        self._splits = _read_rows(file)
        images = [rows for split in self._splits.values() for rows in split.values()]
        names = sorted({label for rows in images for row in rows for label in row.labels})
        if not names:
            raise DataError(f"{file} has no label. Fill its column 'label'.")
        self.classes = tuple(ClassName(name, name) for name in names)
        self.multi_label = any(len({label for row in rows for label in row.labels}) != 1 for rows in images)
        self._index = {name: index for index, name in enumerate(names)}

    def splits(self) -> tuple[str, ...]:
        """Return the values of the column ``split``, or ``train`` where there is none."""
        return tuple(self._splits)

    def boxed_samples(self, split: str) -> list[BoxedSample]:
        """Return the samples of ``split`` in the order of the file."""
        self.require_split(split)
        samples = (self._sample(image, rows) for image, rows in self._splits[split].items())
        return [sample for sample in samples if sample is not None]

    def _sample(self, image: str, rows: list[_Row]) -> BoxedSample | None:
        path = self.root / image
        if not path.is_file():
            self.problems.error(f"{self._file}: there is no image {path}. Restore it or remove its row.")
            return None
        objects = [
            LabelledObject(self._index[label], row.corners, row.difficult) for row in rows for label in row.labels
        ]
        name = _safe_id(path, self.root)
        return make_sample(name, path, objects, convert=as_boxes, size=None, source=self._file, problems=self.problems)


def open_manifest(path: Path) -> Manifest | None:
    """Open a CSV file, or a folder with just one at its top that has the columns; None for any other folder."""
    if path.is_file():
        return Manifest(path)
    files = [file for pattern in ("*.csv", "*.tsv") for file in sorted(path.glob(pattern)) if _has_columns(file)]
    return Manifest(files[0]) if len(files) == 1 else None


def _safe_id(path: Path, root: Path) -> str:
    """Return the posix path from ``root``; of a file elsewhere its whole path, without what leads out of a folder."""
    full, top = Path(os.path.normpath(path.absolute())), Path(os.path.normpath(root.absolute()))
    return full.relative_to(top if full.is_relative_to(top) else full.anchor).as_posix()


def _has_columns(file: Path) -> bool:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        header = stream.readline()
    return {"image", "label"} <= set(_fields(header))


def _fields(header: str) -> list[str]:
    return [name.strip().lower() for name in next(csv.reader([header], delimiter=_delimiter(header)), [])]


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _read_rows(file: Path) -> dict[str, dict[str, list[_Row]]]:
    """Return split -> image -> rows."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}.") from error
    header = _fields(lines[0]) if lines else []
    for column in ("image", "label"):
        if column not in header:
            hint = closest(column, header)
            raise DataError(
                f"{file} has no column {column!r}.{hint} Its first line is: {', '.join(header) or 'empty'}."
            )
    splits: dict[str, dict[str, list[_Row]]] = defaultdict(lambda: defaultdict(list))
    reader = csv.DictReader(lines[1:], fieldnames=header, delimiter=_delimiter(lines[0]), restval="")
    try:
        for row in reader:
            parsed = _parse(row)
            image = row["image"].strip().replace("\\", "/")
            splits[row.get("split", "").strip() or "train"][image].append(parsed)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{file}, line {reader.line_num + 1}: {error}.") from error
    if not splits:
        raise DataError(f"{file} lists no image. Add rows below its header.")
    return splits


def _parse(row: dict[str, str]) -> _Row:
    if None in row:
        raise ValueError("the row has more cells than the header; quote what holds a separator")
    if not row["image"].strip():
        raise ValueError("the column 'image' is empty")
    labels = tuple(label.strip() for label in row["label"].split("|") if label.strip())
    difficult = row.get("difficult", "").strip().lower()
    if difficult not in _BOOLEANS:
        raise ValueError(f"'difficult' is {difficult!r}, not 0 or 1")
    cells = [row.get(name, "").strip() for name in _CORNERS]
    if not any(cells):
        return _Row(labels, None, _BOOLEANS[difficult])
    if not all(cells):
        raise ValueError("a box needs all of x0, y0, x1, y1")
    if len(labels) != 1:
        raise ValueError("a row with a box needs exactly one label")
    x0, y0, x1, y1 = map(float, cells)
    return _Row(labels, (x0, y0, x1, y1), _BOOLEANS[difficult])
