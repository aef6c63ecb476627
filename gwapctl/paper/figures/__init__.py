"""Figures for papers: maps of several models side by side, at several scales, beside detections."""

from __future__ import annotations

from pathlib import Path

from gwapctl.errors import UsageError, unknown_name
from gwapctl.paper.figures.images import find_images
from gwapctl.paper.figures.layout import DPI, FORMATS, save_layout
from gwapctl.paper.figures.models import find_models
from gwapctl.paper.figures.papers import FIGURES, Wishes, build_figure

__all__ = [
    "DPI",
    "FIGURES",
    "FORMATS",
    "Wishes",
    "build_figure",
    "check_figure",
    "find_images",
    "find_models",
    "save_layout",
]


def check_figure(name: str, out: Path, *, overwrite: bool) -> None:
    """Find out before any work whether figure ``name`` can be written to ``out``.

    Raises:
        UsageError: there is no such figure or format, or ``out`` exists.

    """
    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES)
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"{out.name} is no figure. Give --out a name that ends in one of: {', '.join(FORMATS)}.")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists. Replace it with --overwrite, or choose another --out.")
