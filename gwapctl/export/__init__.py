"""Boxes out, in the formats that people label and train with. One class and one line of ``EXPORTERS`` per format."""

from __future__ import annotations

from gwapctl.export.base import ClassTable, Exporter, FileExporter, FolderExporter
from gwapctl.export.coco import Coco
from gwapctl.export.cvat import Cvat
from gwapctl.export.label_studio import LabelStudio
from gwapctl.export.tables import Csv, Jsonl
from gwapctl.export.voc import Voc
from gwapctl.export.yolo import Yolo

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
