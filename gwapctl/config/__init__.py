"""The settings of a training run: declared in ``settings``, checked and combined in ``run_config``.

What is checked is imported when it is used, so that the declarations alone, which help needs, stay instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gwapctl.config.settings import all_settings

if TYPE_CHECKING:
    from gwapctl.config.run_config import (
        DEFAULT_BACKBONE,
        DetectorConfig,
        RunConfig,
        TrainConfig,
        build_train_config,
        defaults_for,
        read_recipe,
        resolve,
        stored_config,
    )

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


def __getattr__(name: str) -> Any:
    """Import what checks settings, and pydantic with it, only when it is used."""
    if name in __all__:
        return getattr(importlib.import_module("gwapctl.config.run_config"), name)
    raise AttributeError(f"module 'gwapctl.config' has no attribute {name!r}")
