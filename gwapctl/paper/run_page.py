"""The page of one run: result, learning curves, threshold, best and worst localizations, classes, settings."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gwapctl.errors import reading
from gwapctl.metrics import METRICS, PERCENT, describe
from gwapctl.metrics.shown import FLOOR_NAMES, groups
from gwapctl.metrics.verdict import find_verdict
from gwapctl.paper.measured import is_chosen_on
from gwapctl.paper.pages import render_page, write_report
from gwapctl.paper.pictures import find_examples, learning_curves, threshold_curves
from gwapctl.runs import Run

PAGE = "report.html"


def write_run_page(folder: Path, out: Path | None = None, *, root: Path | None = None, overwrite: bool = False) -> Path:
    """Write the page of the run in ``folder`` and return where: ``out``, by default ``report.html`` in the run.

    ``root`` is where the run's data set is now, for pictures of images that have moved.

    Raises:
        DataError: ``folder`` is not a run, or the page cannot be written.
        UsageError: the page exists and ``overwrite`` is not set.

    """
    run = Run.open(folder)
    path = out or folder / PAGE
    write_report(path, lambda: _page(run, root), overwrite=overwrite)
    return path


def _page(run: Run, root: Path | None) -> str:
    with reading(run.folder, advice="A file of the run was written by something else: train it again."):
        return render_run_page(run, root)


def render_run_page(run: Run, root: Path | None = None) -> str:
    """Return the page of a run as HTML; its result is the newest evaluation of images that nothing was chosen on."""
    evaluations = sorted(run.evaluations(), key=lambda document: str(document.get("created", "")), reverse=True)
    data: dict[str, Any] = run.document.get("dataset") or {}
    settings: dict[str, Any] = run.document.get("config") or {}
    val_split = data.get("val_split")
    results = [document for document in evaluations if not is_chosen_on(str(document["split"]), val_split)]
    main: Mapping[str, Any] = next(iter([*results, *evaluations]), {})
    return render_page(
        "run.html",
        title=run.name,
        lead=_lead(run),
        verdict=_verdict(main),
        groups=_cards(main),
        judged_on=_judged_on(main, val_split) if main else "",
        notes=main.get("notes") or [],
        evaluate_command=shlex.join(["gwapctl", "evaluate", str(run.folder)]),
        curves=learning_curves(run.history()),
        thresholds=threshold_curves(main),
        examples=find_examples(main, str(settings.get("dataset", "")), root),
        by_area=_by_area(main.get("by_area") or []),
        evaluations=_all_evaluations(evaluations),
        classes=_classes(main.get("per_class") or []),
        settings=_facts(settings),
        data=_facts(_data(data, run.document.get("box_subset"))),
        versions=_facts({"device": run.document.get("device"), **(run.document.get("versions") or {})}),
    )


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


def _verdict(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """Return what the boxes are worth in one line, and how that is to be coloured; nothing where nobody judged it."""
    verdict = find_verdict(evaluation) if evaluation else None
    return {} if verdict is None else {"text": verdict.text(), "kind": verdict.answer.split()[0]}


def _cards(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the known metrics by group, accuracies in the place of errors, with the floors beside them."""
    floors = evaluation.get("floors") or {}
    found = []
    for group in groups(evaluation, on_pages=True):
        cards = []
        for key, metric in group.metrics.items():
            beside = {name: (floors[name] or {}).get(key) for name in group.floors}
            texts = [f"{FLOOR_NAMES.get(name, name)} {_shown(key, v)}" for name, v in beside.items() if v is not None]
            text = f"floors: {', '.join(texts)}" if texts else ""
            value = _shown(key, evaluation["metrics"][key])
            cards.append({"name": metric.shown_title, "value": value, "floor": text})
        found.append({"title": group.title, "cards": cards})
    return found


def _shown(key: str, value: float | None) -> str:
    return describe(key).text(describe(key).as_shown(value))


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


def _all_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a table with one row per evaluation, with the metrics that any of them has."""
    known = {key for document in evaluations for key in document.get("metrics") or {}}
    metrics = {key: metric for key, metric in METRICS.items() if metric.on_pages and key in known}
    rows = []
    for document in evaluations:
        options, found = document.get("options") or {}, document.get("metrics") or {}
        words = [document["dataset"], document["split"], document["protocol"]]
        words += [options.get(key, "") for key in ("map", "scales", "box_rule")]
        numbers = [f"{document['n']:,}", *(_shown(key, found.get(key)) for key in metrics)]
        rows.append([(text, None) for text in (str(document.get("created", ""))[:10], *map(_text, words), *numbers)])
    names = ("date", "data set", "split", "protocol", "map", "scales", "box rule", "images")
    return {"columns": [*names, *(one.shown_title for one in metrics.values())], "rows": rows, "text_columns": 7}


def _by_area(strata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a table with one row per size of the objects; a size that no object has is left out."""
    rows = [row | row["floors"] for row in map(dict, strata) if row["n"]]
    keys = [key for key in (rows[0] if rows else ()) if key not in ("area", "from", "to", "floors")]
    texts = [[f"{row['n']:,}", *(PERCENT.text(row[key]) for key in keys if key != "n")] for row in rows]
    names = [f"{100 * row['from']:.0f} to {100 * row['to']:.0f} %" for row in rows]
    cells = [[(text, None) for text in (name, *of_row)] for name, of_row in zip(names, texts, strict=True)]
    return {"columns": ["object", *(key.replace("_", " ") for key in keys)], "rows": cells, "text_columns": 1}


def _classes(per_class: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a table with one row per class and a bar behind each number: its share in percent."""
    metrics = {key: describe(key) for row in per_class for key in row if key not in ("class", "id", "n")}
    with_id = any(row.get("id") not in (None, row.get("class")) for row in per_class)
    names = ["class", "id"] if with_id else ["class"]
    rows = []
    for row in per_class:
        cells: list[tuple[str, float | None]] = [(_text(row.get(key, "")), None) for key in (*names, "n")]
        for key, metric in metrics.items():
            value = metric.as_shown(row.get(key))
            share = None if value is None else min(max(value * metric.unit.to_percent, 0.0), 100.0)
            cells.append((metric.text(value), share))
        rows.append(cells)
    columns = [*names, "images", *(metric.shown_title for metric in metrics.values())]
    return {"columns": columns, "rows": rows, "text_columns": len(names)}


# --- facts -----------------------------------------------------------------------------------------------------------


def _data(data: Mapping[str, Any], subset: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the run's data with the classes counted, and how many images showed a detector their boxes."""
    facts = {key: len(value) if key == "classes" else value for key, value in data.items()}
    if subset:
        facts["images_with_boxes"] = f"{subset['n']:,} ({subset['fraction']:.1%}), list {subset['hash']}"
    return facts


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
