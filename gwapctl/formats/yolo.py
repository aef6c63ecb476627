"""YOLO: ``data.yaml``, ``classes.txt`` and one text file per image below ``labels/``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import escape as glob_escape
from pathlib import Path

from gwapctl import boxes
from gwapctl.datasets.yolo import class_number, read_fractions
from gwapctl.datasets.yolo_tree import Names, names_file
from gwapctl.errors import DataError
from gwapctl.files import read_text
from gwapctl.formats.base import ClassTable, FolderExporter, SizeOf, annotation_name, boxed
from gwapctl.images.decode import image_size
from gwapctl.predict.prediction import ClassPrediction, Prediction

SCORED = 6  # values of a line with a score


@dataclass(frozen=True)
class Yolo(FolderExporter):
    """``class cx cy w h`` in fractions of the image, six decimals; ``scores`` adds a sixth column.

    Readers of data sets take five columns only; six are for tools that read predictions. An image without a box has an
    empty file, which trainers read as background.
    """

    scores: bool = False

    def files(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[tuple[str, str]]:
        """Yield ``labels/<image id less its suffix>.txt`` and the lists of classes."""
        yield "classes.txt", "".join(f"{name}\n" for name in table.names)
        yield "data.yaml", _yaml(table)
        for item in items:
            rows = ""
            for prediction, box in boxed(item):
                numbers = [*boxes.to_yolo(box, item.width, item.height)[0], *[prediction.score] * self.scores]
                rows += " ".join([str(table.number(prediction)), *(f"{number:.6f}" for number in numbers)]) + "\n"
            yield f"labels/{annotation_name(item.id)}.txt", rows


def read_yolo(folder: Path, size_of: SizeOf | None = None) -> Iterator[Prediction]:
    """Yield the boxes of the files below ``labels``, scores of a sixth column too; images are named without suffix.

    Boxes are fractions of an image: its size is what ``size_of`` says, which leaves out images that it does not know,
    or else that of the image below ``images``.

    Raises:
        DataError: a line is broken, or the size of an image is not known.

    """
    names = names_file(folder, {})
    for file in sorted((folder / "labels").rglob("[!.]*.txt")):
        name = file.relative_to(folder / "labels").with_suffix("").as_posix()
        size = size_of(name) if size_of is not None else _size_beside(folder, name)
        if size is None and size_of is not None:
            continue
        if size is None:
            raise DataError(
                f"{file} has fractions of an image that is not there: put it, or a link, below {folder / 'images'}."
            )
        lines = [line for line in read_text(file).splitlines() if line.strip()]
        try:
            found = tuple(_read_line(line, names, size) for line in lines)
        except ValueError as error:
            raise DataError(f"{file}: {error}.") from error
        yield Prediction(name, *size, predictions=found)


def _size_beside(folder: Path, name: str) -> tuple[int, int] | None:
    image = next((file for file in sorted((folder / "images").glob(f"{glob_escape(name)}.*"))), None)
    return None if image is None else image_size(image)


def _read_line(line: str, names: Names, size: tuple[int, int]) -> ClassPrediction:
    """Read one box; it is a ``ValueError`` that the line is none."""
    label, score, values = names.by_number[class_number(line, names)], 1.0, line.split()
    if len(values) == SCORED:
        score = float(values.pop())
    box = boxes.from_yolo(read_fractions(" ".join(values)), *size)
    if not boxes.valid(boxes.clip(box, *size))[0]:
        raise ValueError(f"the box {line.strip()!r} has no pixel of the image")
    x0, y0, x1, y1 = box[0].tolist()
    return ClassPrediction(label, "", score, (x0, y0, x1, y1))


def _yaml(table: ClassTable) -> str:
    # a JSON string is a valid YAML string, whatever the name holds
    names = "".join(f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(table.names))
    # without a path: a relative one counts from the working folder, none is the folder of this file
    return f"train: images\nval: images\nnc: {len(table.names)}\nnames:{' {}' * (not names)}\n{names}"
