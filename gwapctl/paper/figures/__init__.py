"""Figures for papers: maps of several models side by side, at several scales, beside detections."""

from gwapctl.paper.figures.inputs import find_images, find_models
from gwapctl.paper.figures.layout import save_layout
from gwapctl.paper.figures.papers import Wishes, build_figure, check_figure

__all__ = ["Wishes", "build_figure", "check_figure", "find_images", "find_models", "save_layout"]
