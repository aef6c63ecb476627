"""YOLO: ``data.yaml``, ``classes.txt`` and one text file per image below ``labels/``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gwapctl import boxes
from gwapctl.formats.base import ClassTable, FolderExporter, annotation_name, boxed
from gwapctl.predict.prediction import Prediction


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


def _yaml(table: ClassTable) -> str:
    # a JSON string is a valid YAML string, whatever the name holds
    names = "".join(f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(table.names))
    # without a path: a relative one counts from the working folder, none is the folder of this file
    return f"train: images\nval: images\nnc: {len(table.names)}\nnames:{' {}' * (not names)}\n{names}"
