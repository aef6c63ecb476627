"""What is true about one image: its objects by class, and its mask where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.datasets.base import BoxedSample
from gwapctl.datasets.wsoleval import WsolevalSample
from gwapctl.errors import DataError
from gwapctl.images.decode import read_image
from gwapctl.metrics.foreground import boxes_mask
from gwapctl.predict.image_index import ImageIndex
from gwapctl.regions.components import BoolMask

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")  # not JPEG: it blurs the edges of masks


def true_boxes(sample: BoxedSample) -> dict[int, FloatArray]:
    """Return ``{class: boxes (N, 4)}`` of the classes present; their difficult objects are right answers, too.

    A class of which there are only difficult objects is left out, as VOC does.
    """
    if not len(sample.boxes):
        return {}
    by_class = {label: sample.boxes[sample.box_labels == label] for label in sample.labels}
    return {label: boxes for label, boxes in by_class.items() if len(boxes)}


class Masks:
    """Finds the mask of a sample: in ``folder`` (``<image id>.png``, with or without the image's suffix) or its own.

    In ``folder`` any value but 0 is object; of the data set's own masks those from the sample's ``mask_level`` on.

    Raises:
        DataError: the folder does not exist, or holds no mask.

    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}
        if folder is not None:
            found = sorted(path for path in folder.rglob("[!.]*") if path.suffix.lower() in MASK_SUFFIXES)
            self._files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}
            if not self._files:
                raise DataError(
                    f"{folder} holds no mask ({', '.join(MASK_SUFFIXES)}). Give a folder of <image id>.png."
                )
        self._index = ImageIndex(self._files)

    def at(self, sample: BoxedSample, width: int, height: int) -> npt.NDArray[np.uint8] | None:
        """Return the mask ``(height, width)`` of ``sample``: 1 object, 0 background, 255 not counted; None without one.

        Raises:
            DataError: there is a folder of masks but none for this sample, or a file is broken.

        """
        if isinstance(sample, WsolevalSample):
            return sample.mask_at(width, height)
        if self._folder is None:
            return None if sample.mask is None else _read(sample.mask, width, height, sample.mask_level)
        found = self._index.find(sample.id, sample.path.as_posix())
        if found is None:
            raise DataError(f"{self._folder} has no mask for {sample.id!r}. Name it {Path(sample.id).stem}.png.")
        return _read(self._files[found], width, height)


def _read(path: Path, width: int, height: int, level: int = 1) -> npt.NDArray[np.uint8]:
    mask = (read_image(path).max(axis=2) >= level).astype(np.uint8)
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


@dataclass(frozen=True)
class Annotation:
    """One image: its ``labels``, ``boxes`` (N, 4) by class, their union ``area`` (H, W), and ``mask`` (H, W) if any.

    ``area`` is what the F-measure compares with: boxes of all classes, difficult ones included; None without boxes.
    """

    labels: tuple[int, ...]
    boxes: Mapping[int, FloatArray]
    area: BoolMask | None
    mask: npt.NDArray[np.uint8] | None

    @classmethod
    def of(cls, sample: BoxedSample, width: int, height: int, masks: Masks) -> Annotation:
        """Draw what is true of ``sample`` in the pixels of its image of ``width x height``."""
        area = boxes_mask(sample.boxes, width, height) if len(sample.boxes) else None
        return cls(sample.labels, true_boxes(sample), area, masks.at(sample, width, height))
