"""Data sets by name or as a folder, and which of a data set's splits is for what.

A new data set is a reader in a file of this folder, one entry in ``DATASETS`` and its tests. Names and settings need no
numpy: a reader's module is imported when a data set is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from gwapctl.datasets import published
from gwapctl.datasets.folders import data_folders
from gwapctl.datasets.published import Archive
from gwapctl.errors import DataError, UsageError, option, unknown_name

if TYPE_CHECKING:
    from gwapctl.datasets.base import Dataset


@dataclass(frozen=True)
class DatasetEntry:
    """What is known of a data set without importing its reader.

    Attributes:
        path: ``module:function`` that opens it below one of the folders it is given.
        label: what the papers call it.
        help: what it holds, in one line.
        classes: how many there are in the whole of it, where a part of it is told by that.
        boxes, masks: whether its images have some.
        archives: what ``gwapctl data get`` unpacks.
        automatic: they are fetched when a command needs them and may use the network.
        by_hand: without archives, what to do instead; ``{folder}`` is where it belongs.
        reported: the split that results on it are reported on; of ``test``, all of ``trainval`` is for training.
        train, detector: the settings in which a classifier or a detector on it departs from the defaults of its config;
            None: those of any folder.

    """

    path: str
    label: str
    help: str
    classes: int | None = None
    boxes: bool = True
    masks: bool = False
    archives: tuple[Archive, ...] = ()
    automatic: bool = False
    by_hand: str = ""
    reported: str = "val"
    train: Mapping[str, Any] | None = None
    detector: Mapping[str, Any] | None = None

    def load(self) -> Callable[[Sequence[Path]], Dataset]:
        """Import what opens it."""
        return cast("Callable[[Sequence[Path]], Dataset]", resolve_name(self.path))


_PAPER_VOC = {"iterations": 60_000, "keep": "last", "val_fraction": 0.0}
_SMALL_IMAGES = {
    "backbone": "resnet-s",
    "weights": "none",
    "image_size": (64, 64),
    "batch_size": 128,
    "epochs": 30,
    "lr": 0.1,
    "schedule": "cosine",
    "warmup": 400,
    "min_crop": 0.5,
}

DATASETS: dict[str, DatasetEntry] = {
    "voc": DatasetEntry(
        "gwapctl.datasets.voc:open_voc2007",
        "VOC 2007",
        "20 classes of objects, several per image",
        archives=(published.VOC2007_TRAINVAL, published.VOC2007_TEST),
        automatic=True,
        reported="test",
        train=_PAPER_VOC,
        detector={},
    ),
    "voc2012": DatasetEntry(
        "gwapctl.datasets.voc:open_voc2012",
        "VOC 2012",
        "the same classes, without a test split",
        archives=(published.VOC2012,),
        automatic=True,
        train=_PAPER_VOC,
        detector={},
    ),
    "voc07+12": DatasetEntry(
        "gwapctl.datasets.voc:open_voc0712",
        "VOC 2007 + 2012",
        "both, tested on that of 2007",
        archives=(published.VOC2007_TRAINVAL, published.VOC2012, published.VOC2007_TEST),
        automatic=True,
        reported="test",
        train=_PAPER_VOC,
        detector={},
    ),
    "tiny-imagenet": DatasetEntry(
        "gwapctl.datasets.tiny_imagenet:open_tiny_imagenet",
        "Tiny ImageNet",
        "200 classes at 64 x 64 pixels",
        classes=200,
        archives=(published.TINY_IMAGENET,),
        train=_SMALL_IMAGES,
    ),
    "imagenet": DatasetEntry(
        "gwapctl.datasets.imagenet:open_imagenet",
        "ILSVRC 2012",
        "1,000 classes; needs an account",
        classes=1000,
        archives=published.IMAGENET,
    ),
    "cub": DatasetEntry(
        "gwapctl.datasets.cub:open_cub",
        "CUB-200-2011",
        "birds of 200 species",
        classes=200,
        masks=True,
        archives=(published.CUB,),
        reported="test",
    ),
    "lid": DatasetEntry(
        "gwapctl.datasets.lid:open_lid",
        "LID 2020",
        "masks for images of ImageNet's val",
        masks=True,
        # no checksum is published: unpacked by hand, then counted
        by_hand="open https://lidchallenge.github.io/challenge.html, follow a link of track 3 (Baidu or Google Drive), "
        "and unpack the masks of the validation set, ILSVRC2012_val_*.png, below {folder}. Their images are "
        "ImageNet's val: gwapctl data get imagenet. Then count them: gwapctl data check lid",
    ),
}


def open_dataset(name_or_folder: str, root: Path | None = None) -> Dataset:
    """Open a data set by name, or a folder (a CSV manifest, a COCO JSON file) recognised by looking at it.

    Names, and folders that do not exist as given, are looked for below ``root``; without one below ``$GWAPCTL_DATA``,
    ``./data`` and the cache. A number after a colon takes a part of the classes: ``tiny-imagenet:40``.

    Raises:
        UsageError: neither a known name nor a path, or more classes than there are.
        DataError: the data set is not there, or cannot be recognised; the message says what was looked for.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from gwapctl.datasets.synthetic import make_synthetic_voc
        >>> with TemporaryDirectory() as folder:
        ...     make_synthetic_voc(Path(folder, "photos"), images=5, seed=0, size=(64, 96))
        ...     dataset = open_dataset("photos", root=Path(folder))
        ...     training_splits(dataset), reporting_split(dataset), len(dataset.samples("train"))
        (('train', 'val'), 'test', 3)

    """
    from gwapctl.datasets.layouts import recognise
    from gwapctl.datasets.subset import evenly_spread, split_name

    whole, count = split_name(name_or_folder)
    if count is not None:
        return evenly_spread(open_dataset(whole, root), count)
    roots = data_folders(root)
    if name_or_folder in DATASETS:
        refuse_ambiguous(name_or_folder, root)
        return open_named(name_or_folder, root)
    for path in [Path(name_or_folder), *(root / name_or_folder for root in roots)]:
        if path.exists():
            return recognise(path)
    if os.sep in name_or_folder or "." in name_or_folder:
        raise DataError(f"{name_or_folder} does not exist. Give a folder, or one of: {', '.join(DATASETS)}.")
    raise unknown_name("dataset", name_or_folder, DATASETS)


def open_named(name: str, root: Path | None = None) -> Dataset:
    """Open the data set of ``DATASETS`` that is called ``name``, whatever folders are called so.

    Raises:
        DataError: it is not here, or not whole.

    """
    dataset = DATASETS[name].load()(data_folders(root))
    dataset.reported = DATASETS[name].reported
    return dataset


def refuse_ambiguous(name: str, root: Path | None) -> None:
    """Refuse a data set's name where a folder here is called so, too, that does not hold that data set.

    ``root`` says which one is meant.

    Raises:
        UsageError: both may be meant; the message says how each is called.

    """
    folder = Path(name)
    if root is not None or name not in DATASETS or not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        if open_named(name).root.resolve().is_relative_to(folder.resolve()):
            return
    except DataError:
        pass
    raise UsageError(
        f"{name} is the name of a data set, and of a folder here. Write {folder.absolute()} for the folder, or say "
        f"where the data set is, or is to be, with {option('root')}."
    )


def training_splits(dataset: Dataset) -> tuple[str, str | None]:
    """Return the split to train on, and the set's own validation split unless results are reported on that.

    Without one, hold out a part of the first (``datasets.base.holdout``). A set of which a test split was published is
    trained on all of ``trainval``, as in the papers, whether or not the test images are here. VOC 2012 is not one: its
    test annotations never were, results are reported on ``val``, so that training must not see it.

    Raises:
        DataError: the set has several splits and none is for training.

    """
    present = dataset.splits()
    published = dataset.reported == "test"
    tests = published or (dataset.reported is None and "test" in present)
    if "trainval" in present and tests and (published or "train" not in present):
        return "trainval", None
    if "train" in present:
        return "train", "val" if "val" in present and tests else None
    if len(present) == 1:
        return present[0], None
    raise DataError(
        f"{dataset.name} at {dataset.root} has no split to train on. Present: {', '.join(present) or 'none'}."
    )


def reporting_split(dataset: Dataset) -> str:
    """Return the split that results are reported on: the published one of a set with a name.

    Of any other it is ``test``, else ``val``, else the only one if it is not for training.

    Raises:
        DataError: there is none.

    """
    present = dataset.splits()
    for split in ("test", "val") if dataset.reported is None else (dataset.reported,):
        if split in present:
            return split
    if dataset.reported is None and len(present) == 1 and present[0] not in ("train", "trainval"):
        return present[0]
    wanted = "test or val" if dataset.reported is None else dataset.reported
    listed = ", ".join(present) or "none"
    raise DataError(
        f"{dataset.name} at {dataset.root} has no {wanted} split, which results are reported on. "
        f"Bring it, or choose with {option('split')}. Present: {listed}."
    )


def splits_to_report(name: str) -> tuple[str, ...]:
    """Return the split that results on the data set called ``name`` are reported on; none for one without a name."""
    from gwapctl.datasets.subset import split_name

    entry = DATASETS.get(split_name(name)[0])
    return () if entry is None else (entry.reported,)
