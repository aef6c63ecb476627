"""The layouts that a folder or file is recognised by.

A new layout is a function in a file of this folder, one entry in ``LAYOUTS`` and its tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

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
        opener: Callable[[Path], Dataset | None] = resolve_name(self.path)
        return opener


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
        "gwapctl.datasets.manifest:open_manifest",
        "CSV manifest",
        "a .csv with columns image,label",
        (".csv", ".tsv"),
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
