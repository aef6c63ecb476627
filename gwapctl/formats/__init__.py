"""Boxes out, in the formats that people label and train with. One class and one line of ``EXPORTERS`` per format."""

from __future__ import annotations

from gwapctl.formats.base import ClassTable, Exporter, FileExporter, FolderExporter
from gwapctl.formats.coco import Coco
from gwapctl.formats.cvat import Cvat
from gwapctl.formats.label_studio import LabelStudio
from gwapctl.formats.tables import Csv, Jsonl
from gwapctl.formats.voc import Voc
from gwapctl.formats.yolo import Yolo

__all__ = ["EXPORTERS", "ClassTable", "Exporter", "FileExporter", "FolderExporter"]

EXPORTERS: dict[str, type[Exporter]] = {
    "csv": Csv,
    "jsonl": Jsonl,
    "coco": Coco,
    "voc": Voc,
    "yolo": Yolo,
    "label-studio": LabelStudio,
    "cvat": Cvat,
}
