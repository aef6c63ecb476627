"""CUB-200-2011: birds of 200 species, one box each, and masks where the segmentations are unpacked, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gwapctl.boxes import from_xywh
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.datasets.folders import find_folder, read_lines
from gwapctl.datasets.objects import LabelledObject, make_sample
from gwapctl.errors import DataError

FOLDER = "CUB_200_2011"
HALF = 255 // 2  # a mask's grey value is the share of the annotators who marked the pixel, 255 for all of them


class Cub(Dataset):
    """The official folder. Boxes are ``x, y, width, height`` on disk; sample ids are paths below ``images``.

    Foreground are the pixels of ``segmentations`` that at least half of the annotators marked: ours, no rule is stated.
    """

    name = "cub"
    multi_label = False

    def __init__(self, root: Path) -> None:
        self.root = root
        names = _read_table(root / "classes.txt", columns=1)
        self._index = {number: index for index, number in enumerate(sorted(names, key=int))}
        self.classes = tuple(ClassName(_readable(names[number][0]), names[number][0]) for number in self._index)
        self._masks = next((path for path in (root, root.parent) if (path / "segmentations").is_dir()), None)

    def splits(self) -> tuple[str, ...]:
        """Return ``train`` and ``test``."""
        return ("train", "test")

    def notes(self, split: str) -> list[str]:
        """Say which pixels of the masks count, where there are masks."""
        del split
        said = "its masks count the pixels that at least half of the annotators marked"
        return [] if self._masks is None else [said]

    def _read(self, split: str) -> list[BoxedSample | None]:
        """Return the samples in the order of ``images.txt``."""
        labels = _read_table(self.root / "image_class_labels.txt", columns=1)
        boxes = _read_table(self.root / "bounding_boxes.txt", columns=4)
        in_train = _read_table(self.root / "train_test_split.txt", columns=1)
        images = _read_table(self.root / "images.txt", columns=1)
        wanted = "1" if split == "train" else "0"
        try:
            chosen = [number for number in images if in_train[number][0] == wanted]
            return [self._sample(images[n][0], self._index[labels[n][0]], boxes[n]) for n in chosen]
        except (KeyError, ValueError) as error:
            raise DataError(f"the tables of {self.root} disagree about {error}. Unpack the archive again.") from error

    def _sample(self, name: str, label: int, box: list[str]) -> BoxedSample | None:
        path = self.root / "images" / name
        if not path.is_file():
            self.problems.error(
                f"{self.root / 'images.txt'} lists {path}, which is not there. Unpack the archive again."
            )
            return None
        x, y, width, height = map(float, box)
        mask = self._masks / "segmentations" / f"{name.rpartition('.')[0]}.png" if self._masks is not None else None
        sample = make_sample(
            name,
            path,
            [LabelledObject(label, (x, y, width, height))],
            convert=from_xywh,
            size=None,
            source=self.root / "bounding_boxes.txt",
            problems=self.problems,
            mask=mask if mask is not None and mask.is_file() else None,
        )
        return replace(sample, mask_level=HALF)


def open_cub(roots: Sequence[Path]) -> Cub:
    """Open ``CUB_200_2011``."""
    return Cub(find_folder("cub", FOLDER, roots, proof="images.txt"))


def open_if_cub(folder: Path) -> Cub | None:
    """Open ``folder`` if it is ``CUB_200_2011``; None for any other."""
    files = (folder / "images.txt", folder / "image_class_labels.txt")
    return Cub(folder) if all(file.is_file() for file in files) else None


def _readable(name: str) -> str:
    """Turn ``001.Black_footed_Albatross`` into ``Black footed Albatross``."""
    return name.partition(".")[2].replace("_", " ") or name


def _read_table(file: Path, columns: int) -> dict[str, list[str]]:
    """Read ``number value ...`` lines into number -> values."""
    rows: dict[str, list[str]] = {}
    for row, line in enumerate(read_lines(file), start=1):
        number, *values = line.split()
        if len(values) != columns or not number.isdecimal():
            raise DataError(f"{file}, line {row}: expected a number and {columns} more columns.")
        rows[number] = values
    return rows
