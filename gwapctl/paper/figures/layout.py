"""A figure as a grid of pictures: matplotlib's constrained layout places them, their heads, captions and explanations.

Pictures keep their shape. Heads, labels and captions are wrapped by their measured width, so that nothing is cut off,
whatever classes and runs are called. The same layout gives the same bytes again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gwapctl.draw import COLOURS, DARK, TRUTH, Colour, ImageArray, draw_overlay
from gwapctl.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

FORMATS = (".png", ".pdf", ".svg", ".jpg")
DPI = 300
PAGE = 7.16  # inches: both columns of a two-column paper
WIDEST = 1.7  # inches of a cell
TALLEST = 1.25  # height of a picture over the width of its cell; taller ones become narrower
GAP = 0.06  # inches between cells
LABELS = 1.15  # inches of the column of row labels
HEAD_POINTS, TEXT_POINTS = 7.5, 6.5
LINE = 1.1  # points
INK = "#1f2933"
_STYLE: Any = {  # matplotlib's own type lists every key that it knows
    "font.family": "DejaVu Sans",
    "pdf.fonttype": 42,  # letters stay letters: journals ask for it
    "svg.hashsalt": "gwapctl",
    "text.color": INK,
    "text.parse_math": False,  # a class may have a dollar in its name
    "axes.labelcolor": INK,
    "savefig.facecolor": "white",
}
_FILES: dict[str, dict[str, Any]] = {  # without what would make two files of one layout differ, or names our parts
    ".png": {"metadata": {"Software": None}},
    ".pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
    ".svg": {"metadata": {"Date": None, "Creator": None, "Format": None, "Type": None}},
    ".jpg": {"pil_kwargs": {"quality": 85, "subsampling": 0}},
}
_LEGEND: dict[str, Any] = {"fontsize": TEXT_POINTS, "frameon": False, "borderpad": 0, "labelspacing": 0.25}


@dataclass(frozen=True)
class Outline:
    """A box ``x0, y0, x1, y1`` in original pixels; ground truth is dashed and green.

    A ``colour`` of its own is one that a caption explains.
    """

    box: Sequence[float]
    colour: Colour | None = None
    ground_truth: bool = False


@dataclass(frozen=True)
class Caption:
    """A line below a picture, with a small square of ``colour`` where it names the outlines of that colour."""

    text: str
    colour: Colour | None = None


@dataclass(frozen=True)
class Panel:
    """One cell: the ``picture`` ``(h, w, 3)`` of an image of ``size`` (W, H), what is drawn over it, and below it."""

    picture: ImageArray
    size: tuple[int, int]
    outlines: tuple[Outline, ...] = ()
    captions: tuple[Caption, ...] = ()


@dataclass(frozen=True)
class Row:
    """Panels side by side; None leaves a cell empty. ``label`` stands to their left."""

    panels: tuple[Panel | None, ...]
    label: str = ""


@dataclass(frozen=True)
class Layout:
    """A figure: column ``heads``, rows below them. ``heat``: a bar explains the colours of the maps."""

    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    heat: bool = True


def save_layout(layout: Layout, path: Path, *, dpi: int = DPI, width: float = PAGE) -> None:
    """Write a layout as ``.png``, ``.pdf``, ``.svg`` or ``.jpg``, whole or not at all; ``width`` is in inches.

    Raises:
        DataError: the file cannot be written.

    """
    import matplotlib as mpl

    kind = path.suffix.lower()
    figure = draw_layout(layout, dpi=dpi, width=width)
    with mpl.rc_context(_STYLE), atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind[1:], dpi=dpi, **_FILES[kind])


def draw_layout(layout: Layout, *, dpi: int = DPI, width: float = PAGE) -> Figure:
    """Draw a layout as a matplotlib figure whose size is what the layout needs, ``width`` inches at most.

    It is to be saved with ``dpi`` pixels per inch: letters are as wide as their pixels.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = max(len(layout.heads), *(len(row.panels) for row in layout.rows))
    labels = LABELS if any(row.label for row in layout.rows) else 0.0
    cell = min(WIDEST, (width - labels) / columns - GAP)
    shapes = [[panel.size[1] / panel.size[0] for panel in row.panels if panel] for row in layout.rows]
    heights = [cell * min(max(row), TALLEST) for row in shapes]
    sheet = np.array([columns * (cell + GAP) + labels, sum(heights) + 9])  # inches; more than all texts take
    with mpl.rc_context(_STYLE):
        constrained = ConstrainedLayoutEngine(w_pad=GAP / 2, h_pad=GAP / 2, wspace=0, hspace=0)
        figure = Figure(figsize=tuple(sheet), dpi=dpi, layout=constrained)
        axes = figure.subplots(len(layout.rows), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
        for one in axes.flat:
            one.set(xticks=[], yticks=[], frame_on=False)
        for one, head in zip(axes[0], layout.heads, strict=False):
            one.set_title(wrapped(head, cell, HEAD_POINTS), fontsize=HEAD_POINTS, pad=4)
        for cells, row, height in zip(axes, layout.rows, heights, strict=True):
            label = wrapped(row.label, labels - 3 * GAP, HEAD_POINTS)
            cells[0].set_ylabel(label, fontsize=HEAD_POINTS, rotation=0, ha="right", va="center")
            for one, panel in zip(cells, row.panels, strict=False):
                if panel is not None:
                    _draw_panel(one, panel, cell, height)
        _explain(figure, layout)
        constrained.execute(figure)
        pictures = [axes[0, 0].get_position().width * columns, sum(one.get_position().height for one in axes[:, 0])]
        figure.set_size_inches([columns * cell, sum(heights)] + sheet * (1 - np.array(pictures)))
        constrained.execute(figure)
        figure.set_layout_engine(None)  # saving would draw everything twice to lay it out again
    return figure


def _draw_panel(axes: Axes, panel: Panel, across: float, down: float) -> None:
    """Draw a picture in the middle of a cell of ``across`` by ``down`` inches, its outlines, and its captions below."""
    from matplotlib.patches import Patch

    width, height = panel.size
    axes.imshow(panel.picture, extent=(0, width, height, 0), interpolation="lanczos", aspect="auto")
    pixels = max(width / across, height / down) / 2  # of half an inch
    axes.set(xlim=(width / 2 - across * pixels, width / 2 + across * pixels))
    axes.set(ylim=(height / 2 + down * pixels, height / 2 - down * pixels))
    for outline in sorted(panel.outlines, key=lambda one: not one.ground_truth):
        for patch in _rectangles(outline, width, height):
            axes.add_patch(patch)
    square = 0.8 * any(caption.colour for caption in panel.captions)  # letter heights
    handles = []
    for caption in panel.captions:
        look: dict[str, Any] = {"fill": False, "linewidth": 0}
        if caption.colour:
            look = {"facecolor": _rgb(caption.colour), "edgecolor": _rgb(DARK), "linewidth": 0.4}
        first, *more = wrapped(caption.text, across - 2 * square * TEXT_POINTS / 72, TEXT_POINTS).split("\n")
        handles += [Patch(label=first, **look), *(Patch(label=line, fill=False, linewidth=0) for line in more)]
    if handles:
        look = _LEGEND | {"handlelength": square, "handleheight": 0.8, "handletextpad": square / 2}
        axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=0.3, **look)


def _rectangles(outline: Outline, width: float, height: float) -> tuple[Rectangle, ...]:
    """Return a dark halo and the box over it; at the border of the image half of its line lies outside."""
    from matplotlib.patches import Rectangle

    x0, x1 = np.clip([outline.box[0], outline.box[2]], 0, width)
    y0, y1 = np.clip([outline.box[1], outline.box[3]], 0, height)
    colour = TRUTH if outline.ground_truth else outline.colour or COLOURS[0]
    dashes = (0, (3, 1.6)) if outline.ground_truth else "solid"
    looks = ((LINE + 0.9, DARK, "solid"), (LINE, colour, dashes))
    common: dict[str, Any] = {"joinstyle": "miter", "capstyle": "butt", "fill": False, "clip_on": False}
    return tuple(
        Rectangle((x0, y0), x1 - x0, y1 - y0, linewidth=line, edgecolor=_rgb(edge), linestyle=style, **common)
        for line, edge, style in looks
    )


def _explain(figure: Figure, layout: Layout) -> None:
    """Say below the pictures what outlines and the colours of maps mean; captions explain other colours."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    drawn = [outline for row in layout.rows for panel in row.panels if panel for outline in panel.outlines]
    samples: dict[str, Any] = {}
    if any(outline.ground_truth for outline in drawn):
        samples["ground truth"] = _rectangles(Outline((0, 0, 1, 1), ground_truth=True), 1, 1)
    if any(outline.colour is None and not outline.ground_truth for outline in drawn):
        samples["predicted box"] = _rectangles(Outline((0, 0, 1, 1)), 1, 1)
    heat = np.tile(np.linspace(0, 1, 480, dtype=np.float32), (32, 1))
    bar = draw_overlay(np.full((32, 480, 3), 128, np.uint8), heat, [])  # as maps look over a grey picture
    colours = tuple(Patch(facecolor=colour, antialiased=False) for colour in bar[0, ::6] / 255)
    if layout.heat:
        samples["low to high, per map"] = colours
    look = _LEGEND | {
        "handlelength": 3,
        "columnspacing": 1.2,
        "handler_map": {colours: HandlerTuple(ndivide=None, pad=0)},
    }
    columns = max(len(samples), 1) if len(layout.heads) > 1 else 1
    figure.legend(list(samples.values()), list(samples), loc="outside lower left", ncols=columns, **look)


@cache
def text_width(text: str, points: float) -> float:
    """Return the width of ``text`` in inches, with the little that rounding letters to pixels may add."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=points)
    return 1.03 * float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def wrapped(text: str, width: float, points: float) -> str:
    """Break ``text`` into lines of at most ``width`` inches: after spaces and the signs in names, else anywhere."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in re.findall(r"[^ \-_/]*[ \-_/]?", paragraph):
            for part in [word] if text_width(word.rstrip(), points) <= width else word:
                if line and text_width((line + part).rstrip(), points) > width:
                    lines.append(line.rstrip())
                    line = ""
                line += part
        lines.append(line.rstrip())
    return "\n".join(lines)


def _rgb(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = (value / 255 for value in colour)
    return red, green, blue
