"""Finished runs without weights, for a repository: what the tables are built from, and nothing of the machine."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePath
from typing import Any

from gwapctl.files import write_json
from gwapctl.runs import Run, find_runs

OF_RUN = ("schema_version", "status", "started", "finished", "iterations", "versions", "seed", "box_subset")
OF_DATA = ("name", "fingerprint", "train_split", "val_split", "n_train", "n_val")
OF_EVALUATION = (
    *("schema_version", "run", "seed", "dataset", "split", "protocol", "n", "n_degenerate"),
    *("metrics", "floors", "options", "created"),
)
PATHS = ("dataset", "weights", "background")  # settings that may be paths


def collect_slim(runs: Path, out: Path) -> list[Path]:
    """Copy every finished and evaluated run below ``runs`` slim into ``out``, one folder each; return these folders.

    A folder of the same name is replaced. Roots and absolute paths are cut to names; devices to their kind.
    """
    done = []
    for run in find_runs(runs):
        if run.finished and run.evaluations():
            done.append(_copy(run, out / run.name))
    return done


def _copy(run: Run, folder: Path) -> Path:
    shutil.rmtree(folder / "evaluations", ignore_errors=True)
    write_json(folder / "run.json", slim_run(run.document))
    slim = Run.open(folder)
    for document in run.evaluations():
        slim.save_evaluation({key: document[key] for key in OF_EVALUATION if key in document})
    return folder


def slim_run(document: dict[str, Any]) -> dict[str, Any]:
    """Return what a table needs of ``run.json``."""
    config = {key: _relative(value) if key in PATHS else value for key, value in document["config"].items()}
    data = {key: document["dataset"][key] for key in OF_DATA if key in document["dataset"]}
    kind = "cpu" if document.get("device") in ("cpu", None) else "cuda"
    return {
        **{key: document[key] for key in OF_RUN if key in document},
        "device": kind,
        "config": config,
        "dataset": data,
    }


def _relative(value: Any) -> Any:
    """Cut an absolute path to its last part."""
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value
