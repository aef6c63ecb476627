"""The training loop: one page for every task, resumable to the bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gwapctl.config import DetectorConfig, RunConfig, TrainConfig
from gwapctl.device import keep_freed_memory
from gwapctl.files import in_use
from gwapctl.lock import locked
from gwapctl.progress import Progress
from gwapctl.runs import STATE, Run, now
from gwapctl.train.check import ImageCheck
from gwapctl.train.checkpoint import Training, interrupt_flag, kept_resumable, save_state
from gwapctl.train.classification import ClassificationTask
from gwapctl.train.detection import DetectionTask
from gwapctl.train.history import Meter, require_finite, require_tensorboard, scalar_writer
from gwapctl.train.launch import join
from gwapctl.train.schedule import learning_rate
from gwapctl.train.task import Listener, Resources, Task
from gwapctl.train.together import agree_on_norms, gradients_stay, load_data, open_run, share_of, step_together

TASKS: dict[type[RunConfig], type[Task[Any, Any]]] = {TrainConfig: ClassificationTask, DetectorConfig: DetectionTask}


def train(
    config: RunConfig,
    folder: Path,
    *,
    root: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    feature_cache: Path | None = None,
    skip_broken: bool = False,
    resume: bool = False,
    tensorboard: bool = False,
    listener: Listener = Listener(),  # noqa: B008
) -> Run:
    """Train what ``config`` describes into the run folder ``folder``, or continue the run that is there.

    All images are looked at before anything is built. One that cannot be read is an error, or left out and recorded in
    ``run.json``. Processes that torchrun or srun started train together; all call this, and the first one writes.

    Args:
        config: all that decides the weights, besides the data; its type decides the task.
        folder: empty or not there, unless the run in it is continued. It appears with the first file of the run; a
            training that fails before its first state is saved leaves none behind.
        root: the folder of the data set, where it has a name.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: threads that read images; by default one per core but one, at most 8.
        feature_cache: the folder of caches that ``config.cache_features`` uses; by default one in the user's cache.
        skip_broken: leave out images that cannot be read.
        resume: continue the run in ``folder``.
        tensorboard: write the rows of ``history.jsonl`` also as scalars to the folder ``tensorboard`` of the run.
        listener: hears what is done and how far it is.

    Raises:
        KeyboardInterrupt: it was stopped; the state is saved and ``resume`` continues exactly.
        GwapctlError: data, weights, settings or the device cannot be used.

    """
    resources = Resources.find(device, workers, feature_cache, root, processes=join())
    return train_with(
        resources, config, folder, skip_broken=skip_broken, resume=resume, tensorboard=tensorboard, listener=listener
    )


def train_with(
    resources: Resources,
    config: RunConfig,
    folder: Path,
    *,
    skip_broken: bool = False,
    resume: bool = False,
    tensorboard: bool = False,
    keep_folds: bool = False,
    listener: Listener = Listener(),  # noqa: B008
) -> Run:
    """Train as ``train`` does, with ``resources``: a detector that learns from found boxes needs what finds them.

    ``keep_folds``: trainings in the folder that estimate this one are no earlier one's, and stay.
    """
    if tensorboard:
        require_tensorboard()
    listener = share_of(listener, resources.processes)
    alone = locked(folder, listener.warn) if resources.processes.first else nullcontext()  # one writes, the others not
    with alone, resources.processes.lost_ones():
        return _train_alone(resources, config, folder, skip_broken, resume, tensorboard, keep_folds, listener)


def _train_alone(
    resources: Resources,
    config: RunConfig,
    folder: Path,
    skip_broken: bool,
    resume: bool,
    tensorboard: bool,
    keep_folds: bool,
    listener: Listener,
) -> Run:
    """Train in a folder that nobody else writes."""
    kind, processes = TASKS[type(config)], resources.processes

    def check() -> ImageCheck:
        known = (Run.open(folder).document["dataset"].get("skipped") or {}) if resume else None
        return ImageCheck(skip_broken, known, listener)

    data = load_data(kind, config, resources, check)
    for text in data.dataset.warnings():
        listener.warn(text)
    listener.announce(data.summary)
    _announce_download(kind, config, listener)
    with processes.in_turn():  # what is downloaded is there for those that follow
        task = kind(config, data, resources)
    choose_algorithms(task)
    training = Training(task)
    is_new = not in_use(folder)
    run = open_run(folder, training, resume=resume, keep_folds=keep_folds)
    logged = scalar_writer(run, training.iteration, tensorboard and processes.first)
    kept = kept_resumable(run, training, discard=is_new) if processes.first else nullcontext()
    with kept, interrupt_flag() as interrupted, logged as scalars:
        task.prepare(run, interrupted, listener)
        run_iterations(training, run, interrupted, listener, scalars)
        processes.on_first(lambda: task.conclude(interrupted, listener))
    processes.on_first(lambda: _finish(training, run))
    return run


def _finish(training: Training, run: Run) -> None:
    """Write the model where its weights are the last ones, and say in the run that it is finished."""
    task = training.task
    if task.keep == "last" or task.total == 0:  # 0: the first weights are the model
        task.save(run.folder)
    run.update(status="finished", finished=now(), iterations=training.iteration, best=training.best)
    (run.folder / STATE).unlink(missing_ok=True)  # now that nothing resumes it


def _announce_download(kind: type[Task[Any, Any]], config: RunConfig, listener: Listener) -> None:
    """Say what building the network is about to download, if anything."""
    info = kind.imagenet_weights(config) if config.weights == "imagenet" else None
    if info is not None and not info.cached:
        listener.announce(f"downloading ImageNet weights of {config.backbone}: {info.size_mb:.0f} MB from {info.url}")


def choose_algorithms(task: Task[Any, Any]) -> None:
    """Choose deterministic algorithms, or the fastest: trying them out pays where sizes stay."""
    deterministic = task.config.deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic and task.one_size
    if task.device.type == "cpu":
        keep_freed_memory()


def run_iterations(
    training: Training, run: Run, interrupted: Callable[[], bool], listener: Listener, scalars: Any
) -> None:
    """Take the iterations that are left, with a row of the history now and then."""
    task = training.task
    meter, batches = Meter(task.images_per_step), task.batches(training.iteration)
    if training.iteration < task.total:
        step_together(training, listener)
    while training.iteration < task.total:
        lr = learning_rate(task.config, *task.part(training.iteration))
        meter.add(*train_step(training, batches, lr))
        training.iteration += 1
        if listener.progress:
            text = meter.text(lr, task.device)
            listener.progress(Progress(training.iteration, task.total, "it", text))
        if training.iteration % task.row_every == 0 or training.iteration == task.total:
            end_row(training, run, meter, lr, scalars)
        if task.processes.any(interrupted()):
            raise KeyboardInterrupt


def train_step(training: Training, batches: Iterator[Any], lr: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Take one optimizer step over ``accumulate`` batches; return the mean loss and parts (tensors, not waited for).

    Several processes add up their gradients once, with those of the last batch.
    """
    task, optimizer = training.task, training.optimizer
    task.begin_step(training.iteration)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    optimizer.zero_grad(set_to_none=True)
    share = task.config.accumulate
    total, parts = torch.zeros((), device=task.device), dict[str, Tensor]()
    for number in range(share):
        batch = next(batches)
        with gradients_stay(training, number + 1 < share):
            loss, named = training.network(batch, training.iteration)
            (loss / share).backward()
        total += loss.detach() / share
        for name, part in named.items():
            parts[name] = parts.get(name, 0) + part.detach() / share
    optimizer.step()
    agree_on_norms(task)
    task.end_step()
    return total, parts


def end_row(training: Training, run: Run, meter: Meter, lr: float, scalars: Any) -> None:
    """Judge on the images held out, keep the best weights, write a row of the history, and save the state.

    None of this counts as time of training.
    """
    task, iteration = training.task, training.iteration
    epoch = {"epoch": iteration / task.per_epoch} if task.per_epoch else {}
    row = {"iteration": iteration, **epoch, **task.processes.mean(meter.reset()), "lr": lr}
    require_finite(row)
    if task.data.val:
        scores = task.validate()
        row |= {f"val_{name}": value for name, value in scores.items()}
        chosen = task.select(scores, training.best)
        if chosen is not None:
            training.best = {"iteration": iteration, **chosen}
            if task.keep == "best" and task.processes.first:
                task.save(run.folder)
    run.append_history(row)
    if scalars is not None:
        for name in row.keys() - {"iteration"}:
            scalars.add_scalar(name, row[name], iteration)
    if task.processes.first:
        save_state(training.state(), run)
    run.update(iterations=iteration, best=training.best)
    meter.started = time.monotonic()
