"""A figure as a grid of pictures on paper: laid out in inches, letters inside their cells, boxes and text as vectors.

Pictures keep their shape. Heads and captions are wrapped by their measured width, so that nothing is cut off, whatever
classes and runs are called. The same plate gives the same bytes again.
"""

from __future__ import annotations

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

FORMATS = (".png", ".pdf", ".svg", ".jpg")
DPI = 300
PAGE = 7.16  # inches: both columns of a two-column paper
WIDEST = 1.7  # inches of a cell
TALLEST = 1.25  # height of a picture over the width of its cell; taller ones become narrower
GAP, MARGIN = 0.06, 0.04  # inches between cells, and around everything
LABELS = 1.15  # inches of the column of row labels
HEAD_POINTS, TEXT_POINTS = 7.5, 6.5
LINE = 1.1  # points
LEADING = 1.3  # line height over letter height
INK = "#1f2933"
FOOT_SPACE = 0.05  # inches between a sample and its text
# what is written before and after the sample that it explains, and how many inches that is wide
_FOOT_TEXTS = {"truth": ("", "ground truth"), "box": ("", "predicted box"), "heat": ("low", "high, per map")}
SAMPLES = {"truth": 0.24, "box": 0.24, "heat": 0.5}


@dataclass(frozen=True)
class Outline:
    """A box ``x0, y0, x1, y1`` in original pixels; ground truth is dashed and green.

    A ``colour`` of its own is one that a caption explains.
    """

    box: Sequence[float]
    colour: Colour | None = None
    truth: bool = False


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
class PlateRow:
    """Panels side by side; None leaves a cell empty. ``label`` stands to their left."""

    panels: tuple[Panel | None, ...]
    label: str = ""


@dataclass(frozen=True)
class Plate:
    """A figure: column ``heads``, rows below them. ``heat``: a bar explains the colours of the maps."""

    heads: tuple[str, ...]
    rows: tuple[PlateRow, ...]
    heat: bool = True


def save_plate(plate: Plate, path: Path, *, dpi: int = DPI, width: float = PAGE) -> None:
    """Write a plate as ``.png``, ``.pdf``, ``.svg`` or ``.jpg``, whole or not at all; ``width`` is in inches.

    Raises:
        DataError: the file cannot be written.

    """
    import matplotlib as mpl

    kind = path.suffix.lower()
    extras: dict[str, Any] = (
        {"pil_kwargs": {"quality": 85, "subsampling": 0}} if kind == ".jpg" else {"metadata": _METADATA[kind]}
    )
    with mpl.rc_context(_STYLE):
        figure = draw_plate(plate, width=width)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind[1:], dpi=dpi, **extras)


# what would make two files of one plate differ, or names this program's parts in them
_METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}
_STYLE: Any = {  # matplotlib's own type lists every key that it knows
    "font.family": "DejaVu Sans",
    "pdf.fonttype": 42,  # letters stay letters: journals ask for it
    "svg.hashsalt": "gwapctl",
    "text.color": INK,
    "text.parse_math": False,  # a class may have a dollar in its name
    "savefig.facecolor": "white",
}


# ------------------------------------------------------------------------------------------------------------ layout


@dataclass(frozen=True)
class _Cell:
    """Where a panel's picture is, in inches from the top left corner of the sheet, and its wrapped captions."""

    panel: Panel
    left: float
    top: float
    width: float
    height: float
    lines: tuple[Caption, ...]


@dataclass(frozen=True)
class _Layout:
    """Everything in inches: the size of the sheet, its cells, and lines of text (text, x, y, points, alignment)."""

    width: float
    height: float
    cells: tuple[_Cell, ...]
    texts: tuple[tuple[str, float, float, float, str], ...]
    foot: float


def draw_plate(plate: Plate, *, width: float = PAGE) -> Figure:
    """Draw a plate as a matplotlib figure whose size is what the plate needs, ``width`` inches at most."""
    from matplotlib.figure import Figure

    layout = _lay_out(plate, width)
    figure = Figure(figsize=(layout.width, layout.height))
    for cell in layout.cells:
        _draw_cell(figure, layout, cell)
    for text, x, y, points, align in layout.texts:
        _write(figure, layout, text, x, y, points, align)
    _draw_foot(figure, layout, plate)
    return figure


def _lay_out(plate: Plate, width: float) -> _Layout:
    columns = max(len(plate.heads), *(len(row.panels) for row in plate.rows))
    labels = LABELS if any(row.label for row in plate.rows) else 0.0
    cell = min(WIDEST, (width - 2 * MARGIN - labels - (columns - 1) * GAP) / columns)
    lefts = [MARGIN + labels + place * (cell + GAP) for place in range(columns)]
    texts: list[tuple[str, float, float, float, str]] = []
    heads = [wrapped(head, cell, HEAD_POINTS) for head in plate.heads]
    top = MARGIN + max((len(lines) for lines in heads), default=0) * _line(HEAD_POINTS)
    for left, lines in zip(lefts, heads, strict=False):
        for above, line in enumerate(reversed(lines)):  # heads stand on the first row
            texts.append((line, left + cell / 2, top - above * _line(HEAD_POINTS), HEAD_POINTS, "center"))
    top += 0.04 if any(plate.heads) else 0.0
    cells: list[_Cell] = []
    for row in plate.rows:
        height = max(_picture_size(panel, cell)[1] for panel in row.panels if panel is not None)
        words = wrapped(row.label, labels - GAP, HEAD_POINTS) if row.label else []
        middle = top + height / 2 - len(words) * _line(HEAD_POINTS) / 2
        texts += [
            (line, MARGIN, middle + (place + 1) * _line(HEAD_POINTS), HEAD_POINTS, "left")
            for place, line in enumerate(words)
        ]
        placed = [
            _place(panel, left, top, cell, height)
            for panel, left in zip(row.panels, lefts, strict=False)
            if panel is not None
        ]
        cells += placed
        top += height + max(len(one.lines) for one in placed) * _line(TEXT_POINTS) + GAP
    width = lefts[-1] + cell + MARGIN
    foot_lines = 1 + max((part.line for part in _foot_parts(plate, width)), default=-1)
    return _Layout(width, top + foot_lines * _line(TEXT_POINTS) + MARGIN, tuple(cells), tuple(texts), foot=top)


def _place(panel: Panel, left: float, top: float, cell: float, height: float) -> _Cell:
    """Centre a picture in its cell; its captions use the whole width of the cell."""
    across, down = _picture_size(panel, cell)
    lines = []
    for caption in panel.captions:
        room = cell - (_line(TEXT_POINTS) if caption.colour else 0)
        first, *more = wrapped(caption.text, room, TEXT_POINTS) or [""]
        lines += [Caption(first, caption.colour), *(Caption(line) for line in more)]
    return _Cell(panel, left + (cell - across) / 2, top + (height - down) / 2, across, down, tuple(lines))


def _picture_size(panel: Panel, cell: float) -> tuple[float, float]:
    """Return width and height in inches of a picture that fits a cell of that width."""
    width, height = panel.size
    factor = min(cell / width, cell * TALLEST / height)
    return width * factor, height * factor


def _line(points: float) -> float:
    """Return the height of a line of text in inches."""
    return points * LEADING / 72


@cache
def text_width(text: str, points: float) -> float:
    """Return the width of ``text`` in inches, with the little that rounding letters to pixels may add."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=points)
    return 1.03 * float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def wrapped(text: str, width: float, points: float) -> list[str]:
    """Break ``text`` into lines of at most ``width`` inches: after spaces and the signs in names, else anywhere."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for part in _parts(paragraph):
            if line and text_width(line + part.rstrip(), points) > width:
                lines.append(line.rstrip())
                line = ""
            line += part
            while text_width(line.rstrip(), points) > width and len(line) > 1:
                fits = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or text_width(line[:n], points) <= width)
                lines.append(line[:fits])
                line = line[fits:]
        lines.append(line.rstrip())
    return lines


def _parts(text: str) -> list[str]:
    """Cut a text after every sign where a line may end."""
    parts, start = [], 0
    for place, sign in enumerate(text, start=1):
        if sign in " -_/":
            parts.append(text[start:place])
            start = place
    return [*parts, text[start:]]


# ----------------------------------------------------------------------------------------------------------- drawing


def _draw_cell(figure: Figure, layout: _Layout, cell: _Cell) -> None:
    panel = cell.panel
    axes = _axes(figure, layout, cell.left, cell.top, cell.width, cell.height)
    width, height = panel.size
    axes.imshow(panel.picture, aspect="auto", extent=(0, width, height, 0), interpolation="lanczos")
    for outline in sorted(panel.outlines, key=lambda one: not one.truth):
        _draw_outline(axes, outline, width, height)
    bottom = cell.top + cell.height
    for place, caption in enumerate(cell.lines, start=1):
        _draw_caption(figure, layout, caption, cell.left + cell.width / 2, bottom + place * _line(TEXT_POINTS))


def _draw_outline(axes: Axes, outline: Outline, width: float, height: float) -> None:
    """Draw a box with a dark halo; at the border of the image half of its line lies outside."""
    from matplotlib.patches import Rectangle

    x0, x1 = np.clip([outline.box[0], outline.box[2]], 0, width)
    y0, y1 = np.clip([outline.box[1], outline.box[3]], 0, height)
    colour = _rgb(TRUTH if outline.truth else outline.colour or COLOURS[0])
    dashes = (0, (3, 1.6)) if outline.truth else "solid"
    for line, ink, style in ((LINE + 0.9, _rgb(DARK), "solid"), (LINE, colour, dashes)):
        look: dict[str, Any] = {
            "linewidth": line,
            "edgecolor": ink,
            "linestyle": style,
            "joinstyle": "miter",
            "capstyle": "butt",
        }
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, clip_on=False, **look))


def _draw_caption(figure: Figure, layout: _Layout, caption: Caption, middle: float, y: float) -> None:
    side = TEXT_POINTS / 72 * 0.8 if caption.colour else 0.0
    whole = text_width(caption.text, TEXT_POINTS) + 1.5 * side
    left = middle - whole / 2
    if caption.colour:
        _draw_square(figure, layout, left, y, side, caption.colour)
    _write(figure, layout, caption.text, left + 1.5 * side, y, TEXT_POINTS, "left")


def _draw_square(figure: Figure, layout: _Layout, left: float, y: float, side: float, colour: Colour) -> None:
    """Draw a small square on the line of text whose bottom is ``y``."""
    from matplotlib.patches import Rectangle

    bottom = 1 - (y - 0.22 * TEXT_POINTS / 72) / layout.height
    figure.add_artist(
        Rectangle(
            (left / layout.width, bottom),
            side / layout.width,
            side / layout.height,
            facecolor=_rgb(colour),
            edgecolor=_rgb(DARK),
            linewidth=0.4,
            transform=figure.transFigure,
        )
    )


@dataclass(frozen=True)
class _FootPart:
    """One explanation below the pictures: where it starts, in inches, and on which line."""

    kind: str
    left: float
    line: int


def _foot_parts(plate: Plate, width: float) -> list[_FootPart]:
    """Place what explains outlines and colours side by side, in as many lines as a sheet of ``width`` needs."""
    drawn = {_kind(outline) for row in plate.rows for panel in row.panels if panel for outline in panel.outlines}
    parts: list[_FootPart] = []
    left, line = MARGIN, 0
    for kind in _FOOT_TEXTS:
        if kind in drawn or (kind == "heat" and plate.heat):
            length = sum(text_width(text, TEXT_POINTS) + FOOT_SPACE for text in _FOOT_TEXTS[kind]) + SAMPLES[kind]
            if parts and left + length > width - MARGIN:
                left, line = MARGIN, line + 1
            parts.append(_FootPart(kind, left, line))
            left += length + 0.15
    return parts


def _kind(outline: Outline) -> str:
    """Tell which explanation an outline needs; other colours are explained by the captions."""
    if outline.truth:
        return "truth"
    return "box" if outline.colour is None else ""


def _draw_foot(figure: Figure, layout: _Layout, plate: Plate) -> None:
    height = 0.07
    for part in _foot_parts(plate, layout.width):
        before, after = _FOOT_TEXTS[part.kind]
        left, bottom = part.left, layout.foot + (part.line + 1) * _line(TEXT_POINTS)
        top = bottom - 0.012 - height
        if before:
            _write(figure, layout, before, left, bottom, TEXT_POINTS, "left")
            left += text_width(before, TEXT_POINTS) + FOOT_SPACE
        axes = _axes(figure, layout, left, top, SAMPLES[part.kind], height)
        if part.kind == "heat":
            axes.imshow(heat_bar(), aspect="auto", interpolation="bilinear")
        else:
            axes.set(xlim=(0, 1), ylim=(1, 0))
            _draw_outline(axes, Outline((0, 0, 1, 1), truth=part.kind == "truth"), 1, 1)
        _write(figure, layout, after, left + SAMPLES[part.kind] + FOOT_SPACE, bottom, TEXT_POINTS, "left")


def heat_bar() -> ImageArray:
    """Return the colours of the maps from low to high as they look over a grey picture."""
    grey = np.full((32, 480, 3), 128, np.uint8)
    return draw_overlay(grey, np.tile(np.linspace(0, 1, 480, dtype=np.float32), (32, 1)), [])


def _write(figure: Figure, layout: _Layout, text: str, x: float, y: float, points: float, align: str) -> None:
    """Write one line whose box ends at ``y`` inches from the top."""
    baseline = y - (LEADING - 1) * points / 72
    figure.text(
        x / layout.width, 1 - baseline / layout.height, text, fontsize=points, ha=align, va="baseline", parse_math=False
    )


def _axes(figure: Figure, layout: _Layout, left: float, top: float, width: float, height: float) -> Axes:
    axes = figure.add_axes(_rectangle(layout, left, top, width, height))
    axes.set_axis_off()
    return axes


def _rectangle(
    layout: _Layout, left: float, top: float, width: float, height: float
) -> tuple[float, float, float, float]:
    """Turn inches from the top left corner into matplotlib's fractions from the bottom left one."""
    return (
        left / layout.width,
        1 - (top + height) / layout.height,
        width / layout.width,
        height / layout.height,
    )


def _rgb(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = (value / 255 for value in colour)
    return red, green, blue
