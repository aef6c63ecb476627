"""From a finished run to a zoo entry: half-precision weights, ``model.json``, and a card with measured numbers.

An entry whose weights a package holds gets its card alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gwapctl.errors import DataError
from gwapctl.files import read_json, write_text
from gwapctl.metrics import METRICS
from gwapctl.networks.classifier import ModelInfo, load_classifier, save_model
from gwapctl.networks.zoo import checks, weights_package
from gwapctl.runs import Run

TOO_SMALL_TO_PUBLISH = 100  # images: numbers on fewer say nothing


def write_entry(run_folder: Path, entry: Path, evaluations: Sequence[Path] = ()) -> None:
    """Write ``weights.safetensors`` (float16), ``model.json`` and the front matter of ``card.md`` to ``entry``.

    The text of an existing card stays. ``evaluations`` are documents of ``gwapctl evaluate --out`` on the entry itself;
    the first one's metrics are the headline. Where ``run_folder`` is an entry whose weights a package holds, its card
    is made anew, and nothing else. A run that is not finished, or an evaluation of few images, is a ``DataError``.
    """
    package = weights_package(run_folder) if (run_folder / "model.json").is_file() else None
    if package is not None:
        model = load_classifier(run_folder)
        front = _network(model.info, model.info.provenance["dataset"]) | {
            "weights_package": package.distribution,
            "weights_version": package.version,
            "weights_sha256": package.sha256,
        }
        _write_card(entry / "card.md", front, checks(model, package.read()), evaluations)
        return
    run = Run.open(run_folder)
    if not run.finished:
        raise DataError(f"{run_folder} is {run.document['status']}, not finished. Resume it first.")
    model = load_classifier(run_folder)
    save_model(model, entry, half=True)
    said, images = run.document, run.document["dataset"]["n_train"]
    per_epoch = max(1, int(images) // int(said["config"]["batch_size"]))
    front = _network(model.info, said["dataset"]["name"]) | {
        "iterations": said["iterations"],
        "epoch_kept": said["best"].get("iteration", said["iterations"]) / per_epoch,
        "training_images": images,
        "device": said["device"],
        "libraries": [f"{name} {version}" for name, version in said["versions"].items()],
    }
    stored = checks(load_classifier(entry), (entry / "weights.safetensors").read_bytes())
    _write_card(entry / "card.md", front, stored, evaluations)


def _network(info: ModelInfo, dataset: str) -> dict[str, Any]:
    """Return what every card begins with."""
    return {
        "task": "multi-label" if info.multi_label else "single-label",
        "backbone": info.backbone,
        "head": info.head,
        "dataset": dataset,
        "classes": len(info.classes),
    }


def _summary(document: dict[str, Any], entry: str) -> dict[str, Any]:
    """Keep of an evaluation what the card says."""
    if document.get("n", 0) < TOO_SMALL_TO_PUBLISH:
        raise DataError(f"an evaluation on {document.get('n')} images is too small for a card.")
    options, dataset, split = document["options"], document["dataset"], document["split"]
    scales = ",".join(map(str, options["scales"]))
    return {
        "command": f"gwapctl evaluate {entry} --dataset {dataset} --split {split} --scales {scales}",
        "dataset": dataset,
        "split": split,
        "n": document["n"],
        "map": options["map"],
        "box_rule": options["box_rule"],
        "date": document["created"][:10],
        "metrics": _headline(document["metrics"]),
        **{floor: _headline(document["floors"][floor]) for floor in ("full_image", "centred_box")},
    }


def _headline(metrics: dict[str, float]) -> dict[str, float]:
    return {key: round(metrics[key], 4) for key, metric in METRICS.items() if metric.shown == "card" and key in metrics}


def _write_card(path: Path, front: dict[str, Any], check: dict[str, Any], evaluations: Sequence[Path]) -> None:
    """Replace the front matter, keep the text. JSON's strings, numbers and lists are valid TOML."""
    measured = [_summary(read_json(file), path.parent.name) for file in evaluations]
    tables = {"check": check} | ({"metrics": measured[0]["metrics"]} if measured else {})
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
