"""From a finished run to a zoo entry: half-precision weights, ``model.json``, and a card with measured numbers.

An entry whose weights a package holds gets its card alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gwapctl.errors import DataError
from gwapctl.files import read_json, write_text
from gwapctl.metrics import METRICS
from gwapctl.networks.classifier import Classifier, ModelInfo, load_classifier, save_model
from gwapctl.networks.weights_packages import WeightsPackage
from gwapctl.networks.zoo import check_logits, weights_package
from gwapctl.runs import Run

TOO_SMALL_TO_PUBLISH = 100  # images: numbers on fewer say nothing


def write_entry(run_folder: Path, entry: Path, evaluations: Sequence[Path] = ()) -> None:
    """Write ``weights.safetensors`` (float16), ``model.json`` and the front matter of ``card.md`` to ``entry``.

    The text of an existing card stays. ``evaluations`` are documents of ``gwapctl evaluate --out`` on the entry itself;
    the first one's metrics are the headline. Where ``run_folder`` is an entry whose weights a package holds, its card
    is made anew, and nothing else.

    Raises:
        DataError: the run is not finished, or an evaluation is of another kind or too small.

    """
    package = weights_package(run_folder) if (run_folder / "model.json").is_file() else None
    if package is not None:
        _write_card(entry / "card.md", *_of_package(load_classifier(run_folder), package), evaluations)
        return
    run = Run.open(run_folder)
    if not run.finished:
        raise DataError(f"{run_folder} is {run.document['status']}, not finished. Resume it first.")
    model = load_classifier(run_folder)
    save_model(model, entry, half=True)
    stored = load_classifier(entry)
    file = entry / "weights.safetensors"
    front: dict[str, Any] = {
        **_network(model.info, run.document["dataset"]["name"]),
        "iterations": run.document["iterations"],
        "epoch_kept": run.document["best"].get("iteration", run.document["iterations"]) / _per_epoch(run),
        "training_images": run.document["dataset"]["n_train"],
        "device": run.document["device"],
        "libraries": [f"{name} {version}" for name, version in run.document["versions"].items()],
    }
    _write_card(entry / "card.md", front, _check(stored, file.read_bytes()), evaluations)


def _network(info: ModelInfo, dataset: str) -> dict[str, Any]:
    """Return what every card begins with."""
    return {
        "task": "multi-label" if info.multi_label else "single-label",
        "backbone": info.backbone,
        "head": info.head,
        "dataset": dataset,
        "classes": len(info.classes),
    }


def _of_package(model: Classifier, package: WeightsPackage) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return front matter and check of an entry whose weights lie in ``package``."""
    front = {
        **_network(model.info, model.info.provenance["dataset"]),
        "weights_package": package.distribution,
        "weights_version": package.version,
        "weights_sha256": package.sha256,
    }
    return front, _check(model, package.read())


def _check(model: Classifier, weights: bytes) -> dict[str, Any]:
    """Return what ``models verify`` computes again."""
    return {
        "sha256": hashlib.sha256(weights).hexdigest(),
        "bytes": len(weights),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "logits": check_logits(model),
    }


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
