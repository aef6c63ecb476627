"""From a finished run to a zoo entry: half-precision weights, ``model.json``, and a card with measured numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gwapctl.errors import DataError
from gwapctl.files import read_json, write_text
from gwapctl.model import load_classifier, save_model
from gwapctl.runs import Run
from gwapctl.zoo import check_logits

HEADLINE = (
    "top1_error",
    "top5_error",
    "top1_loc_error",
    "top5_loc_error",
    "gt_known_error",
    "max_box_acc",
    "f_measure",
)
TOO_SMALL_TO_PUBLISH = 100  # images: numbers on fewer say nothing


def write_entry(run_folder: Path, entry: Path, evaluations: Sequence[Path] = ()) -> None:
    """Write ``weights.safetensors`` (float16), ``model.json`` and the front matter of ``card.md`` to ``entry``.

    The text of an existing card stays. ``evaluations`` are documents of ``gwapctl evaluate --out`` on the entry itself;
    the first one's metrics are the headline.

    Raises:
        DataError: the run is not finished, or an evaluation is of another kind or too small.

    """
    run = Run.open(run_folder)
    if not run.finished:
        raise DataError(f"{run_folder} is {run.document['status']}, not finished. Resume it first.")
    model = load_classifier(run_folder)
    save_model(model, entry, half=True)
    stored = load_classifier(entry)
    file = entry / "weights.safetensors"
    front: dict[str, Any] = {
        "task": "multi-label" if model.info.multi_label else "single-label",
        "backbone": model.info.backbone,
        "head": model.info.head,
        "dataset": run.document["dataset"]["name"],
        "classes": len(model.info.classes),
        "iterations": run.document["iterations"],
        "epoch_kept": run.document["best"].get("iteration", run.document["iterations"]) / _per_epoch(run),
        "training_images": run.document["dataset"]["n_train"],
        "device": run.document["device"],
        "libraries": [f"{name} {version}" for name, version in run.document["versions"].items()],
    }
    tables: dict[str, Any] = {
        "check": {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "bytes": file.stat().st_size,
            "parameters": sum(parameter.numel() for parameter in stored.parameters()),
            "logits": check_logits(stored),
        }
    }
    measured = [_summary(read_json(path), entry.name) for path in evaluations]
    if measured:
        tables["metrics"] = measured[0]["metrics"]
    _write_card(entry / "card.md", front, tables, measured)


def _per_epoch(run: Run) -> int:
    return max(1, int(run.document["dataset"]["n_train"]) // int(run.document["config"]["batch_size"]))


def _summary(document: dict[str, Any], entry: str) -> dict[str, Any]:
    """Keep of an evaluation what the card says."""
    if document.get("n", 0) < TOO_SMALL_TO_PUBLISH:
        raise DataError(f"an evaluation on {document.get('n')} images is too small for a card.")
    options = document["options"]
    scales = ",".join(map(str, options["scales"]))
    return {
        "command": f"gwapctl evaluate {entry} --dataset {document['dataset']} --split {document['split']}"
        f" --scales {scales}",
        "dataset": document["dataset"],
        "split": document["split"],
        "n": document["n"],
        "map": options["map"],
        "box_rule": options["box_rule"],
        "date": document["created"][:10],
        "metrics": _headline(document["metrics"]),
        "full_image": _headline(document["floors"]["full_image"]),
        "centred_box": _headline(document["floors"]["centred_box"]),
    }


def _headline(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(metrics[name], 4) for name in HEADLINE if name in metrics}


def _write_card(path: Path, front: dict[str, Any], tables: dict[str, Any], measured: Sequence[dict[str, Any]]) -> None:
    """Replace the front matter, keep the text. JSON's strings, numbers and lists are valid TOML."""
    text = path.read_text(encoding="utf-8").split("+++\n", 2)[2] if path.is_file() else f"\n# {path.parent.name}\n"
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    for evaluation in measured:
        lines += ["", "[[evaluations]]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in evaluation.items() if not isinstance(value, dict)]
        for part in ("metrics", "full_image", "centred_box"):
            lines += [f"{part}.{key} = {json.dumps(value)}" for key, value in evaluation[part].items()]
    write_text(path, "+++\n" + "\n".join(lines) + "\n+++\n" + text)
