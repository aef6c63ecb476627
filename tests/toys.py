"""One toy of every kind that the package does not know: a head, a backbone, an augmentation, a data set and so on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gwapctl.datasets import DATASETS, DatasetEntry
from gwapctl.datasets.base import Dataset
from gwapctl.datasets.class_folders import open_class_folders
from gwapctl.datasets.layouts import LAYOUTS, Layout
from gwapctl.engines import ENGINES, EngineEntry
from gwapctl.engines.torch import TorchEngine
from gwapctl.formats import EXPORTERS, READERS, FormatEntry, ReaderEntry
from gwapctl.formats.base import ClassTable, FileExporter
from gwapctl.maps import MAPS, MapMethod
from gwapctl.maps.forward import ForwardPass
from gwapctl.metrics import METRICS, NUMBER, Metric
from gwapctl.metrics.judged import Accumulator, JudgedImage
from gwapctl.networks.backbones import BACKBONES, BackboneEntry
from gwapctl.networks.backbones.base import Backbone, LayerChain
from gwapctl.networks.heads import HEADS, HeadEntry
from gwapctl.networks.heads.averaging import PoolThenClassify
from gwapctl.networks.heads.base import HeadOutput
from gwapctl.predict.prediction import Prediction
from gwapctl.train.augmentations import AUGMENTATIONS, Augmentation, Augmented


class ToyHead(PoolThenClassify):
    """Mean of the features; every position weighs the same."""

    def forward(self, feature_map: Tensor) -> HeadOutput:
        alpha = torch.ones_like(feature_map[:, :1]) / feature_map[0, 0].numel()
        return HeadOutput(self.classify(feature_map.mean((2, 3))), alpha)


def toy_backbone() -> Backbone:
    return LayerChain({"conv": nn.Conv2d(3, 8, 3, stride=8, padding=1)}, channels=8, stride=8)


def toy_map(passed: ForwardPass, classes: Tensor) -> Sequence[Tensor]:
    return [passed.features.mean(1, keepdim=True).expand(-1, classes.shape[1], -1, -1)]


def toy_change(images: Tensor, *_: object) -> Augmented:
    return Augmented(images)


def open_toy(places: Sequence[Path]) -> Dataset:
    dataset = open_class_folders(places[0] / "toys")
    assert dataset is not None
    dataset.name = "toyset"
    return dataset


def open_toy_layout(path: Path) -> Dataset | None:
    return open_class_folders(path / "inside") if (path / "toy.txt").is_file() else None


class ToyFormat(FileExporter):
    """A line per image."""

    one_look = True

    def lines(self, items: Iterable[Any], table: ClassTable) -> Iterator[str]:
        for item in items:
            yield f"toy {item.id}\n"


def read_toy(file: Path) -> Iterator[Prediction]:
    """Yield an image for each line of ``ToyFormat``."""
    for line in file.read_text().splitlines():
        yield Prediction(line.removeprefix("toy "), 80, 60)


class ToyMetric(Accumulator):
    """The mean width of images that have ranked classes."""

    def __init__(self) -> None:
        self.widths: list[int] = []

    def judge(self, image: JudgedImage) -> None:
        if image.ranked is not None:
            self.widths.append(image.width)

    def compute(self) -> dict[str, float]:
        return {"toy_width": sum(self.widths) / len(self.widths)} if self.widths else {}


class ToyEngine(TorchEngine):
    """Torch under another name."""


SETTINGS = {
    "backbone": "toybone",
    "weights": "none",
    "head": "toyhead",
    "image_size": (48, 32),
    "batch_size": 2,
    "iterations": 1,
    "val_fraction": 0.0,
    "keep": "last",
}
# one line per toy, in the registry of its kind
LINES: list[tuple[dict[str, Any], str, Any]] = [
    (HEADS, "toyhead", HeadEntry("tests.toys:ToyHead", "Toy Head", "a toy's mean")),
    (
        BACKBONES,
        "toybone",
        BackboneEntry(
            "tests.toys:toy_backbone", "Toy Net", "a toy's network", trunk="gwapctl.networks.rfcn.trunk:ResNetSTrunk"
        ),
    ),
    (MAPS, "toymap", MapMethod("tests.toys:toy_map", "toy map", "a toy's map", formula="`mean_k F_k`")),
    (
        AUGMENTATIONS,
        "toychange",
        Augmentation("tests.toys:toy_change", "Toy Change", "a toy's change", paper="none", settings="none"),
    ),
    (ENGINES, "toyengine", EngineEntry("tests.toys:ToyEngine", "Toy Engine", "a toy's arithmetic", ("fp32",))),
    (DATASETS, "toyset", DatasetEntry("tests.toys:open_toy", "Toy Set", "a toy's images", boxes=False, train=SETTINGS)),
    (LAYOUTS, "toylayout", Layout("tests.toys:open_toy_layout", "toy layout", "toy.txt (toys)")),
    (EXPORTERS, "toyformat", FormatEntry("tests.toys:ToyFormat", "Toy Tool", "a toy's file", "boxes.toy")),
    (READERS, "toyreader", ReaderEntry("tests.toys:read_toy", "Toy Reader", "a toy", ".toy")),
    (METRICS, "toy_width", Metric("toy width", "a toy's number", NUMBER, path="tests.toys:ToyMetric")),
]
