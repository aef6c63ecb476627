"""PNG masks: of the classes and of the objects, as label images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from gwapctl.errors import UsageError, option
from gwapctl.formats.base import ClassTable, FolderExporter, annotation_name, boxed, mask_of
from gwapctl.predict.prediction import Prediction


@dataclass(frozen=True)
class Png(FolderExporter):
    """Two grey images per image, as large as it: 0 is background, pixels of ``classes/`` are class numbers from 1.

    Pixels of ``objects/`` number the boxes of the image from 1, in the order of the other formats. Where two objects
    overlap, the one with the better score has the pixel. Above 255 they have 16 bits.
    """

    masks: str = "rle"

    def files(self, items: Iterable[Prediction], table: ClassTable) -> Iterator[tuple[str, str | bytes]]:
        """Yield ``classes.txt`` and, of each image, ``classes/<image id less its suffix>.png`` and ``objects/...``."""
        yield "classes.txt", "".join(f"{name}\n" for name in table.names)
        for item in items:
            classes = np.zeros((item.height, item.width), np.uint16)
            objects = np.zeros_like(classes)
            numbered = list(enumerate(boxed(item), start=1))
            for number, (found, _) in sorted(numbered, key=lambda pair: pair[1][0].score):  # the best comes last
                mask = mask_of(found)
                if mask is None:
                    how = f"Cut them from maps, with {option('masks', 'rle')}"
                    raise UsageError(f"the boxes of {item.id!r} have no masks. {how}.")
                classes[mask], objects[mask] = table.number(found) + 1, number
            name = annotation_name(item.id)
            yield f"classes/{name}.png", _png(classes)
            yield f"objects/{name}.png", _png(objects)


def _png(labels: np.ndarray) -> bytes:
    small = labels.astype(np.uint8) if labels.max(initial=0) <= np.iinfo(np.uint8).max else labels
    return bytes(cv2.imencode(".png", small)[1])
