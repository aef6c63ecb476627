"""Metadata folders of wsolevaluation (Choe et al., CVPR 2020, arXiv 2001.07437).

One folder per split (``metadata/CUB/test``), comma separated, one line per image or object: ``image_ids.txt`` (id),
``class_labels.txt`` (id, class), ``image_sizes.txt`` (id, width, height), ``localization.txt``: id, x0, y0, x1, y1 for
boxes, or id, mask file, ignore file for masks (OpenImages30k: several lines per image, no ``image_sizes.txt``). Images
need not be there. Coordinates are read as 0-based inclusive corners, as the protocol does.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.boxes import as_boxes, from_inclusive
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.datasets.folders import read_lines
from gwapctl.errors import DataError, option, reading
from gwapctl.images.decode import image_size, read_image

IGNORE = 255
MOST_CLASSES = 1_000_000  # a greater number of a class would be as many classes: the file does not name them
Rows = dict[str, list[list[str]]]


@dataclass(frozen=True)
class WsolevalSample(BoxedSample):
    """A sample whose foreground is the union of ``masks``; pixels of ``ignore`` outside of it do not count."""

    masks: tuple[Path, ...] = ()
    ignore: Path | None = None

    def mask_at(self, width: int, height: int) -> npt.NDArray[np.uint8]:
        """Return the mask ``(height, width)``: 1 foreground, 0 background, 255 ignored.

        Every file is resized to the nearest pixel before they are united.

        Raises:
            DataError: a mask file cannot be read.

        """
        size = (width, height)
        foreground = np.any([_read_mask(path, size) for path in self.masks], axis=0)
        mask: npt.NDArray[np.uint8] = foreground.astype(np.uint8)
        if self.ignore is not None:
            mask[_read_mask(self.ignore, size) & ~foreground] = IGNORE
        return mask


class WsolevalDataset(Dataset):
    """The metadata of one or several splits: ``folder`` holds ``image_ids.txt``, or one folder per split that does."""

    def __init__(self, folder: Path, masks: Path | None = None) -> None:
        self.root = folder
        self.name = folder.name
        self.multi_label = False
        self._masks = masks
        self._splits = _split_folders(folder)
        if not self._splits:
            raise DataError(
                f"{folder} has no image_ids.txt. Give a metadata folder of wsolevaluation, such as metadata/CUB/test."
            )
        self._labels = {split: _read_labels(path) for split, path in self._splits.items()}
        count = 1 + max(label for labels in self._labels.values() for label in labels.values())
        self.classes = tuple(ClassName(str(index), str(index)) for index in range(count))

    def _read(self, split: str) -> list[BoxedSample]:
        """Return the samples in the order of ``image_ids.txt``; one of them without label or position is an error."""
        folder = self._splits[split]
        positions = _read_rows(folder / "localization.txt")
        sizes = _read_rows(folder / "image_sizes.txt") if (folder / "image_sizes.txt").exists() else {}
        masks = self._mask_folder(folder, positions)
        return [self._sample(folder, image, split, positions, sizes, masks) for image in _read_ids(folder)]

    def _sample(
        self, folder: Path, image: str, split: str, positions: Rows, sizes: Rows, masks: Path | None
    ) -> BoxedSample:
        label = self._labels[split].get(image)
        if label is None or image not in positions:
            missing = "class_labels.txt" if label is None else "localization.txt"
            raise DataError(f"{folder / missing} says nothing about {image!r} of image_ids.txt. Complete the file.")
        rows = positions[image]
        size = _numbers(sizes[image][0], 2, folder / "image_sizes.txt") if image in sizes else None
        if size and min(size) < 1:
            raise DataError(f"{folder / 'image_sizes.txt'}: {image!r} is {size[0]:g} x {size[1]:g}. Correct its size.")
        path, shape = self.root / image, (int(size[0]), int(size[1])) if size else None
        if masks is not None:
            shape = shape or image_size(masks / rows[0][0])
            ignore = next((row[1] for row in rows if len(row) > 1 and row[1]), None)
            return WsolevalSample(
                image,
                path,
                (label,),
                size=shape,
                masks=tuple(masks / row[0] for row in rows),
                ignore=masks / ignore if ignore else None,
            )
        corners = as_boxes([_numbers(row, 4, folder / "localization.txt") for row in rows])
        return BoxedSample(
            image,
            path,
            (label,),
            size=shape,
            boxes=from_inclusive(corners),
            box_labels=np.full(len(corners), label, np.int64),
            difficult=np.zeros(len(corners), np.bool_),
        )

    def _mask_folder(self, folder: Path, positions: Rows) -> Path | None:
        """Return the folder that holds the mask files, or None where positions are boxes."""
        first = next((rows[0][0] for rows in positions.values() if not _is_number(rows[0][0])), None)
        if first is None:
            return None
        base = self._masks or folder.parent / "masks"
        with reading(folder / "localization.txt"):  # the name may be none that a system can have
            for candidate in (base, *sorted(path for path in base.glob("*") if path.is_dir())):
                if (candidate / first).is_file():
                    return candidate
        raise DataError(
            f"mask {first} of {folder / 'localization.txt'} is not under {base}. Give their folder with "
            f"{option('masks')}."
        )


def open_if_wsoleval(folder: Path) -> WsolevalDataset | None:
    """Open ``folder`` if it looks like metadata of wsolevaluation; None for any other."""
    return WsolevalDataset(folder) if _split_folders(folder) else None


def _split_folders(folder: Path) -> dict[str, Path]:
    if (folder / "image_ids.txt").is_file():
        return {folder.resolve().name: folder}
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/image_ids.txt"))}


def _read_ids(folder: Path) -> list[str]:
    """Read ``image_ids.txt`` (``image_ids_proxy.txt`` and other columns of the metadata are not needed)."""
    ids = read_lines(folder / "image_ids.txt")
    if not ids:
        raise DataError(f"{folder / 'image_ids.txt'} is empty.")
    return ids


def _read_rows(path: Path) -> Rows:
    """Read ``id,value,...`` lines into ``{id: [[value, ...], ...]}``, in the file's order."""
    rows: Rows = defaultdict(list)
    for number, line in enumerate(read_lines(path), start=1):
        image, *values = line.split(",")
        if not values:
            raise DataError(f"{path}, line {number}: {line!r} has no value after the image id.")
        rows[image].append(values)
    return dict(rows)


def _read_labels(folder: Path) -> dict[str, int]:
    path = folder / "class_labels.txt"
    labels = {image: _numbers(rows[0], 1, path)[0] for image, rows in _read_rows(path).items()}
    if not labels:
        raise DataError(f"{path} is empty.")
    for image, label in labels.items():
        if label != int(label) or not 0 <= label < MOST_CLASSES:
            raise DataError(f"{path}: class {label:.15g} of {image!r} is no number from 0 to {MOST_CLASSES - 1:,}.")
    return {image: int(label) for image, label in labels.items()}


def _numbers(values: list[str], count: int, path: Path) -> list[float]:
    if len(values) != count or not all(_is_number(value) for value in values):
        raise DataError(f"{path}: {','.join(values)!r} should be {count} number{'s' * (count > 1)}.")
    return [float(value) for value in values]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _read_mask(path: Path, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Read one mask file at ``size`` (width, height); any non-zero value is foreground."""
    grey = read_image(path).max(axis=2)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_NEAREST) > 0)
