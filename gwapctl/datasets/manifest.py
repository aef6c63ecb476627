"""CSV manifest: ``image,label[,split][,x0,y0,x1,y1][,difficult][,width,height]``, one row per label or box.

``image`` counts from the folder of the file, its ``images`` or that of the split. ``label`` may hold several, separated
by ``|``, or none. Boxes are ours: half-open, 0-based, in pixels of the upright image, or of one of ``width`` x
``height``. Usual other names of these columns (``filename``, ``class``, ``xmin``) are known; no other columns are read.
Comma, semicolon or tab separates. Rows without a split belong to the one that the file's name says, or ``train``.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gwapctl.boxes import as_boxes
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.datasets.cells import plain_cell
from gwapctl.datasets.folders import SPLIT_NAMES, file_in, relative_id, split_folders, split_in, split_of
from gwapctl.datasets.objects import Corners, LabelledObject, make_sample, stated_size
from gwapctl.errors import DataError, closest
from gwapctl.files import read_text, text_encoding
from gwapctl.images.files import nfc

_CORNERS = ("x0", "y0", "x1", "y1")
_BOOLEANS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
_SYNONYMS = {
    "image": ("filename", "file_name", "image_path", "filepath", "file_path", "image_name", "path", "img"),
    "label": ("class", "class_name", "category", "category_name"),
    **{ours: (theirs,) for ours, theirs in zip(_CORNERS, ("xmin", "ymin", "xmax", "ymax"), strict=True)},
}
_MORE_CELLS = "the row has more cells than the header; quote what holds a separator"
_HEADER_BYTES = 65536  # a header ends before that


class _Row(NamedTuple):
    labels: tuple[str, ...]
    corners: Corners | None
    difficult: bool
    size: tuple[int, int] | None = None


Rows = dict[str, list[_Row]]  # image -> rows


class Manifest(Dataset):
    """Images listed in CSV files; multi-label as soon as one image has two labels."""

    def __init__(self, name: str, root: Path, files: Sequence[Path]) -> None:
        self.name = name
        self.root = root
        self._broken: list[str] = []
        self._tables = [(file, _read_rows(file, self._broken)) for file in files]
        images = [rows for _, table in self._tables for split in table.values() for rows in split.values()]
        names = sorted({label for rows in images for row in rows for label in row.labels})
        if not names:
            raise DataError(f"{files[0]} has no label. Fill its column 'label'.")
        self.classes = tuple(ClassName(name, name) for name in names)
        self.multi_label = any(len({label for row in rows for label in row.labels}) != 1 for rows in images)

    def splits(self) -> tuple[str, ...]:
        """Return the values of the column ``split``, or what the files' names say, or ``train``."""
        return tuple(dict.fromkeys(split for _, table in self._tables for split in table))

    def _read(self, split: str) -> Iterator[BoxedSample]:
        """Yield the samples in the order of the file."""
        while self._broken:
            self.problems.error(self._broken[0])
            del self._broken[0]
        found: dict[Path, tuple[Path, list[_Row]]] = {}
        for file, table in self._tables:
            folders = [file.parent, *(self.root / folder for folder in ("images", split, f"images/{split}"))]
            for image, rows in table.get(split, {}).items():
                path = file_in(folders, image)
                if path is None:
                    text = f"{file}: there is no image {file.parent / image}. Restore it or remove its row."
                    self.problems.error(text)
                else:
                    found.setdefault(path, (file, []))[1].extend(rows)
        return (self._sample(path, rows, file) for path, (file, rows) in found.items())

    def _sample(self, path: Path, rows: list[_Row], file: Path) -> BoxedSample:
        name = relative_id(path, self.root)
        once = list(dict.fromkeys(rows))
        if len(once) < len(rows):
            text = f"{file}: {name} has {len(rows) - len(once)} rows that repeat another; they count once."
            self.problems.warn(text, kind="repeated rows")
        objects = [
            LabelledObject(self.class_index[label], row.corners, row.difficult) for row in once for label in row.labels
        ]
        size = next((row.size for row in rows if row.size is not None and row.corners is not None), None)
        return make_sample(name, path, objects, convert=as_boxes, size=size, source=file, problems=self.problems)


def open_manifest(path: Path) -> Manifest | None:
    """Open a CSV file, or the one in a folder that has the columns, or one per split; None for any other folder.

    Those of splits are called so (``train.csv``), or lie in folders that are.

    Raises:
        DataError: the file lacks a column, or several files may be meant.

    """
    if path.is_file():
        return Manifest(path.stem, path.parent, [path])
    folders = [path, *(folder for _, folder in split_folders(path))]
    tables = ([file for file in csv_files(folder) if not _missing_columns(_header(file))] for folder in folders)
    files = next(tables) or [file for found in tables for file in found]  # at the top, or one per folder of a split
    if not files:
        return None
    if len(files) == 1:
        return Manifest(files[0].stem, path, files)
    splits = [_usual_split(file) for file in files]
    if None in splits or len(set(splits)) < len(splits):
        listed = ", ".join(file.relative_to(path).as_posix() for file in files)
        raise DataError(f"{path} has several manifests: {listed}. Give the one you mean as the DATASET.")
    return Manifest(path.resolve().name, path, files)


def csv_files(folder: Path) -> list[Path]:
    """Return the CSV files at the top of a folder."""
    return [file for pattern in ("[!.]*.csv", "[!.]*.tsv") for file in sorted(folder.glob(pattern))]


def most_likely(files: Sequence[Path]) -> Path:
    """Return the CSV file that comes nearest to a manifest."""
    return min(files, key=lambda file: (len(_missing_columns(_header(file))), split_in(file.stem) is None))


def what_is_missing(file: Path) -> str:
    """Say what a CSV file lacks to be a manifest."""
    header = _header(file)
    if any("\0" in name for name in header):
        return f"{file} is UTF-16 without a mark, or no text; save it as UTF-8"
    missing = " and ".join(map(repr, _missing_columns(header)))
    return f"{file} has no column {missing}; its first line is: {', '.join(header) or 'empty'}"


def _header(file: Path) -> list[str]:
    """Return the columns that the first line names, without reading more than that."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_HEADER_BYTES)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}.") from error
    lines = data.decode(text_encoding(data), errors="replace").splitlines()
    return _fields(lines[0]) if lines else []


def _missing_columns(header: Sequence[str]) -> list[str]:
    return [name for name in ("image", "label") if name not in header]


def _fields(header: str) -> list[str]:
    """Return the columns of a header by the names that we call them."""
    fields = [name.strip().lower() for name in next(csv.reader([header], delimiter=_delimiter(header)), [])]
    for ours, theirs in _SYNONYMS.items():
        other = next((name for name in theirs if name in fields), None)
        if ours not in fields and other is not None:
            fields[fields.index(other)] = ours
    return fields


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _read_rows(file: Path, broken: list[str]) -> dict[str, Rows]:
    """Return split -> image -> rows; what is wrong with single rows is added to ``broken``."""
    lines = read_text(file).splitlines()
    header = _fields(lines[0]) if lines else []
    for column in _missing_columns(header):
        hint = closest(column, header)
        raise DataError(f"{file} has no column {column!r}.{hint} Its first line is: {', '.join(header) or 'empty'}.")
    splits: dict[str, Rows] = defaultdict(lambda: defaultdict(list))
    reader = csv.DictReader(lines[1:], fieldnames=header, delimiter=_delimiter(lines[0]), restval="")
    usual = _usual_split(file) or "train"
    try:
        for row in reader:
            line = f"{file}, line {reader.line_num + 1}"
            row = {key: plain_cell(cell) if isinstance(cell, str) else cell for key, cell in row.items()}
            image = row["image"].strip().replace("\\", "/")
            if None in row or not image:
                why = _MORE_CELLS if image else "the column 'image' is empty"
                broken.append(f"{line}: {why}.")
                continue
            parsed, mistakes = _parse(row)
            broken += [f"{line}: {mistake}." for mistake in mistakes]
            split = row.get("split", "").strip()
            splits[SPLIT_NAMES.get(split.lower(), split) or usual][_key(image)].append(parsed)
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num + 1}: {error}.") from error
    if not splits:
        raise DataError(broken[0] if broken else f"{file} lists no image. Add rows below its header.")
    return splits


def _usual_split(file: Path) -> str | None:
    """Return the split that the name of a file says, or that of its folder."""
    return split_in(file.stem) or split_of(file.parent.name)


def _key(image: str) -> str:
    """Return the one spelling of an image's path, so that its rows find together."""
    return nfc(Path(os.path.normpath(image)).as_posix())


def _parse(row: dict[str, str]) -> tuple[_Row, list[str]]:
    """Return what a row says and what is wrong with it; a broken box leaves its labels."""
    labels = tuple(nfc(label.strip()) for label in row["label"].split("|") if label.strip())
    difficult = row.get("difficult", "").strip().lower()
    mistakes = [] if difficult in _BOOLEANS else [f"'difficult' is {difficult!r}, not 0 or 1"]
    try:
        corners = _corners(row, labels)
    except ValueError as error:
        corners = None
        mistakes.append(str(error))
    size = stated_size(row.get("width"), row.get("height"))
    return _Row(labels, corners, _BOOLEANS.get(difficult, False), size), mistakes


def _corners(row: dict[str, str], labels: tuple[str, ...]) -> Corners | None:
    cells = [row.get(name, "").strip() for name in _CORNERS]
    if not any(cells):
        return None
    if not all(cells):
        raise ValueError("a box needs all of x0, y0, x1, y1")
    if len(labels) != 1:
        raise ValueError("a row with a box needs exactly one label")
    x0, y0, x1, y1 = map(float, cells)
    return (x0, y0, x1, y1)
