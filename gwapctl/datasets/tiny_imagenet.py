"""Tiny ImageNet (Stanford CS231n) in its official layout: 64x64 photos, 200 classes, one box per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gwapctl.boxes import from_inclusive, valid
from gwapctl.datasets.base import BoxedSample, Dataset
from gwapctl.datasets.class_names import name_classes, read_synonyms
from gwapctl.datasets.folders import find_folder, photos_in, read_lines
from gwapctl.errors import DataError

SIZE = (64, 64)


class TinyImageNet(Dataset):
    """``wnids.txt``, ``words.txt``, ``train/<wnid>/images`` and ``val/images`` with their box files.

    The official ``test`` images have no labels, so there is no such split. Boxes are 0-based inclusive on disk. The few
    that are inverted or have no width are left out; their images stay.
    """

    name = "tiny-imagenet"
    multi_label = False

    def __init__(self, root: Path) -> None:
        self.root = root
        wnids = sorted(read_lines(root / "wnids.txt"))
        if not wnids:
            raise DataError(f"{root / 'wnids.txt'} lists no class. Unpack tiny-imagenet-200.zip again.")
        words = root / "words.txt"
        self.classes = name_classes(wnids, read_synonyms(words) if words.is_file() else {})

    def splits(self) -> tuple[str, ...]:
        """Return those of ``train`` and ``val`` that are present."""
        present = {"train": self.root / "train", "val": self.root / "val" / "images"}
        return tuple(split for split, folder in present.items() if folder.is_dir())

    def _read(self, split: str) -> list[BoxedSample]:
        """Return the samples, sorted by class and file name (train) or by file name (val)."""
        return self._train() if split == "train" else self._val()

    def _train(self) -> list[BoxedSample]:
        samples: list[BoxedSample] = []
        for wnid, label in self.class_index.items():
            folder = self.root / "train" / wnid
            rows = _read_rows(folder / f"{wnid}_boxes.txt", columns=5)
            boxes = {row[0]: row[1:] for row in rows}
            samples += _samples(folder / "images", {name: label for name in photos_in(folder / "images")}, boxes)
        return samples

    def _val(self) -> list[BoxedSample]:
        file = self.root / "val" / "val_annotations.txt"
        folder = self.root / "val" / "images"
        rows = {row[0]: row for row in _read_rows(file, columns=6)}
        labels: dict[str, int] = {}
        for name in photos_in(folder):
            if name not in rows:
                raise DataError(f"{file} has no line for {folder / name}. Remove the image or restore the file.")
            wnid = rows[name][1]
            if wnid not in self.class_index:
                raise DataError(f"{file}: {name} has class {wnid!r}, which is not in wnids.txt.")
            labels[name] = self.class_index[wnid]
        return _samples(folder, labels, {name: rows[name][2:] for name in labels})


def open_if_tiny_imagenet(folder: Path) -> TinyImageNet | None:
    """Open ``folder`` if it is the official one; None for any other."""
    return TinyImageNet(folder) if (folder / "wnids.txt").is_file() else None


def open_tiny_imagenet(roots: Sequence[Path]) -> TinyImageNet:
    """Open the official folder ``tiny-imagenet-200``."""
    return TinyImageNet(find_folder("tiny-imagenet", "tiny-imagenet-200", roots, proof="wnids.txt"))


def _samples(folder: Path, labels: dict[str, int], boxes: dict[str, list[str]]) -> list[BoxedSample]:
    """Join file names, labels and the rows of a box file; one conversion for all boxes, views for each sample."""
    nothing = ["0", "0", "-1", "-1"]  # an image without a line: dropped below like any other empty box
    names = list(labels)
    corners = from_inclusive(np.array([boxes.get(name, nothing) for name in names], dtype=np.float64))  # (N, 4)
    ends = (np.arange(len(names)) + valid(corners)).tolist()
    box_labels = np.array(list(labels.values()), dtype=np.int64)
    difficult = np.zeros(len(names), dtype=np.bool_)
    return [
        BoxedSample(
            id=name,
            path=folder / name,
            labels=(labels[name],),
            size=SIZE,
            boxes=corners[start:end],
            box_labels=box_labels[start:end],
            difficult=difficult[start:end],
        )
        for start, (name, end) in enumerate(zip(names, ends, strict=True))
    ]


def _read_rows(file: Path, columns: int) -> list[list[str]]:
    """Split a tab-separated file; the last four columns are checked to be integers."""
    if not file.is_file():
        return []
    rows = [line.split("\t") for line in read_lines(file)]
    for number, row in enumerate(rows, start=1):
        if len(row) != columns or not all(value.lstrip("-").isdigit() for value in row[-4:]):
            raise DataError(f"{file}, line {number}: expected {columns} tab-separated columns ending in 4 integers.")
    return rows
