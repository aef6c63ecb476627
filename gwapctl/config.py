"""The settings of a training run: checked all at once, written to ``run.json`` by value, one recipe key per flag."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gwapctl.datasets import DATASETS
from gwapctl.errors import DataError, UsageError, closest
from gwapctl.files import read_text


class RunConfig(BaseModel):
    """What a classifier and a detector are both asked: data, trunk, schedule, and how the numbers are computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    backbone: str
    weights: str = "imagenet"
    batch_size: int = Field(4, ge=1)
    accumulate: int = Field(1, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(5e-4, gt=0)
    bias_lr_factor: float = Field(1.0, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["step", "cosine", "constant"] = "step"
    step_every: int = Field(20_000, ge=1)
    step_factor: float = Field(0.1, gt=0, le=1)
    warmup: int = Field(0, ge=0)
    flip: bool = True
    val_fraction: float = Field(0.1, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    deterministic: bool = False
    seed: int = Field(0, ge=0)
    recipe: str | None = None


class TrainConfig(RunConfig):
    """Everything that decides the weights of a classifier, besides the data itself, and how its maps are then read.

    The defaults are the paper's where it states one (GWAP, arXiv 1809.08264, IV-A), otherwise ours; ``defaults_for``
    adapts them to the data set. ``map``, ``scales`` and ``box_rule`` are what the model stores; None and (): the head's
    own map at the input size, and ``paper20``.
    """

    backbone: str = "googlenet"
    output_stride: Literal[8, 16, 32] | None = None
    cam_conv: bool = False
    cam_groups: Literal[1, 2] = 1
    head: str = "gwap"
    head_options: dict[str, int | float] = {}
    new_head: bool = False
    image_size: tuple[int, int] = (600, 600)
    train_sizes: tuple[int, ...] = ()
    epochs: int | None = Field(None, ge=0)
    iterations: int | None = Field(None, ge=1)
    head_lr_factor: float = Field(1.0, gt=0)
    ema: float = Field(0.0, ge=0, lt=1)
    min_crop: float = Field(1.0, gt=0, le=1)
    background: str | None = None
    background_classes: tuple[str, ...] = ()
    freeze_backbone: bool = False
    cache_features: bool = False
    batch_norm: Literal["auto", "frozen", "train"] = "auto"
    keep: Literal["best", "last"] = "best"
    compile: bool = False
    map: str | None = None
    scales: tuple[int, ...] = ()
    box_rule: str | None = None

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("give exactly one of epochs and iterations")
        sizes = (*self.image_size, *self.train_sizes)
        if any(not 16 <= size <= 4096 for size in sizes):
            raise ValueError("image_size and train_sizes must lie between 16 and 4096 pixels")
        if self.cache_features and not self.freeze_backbone:
            raise ValueError("cache_features needs freeze_backbone: feature maps of a backbone that learns do not last")
        if self.cache_features and (self.min_crop < 1 or self.train_sizes):
            raise ValueError("cache_features keeps whole images of one size: leave out min_crop and train_sizes")
        return self

    @property
    def method(self) -> str:
        """How the trunk is used: the head."""
        return self.head

    @property
    def network(self) -> str:
        """The backbone's full name, with CAM's extra convolution where that is asked for."""
        suffix = "+cam" if self.cam_groups == 1 else "+cam2"
        return self.backbone + (suffix if self.cam_conv else "")


class DetectorConfig(RunConfig):
    """Everything that decides the weights of a detector, besides the data itself.

    The defaults are the joint end-to-end schedule of py-R-FCN for VOC 2007 + 2012 (METHODS 5.1; its one image times
    ``iter_size`` 2 is ``batch_size`` 1 times ``accumulate`` 2). ``batch_size`` counts images with boxes; a weak branch
    sees as many others beside them. Images get ``short_side``, or less where the longer side would pass ``long_side``.
    """

    backbone: str = "resnet50"
    detector: Literal["rfcn"] = "rfcn"
    weak: Literal["none", "gap", "gwap", "gwap+gap"] = "none"
    weak_weight: float = Field(0.1, ge=0)
    box_proportion: float = Field(1.0, gt=0, le=1)
    pooling: Literal["ps_roi_pool", "ps_roi_align"] = "ps_roi_pool"
    short_side: int = Field(600, ge=32, le=4096)
    long_side: int = Field(1000, ge=32, le=4096)
    batch_size: int = Field(1, ge=1)
    accumulate: int = Field(2, ge=1)
    iterations: int = Field(110_000, ge=1)
    lr: float = Field(1e-3, gt=0)
    bias_lr_factor: float = Field(2.0, gt=0)
    step_every: int = Field(80_000, ge=1)
    val_fraction: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> DetectorConfig:
        if self.long_side < self.short_side:
            raise ValueError("long_side must be at least short_side")
        return self

    @property
    def method(self) -> str:
        """How the trunk is used: the detector, and its weak branch."""
        return self.detector if self.weak == "none" else f"{self.detector}+{self.weak}"


SETTINGS = frozenset(TrainConfig.model_fields) | frozenset(DetectorConfig.model_fields)

DEFAULT_BACKBONE = "efficientnet-lite0"  # for a folder of one's own: its ImageNet weights are installed

FOLDER: dict[str, Any] = {  # where the backbone learns, too: else recipe photos
    "backbone": DEFAULT_BACKBONE,
    "image_size": (224, 224),
    "batch_size": 16,
    "epochs": 30,
    "lr": 0.005,
    "schedule": "cosine",
    "warmup": 50,
    "min_crop": 0.5,
}

NAMED = FOLDER | {"backbone": "resnet18"}  # for a data set with a name that says nothing itself

DETECTOR_FOLDER: dict[str, Any] = {
    "backbone": "resnet18",
    "short_side": 240,
    "long_side": 400,
    "batch_size": 2,
    "accumulate": 1,
    "iterations": 3_000,
    "optimizer": "adamw",  # R-FCN's losses are so small that SGD needs tens of thousands of steps
    "lr": 3e-4,
    "bias_lr_factor": 1.0,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup": 100,
}


def defaults_for(dataset: str, detector: bool = False) -> Mapping[str, Any]:
    """Return the settings in which ``dataset`` (a name or folder) departs from the defaults of its config."""
    entry = DATASETS.get(dataset.partition(":")[0])
    if detector:
        return DETECTOR_FOLDER if entry is None or entry.detector is None else entry.detector
    if entry is None:
        return FOLDER
    return NAMED if entry.train is None else entry.train


def build_train_config(dataset: str, recipe: Path | None, settings: dict[str, Any]) -> TrainConfig | DetectorConfig:
    """Combine the data set's defaults, the recipe, and explicit settings (flags), the later winning.

    The recipe's or the flags' key ``detector`` makes it a detector's.

    Raises:
        UsageError: unknown keys or bad values; all of them are in the one message.

    """
    layers = [read_recipe(recipe) if recipe else {}, settings]
    model = DetectorConfig if any("detector" in layer for layer in layers) else TrainConfig
    values = dict(defaults_for(dataset, detector=model is DetectorConfig))
    for layer in layers:
        if "epochs" in layer or "iterations" in layer:  # the other length of a lower layer no longer holds
            values.pop("epochs", None)
            values.pop("iterations", None)
        values.update(layer)
    if values.get("head") != layers[0].get("head") and "map" not in settings:
        values.pop("map", None)  # the recipe's map is its head's
    if values.get("cache_features") and not any("min_crop" in layer for layer in layers):
        values["min_crop"] = 1.0
    if recipe:
        values["recipe"] = recipe.stem
    values["dataset"] = dataset
    try:
        return model(**values)
    except ValidationError as error:
        raise UsageError(_all_mistakes(error, recipe, model)) from None


def stored_config(values: dict[str, Any]) -> TrainConfig | DetectorConfig:
    """Return the config that ``run.json`` holds."""
    return DetectorConfig(**values) if "detector" in values else TrainConfig(**values)


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe TOML: a flat table of ``TrainConfig`` or ``DetectorConfig`` keys.

    Raises:
        DataError: the file is missing or is not TOML.

    """
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"recipe {path} is not valid TOML: {error}.") from error


def _all_mistakes(error: ValidationError, recipe: Path | None, model: type[RunConfig]) -> str:
    mistakes = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            mistakes.append(_foreign_key(key, model))
        else:
            prefix = f"{key} = {item['input']!r}: " if key else ""
            mistakes.append(prefix + item["msg"].removeprefix("Value error, ") + ".")
    where = f" (recipe {recipe} and flags)" if recipe else ""
    return f"{len(mistakes)} wrong setting{'s' if len(mistakes) > 1 else ''}{where}: {' '.join(mistakes)}"


def _foreign_key(key: str, model: type[RunConfig]) -> str:
    if key in SETTINGS:
        return (
            f"{key} is a classifier's." if model is DetectorConfig else f"{key} is a detector's: add --detector rfcn."
        )
    return f"unknown key {key!r}.{closest(key, model.model_fields)}"
