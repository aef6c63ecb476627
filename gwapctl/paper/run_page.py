"""The page of one run: result, learning curves, threshold, best and worst localizations, classes, settings."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gwapctl.metrics import METRICS, Metric, describe
from gwapctl.paper.curves import Line, Picture, draw_chart, learning_curves
from gwapctl.paper.examples import find_examples
from gwapctl.paper.measured import is_chosen_on
from gwapctl.paper.pages import render_page, write_report
from gwapctl.runs import Run

PAGE = "report.html"


@dataclass(frozen=True)
class TableCell:
    """A cell of a plain table; ``share`` in percent draws a bar behind it."""

    text: str
    share: float | None = None


@dataclass(frozen=True)
class PlainTable:
    """A table of the page: ``text_columns`` columns of text, then numbers."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[TableCell, ...], ...] = ()
    text_columns: int = 1


def write_run_page(folder: Path, out: Path | None = None, *, root: Path | None = None, overwrite: bool = False) -> Path:
    """Write the page of the run in ``folder`` and return where: ``out``, by default ``report.html`` in the run.

    ``root`` is where the run's data set is now, for pictures of images that have moved.

    Raises:
        DataError: ``folder`` is not a run, or the page cannot be written.
        UsageError: the page exists and ``overwrite`` is not set.

    """
    run = Run.open(folder)
    path = out or folder / PAGE
    write_report(path, lambda: render_run_page(run, root), overwrite=overwrite)
    return path


def render_run_page(run: Run, root: Path | None = None) -> str:
    """Return the page of a run as HTML."""
    evaluations = sorted(run.evaluations(), key=lambda document: str(document.get("created", "")), reverse=True)
    data: dict[str, Any] = run.document.get("dataset") or {}
    main = _main_evaluation(evaluations, data.get("val_split"))
    settings: dict[str, Any] = run.document.get("config") or {}
    dataset = str(settings.get("dataset", ""))
    return render_page(
        "run.html",
        title=run.name,
        lead=_lead(run),
        cards=[] if main is None else _cards(main),
        judged_on="" if main is None else _judged_on(main, data.get("val_split")),
        notes=[] if main is None else main.get("notes") or [],
        evaluate_command=shlex.join(["gwapctl", "evaluate", str(run.folder)]),
        curves=learning_curves(run.history()),
        thresholds=[] if main is None else threshold_curves(main),
        examples=find_examples(main or {}, dataset, root),
        evaluations=_all_evaluations(evaluations),
        classes=PlainTable() if main is None else _classes(main.get("per_class") or []),
        settings=_facts(settings),
        data=_facts(_data(data) | _boxes_seen(run)),
        versions=_facts({"device": run.document.get("device"), **(run.document.get("versions") or {})}),
    )


def _main_evaluation(evaluations: Sequence[Mapping[str, Any]], val_split: str | None) -> Mapping[str, Any] | None:
    """Choose the newest evaluation, of images that nothing was chosen on if there is one."""
    results = [document for document in evaluations if not is_chosen_on(str(document["split"]), val_split)]
    return next(iter([*results, *evaluations]), None)


def _lead(run: Run) -> str:
    settings, data = run.document.get("config") or {}, run.document.get("dataset") or {}
    model = " + ".join(str(settings[key]) for key in ("backbone", "head", "detector", "weak") if settings.get(key))
    trained = f"trained on {data.get('name', '?')}"
    if data.get("train_split"):
        trained += f" {data['train_split']}"
    if data.get("n_train"):
        trained += f" ({data['n_train']:,} images, {len(data.get('classes') or []):,} classes)"
    when = str(run.document.get("finished") or run.document.get("started") or "")[:16].replace("T", " ")
    return f"{model or 'A model'}, {trained}. {run.document['status'].capitalize()}{', ' + when if when else ''}."


# --- numbers ---------------------------------------------------------------------------------------------------------


def _cards(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the known metrics with the floors beside them."""
    metrics: Mapping[str, Any] = evaluation.get("metrics") or {}
    cards = []
    for key, metric in METRICS.items():
        if metric.on_pages and metrics.get(key) is not None:
            floors = [
                f"{name.replace('_', ' ')} {metric.text(floor[key])}"
                for name, floor in (evaluation.get("floors") or {}).items()
                if (floor or {}).get(key) is not None
            ]
            text = f"floors: {', '.join(floors)}" if floors else ""
            cards.append({"name": metric.title, "value": metric.text(metrics[key]), "floor": text})
    return cards


def _judged_on(evaluation: Mapping[str, Any], val_split: str | None) -> str:
    parts = [f"{evaluation['dataset']} {evaluation['split']}", f"{evaluation['n']:,} images"]
    if is_chosen_on(str(evaluation["split"]), val_split):
        parts.append("images that settings were chosen on: no result")
    if evaluation.get("n_degenerate"):
        parts.append(f"{evaluation['n_degenerate']:,} with an empty or constant map (counted as wrong)")
    parts.append(f"protocol {evaluation['protocol']}")
    parts += [f"{key.replace('_', ' ')} {_text(value)}" for key, value in (evaluation.get("options") or {}).items()]
    parts.append(str(evaluation.get("created", ""))[:10])
    return "; ".join(part for part in parts if part)


def _all_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> PlainTable:
    """Return one row per evaluation, with the metrics that any of them has."""
    keys = [
        key
        for key, metric in METRICS.items()
        if metric.on_pages and any(key in (document.get("metrics") or {}) for document in evaluations)
    ]
    rows = []
    for document in evaluations:
        options = document.get("options") or {}
        words = [document["dataset"], document["split"], document["protocol"]]
        words += [options.get(key, "") for key in ("map", "scales", "box_rule")]
        numbers = [METRICS[key].text((document.get("metrics") or {}).get(key)) for key in keys]
        row = [str(document.get("created", ""))[:10], *map(_text, words), f"{document['n']:,}", *numbers]
        rows.append(tuple(TableCell(cell) for cell in row))
    names = ("date", "data set", "split", "protocol", "map", "scales", "box rule", "images")
    return PlainTable((*names, *(METRICS[key].title for key in keys)), tuple(rows), text_columns=7)


def _classes(per_class: Sequence[Mapping[str, Any]]) -> PlainTable:
    """Return one row per class with a bar behind each number."""
    keys = list(dict.fromkeys(key for row in per_class for key in row if key not in ("class", "id", "n")))
    with_id = any(row.get("id") not in (None, row.get("class")) for row in per_class)
    names = ["class", *(["id"] if with_id else []), "images"]
    rows = []
    for row in per_class:
        words = [str(row.get("class", "")), *([str(row.get("id", ""))] if with_id else [])]
        cells = [*map(TableCell, words), TableCell(_text(row.get("n", "")))]
        rows.append((*cells, *(_bar(describe(key), row.get(key)) for key in keys)))
    columns = [*names, *(describe(key).title for key in keys)]
    return PlainTable(tuple(columns), tuple(rows), text_columns=len(names) - 1)


def _bar(metric: Metric, value: float | None) -> TableCell:
    share = None if value is None else min(max(value * metric.unit.to_percent, 0.0), 100.0)
    return TableCell(metric.text(value), share)


def threshold_curves(evaluation: Mapping[str, Any]) -> list[Picture]:
    """Draw the curves over the box threshold that an evaluation carries, if it does.

    ``threshold_curve`` is ``{"thresholds": [...], METRIC: [...], ...}``, ``chosen`` (optional) the threshold in use.
    """
    curve: Mapping[str, Any] = evaluation.get("threshold_curve") or {}
    x = curve.get("thresholds") or []
    named = [(key, value) for key, value in curve.items() if isinstance(value, list) and key != "thresholds"]
    lines = [Line(describe(key).title, x, value) for key, value in named if len(value) == len(x)]
    chosen = curve.get("chosen")
    title = "Box threshold" if chosen is None else "Box threshold (dashed: in use)"
    return [draw_chart(title, "threshold", lines, mark=chosen)] if lines else []


# --- facts -----------------------------------------------------------------------------------------------------------


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run's data with the list of classes counted."""
    return {key: len(value) if key == "classes" else value for key, value in data.items()}


def _boxes_seen(run: Run) -> dict[str, Any]:
    """Return how many images showed a detector their boxes, and the hash of their list."""
    subset = run.document.get("box_subset")
    if not subset:
        return {}
    return {"images_with_boxes": f"{subset['n']:,} ({subset['fraction']:.1%}), list {subset['hash']}"}


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), _text(value)) for key, value in values.items() if value not in (None, [], "", {})]


def _text(value: object) -> str:
    """Write a setting for a person."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(str(item) for item in value)
    return str(value)
