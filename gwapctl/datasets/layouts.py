"""The layouts that a folder or file is recognised by, and the look that finds out which it is.

A new layout is a function in a file of this folder, one entry in ``LAYOUTS`` and its tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, cast

from gwapctl.datasets.folders import list_images
from gwapctl.errors import DataError, reading

if TYPE_CHECKING:
    from gwapctl.datasets.base import Dataset


@dataclass(frozen=True)
class Layout:
    """A layout that a folder, or a file, is recognised by.

    Attributes:
        path: ``module:function`` that opens what is in this layout and returns None for anything else.
        label: what it is called.
        help: what shows it.
        suffixes: of single files in it.
        published: whether it is that of one published data set.

    """

    path: str
    label: str
    help: str
    suffixes: tuple[str, ...] = ()
    published: bool = False

    def load(self) -> Callable[[Path], Dataset | None]:
        """Import what opens it."""
        return cast("Callable[[Path], Dataset | None]", resolve_name(self.path))


# the first that fits is taken; class folders come last, for any folder of folders looks like them
LAYOUTS: dict[str, Layout] = {
    "tiny-imagenet": Layout(
        "gwapctl.datasets.tiny_imagenet:open_if_tiny_imagenet", "Tiny ImageNet", "Tiny ImageNet", published=True
    ),
    "cub": Layout("gwapctl.datasets.cub:open_if_cub", "CUB", "CUB", published=True),
    "wsoleval": Layout(
        "gwapctl.datasets.wsoleval:open_if_wsoleval", "wsolevaluation", "metadata of wsolevaluation", published=True
    ),
    "imagenet": Layout("gwapctl.datasets.imagenet:open_if_imagenet", "ImageNet", "ImageNet", published=True),
    "voc": Layout("gwapctl.datasets.voc:open_voc_layout", "VOC layout", "Annotations/ + JPEGImages/ (VOC)"),
    "coco": Layout("gwapctl.datasets.coco:open_coco", "COCO JSON", "annotations/*.json (COCO)", (".json",)),
    "yolo": Layout(
        "gwapctl.datasets.yolo:open_yolo",
        "YOLO",
        "images/ + labels/ with data.yaml or classes.txt (YOLO)",
        (".yaml", ".yml"),
    ),
    "manifest": Layout(
        "gwapctl.datasets.manifest:open_manifest", "CSV manifest", "a .csv with columns image,label", (".csv", ".tsv")
    ),
    "class-folders": Layout(
        "gwapctl.datasets.class_folders:open_class_folders",
        "class folders",
        "folders <class>/ or <split>/<class>/ of images",
    ),
}


def folder_layouts() -> str:
    """Return what a folder of one's own may be, in words."""
    return ", ".join(layout.label for layout in LAYOUTS.values() if not layout.published)


def recognise(path: Path) -> Dataset:
    """Open the data set that ``path`` holds, whatever its layout.

    Raises:
        DataError: it is in no layout that we know; the message says what was looked for.

    """
    with reading(path):
        if not path.is_dir():
            return _recognise_file(path)
        openers = [layout.load() for name, layout in LAYOUTS.items() if name != "class-folders"]
        opened = (opener(path) for opener in openers)
        return next((dataset for dataset in opened if dataset is not None), None) or _recognise_folders(path)


def _recognise_folders(path: Path) -> Dataset:
    """Open class folders, or what the only folder in ``path`` holds; a table that says no labels is not passed over."""
    from gwapctl.datasets.class_folders import only_folder, open_class_folders, passed_through, subfolders
    from gwapctl.datasets.manifest import csv_files, most_likely, what_is_missing
    from gwapctl.datasets.yolo import require_labels

    dataset = open_class_folders(path)
    tables = csv_files(path)
    if dataset is not None and (len(dataset.classes) > 1 or not tables):
        for file in tables:
            dataset.problems.warn(f"{what_is_missing(file)}. It is not read: the class folders beside it are.")
        return dataset
    inner = only_folder(path)
    if dataset is None:
        require_labels(path)
    if inner is not None and not tables:
        within = recognise(inner)
        within.problems.warn(passed_through(path, inner))
        return within
    if tables:
        raise DataError(
            f"{what_is_missing(most_likely(tables))}. Name its columns image,label, or give the data set itself."
        )
    images = [name for name, folder in subfolders(path).items() if list_images(folder)]
    found = f" It has images in {', '.join(images[:3])}, which are no class names." if images else ""
    looked_for = [layout.help for layout in sorted(LAYOUTS.values(), key=lambda layout: layout.published)]
    raise DataError(f"{path} is no data set that we recognise. Looked for: {', '.join(looked_for)}.{found}")


def _recognise_file(path: Path) -> Dataset:
    opener = next((layout.load() for layout in LAYOUTS.values() if path.suffix.lower() in layout.suffixes), None)
    dataset = opener(path) if opener is not None else None
    if dataset is None:
        raise DataError(
            f"{path} is no data set that we recognise. Give a folder, a CSV manifest or a COCO JSON"
            " file, or a data.yaml of YOLO."
        )
    return dataset
