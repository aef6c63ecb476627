"""ILSVRC 2012 CLS-LOC: 1,000 classes, in the official layout or Kaggle's.

Official: ``train/<wnid>/*.JPEG``, ``val/*.JPEG`` (flat, or sorted into ``val/<wnid>``), the development kit
``ILSVRC2012_devkit_t12`` beside them. Kaggle (imagenet-object-localization-challenge): ``ILSVRC/Data/CLS-LOC/...``,
``ILSVRC/Annotations/CLS-LOC/...``, ``LOC_synset_mapping.txt``. Boxes are VOC XML, 0-based inclusive.

Classes are the wnids, sorted: the order of torchvision and wsolevaluation, not that of the development kit.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gwapctl.boxes import from_inclusive
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset, Sample
from gwapctl.datasets.class_names import name_classes, read_synonyms
from gwapctl.datasets.folders import candidates, photos_in, read_lines
from gwapctl.datasets.objects import LabelledObject, make_sample
from gwapctl.datasets.voc import read_voc_xml
from gwapctl.errors import DataError, option
from gwapctl.files import read_text

FOLDERS = ("imagenet", "ILSVRC2012", "imagenet-object-localization-challenge")

_WNID = re.compile(r"n\d{8}")
_DEVKIT = "ILSVRC2012_devkit_t12/data"
_NAME_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")
_BLACKLISTS = ("ILSVRC2014_clsloc_validation_blacklist.txt", "ILSVRC2015_clsloc_validation_blacklist.txt")


@dataclass(frozen=True)
class Layout:
    """Where the parts of one copy are."""

    images: Path  # holds train/ and val/
    boxes: tuple[Path, ...]  # each may hold train/ and val/ with XML files
    texts: tuple[Path, ...]  # each may hold name, label and blacklist files

    def text(self, *names: str) -> Path | None:
        """Return the first text file of one of ``names`` that is there."""
        return next((path for name in names for folder in self.texts if (path := folder / name).is_file()), None)


class ImageNet(Dataset):
    """One label per image. Sample ids are file names; ``blacklist`` holds those that the localization error skips."""

    name = "imagenet"
    multi_label = False

    def __init__(self, root: Path, layout: Layout) -> None:
        self.root = root
        self._layout = layout

    @cached_property
    def classes(self) -> tuple[ClassName, ...]:  # type: ignore[override]  # found only when asked for, then kept
        """The wnids in order, named by whatever list of names is there."""
        listed = self._layout.text(*_NAME_FILES)
        synonyms = read_synonyms(listed) if listed is not None else {item[0]: item[1] for item in self._devkit.values()}
        whole = [] if listed is None or listed.name == "words.txt" else sorted(synonyms)  # that names all of WordNet
        wnids = _class_folders(self._layout.images / "train")
        if not wnids:  # images of val alone may be of a part of the classes, and are told from all of them
            of_val = _class_folders(self._layout.images / "val")
            wnids = whole if set(of_val) <= set(whole) else of_val
        wnids = wnids or sorted(wnid for wnid, _ in self._devkit.values())
        if not wnids:
            raise DataError(f"{self.root} does not say its classes. Add {_NAME_FILES[0]} or the development kit.")
        return name_classes(wnids, synonyms)

    @cached_property
    def blacklist(self) -> frozenset[str]:  # type: ignore[override]
        """The ids of the 1,762 images of ``val`` without reliable boxes, where the kit's list is there."""
        file = self._layout.text(*_BLACKLISTS)
        numbers = [int(line) for line in read_lines(file)] if file is not None else []
        return frozenset(f"ILSVRC2012_val_{number:08d}.JPEG" for number in numbers)

    def notes(self, split: str) -> list[str]:
        """Say where the localization error counts the images that the official one leaves out."""
        if split != "val" or self.blacklist:
            return []
        return [f"no blacklist ({' or '.join(_BLACKLISTS)}) beside the data: localization counts all images of val"]

    def splits(self) -> tuple[str, ...]:
        """Return those of ``train`` and ``val`` that are present; the labels of ``test`` are not public."""
        return tuple(split for split in ("train", "val") if (self._layout.images / split).is_dir())

    def samples(self, split: str) -> list[Sample]:
        """Return the samples of ``split`` without reading any box: 1.3 million XML files are too many."""
        self.require_split(split)
        found = [Sample(path.name, path, (label,)) for path, label in self._labelled(split)]
        self.require_images(found, split)
        return found

    def _read(self, split: str) -> Iterator[BoxedSample | None]:
        """Yield the samples; boxes where there is an annotation (all of ``val``, a part of ``train``)."""
        return (self._sample(path, label, split) for path, label in self._labelled(split))

    def _labelled(self, split: str) -> Iterator[tuple[Path, int]]:
        """Yield image files and labels, sorted by class and name, or by name where val is flat."""
        folder = self._layout.images / split
        if _class_folders(folder):
            for wnid, label in self.class_index.items():
                yield from ((folder / wnid / name, label) for name in photos_in(folder / wnid))
            return
        for path in (folder / name for name in photos_in(folder)):
            wnid = self._val_wnid(path)
            if wnid in self.class_index:
                yield path, self.class_index[wnid]
            else:
                self.problems.error(f"{path} has class {wnid!r}, which is none of the {len(self.classes)}.")

    def _val_wnid(self, path: Path) -> str:
        """Return the class of a validation image that lies in no class folder."""
        if path.stem in self._val_labels:
            return self._val_labels[path.stem]
        annotation = self._annotation_file(path, "", "val")
        if annotation is not None:
            found = read_voc_xml(annotation, self.problems)
            if found is not None and found.objects:
                return found.objects[0].name
        raise DataError(
            f"nothing says the class of {path}. Add LOC_val_solution.csv, the development kit or the boxes of val."
        )

    @cached_property
    def _val_labels(self) -> dict[str, str]:
        """Map stems of validation images to wnids, from Kaggle's table or the development kit."""
        table = self._layout.text("LOC_val_solution.csv")
        if table is not None:
            import pandas as pd

            rows = pd.read_csv(io.StringIO(read_text(table)), index_col="ImageId", dtype=str)
            return dict(rows["PredictionString"].str.split(n=1).str[0])
        listed = self._layout.text("ILSVRC2012_validation_ground_truth.txt")
        if listed is None:
            return {}
        numbers = enumerate(read_lines(listed), start=1)
        return {f"ILSVRC2012_val_{image:08d}": self._devkit[int(label)][0] for image, label in numbers}

    @cached_property
    def _devkit(self) -> dict[int, tuple[str, str]]:
        """Map the ILSVRC class numbers (1 to 1000, not in the order of wnids) to (wnid, synonyms)."""
        file = self._layout.text("meta.mat", "meta_clsloc.mat")
        if file is None:
            return {}
        from scipy.io import loadmat

        try:
            synsets = loadmat(file, squeeze_me=True)["synsets"]
            rows = [(int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"])) for row in synsets]
        except Exception as error:  # scipy raises all sorts on broken files
            raise DataError(f"cannot read {file}: {error}. Unpack the development kit again.") from error
        return {number: (wnid, words) for number, wnid, words in rows if number <= 1000}

    def _annotation_file(self, path: Path, wnid: str, split: str) -> Path | None:
        names = (f"{split}/{wnid}/{path.stem}.xml", f"{split}/{path.stem}.xml")
        return next(
            (file for folder in self._layout.boxes for name in names if (file := folder / name).is_file()), None
        )

    def _sample(self, path: Path, label: int, split: str) -> BoxedSample | None:
        objects, size = [LabelledObject(label, None)], None
        file = self._annotation_file(path, self.classes[label].id, split)
        if file is not None:
            annotation = read_voc_xml(file, self.problems)
            if annotation is None:
                return None
            size = annotation.size
            objects += [LabelledObject(label, item.corners) for item in annotation.objects if item.corners is not None]
        return make_sample(
            path.name, path, objects, convert=from_inclusive, size=size, source=file or path, problems=self.problems
        )


def open_imagenet(roots: Sequence[Path]) -> ImageNet:
    """Open a copy below one of ``roots``, or at one, in either layout.

    Raises:
        DataError: there is none.

    """
    for root in roots:
        for folder in [*(folder for name in FOLDERS for folder in candidates(root, name)), root]:
            layout = find_layout(folder)
            if layout is not None:
                return ImageNet(folder, layout)
    looked = ", ".join(str(root / FOLDERS[0]) for root in roots)
    where = f"Say where with {option('root')}, or run: gwapctl data get imagenet"
    raise DataError(f"imagenet is not here: no {looked}. {where}.")


def find_layout(folder: Path) -> Layout | None:
    """Recognise Kaggle's layout or the official one; None for any other folder."""
    kaggle = next((path for path in (folder / "ILSVRC", folder) if (path / "Data" / "CLS-LOC").is_dir()), None)
    if kaggle is not None:
        texts = (folder, kaggle, kaggle.parent, folder / _DEVKIT)
        return Layout(kaggle / "Data" / "CLS-LOC", (kaggle / "Annotations" / "CLS-LOC",), texts)
    is_tiny = next((folder / "train").glob("n*/images"), None) is not None
    sorted_in = any(_class_folders(folder / split) for split in ("train", "val"))
    if is_tiny or not (sorted_in or _has_flat_val(folder)):
        return None
    boxes = (folder / "Annotations", folder / "bbox", folder / "ILSVRC2012_bbox_val_v3", folder)
    return Layout(folder, boxes, (folder, folder / _DEVKIT, folder / "devkit" / "data"))


def open_if_imagenet(folder: Path) -> ImageNet | None:
    """Open ``folder`` if it can only be ImageNet, else None; class folders named by wnids may be any part of it."""
    alone = find_layout(folder) is not None and (_has_flat_val(folder) or not _class_folders(folder / "train"))
    return open_imagenet([folder]) if alone else None


def _has_flat_val(folder: Path) -> bool:
    return next((folder / "val").glob("ILSVRC2012_val_*.JPEG"), None) is not None


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if _WNID.fullmatch(entry.name))
