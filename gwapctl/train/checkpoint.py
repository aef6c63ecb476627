"""How a training is stopped, saved and resumed: the state that continues it to the bit, and what its run says."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gwapctl.config import stored_config
from gwapctl.device import device_name
from gwapctl.errors import ModelError, UsageError, option
from gwapctl.files import atomic_path
from gwapctl.runs import STATE, Run, remove_folds, remove_run
from gwapctl.train.first_weights import described_weights
from gwapctl.train.schedule import build_optimizer
from gwapctl.train.task import Step, Task


class Training:
    """A task on its way: its optimizer, the iterations that are done, and what was best so far."""

    def __init__(self, task: Task[Any, Any]) -> None:
        self.task = task
        self.optimizer = build_optimizer(task.parameter_groups(), task.config)
        self.network: nn.Module = Step(task)
        self.iteration = 0
        self.best: dict[str, Any] = {}

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as plain tensors and numbers."""
        own = {"iteration": self.iteration, "best": self.best, "optimizer": self.optimizer.state_dict()}
        return {**own, **self.task.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.iteration, self.best = state["iteration"], state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.task.load_state(state)


def create_run(folder: Path, task: Task[Any, Any], keep_folds: bool = False) -> Run:
    """Start a run in ``folder`` that says what is trained, on what and where; an earlier run there goes."""
    remove_run(folder)
    if not keep_folds:
        remove_folds(folder)
    config, device = task.config, task.device
    said = {"config": config.model_dump(mode="json"), "dataset": task.data.describe(), "device": device_name(device)}
    weights = described_weights(type(task), config, task.resources.root)
    decides = {"threads": torch.get_num_threads(), **({"first_weights": weights} if weights else {})}
    return Run.create(folder, {**said, "seed": config.seed, **decides, **task.describe()})


def resume_run(folder: Path, training: Training) -> Run:
    """Open the run in ``folder`` and continue from its last state, if it was stopped after the first one was saved.

    Raises:
        UsageError: it is finished, or was started with other settings.
        DataError: it was started with other images or labels.
        ModelError: its state cannot be read.

    """
    run = Run.open(folder)
    if run.finished:
        run.settle()
        raise UsageError(f"{folder} is finished: there is nothing to resume.")
    if stored_config(run.document["config"]) != training.task.config:  # not the documents: a later version has more
        alone = f"Resume with {option('out')} and {option('resume', True)} alone"
        raise UsageError(f"{folder} was started with other settings. {alone}.")
    training.task.require_same_data(run)
    if (folder / STATE).is_file():
        training.load_state(read_state(folder / STATE))
    run.truncate_history(training.iteration)
    run.update(status="running")
    return run


def read_state(path: Path) -> dict[str, Any]:
    """Read what ``save_state`` wrote; a file that is broken or holds more than that is a ``ModelError``."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for broken or unsafe files
        raise ModelError(f"{path} cannot be resumed from: {str(error).splitlines()[0]}") from error
    return state


def save_state(state: dict[str, Any], run: Run) -> None:
    """Write ``state``, plain tensors and numbers, so that the run can be resumed."""
    with atomic_path(run.folder / STATE) as temporary:
        torch.save(state, temporary)


@contextmanager
def kept_resumable(run: Run, training: Training, *, discard: bool = False) -> Iterator[None]:
    """Save the state when the training is interrupted, and say in the run how it ended unless it ended well.

    ``discard``: the folder is this run's alone; where it failed and there is nothing to resume, it is removed.
    """
    try:
        yield
    except KeyboardInterrupt:
        save_state(training.state(), run)
        run.update(status="interrupted", iterations=training.iteration)
        raise
    except Exception:
        if discard and not (run.folder / STATE).is_file():
            with suppress(OSError):
                remove_run(run.folder)
                run.folder.rmdir()
        else:
            run.update(status="failed", iterations=training.iteration)
        raise


@contextmanager
def interrupt_flag() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a flag that is read between steps; a second one stops at once.

    A lost terminal (SIGHUP) is not heard where somebody chose so: ``nohup``.
    """
    flag: list[bool] = []

    def note(number: int, frame: Any) -> None:
        if flag:
            raise KeyboardInterrupt
        flag.append(True)

    heard = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    previous = {number: signal.signal(number, note) for number in heard}
    try:
        yield lambda: bool(flag)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
