"""What the loop does otherwise where several processes train together: they look, start and step as one.

The first process looks at the images, writes the run and speaks; the others learn from it what they need to know.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gwapctl.config import RunConfig
from gwapctl.errors import DataError, setting
from gwapctl.runs import STATE, Run
from gwapctl.train.checkpoint import Training, create_run, read_state, resume_run
from gwapctl.train.data import TrainData
from gwapctl.train.distributed import Processes
from gwapctl.train.task import Listener, Resources, Task

_Kinds = type[nn.Module] | tuple[type[nn.Module], ...]


class FollowedRun(Run):
    """The run as a process knows it that is not the first one: it writes nothing."""

    def update(self, **values: Any) -> None:
        """Set top-level fields of the document."""
        self.document.update(values)

    def append_history(self, row: dict[str, Any]) -> None:
        """Leave it to the first process."""


def share_of(listener: Listener, processes: Processes) -> Listener:
    """Return what hears of a training in this process: only the first one's is told. Progress is a sign of life."""
    if processes.count == 1:
        return listener
    heard = listener if processes.first else Listener()
    heard.announce(f"{processes.count} processes train together, each on its share of every batch")
    progress, check = processes.beating(heard.progress), processes.beating(heard.check_progress)
    return replace(heard, progress=progress, check_progress=check)


def load_data(
    kind: type[Task[Any, Any]],
    config: RunConfig,
    resources: Resources,
    check_of: Callable[[], Callable[[TrainData], TrainData]],
) -> TrainData:
    """Open the data set without the images that are left out; the first process looks at them, by its ``check_of()``.

    Raises:
        DataError: an image cannot be read and none may be left out, or processes see other images.

    """
    processes, root = resources.processes, resources.root
    if processes.count == 1:
        return kind.load_data(config, root, check_of())
    looked: list[TrainData] = []

    def look() -> dict[str, Any]:
        looked.append(kind.load_data(config, root, check_of()))
        return looked[0].identity

    seen = processes.on_first(look)
    if looked:
        return looked[0]
    skipped = seen["skipped"]
    data = kind.load_data(config, root, lambda whole: whole.without(skipped) if skipped else whole)
    if data.identity != seen:
        raise DataError(f"{data.dataset.root} does not hold the images that the first process sees there.")
    return data


def open_run(folder: Path, training: Training, *, resume: bool, keep_folds: bool = False) -> Run:
    """Start the run, or continue the one that is there: the first process does, and tells the others.

    The state that continues it goes from process to process, so that none sees another one than the first.
    """
    processes = training.task.processes
    opened: list[Run] = []

    def start() -> tuple[dict[str, Any], dict[str, Any] | None]:
        run = resume_run(folder, training) if resume else create_run(folder, training.task, keep_folds)
        if processes.launch:
            run.update(processes={"count": processes.count, "launch": processes.launch})
        opened.append(run)
        told = processes.count > 1 and resume and (folder / STATE).is_file()
        return run.document, read_state(folder / STATE) if told else None

    document, state = processes.on_first(start)
    if opened:
        return opened[0]
    if state is not None:
        training.load_state(state)
    return FollowedRun(folder, document)


def step_together(training: Training, listener: Listener) -> None:
    """Have the processes add up their gradients in every step, and the statistics of their batch norms on CUDA."""
    task = training.task
    if task.processes.count == 1:
        return
    task.begin_step(training.iteration)  # says what is in training
    if task.device.type == "cuda":
        synchronize_norms(task.model)
    elif training_norms(task.model):
        without = f" {setting('batch_norm', 'frozen')} does without." if hasattr(task.config, "batch_norm") else ""
        listener.warn(
            "on the CPU, batch norm takes its statistics per process: numbers depend on how many processes there are."
            + without
        )
    for parameter in _without_gradient(training):  # DistributedDataParallel would wait for one
        parameter.requires_grad_(False)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # the name that older versions know
        training.network = DistributedDataParallel(training.network, broadcast_buffers=False)


def _without_gradient(training: Training) -> list[nn.Parameter]:
    """Return the parameters that no loss reaches, found on the first batch; nothing is changed by that."""
    task, iteration = training.task, training.iteration
    norms = training_norms(task.model, (nn.BatchNorm2d, nn.SyncBatchNorm))
    statistics = [one for norm in norms for one in norm.buffers()]
    before = [one.clone() for one in statistics]
    loss, _ = training.network(next(task.batches(iteration)), iteration)
    loss.backward()
    found = [one for one in task.model.parameters() if one.requires_grad and one.grad is None]
    task.model.zero_grad(set_to_none=True)
    for one, value in zip(statistics, before, strict=True):
        one.copy_(value)
    return found


def gradients_stay(training: Training, flag: bool) -> AbstractContextManager[None]:
    """Keep the gradients of a batch in this process where ``flag`` is set: they are added up with a later one's."""
    network = training.network
    return network.no_sync() if flag and isinstance(network, DistributedDataParallel) else nullcontext()


def agree_on_norms(task: Task[Any, Any]) -> None:
    """Give all processes the mean of the running statistics of batch norms that are not synchronized."""
    task.processes.average(one for norm in training_norms(task.model) for one in norm.buffers())


def synchronize_norms(model: nn.Module) -> None:
    """Have the batch norms of a ``model`` on CUDA that are in training take their statistics over all processes.

    Each stays the object it is, for a task has lists of its layers; timm's have an activation, which its own class of
    synchronized ones keeps.
    """
    for norm in training_norms(model):
        kind: type[nn.SyncBatchNorm] = nn.SyncBatchNorm
        if type(norm) is not nn.BatchNorm2d:
            from timm.layers import SyncBatchNormAct  # type: ignore[attr-defined]

            kind = SyncBatchNormAct
        norm.__class__ = kind
        norm.process_group = None  # type: ignore[assignment]


def training_norms(model: nn.Module, kind: _Kinds = nn.BatchNorm2d) -> list[nn.Module]:
    """Return the batch norms of a kind that take statistics at present: by default those of a process's own images."""
    return [part for part in model.modules() if isinstance(part, kind) and part.training]
