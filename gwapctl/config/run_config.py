"""The settings of a training run, checked all at once and written to ``run.json`` by value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from gwapctl.config.settings import ClassifierSettings, DetectorSettings, RunSettings, all_settings, settings_of
from gwapctl.datasets import DATASETS
from gwapctl.errors import UsageError, closest, option, reading
from gwapctl.files import parse_toml

__all__ = [
    "DEFAULT_BACKBONE",
    "DetectorConfig",
    "RunConfig",
    "TrainConfig",
    "all_settings",
    "build_train_config",
    "defaults_for",
    "read_recipe",
    "resolve",
    "stored_config",
]
LENGTHS = frozenset(("epochs", "iterations"))
STAGES = 5  # of a detector's trunk
ALTERNATIVES = (LENGTHS, frozenset(("freeze_backbone", "trained_stages")))  # who sets one has overruled the other


class RunConfig(RunSettings, BaseModel):
    """The settings that a classifier and a detector share, checked and frozen; its subclasses are what is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="after")
    def _check_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0")
        return self


class TrainConfig(ClassifierSettings, RunConfig):
    """The checked settings of a classifier."""

    detects: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _without_stages(cls, values: Any) -> Any:
        """Say in one way that the backbone is frozen, so that runs of both spellings are the same."""
        if isinstance(values, dict) and values.get("trained_stages") == 0:
            return {**values, "trained_stages": None, "freeze_backbone": True}
        return values

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("give exactly one of epochs and iterations")
        if self.freeze_backbone and self.trained_stages:
            raise ValueError("freeze_backbone and trained_stages contradict each other: leave one out")
        if self.cache_features and self.learning_stages is None:
            raise ValueError(
                "cache_features needs freeze_backbone or trained_stages: feature maps of a backbone that learns do not "
                "last"
            )
        if self.cache_features and (self.min_crop < 1 or self.train_sizes):
            raise ValueError("cache_features keeps whole images of one size: leave out min_crop and train_sizes")
        if self.head_start == "imagenet" and self.weights != "imagenet":
            raise ValueError("head_start = imagenet needs weights = imagenet: its classifier knows no other features")
        if self.cache_features and self.augment:
            raise ValueError("cache_features reads no images, which augment changes: leave one out")
        return self

    @property
    def learning_stages(self) -> int | None:
        """How many of the backbone's last stages learn; 0: it is frozen, None: all of it learns."""
        return 0 if self.freeze_backbone else self.trained_stages

    @property
    def method(self) -> str:
        """How the trunk is used: the head."""
        return self.head

    @property
    def network(self) -> str:
        """The backbone's full name, with CAM's extra convolution where that is asked for."""
        suffix = "+cam" if self.cam_groups == 1 else "+cam2"
        return self.backbone + (suffix if self.cam_conv else "")


class DetectorConfig(DetectorSettings, RunConfig):
    """The checked settings of a detector."""

    detects: ClassVar[bool] = True

    @model_validator(mode="after")
    def _check(self) -> DetectorConfig:
        if self.long_side < self.short_side:
            raise ValueError("long_side must be at least short_side")
        if self.cache_features and (self.frozen_stages < STAGES or self.weights == "none"):
            raise ValueError(
                f"cache_features of a detector needs frozen_stages {STAGES} and first weights: maps of a trunk that "
                "learns do not last"
            )
        if self.image_scores and self.weak == "none":
            raise ValueError("image_scores are the weak branch's: give weak")
        if self.boxes_from is None and self.rounds > 1:
            raise ValueError("rounds are of boxes_from: give a run or a file of boxes")
        if self.boxes_from is None and self.composites:
            raise ValueError("composites are of boxes_from: give a run or a file of boxes")
        if self.boxes_from is not None and self.box_proportion < 1:
            raise ValueError("boxes_from learns from no true box: leave out box_proportion")
        if self.rounds > self.iterations:
            raise ValueError("iterations must be at least rounds")
        return self

    @property
    def method(self) -> str:
        """How the trunk is used: the detector, and its weak branch."""
        return self.detector if self.weak == "none" else f"{self.detector}+{self.weak}"


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
    "backbone": DEFAULT_BACKBONE,
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
    "support": True,  # 11 points of AP of a detector from true boxes, and of one from found ones no less
    "warmup": 100,
}

FOUND_BOXES = DETECTOR_FOLDER | {  # minutes of a CPU for a few hundred photos
    "short_side": 336,
    "long_side": 448,
    "batch_size": 4,
    "iterations": 1_000,
    "lr": 1e-3,
    "warmup": 20,
    "candidates": 600,  # of thousands of anchors: NMS of all was a third of a step
    "proposals": 128,  # as many as are learned from
    "rounds": 1,  # a second one made boxes of training images better, and the detector not
    "composites": 1.5,
    "weak": "gwap",  # it learns from labels that are right where boxes are not
    "area_exponent": None,  # boxes found by a classifier may be parts of objects, and so what is learned from them
    "refine": "grabcut",  # they err by the coarse grid of the maps, and so does what is learned from them
    "cache_features": True,
    "frozen_stages": 5,  # the trunk stays ImageNet's, as a frozen classifier's does
}


def defaults_for(dataset: str, detector: bool = False, found: bool = False) -> Mapping[str, Any]:
    """Return the settings in which ``dataset`` (a name or folder) departs from the defaults of its config.

    ``found``: a detector learns from boxes that something else found.
    """
    entry = DATASETS.get(dataset.partition(":")[0])
    if found:
        return FOUND_BOXES
    if detector:
        return DETECTOR_FOLDER if entry is None or entry.detector is None else entry.detector
    if entry is None:
        return FOLDER
    return NAMED if entry.train is None else entry.train


def build_train_config(dataset: str, recipe: Path | None, settings: dict[str, Any]) -> TrainConfig | DetectorConfig:
    """Combine the data set's defaults, the recipe, and explicit settings (flags and ``--set``), the later winning.

    The recipe's or the flags' key ``detector`` makes it a detector's.

    Raises:
        UsageError: unknown keys or bad values; all of them are in the one message.

    Example:
        >>> config = build_train_config("voc", None, {"head": "gap", "epochs": 5})
        >>> config.backbone, config.head, config.epochs, config.iterations
        ('googlenet', 'gap', 5, None)

    """
    return resolve(dataset, recipe, settings)[0]


def resolve(
    dataset: str | None, recipe: Path | None, settings: dict[str, Any]
) -> tuple[TrainConfig | DetectorConfig, dict[str, str]]:
    """Combine settings as ``build_train_config`` does, and say where each comes from that is not its class's default.

    Origins are ``data set``, ``recipe`` and ``given``. Without a data set no default is a data set's, and the length
    may be open. Errors are the same.
    """
    written = read_recipe(recipe) if recipe else {}
    detects = "detector" in written | settings
    model = DetectorConfig if detects else TrainConfig
    found = bool((written | settings).get("boxes_from"))
    defaults = {} if dataset is None else defaults_for(dataset, detects, detects and found)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in (("data set", defaults), ("recipe", written), ("given", settings)):
        for keys in ALTERNATIVES:  # of a lower layer, the other one no longer holds
            if not keys.isdisjoint(layer):
                values = {key: value for key, value in values.items() if key not in keys}
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    if values.get("head") != written.get("head") and "map" not in settings:
        values.pop("map", None)  # the recipe's map is its head's
    if values.get("cache_features") and origins.get("min_crop") == "data set":
        del values["min_crop"]  # whole images are cached
    if detects and origins.get("cache_features") == "data set" and not _stays_frozen(values):
        del values["cache_features"]
    origins = {key: origin for key, origin in origins.items() if key in values}
    is_open = dataset is None and model is TrainConfig and LENGTHS.isdisjoint(values)
    named = {"dataset": dataset or "DATASET"} | ({"recipe": recipe.stem} if recipe else {})
    try:
        config = model(**{**values, **({"iterations": 1} if is_open else {}), **named})
    except ValidationError as error:
        mistakes = [_mistake(item, model) for item in error.errors()]
        where = f" (recipe {recipe} and flags)" if recipe else ""
        several = "s" if len(mistakes) > 1 else ""
        raise UsageError(f"{len(mistakes)} wrong setting{several}{where}: {' '.join(mistakes)}") from None
    return config.model_copy(update={"iterations": None}) if is_open else config, origins


def _stays_frozen(values: Mapping[str, Any]) -> bool:
    """Tell whether nothing of a detector's trunk learns."""
    return values.get("frozen_stages") == STAGES and values.get("weights") != "none"


def stored_config(values: dict[str, Any]) -> TrainConfig | DetectorConfig:
    """Return the config that ``run.json`` holds.

    Raises:
        DataError: this version does not understand it.

    """
    with reading("the config in run.json", advice="It was written by another version, or by something else."):
        if values.get("min_crop", 1) < 1 and "crop_aspect" not in values:
            values = {**values, "crop_aspect": 4 / 3}  # before there was this setting, crops had any up to it
        return DetectorConfig(**values) if "detector" in values else TrainConfig(**values)


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe TOML: a flat table of ``TrainConfig`` or ``DetectorConfig`` keys.

    Raises:
        DataError: the file is missing or is not TOML.

    """
    return parse_toml(path)


def _mistake(item: Any, model: type[RunConfig]) -> str:
    """Say one mistake of pydantic's list in a sentence: key, value, and what may stand there."""
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        if key not in all_settings():
            return f"unknown key {key!r}.{closest(key, settings_of(model))}"
        owner = "a classifier's." if model is DetectorConfig else f"a detector's: add {option('detector', 'rfcn')}."
        return f"{key} is {owner}"
    setting = settings_of(model).get(key)
    if setting is not None and isinstance(item["input"], str):  # from the command line, as it was typed
        return f"{key} = {item['input']!r} is not {setting.allowed}."
    said = item["msg"].removeprefix("Value error, ")
    return f"{key} = {item['input']!r}: {said}." if key else f"{said}."
