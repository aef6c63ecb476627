"""Weakly supervised localization: from image-level labels to maps, boxes and the papers' tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gwapctl.localize import Localization, Model, load_model

__version__ = "0.1.0"
__all__ = ["Localization", "Model", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """Import the Python API only when it is used, so that ``import gwapctl`` stays instant."""
    if name in ("Localization", "Model", "load_model"):
        from gwapctl import localize

        return getattr(localize, name)
    raise AttributeError(f"module 'gwapctl' has no attribute {name!r}")
