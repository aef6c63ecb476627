"""CSV and JSON lines: every number as it is, in our own box convention."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator

from gwapctl.formats.base import ClassTable, FileExporter, usable
from gwapctl.predict.prediction import Prediction

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
    csv.writer(text, lineterminator="\r\n").writerow(cells)  # quotes the characters of its line end, both are wanted
    return text.getvalue().removesuffix("\r\n") + "\n"


class Jsonl(FileExporter):
    """The lines of ``localize --format jsonl``, images that failed included."""

    one_look = True

    def lines(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[str]:
        """Yield one document per image."""
        for item in usable(items, keep_failed=True):
            yield json.dumps(item.to_json(), ensure_ascii=False, allow_nan=False) + "\n"
