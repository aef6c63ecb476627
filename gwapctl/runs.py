"""A run is a folder that explains itself: ``run.json``, ``history.jsonl``, weights, ``state.pt``, ``evaluations/``.

Tables and reports are built from these files alone, without torch.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

from gwapctl.errors import DataError, option
from gwapctl.files import in_use, read_json, read_text, remove_below, write_json, write_text
from gwapctl.lock import is_held, is_left, locked

SCHEMA_VERSION = 1
STATE = "state.pt"  # of a training that is not finished
FOLDS, FOLDS_ESTIMATE = "folds", "folds.json"  # the trainings that estimate another one, and what they say of it
LONGEST_NAME = 150  # characters of a file's name that say what an evaluation was
LIBRARIES = ("gwapctl", "torch", "torchvision", "numpy", "opencv-python-headless", "timm")

# what is written to a run's folder, ``run.json`` first: without it there is no run
WRITTEN = (
    "run.json",
    STATE,
    "history.jsonl",
    "model.json",
    "weights.safetensors",
    "box_labelled.txt",
    "boxes-[0-9].jsonl",
    "composites/boxes.jsonl",
    "composites/[0-9][0-9][0-9][0-9].jpg",
    "evaluations/*.json",
    "tensorboard/events.out.tfevents.*",
)


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that decide a result."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


class Run:
    """One training run on disk."""

    def __init__(self, folder: Path, document: dict[str, Any]) -> None:
        self.folder = folder
        self.document = document

    def __repr__(self) -> str:
        """Say in a line which run this is, and how far it is."""
        return f"Run({str(self.folder)!r}: {self.document['status']})"

    @classmethod
    def create(cls, folder: Path, document: dict[str, Any]) -> Run:
        """Start a run in ``folder`` (made ready by the caller) with status ``running``."""
        complete = {
            "schema_version": SCHEMA_VERSION,
            "status": "running",
            "started": now(),
            "versions": library_versions(),
            **document,
        }
        write_json(folder / "run.json", complete)
        return cls(folder, complete)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open the run in ``folder``.

        Raises:
            DataError: there is no ``run.json``, or it is broken.

        """
        path = folder / "run.json"
        if not path.is_file():
            raise DataError(f"{folder} is not a run: it has no run.json. Give a folder that `gwapctl train` made.")
        document = read_json(path)
        if not isinstance(document, dict) or "status" not in document:
            raise DataError(f"{path} is not a run document.")
        return cls(folder, _checked(document, _RUN, path))

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def finished(self) -> bool:
        """Whether training ran to its end."""
        return bool(self.document["status"] == "finished")

    def settle(self) -> None:
        """Remove what a training leaves that was killed when it was finished: its state, and its lock."""
        if not (is_left(self.folder) or (self.folder / STATE).exists()):
            return
        with locked(self.folder):
            (self.folder / STATE).unlink(missing_ok=True)

    def update(self, **values: Any) -> None:
        """Set top-level fields of ``run.json``."""
        self.document.update(values)
        write_json(self.folder / "run.json", self.document)

    def append_history(self, row: dict[str, Any]) -> None:
        """Add one row to ``history.jsonl``.

        Raises:
            DataError: the disk is full.

        """
        path = self.folder / "history.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            why = f"cannot write {path}: {error.strerror or error}"
            raise DataError(f"{why}. Free space, then use {option('resume', True)}.") from error

    def history(self) -> list[dict[str, Any]]:
        """Return the rows of ``history.jsonl``; a last line torn by a crash is left out."""
        path = self.folder / "history.jsonl"
        rows = []
        for line in read_text(path).splitlines() if path.is_file() else []:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("iteration"), int):
                rows.append(row)
        return rows

    def truncate_history(self, iteration: int) -> None:
        """Drop rows after ``iteration``: they belong to work that a resumed run does again."""
        rows = [row for row in self.history() if row["iteration"] <= iteration]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_text(self.folder / "history.jsonl", text)

    def save_evaluation(self, document: dict[str, Any]) -> Path:
        """Store an evaluation document under a name made of its data set, split, protocol and options."""
        folder = self.folder / "evaluations"
        options = document.get("options") or {}
        parts = [document["dataset"], document["split"], document["protocol"], *map(str, options.values())]
        stem = "-".join(_file_part(str(part)) for part in parts if part not in (None, ""))
        if len(stem) > LONGEST_NAME:  # what differs may lie behind
            stem = f"{stem[:LONGEST_NAME]}-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"
        path = folder / f"{stem}.json"
        write_json(path, document)
        return path

    def evaluations(self) -> list[dict[str, Any]]:
        """Return all stored evaluation documents, in file name order."""
        paths = sorted((self.folder / "evaluations").glob("[!.]*.json"))
        return [_checked(read_json(path), _EVALUATION, path) for path in paths]


class _Stated(dict[str, Any]):
    """What a document says; a field that it lacks is a ``DataError``, wherever it is asked for."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise DataError(f"{self.path} does not say {key!r}. It was cut off, or written by something else.")


def _checked(document: Any, kinds: Mapping[str, type], path: Path) -> _Stated:
    """Return a document that was read from ``path``, whose fields are of these ``kinds`` where it has them."""
    if not isinstance(document, dict):
        raise DataError(f"{path} is no JSON object. It was written by something else.")
    for key, kind in kinds.items():
        if not isinstance(document.get(key) or kind(), kind) or (kind is int and document.get(key) is True):
            raise DataError(f"{path}: {key!r} is {str(document[key])[:40]!r}, no {_KINDS[kind]}. Repair it.")
    for value in [*(document.get("floors") or {}).values(), *(document.get("per_class") or ())]:
        if value is not None and not isinstance(value, dict):
            raise DataError(f"{path}: a floor or a class is {str(value)[:40]!r}, no object. Repair it.")
    inner = {key: _Stated(value, path) for key, value in document.items() if kinds.get(key) is dict and value}
    return _Stated(document | inner, path)


_KINDS = {str: "text", int: "whole number", dict: "object", list: "list"}
_RUN = {"status": str, "config": dict, "dataset": dict, "versions": dict, "best": dict}
_EVALUATION = {"dataset": str, "split": str, "protocol": str, "n": int, "n_degenerate": int}
_EVALUATION |= {"notes": list, "per_class": list, "options": dict, "metrics": dict, "floors": dict}


def remove_run(folder: Path) -> None:
    """Remove what a training and its evaluations wrote to ``folder``, and nothing else; not behind links either."""
    for pattern in WRITTEN:
        remove_below(folder, [path.relative_to(folder).as_posix() for path in sorted(folder.glob(pattern))])


def remove_folds(folder: Path) -> None:
    """Remove the trainings that estimated the one in ``folder``, and what they said of it, and nothing else."""
    remove_below(folder, [FOLDS_ESTIMATE])
    for below in sorted(folder.glob(f"{FOLDS}/[0-9]*")):
        if not (below.is_symlink() or below.parent.is_symlink()):
            remove_run(below)
            with suppress(OSError):  # somebody else's files are in it
                below.rmdir()
                below.parent.rmdir()


def _file_part(text: str) -> str:
    return "".join(char if char.isalnum() or char in "._+-" else "_" for char in text).strip("_")


def fold_folder(folder: Path, fold: int) -> Path:
    """Return the run folder of a fold, counted from 0, of the training in ``folder``."""
    return folder / FOLDS / str(fold + 1)


def new_run_folder(parent: Path, name: str) -> Path:
    """Return ``parent/name``, or ``parent/name-2`` and so on: the first that holds nothing and that nobody writes.

    What a process left that was killed before it had begun its run counts as nothing.
    """
    safe = _file_part(name)
    candidates = (parent / (safe if number == 1 else f"{safe}-{number}") for number in count(1))
    return next(path for path in candidates if not (path.is_file() or in_use(path) or is_held(path)))


def find_runs(folder: Path) -> list[Run]:
    """Return every run at or below ``folder``, sorted by path; none when the folder is missing."""
    return [Run.open(path.parent) for path in sorted(folder.rglob("run.json"))] if folder.is_dir() else []
