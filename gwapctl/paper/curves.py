"""Curves of a run as pictures that a page can carry: SVG in data URIs, drawn without a display."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gwapctl.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, GRID = "#1f2933", "#6b7785", "#e3e8ee"
LINES = ("#0b63c5", "#d1495b", "#2a9d62", "#8e5bd0", "#b7791f", "#4a5568")
SIZE = (4.2, 2.7)  # inches; three stand side by side on a page


@dataclass(frozen=True)
class Picture:
    """A picture for a page: what it shows, in words too, and its data URI."""

    title: str
    alt: str
    uri: str


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def learning_curves(history: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Draw what ``history.jsonl`` holds over the iterations: losses, validation metrics, learning rate."""
    lines = [line for line in _lines(history) if len(line.y)]
    charts = {
        "Loss": [line for line in lines if "loss" in line.label],
        "Validation": [line for line in lines if line.label.startswith("val") and "loss" not in line.label],
        "Learning rate": [line for line in lines if line.label == "lr"],
    }
    return [draw_chart(title, "iteration", [_named(one) for one in found]) for title, found in charts.items() if found]


def _named(line: Line) -> Line:
    """Give a validation metric the name that it has on the page."""
    key = line.label.removeprefix("val_")
    return replace(line, label=METRICS[key].title) if key in METRICS else line


def _lines(history: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Return one line per number that the history knows, over the iterations where it has a value."""
    keys = dict.fromkeys(key for row in history for key in row if key != "iteration")
    lines = []
    for key in keys:
        points = [(row["iteration"], row[key]) for row in history if _is_number(row.get(key)) and "iteration" in row]
        lines.append(Line(key, [x for x, _ in points], [y for _, y in points]))
    return lines


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def draw_chart(title: str, x_label: str, lines: Sequence[Line], *, mark: float | None = None) -> Picture:
    """Draw a chart of ``lines``; ``mark`` is an x where a dashed line stands."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "gwapctl", "font.size": 9, "axes.edgecolor": FAINT, "text.color": INK}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for index, line in enumerate(lines):
            marker = "o" if len(line.x) < 30 else None
            colour = LINES[index % len(LINES)]
            axes.plot(line.x, line.y, label=line.label, color=colour, linewidth=1.6, marker=marker, markersize=3)
        if mark is not None:
            axes.axvline(mark, color=FAINT, linewidth=1, linestyle="--")
        _style(axes, x_label)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8, handlelength=1.4)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    ends = [f"{line.label} from {line.y[0]:.4g} to {line.y[-1]:.4g}" for line in lines]
    return Picture(
        title, f"{title} over {x_label}: {', '.join(ends)}", data_uri("image/svg+xml", buffer.getvalue().encode())
    )


def _style(axes: Axes, x_label: str) -> None:
    axes.set_xlabel(x_label, color=INK)
    axes.tick_params(colors=FAINT, labelcolor=INK, length=3)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def data_uri(kind: str, content: bytes) -> str:
    """Return ``content`` of MIME type ``kind`` as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
