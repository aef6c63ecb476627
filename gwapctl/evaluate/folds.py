"""Cross-validation: what a training is worth on images that it did not see, before the one on all images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from gwapctl.config import RunConfig, stored_config
from gwapctl.errors import UsageError, option
from gwapctl.evaluate.run import Options, evaluate
from gwapctl.evaluate.subject import HELD_OUT, find_dataset, find_samples, find_subject
from gwapctl.files import read_json, write_json
from gwapctl.metrics import Unit, describe
from gwapctl.progress import ProgressCallback
from gwapctl.runs import FOLDS_ESTIMATE, Run, fold_folder

CONFIDENCE = 0.95

TrainInto = Callable[[Any, Path], Run]  # trains a config in a folder, or goes on with what was stopped there


def fold_config(config: RunConfig, fold: int, folds: int) -> RunConfig:
    """Return the settings of one fold: the same, but for the images held out."""
    return config.model_copy(update={"fold": fold, "val_fraction": 1 / folds})


def cross_validate(
    config: RunConfig,
    folder: Path,
    folds: int,
    train: TrainInto,
    *,
    options: Options = Options(split=HELD_OUT),  # noqa: B008
    steps: Sequence[AbstractContextManager[ProgressCallback]] = (),
) -> dict[str, Any]:
    """Train and judge ``folds`` times, each time on other images held out, and write ``folds.json`` into ``folder``.

    Every image of the training split is held out once. What is finished in ``folder`` already is taken as it is.
    Images with boxes are judged as ``gwapctl evaluate`` does; others by the scores that training ends with. ``options``
    are those of the evaluations, ``steps`` are opened for the progress of each.

    Returns ``{"folds", "metrics": {key: {"mean", "low", "high", "values"}}, "floors": {name: {key: mean}}}``: the mean
    over folds and its 95 % interval by Student's t, which takes folds for independent, though their training images
    overlap; it ends where the numbers do, such as at 100 %.

    Raises:
        UsageError: a fold in ``folder`` was trained with other settings.

    """
    found = []
    for fold in range(folds):
        wanted, place = fold_config(config, fold, folds), fold_folder(folder, fold)
        run = Run.open(place) if (place / "run.json").is_file() else None
        if run is not None and stored_config(run.document["config"]) != wanted:
            anew = f"Start anew with {option('overwrite', True)} or another {option('out')}"
            raise UsageError(f"{place} was trained with other settings. {anew}.")
        if run is None or not run.finished:
            with _no_empty_folders(place.parent, folder):
                run = train(wanted, place)
        else:
            run.settle()
        with steps[fold] if steps else nullcontext() as progress:
            found.append(_judged(run, options, progress))
    metrics = [one["metrics"] for one in found]
    floors = {name: [one["floors"][name] for one in found] for name in found[0].get("floors", {})}
    document = {
        "schema_version": 1,
        "folds": folds,
        "metrics": {key: interval([one[key] for one in metrics], describe(key).unit) for key in _shared(metrics)},
        "floors": {
            name: {key: float(np.mean([one[key] for one in rows])) for key in _shared(rows)}
            for name, rows in floors.items()
        },
    }
    write_json(folder / FOLDS_ESTIMATE, document)
    return document


def interval(values: Sequence[float], unit: Unit) -> dict[str, Any]:
    """Return the mean of ``values`` and its 95 % interval by Student's t, as far as there are such numbers.

    >>> from gwapctl.metrics import PERCENT
    >>> found = interval([88.0, 98.0, 93.0], PERCENT)
    >>> [round(found[key], 2) for key in ("mean", "low", "high")]
    [93.0, 80.58, 100.0]
    """
    mean, n = float(np.mean(values)), len(values)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    low, high = max(mean - half, unit.lowest), min(mean + half, unit.highest)
    return {"mean": mean, "low": low, "high": high, "values": list(values)}


def keep_none_threshold(folder: Path, folds: int) -> None:
    """Give the model in ``folder``, whose training held nothing out, the mean of its folds' ``none_threshold``."""
    models = [read_json(fold_folder(folder, fold) / "model.json") for fold in range(folds)]
    chosen = [model for model in models if model.get("none_threshold") is not None]
    document = read_json(folder / "model.json")
    if not chosen or document.get("none_threshold") is not None:
        return
    counts = [model["provenance"]["none"] for model in chosen]
    said = {"none": {key: sum(one[key] for one in counts) for key in counts[0]}}
    document["none_threshold"] = float(np.mean([model["none_threshold"] for model in chosen]))
    write_json(folder / "model.json", document | {"provenance": document["provenance"] | said})


@contextmanager
def _no_empty_folders(*folders: Path) -> Iterator[None]:
    """Remove those of ``folders`` that a training which failed leaves empty, the inner ones first."""
    try:
        yield
    except Exception:
        with suppress(OSError):  # not empty, or never made
            for folder in folders:
                folder.rmdir()
        raise


def _judged(run: Run, options: Options, progress: ProgressCallback | None) -> Mapping[str, Any]:
    """Return metrics, and floors where there are boxes, of the images that a fold held out."""
    stored = run.evaluations()
    if stored:
        return dict(stored[0])
    subject = find_subject(str(run.folder))
    samples = find_samples(subject, find_dataset(subject, None, options.root, None), HELD_OUT)[1]
    if any(len(sample.boxes) for sample in samples):
        return evaluate(str(run.folder), options, progress=progress).to_json()
    best = {key: value for key, value in run.document["best"].items() if key not in ("iteration", "selection")}
    last = {key: value for key, value in run.history()[-1].items() if key.startswith("val_")}
    return {"metrics": best or {key.removeprefix("val_"): value for key, value in last.items()}}


def _shared(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the keys that all rows have a number for."""
    return [key for key in rows[0] if all(isinstance(row.get(key), int | float) for row in rows)]
