"""The settings of a training run: declared in ``settings``, checked and combined in ``run_config``.

What is checked is imported when it is used, and pydantic with it, so that the declarations alone, which help needs,
stay instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gwapctl.config.run_config import *  # noqa: F403 - its __all__ is the list of names


def __getattr__(name: str) -> Any:
    run_config = importlib.import_module("gwapctl.config.run_config")
    if name in run_config.__all__:
        return getattr(run_config, name)
    raise AttributeError(f"module 'gwapctl.config' has no attribute {name!r}")
