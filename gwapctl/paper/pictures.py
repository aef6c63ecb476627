"""Pictures that a page can carry, as data URIs: curves of a run in SVG, its best and worst localizations in JPEG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gwapctl.errors import GwapctlError
from gwapctl.metrics import METRICS, describe

INK, FAINT, GRID = "#1f2933", "#6b7785", "#e3e8ee"
LINES = ("#0b63c5", "#d1495b", "#2a9d62", "#8e5bd0", "#b7791f", "#4a5568")
SIZE = (4.2, 2.7)  # inches; three stand side by side on a page
FARTHEST = 1e30  # of a number in a chart
COUNT = 6  # best localizations, and as many worst
LONG_SIDE = 480  # pixels of a photo
JPEG_QUALITY = 85

Points = tuple[Sequence[float], Sequence[float]]  # x and y of a line


class Picture(NamedTuple):
    """A picture for a page: what it shows, in words too, and its data URI."""

    title: str
    alt: str
    uri: str


# --- curves ---------------------------------------------------------------------------------------------------------


def learning_curves(history: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Draw what ``history.jsonl`` holds over the iterations: losses, validation metrics, learning rate."""
    charts: dict[str, dict[str, Points]] = {"Loss": {}, "Validation": {}, "Learning rate": {}}
    for key in dict.fromkeys(key for row in history for key in row if key != "iteration"):
        points = [(row["iteration"], row[key]) for row in history if _is_number(row.get(key), row.get("iteration"))]
        if points and ("loss" in key or key.startswith("val") or key == "lr"):
            title = "Loss" if "loss" in key else "Validation" if key.startswith("val") else "Learning rate"
            metric = METRICS.get(key.removeprefix("val_"))
            charts[title][key if metric is None else metric.title] = ([x for x, _ in points], [y for _, y in points])
    return [draw_chart(title, "iteration", lines) for title, lines in charts.items() if lines]


def _is_number(*values: object) -> bool:
    """Tell whether a chart can show all of ``values``: numbers, and none that no axis reaches."""
    numbers = (isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return all(numbers) and all(-FARTHEST < value < FARTHEST for value in values)  # type: ignore[operator]


def threshold_curves(evaluation: Mapping[str, Any]) -> list[Picture]:
    """Draw the curves over the box threshold that an evaluation carries, if it does.

    ``threshold_curve`` is ``{"thresholds": [...], METRIC: [...], ...}``, ``chosen`` (optional) the threshold in use.
    """
    curve: Mapping[str, Any] = evaluation.get("threshold_curve") or {}
    x, chosen = curve.get("thresholds") or [], curve.get("chosen")
    named = [(key, value) for key, value in curve.items() if isinstance(value, list) and key != "thresholds"]
    fits = [(key, value) for key, value in named if len(value) == len(x) and _is_number(*x, *value)]
    lines = {describe(key).title: (x, value) for key, value in fits}
    title = "Box threshold" if chosen is None else "Box threshold (dashed: in use)"
    return [draw_chart(title, "threshold", lines, mark=chosen)] if lines else []


def draw_chart(title: str, x_label: str, lines: Mapping[str, Points], *, mark: float | None = None) -> Picture:
    """Draw a chart of ``lines`` by their names; ``mark`` is an x where a dashed line stands."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "gwapctl", "font.size": 9, "axes.edgecolor": FAINT, "text.color": INK}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for index, (label, (x, y)) in enumerate(lines.items()):
            marker, colour = "o" if len(x) < 30 else None, LINES[index % len(LINES)]
            axes.plot(x, y, label=label, color=colour, linewidth=1.6, marker=marker, markersize=3)
        if mark is not None:
            axes.axvline(mark, color=FAINT, linewidth=1, linestyle="--")
        axes.set_xlabel(x_label, color=INK)
        axes.tick_params(colors=FAINT, labelcolor=INK, length=3)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8, handlelength=1.4)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    ends = [f"{label} from {y[0]:.4g} to {y[-1]:.4g}" for label, (_, y) in lines.items()]
    uri = _data_uri("image/svg+xml", buffer.getvalue().encode())
    return Picture(title, f"{title} over {x_label}: {', '.join(ends)}", uri)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


# --- photos ---------------------------------------------------------------------------------------------------------


class Examples(NamedTuple):
    """Photos, best first and worst first; ``missing`` counts images that are not where they were."""

    best: list[Picture]
    worst: list[Picture]
    missing: int


def find_examples(evaluation: Mapping[str, Any], dataset: str, root: Path | None) -> Examples:
    """Draw the best and worst of the ``examples`` that an evaluation document carries, if it does.

    An example is ``{"image", "path", "iou", "box", "truth"}`` and optionally ``label``; boxes are in original pixels,
    ``box`` is null where the map gave none. Images that moved are looked for in ``dataset`` below ``root``.
    """
    ordered = sorted(evaluation.get("examples") or [], key=lambda example: -float(example["iou"]))
    count = min(COUNT, (len(ordered) + 1) // 2)
    chosen = [*ordered[:count], *ordered[count:][::-1][:COUNT]]
    files = _image_files(chosen, dataset, str(evaluation.get("split")), root)
    drawn = [_draw(example, files[str(example["image"])]) for example in chosen]
    best, worst = ([one for one in part if one is not None] for part in (drawn[:count], drawn[count:]))
    return Examples(best, worst, drawn.count(None))


def _image_files(examples: Sequence[Mapping[str, Any]], dataset: str, split: str, root: Path | None) -> dict[str, Path]:
    """Return where the images are now, by id: where they were, else where the data set has them."""
    found = {str(example["image"]): Path(str(example.get("path") or "")) for example in examples}
    if all(path.is_file() for path in found.values()):
        return found
    from gwapctl.datasets import open_dataset

    try:
        samples = open_dataset(dataset, root).samples(split)
    except GwapctlError:  # the page is worth having without pictures
        return found
    return {**found, **{sample.id: sample.path for sample in samples if sample.id in found}}


def _draw(example: Mapping[str, Any], path: Path) -> Picture | None:
    """Draw one example, predicted box solid and ground truth dashed; None where its image is gone or broken."""
    import cv2

    from gwapctl.draw import Mark, draw_overlay
    from gwapctl.images.decode import read_image

    try:
        image = read_image(path)
    except GwapctlError:
        return None
    height, width = image.shape[:2]
    factor = min(1.0, LONG_SIDE / max(height, width))
    if factor < 1:
        small = (max(1, round(width * factor)), max(1, round(height * factor)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype("uint8")
    box = example.get("box")
    marks = [Mark(truth, ground_truth=True) for truth in example.get("truth") or []]
    marks += [] if box is None else [Mark(box, str(example.get("label") or ""))]
    picture = cv2.cvtColor(draw_overlay(image, None, marks, size=(width, height)), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    iou = f"IoU {float(example['iou']):.2f}" if box is not None else "no box"
    title = f"{example['image']}: {iou}"
    return Picture(title, title, _data_uri("image/jpeg", encoded.tobytes()))
