"""Boxes out, in the formats that people label and train with, and in again, as tools export them.

A new format is a class in a file of this folder, one entry in ``EXPORTERS`` and its tests. Its module is imported when
boxes are written. What is read is a function and an entry in ``READERS``; ``formats.reading`` finds out which it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gwapctl.formats.base import Exporter


@dataclass(frozen=True)
class FormatEntry:
    """What is known of a format without importing it.

    Attributes:
        path: ``module:Class`` of its exporter.
        label: what its tool calls it.
        help: what is written, in one line.
        filename: the file's name where only a folder is given; its suffix is the format's. "": a file per image.
        box: how a box is written.
        precision: what is lost of it.
        readers: what reads the result.
        masks: how it can hold the pixels of objects: ``rle`` exactly, ``polygons`` as outlines.

    """

    path: str
    label: str
    help: str
    filename: str = ""
    box: str = ""
    precision: str = "exact"
    readers: str = ""
    masks: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """The suffix of its file, such as ``.csv``; "": it writes a folder."""
        return PurePath(self.filename).suffix

    def build(self, **options: Any) -> Exporter:
        """Import its exporter and make one."""
        exporter: Exporter = resolve_name(self.path)(**options)
        return exporter


# of several formats with one suffix, a file's name means the first
EXPORTERS: dict[str, FormatEntry] = {
    "csv": FormatEntry(
        "gwapctl.formats.tables:Csv",
        "CSV",
        "one file, a row per box",
        "boxes.csv",
        box="`x0,y0,x1,y1` as above",
        readers="pandas, spreadsheets, `gwapctl evaluate`",
    ),
    "jsonl": FormatEntry(
        "gwapctl.formats.tables:Jsonl",
        "JSON lines",
        "one file, a line per image",
        "boxes.jsonl",
        box="`[x0, y0, x1, y1]` as above",
        readers="`gwapctl boxes`, `gwapctl evaluate`, jq",
        masks=("rle",),
    ),
    "coco": FormatEntry(
        "gwapctl.formats.coco:Coco",
        "COCO",
        "one file",
        "annotations.json",
        box="`[x, y, width, height]`, floats",
        precision="exact to rounding of floats",
        readers="pycocotools, FiftyOne, CVAT, supervision, most trainers",
        masks=("rle", "polygons"),
    ),
    "voc": FormatEntry(
        "gwapctl.formats.voc:Voc",
        "VOC",
        "an XML per image",
        box="whole pixels counted from 1, both corners inside",
        precision="half a pixel per edge",
        readers="labelImg, CVAT, supervision, MMDetection, Detectron2",
    ),
    "yolo": FormatEntry(
        "gwapctl.formats.yolo:Yolo",
        "YOLO",
        "`data.yaml`, `classes.txt`, `labels/`",
        box="centre and size as fractions, 6 decimals",
        precision="a millionth of the side",
        readers="Ultralytics, supervision, CVAT",
    ),
    "label-studio": FormatEntry(
        "gwapctl.formats.label_studio:LabelStudio",
        "Label Studio",
        "one file",
        "tasks.json",
        box="corner and size in percent",
        precision="exact to rounding of floats",
        readers="Label Studio: Import",
        masks=("rle", "polygons"),
    ),
    "cvat": FormatEntry(
        "gwapctl.formats.cvat:Cvat",
        "CVAT",
        "one file",
        "annotations.xml",
        box="corners as above",
        readers='CVAT: Upload annotations, "CVAT 1.1"',
        masks=("rle", "polygons"),
    ),
    "png": FormatEntry(
        "gwapctl.formats.png:Png",
        "PNG masks",
        "two PNG masks per image, of classes and of objects",
        box="pixels",
        precision="no box, the object's pixels",
        readers="anything that reads label images",
        masks=("rle",),
    ),
}


FOLDER = "folder"


@dataclass(frozen=True)
class ReaderEntry:
    """What is known of a kind of file with boxes, or of a folder with a file per image, without importing its reader.

    Attributes:
        path: ``module:function``, which takes the file and yields a ``Prediction`` per image; with a folder it also
            takes what tells the size of an image by its name, None where nothing does.
        label: what its tool calls it.
        help: who writes such files, in one line.
        suffix: of its files; ``folder``: it is one.
        keys: a JSON document of this kind has all of them, none: it is a list; a folder has files for all these globs.

    """

    path: str
    label: str
    help: str
    suffix: str
    keys: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.suffix == FOLDER


READERS: dict[str, ReaderEntry] = {
    "csv": ReaderEntry("gwapctl.formats.tables:read_csv", "CSV", "gwapctl boxes", ".csv"),
    "jsonl": ReaderEntry(
        "gwapctl.predict.predictions:read_predictions", "JSON lines", "gwapctl localize and boxes", ".jsonl"
    ),
    "json": ReaderEntry(
        "gwapctl.predict.predictions:read_predictions", "JSON", "gwapctl localize --format json", ".json", ("images",)
    ),
    "decisions": ReaderEntry(
        "gwapctl.formats.decisions:read_checked",
        "decisions.json",
        "the page of gwapctl boxes --review",
        ".json",
        ("review", "images"),
    ),
    "coco": ReaderEntry(
        "gwapctl.formats.coco:read_coco",
        "COCO",
        "CVAT, Label Studio (result.json), detectors, gwapctl boxes",
        ".json",
        ("images", "annotations", "categories"),
    ),
    "label-studio": ReaderEntry(
        "gwapctl.formats.label_studio:read_label_studio", "Label Studio", "Label Studio: Export, JSON", ".json"
    ),
    "cvat": ReaderEntry("gwapctl.formats.cvat:read_cvat", "CVAT", 'CVAT: Export, "CVAT for images 1.1"', ".xml"),
    "voc": ReaderEntry("gwapctl.formats.voc:read_voc", "VOC", "gwapctl boxes, many tools", FOLDER, ("**/*.xml",)),
    "yolo": ReaderEntry(
        "gwapctl.formats.yolo:read_yolo",
        "YOLO",
        "gwapctl boxes, many tools",
        FOLDER,
        ("labels/**/*.txt", "classes.txt"),
    ),
}


def read_suffixes() -> tuple[str, ...]:
    """Return the suffixes of the files that ``READERS`` read."""
    return tuple(dict.fromkeys(entry.suffix for entry in READERS.values() if not entry.is_folder))


def by_suffix() -> dict[str, str]:
    """Return the format that the suffix of a file means: ``.json`` is ``coco``."""
    return {entry.suffix: name for name, entry in reversed(EXPORTERS.items()) if entry.suffix}
