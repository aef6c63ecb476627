"""CSV and JSON lines: every number as it is, in our own box convention."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

from gwapctl.datasets.cells import plain_cell, safe_cell
from gwapctl.errors import DataError
from gwapctl.files import open_text
from gwapctl.formats.base import ClassTable, FileExporter, usable
from gwapctl.predict.prediction import Box, ClassPrediction, Prediction

COLUMNS = ("image", "width", "height", "label", "label_id", "score", "x0", "y0", "x1", "y1", "doubt")


class Csv(FileExporter):
    """One row per box; a class without a box and an image without a class keep a row with empty cells."""

    one_look = True

    def lines(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[str]:
        """Yield the header and one row per prediction."""
        yield _row(COLUMNS)
        for item in usable(items):
            image = (item.image, item.width, item.height)
            for found in item.predictions:
                yield _row((*image, found.label, found.label_id, found.score, *(found.box or ("",) * 4), found.doubt))
            if not item.predictions:
                yield _row((*image, *("",) * 8))


def _row(cells: Iterable[object]) -> str:
    text = io.StringIO()
    written = [safe_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    csv.writer(text, lineterminator="\r\n").writerow(written)  # quotes the characters of its line end, both are wanted
    return text.getvalue().removesuffix("\r\n") + "\n"


class Jsonl(FileExporter):
    """The lines of ``localize --format jsonl``, images that failed included."""

    one_look = True

    def lines(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[str]:
        """Yield one document per image."""
        for item in usable(items, keep_failed=True):
            yield json.dumps(item.to_json(), ensure_ascii=False, allow_nan=False) + "\n"


def read_csv(file: Path) -> Iterator[Prediction]:
    """Yield the images of a table of boxes as ``gwapctl boxes --format csv`` writes it, one image per row.

    Raises:
        DataError: the file cannot be read, or lacks a column or a cell.

    """
    with open_text(file, newline="") as lines:
        rows = csv.DictReader(lines)
        try:
            missing = set(COLUMNS) - {"doubt"} - set(rows.fieldnames or ())  # earlier versions knew no doubt
            if missing:
                raise DataError(f"{file} lacks the columns {', '.join(sorted(missing))}. Write it with gwapctl boxes.")
            for row in rows:
                yield _image_of(row)
        except (ValueError, csv.Error) as error:
            raise DataError(f"cannot read {file}, line {rows.line_num}: {error}.") from error


def _image_of(row: Mapping[str, str]) -> Prediction:
    if None in row or None in row.values():
        raise ValueError("the row has not as many cells as the header")
    row = {key: plain_cell(cell) for key, cell in row.items()}
    found = []
    if row["label"] or row["label_id"]:  # an image without any class keeps a row with empty cells
        box = None if not row["x0"] else tuple(float(row[key]) for key in ("x0", "y0", "x1", "y1"))
        doubt = float(row["doubt"]) if row.get("doubt") else None
        named = ClassPrediction(row["label"], row["label_id"], float(row["score"]), cast(Box | None, box), doubt=doubt)
        found.append(named)
    elif row["x0"]:
        raise ValueError("there is a box, but no label")
    width, height = (int(float(row[key] or 0)) for key in ("width", "height"))  # spreadsheets write 80 as 80.0
    return Prediction(row["image"], width, height, predictions=tuple(found))
