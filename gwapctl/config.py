"""The settings of a training run: checked all at once, written to ``run.json`` by value, one recipe key per flag."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gwapctl.errors import DataError, UsageError, closest


class TrainConfig(BaseModel):
    """Everything that decides the weights, besides the data itself.

    The defaults are the paper's where it states one (GWAP, arXiv 1809.08264, IV-A), otherwise ours; ``defaults_for``
    adapts them to the data set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    backbone: str = "googlenet"
    cam_conv: bool = False
    cam_groups: Literal[1, 2] = 1
    head: str = "gwap"
    head_options: dict[str, int | float] = {}
    weights: str = "imagenet"
    image_size: tuple[int, int] = (600, 600)
    train_sizes: tuple[int, ...] = ()
    batch_size: int = Field(4, ge=1)
    accumulate: int = Field(1, ge=1)
    epochs: int | None = Field(None, ge=1)
    iterations: int | None = Field(None, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(5e-4, gt=0)
    head_lr_factor: float = Field(1.0, gt=0)
    bias_lr_factor: float = Field(1.0, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["step", "cosine", "constant"] = "step"
    step_every: int = Field(20_000, ge=1)
    step_factor: float = Field(0.1, gt=0, le=1)
    warmup: int = Field(0, ge=0)
    ema: float = Field(0.0, ge=0, lt=1)
    flip: bool = True
    min_crop: float = Field(1.0, gt=0, le=1)
    freeze_backbone: bool = False
    batch_norm: Literal["auto", "frozen", "train"] = "auto"
    val_fraction: float = Field(0.1, ge=0, lt=1)
    keep: Literal["best", "last"] = "best"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    deterministic: bool = False
    seed: int = Field(0, ge=0)
    recipe: str | None = None

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("give exactly one of epochs and iterations")
        sizes = (*self.image_size, *self.train_sizes)
        if any(not 16 <= size <= 4096 for size in sizes):
            raise ValueError("image_size and train_sizes must lie between 16 and 4096 pixels")
        return self

    @property
    def network(self) -> str:
        """The backbone's full name, with CAM's extra convolution where that is asked for."""
        suffix = "+cam" if self.cam_groups == 1 else "+cam2"
        return self.backbone + (suffix if self.cam_conv else "")


PAPER_VOC: dict[str, Any] = {"iterations": 60_000, "keep": "last", "val_fraction": 0.0}

SMALL_IMAGES: dict[str, Any] = {
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

FOLDER: dict[str, Any] = {
    "backbone": "resnet18",
    "image_size": (224, 224),
    "batch_size": 16,
    "epochs": 30,
    "lr": 0.005,
    "schedule": "cosine",
    "warmup": 50,
    "min_crop": 0.5,
}

DEFAULTS = {"voc": PAPER_VOC, "voc2012": PAPER_VOC, "voc07+12": PAPER_VOC, "tiny-imagenet": SMALL_IMAGES}


def defaults_for(dataset: str) -> dict[str, Any]:
    """Return the settings in which ``dataset`` (a name or folder) departs from the defaults of ``TrainConfig``."""
    return DEFAULTS.get(dataset, FOLDER)


def build_train_config(dataset: str, recipe: Path | None, settings: dict[str, Any]) -> TrainConfig:
    """Combine the data set's defaults, the recipe, and explicit settings (flags), the later winning.

    Raises:
        UsageError: unknown keys or bad values; all of them are in the one message.

    """
    values = dict(defaults_for(dataset))
    layers = [read_recipe(recipe) if recipe else {}, settings]
    for layer in layers:
        if "epochs" in layer or "iterations" in layer:  # the other length of a lower layer no longer holds
            values.pop("epochs", None)
            values.pop("iterations", None)
        values.update(layer)
    if recipe:
        values["recipe"] = recipe.stem
    values["dataset"] = dataset
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        raise UsageError(_all_mistakes(error, recipe)) from None


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe TOML: a flat table of ``TrainConfig`` keys.

    Raises:
        DataError: the file is missing or is not TOML.

    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read recipe {path}: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"recipe {path} is not valid TOML: {error}.") from error


def _all_mistakes(error: ValidationError, recipe: Path | None) -> str:
    mistakes = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            mistakes.append(f"unknown key {key!r}.{closest(key, TrainConfig.model_fields)}")
        else:
            prefix = f"{key} = {item['input']!r}: " if key else ""
            mistakes.append(prefix + item["msg"].removeprefix("Value error, ") + ".")
    where = f" (recipe {recipe} and flags)" if recipe else ""
    return f"{len(mistakes)} wrong setting{'s' if len(mistakes) > 1 else ''}{where}: {' '.join(mistakes)}"
