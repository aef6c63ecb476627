"""Figures for papers: maps of several models side by side, at several scales, beside detections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gwapctl.errors import UsageError, unknown_name
from gwapctl.paper.figures.images import find_images
from gwapctl.paper.figures.layout import DPI, FORMATS, save_layout
from gwapctl.paper.figures.models import find_models
from gwapctl.paper.figures.papers import FIGURES, Wishes, build_figure

__all__ = ["DPI", "FIGURES", "FORMATS", "Wishes", "make_figure"]


def make_figure(
    name: str,
    out: Path,
    *,
    models: Sequence[str] = (),
    runs: Path = Path("runs"),
    images: Sequence[str] = (),
    dataset: str | None = None,
    root: Path | None = None,
    limit: int = 4,
    wishes: Wishes | None = None,
    dpi: int = DPI,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Path:
    """Draw the paper's figure ``name`` from ``models`` (by default the newest run of each head below ``runs``).

    ``images`` are files, folders, globs or image ids; by default the first ``limit`` of the data set that the first
    model is evaluated on. ``dpi``: pixels per inch. ``note`` is told what a reader should know.

    Raises:
        UsageError: no such figure or format, ``out`` exists, or the models cannot give what the figure shows.
        DataError: an image or the data set cannot be read, or there is no finished run.
        ModelError: a model is missing or broken.

    """
    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES)
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"{out.name} is no figure. Give --out a name that ends in one of: {', '.join(FORMATS)}.")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists. Replace it with --overwrite, or choose another --out.")
    shown = find_models(models, runs, detectors=name == "9")
    pictures = find_images(images, shown[0].model.name, dataset=dataset, root=root, count=limit)
    save_layout(build_figure(name, shown, pictures, wishes or Wishes(), note), out, dpi=dpi)
    return out
