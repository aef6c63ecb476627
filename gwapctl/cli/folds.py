"""``gwapctl train --folds``: what a training is worth, and then the training on all images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwapctl.cli import console
from gwapctl.metrics import METRICS

if TYPE_CHECKING:
    from gwapctl.config import DetectorConfig, TrainConfig
    from gwapctl.evaluate import Options
    from gwapctl.evaluate.folds import TrainInto
    from gwapctl.runs import Run


def estimate_and_train(
    config: TrainConfig | DetectorConfig,
    folder: Path,
    folds: int,
    train: TrainInto,
    options: Options,
    *,
    json: bool,
    resume: bool,
) -> Run:
    """Print the estimate of ``folds`` trainings, train on all images, and return that run.

    Raises:
        UsageError: the settings need images held out, or a fold was trained with other ones.

    """
    from gwapctl.evaluate.folds import cross_validate, keep_none_threshold
    from gwapctl.lock import locked
    from gwapctl.runs import Run, remove_folds
    from gwapctl.train.loop import TASKS

    final = config.model_copy(update={"fold": None, "val_fraction": 0.0})
    TASKS[type(config)].load_data(final, options.root, lambda data: data)  # refused now, not after the folds
    steps = [console.progress(f"judging fold {fold + 1} of {folds}") for fold in range(folds)]
    with locked(folder, console.warn):
        if not resume:
            remove_folds(folder)
        estimate = cross_validate(config, folder, folds, train, options=options, steps=steps)
        if not json:
            print_estimate(estimate)
        done = Run.open(folder) if resume and (folder / "run.json").is_file() else None
        if done is not None and done.finished:
            done.settle()
            run = done
        else:
            run = train(final, folder)
        keep_none_threshold(folder, folds)
    if json:
        console.print_json({**estimate, "run": str(run.folder)})
    return run


def print_estimate(estimate: dict[str, Any]) -> None:
    """Print the mean of every metric over the folds, its interval, and the floors where there are any."""
    floors = estimate["floors"]
    rows = []
    for key, found in estimate["metrics"].items():
        unit = METRICS[key].unit
        blind = [unit.text(floor.get(key)) for floor in floors.values()]
        rows.append((key, unit.text(found["mean"]), f"{unit.text(found['low'])} to {unit.text(found['high'])}", *blind))
    columns = ["metric", "mean", "95 % interval", *(name.replace("_", " ") for name in floors)]
    console.print_table(columns, rows, title=f"{estimate['folds']} folds: on images that their training did not see")
