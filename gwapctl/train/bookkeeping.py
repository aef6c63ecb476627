"""What every training shares around its loop: how it is stopped, saved, resumed and logged."""

from __future__ import annotations

import importlib
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gwapctl.config import RunConfig, stored_config
from gwapctl.errors import DataError, MissingDependencyError, ModelError, UsageError
from gwapctl.files import atomic_path
from gwapctl.runs import Run

STATE = "state.pt"


def left_out(folder: Path) -> dict[str, list[str]]:
    """Return the ids of the images that the run in ``folder`` left out as broken, by part."""
    return dict(Run.open(folder).document["dataset"].get("skipped") or {})


def open_run(folder: Path, config: RunConfig, described: Mapping[str, Any]) -> tuple[Run, dict[str, Any] | None]:
    """Open the run in ``folder`` to continue it; return it and its state (None: stopped before the first was saved).

    ``described`` is what ``TrainData.describe`` says of the data now.

    Raises:
        UsageError: it is finished, or was started with other settings.
        DataError: it was started with other images or labels.
        ModelError: its state cannot be read.

    """
    run = Run.open(folder)
    if run.finished:
        raise UsageError(f"{folder} is finished: there is nothing to resume.")
    if stored_config(run.document["config"]) != config:  # not the documents: a later version has more settings
        raise UsageError(f"{folder} was started with other settings. Resume with --out and --resume alone.")
    if run.document["dataset"]["fingerprint"] != described["fingerprint"]:
        name = run.document["dataset"]["name"]
        raise DataError(f"the training images of {name} are not those {folder} was started with.")
    state = read_state(folder / STATE) if (folder / STATE).is_file() else None
    run.truncate_history(state["iteration"] if state else 0)
    run.update(status="running")
    return run, state


def read_state(path: Path) -> dict[str, Any]:
    """Read what ``save_state`` wrote.

    Raises:
        ModelError: the file is broken, or holds more than tensors and numbers.

    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for broken or unsafe files
        raise ModelError(f"{path} cannot be resumed from: {str(error).splitlines()[0]}") from error
    return state


def save_state(state: dict[str, Any], run: Run) -> None:
    """Write ``state``, plain tensors and numbers, so that the run can be resumed."""
    with atomic_path(run.folder / STATE) as temporary:
        torch.save(state, temporary)


class Resumable(Protocol):
    """A training that says how far it is and all that continuing it needs."""

    iteration: int
    best: dict[str, Any]

    def state(self) -> dict[str, Any]:
        """Return plain tensors and numbers."""


def require_finite(row: Mapping[str, float]) -> None:
    """Stop a training whose loss is lost.

    Raises:
        ModelError: the loss of this row of the history is infinite or not a number.

    """
    if not math.isfinite(row["loss"]):
        raise ModelError(f"the loss became {row['loss']} at iteration {row['iteration']}. Lower --lr or use --warmup.")


def keep_row(run: Run, training: Resumable, row: dict[str, float], meter: Meter, scalars: Any) -> None:
    """Add a row to the history, and save the state that belongs to it; none of this counts as time of training."""
    run.append_history(row)
    if scalars is not None:
        for name in row.keys() - {"iteration"}:
            scalars.add_scalar(name, row[name], training.iteration)
    save_state(training.state(), run)
    run.update(iterations=training.iteration, best=training.best)
    meter.started = time.monotonic()


@contextmanager
def kept_resumable(run: Run, training: Resumable) -> Iterator[None]:
    """Save the state when the training is interrupted, and say in the run how it ended unless it ended well."""
    try:
        yield
    except KeyboardInterrupt:
        save_state(training.state(), run)
        run.update(status="interrupted", iterations=training.iteration)
        raise
    except Exception:
        run.update(status="failed", iterations=training.iteration)
        raise


class Meter:
    """Losses and speed since the last report, read from the device only when they are shown."""

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.losses: list[Tensor] = []
        self.parts: dict[str, list[Tensor]] = {}
        self.started = self.shown = time.monotonic()
        self.line = ""

    def add(self, loss: Tensor, parts: Mapping[str, Tensor] | None = None) -> None:
        """Take in the loss of one step, and the parts that it has, if any."""
        self.losses.append(loss)
        for name, part in (parts or {}).items():
            self.parts.setdefault(name, []).append(part)

    def text(self, lr: float, device: torch.device) -> str:
        """Return the line beside the progress bar; it changes at most twice a second."""
        if time.monotonic() - self.shown >= 0.5 or not self.line:
            self.shown = time.monotonic()
            memory = f" · {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else ""
            recent = torch.stack(self.losses[-50:]).mean().item()
            self.line = f"loss {recent:.4f} · lr {lr:.2g} · {self.speed():.0f} images/s{memory}"
        return self.line

    def speed(self) -> float:
        """Return images per second since the last reset."""
        return len(self.losses) * self.images_per_step / max(1e-9, time.monotonic() - self.started)

    def reset(self) -> dict[str, float]:
        """Return the means of the loss and of its parts, and the speed, and start anew."""
        means = {
            name: torch.stack(values).mean().item() for name, values in {"loss": self.losses, **self.parts}.items()
        }
        row = {**means, "images_per_second": self.speed()}
        self.losses, self.parts, self.started = [], {}, time.monotonic()
        return row


def default_workers() -> int:
    """Return how many threads read images: the cores but one, at least 1 and at most 8."""
    return min(8, max(1, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 2))


def require_tensorboard() -> None:
    """Find out whether scalars can be written.

    Raises:
        MissingDependencyError: tensorboard is not installed.

    """
    try:
        importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise MissingDependencyError(
            "--tensorboard needs the package tensorboard. Run: pip install 'gwapctl[tensorboard]'"
        ) from error


def scalar_writer(run: Run, iteration: int, wanted: bool) -> AbstractContextManager[Any]:
    """Return what writes scalars, or None; rows after the present iteration are void, as in ``truncate_history``."""
    if not wanted:
        return nullcontext()
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
    started: AbstractContextManager[Any] = writer(run.folder / "tensorboard", purge_step=iteration + 1)
    return started


def set_determinism(deterministic: bool, *, one_size: bool) -> None:
    """Choose the algorithms: only deterministic ones, or the fastest; trying them out pays where sizes stay."""
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic and one_size


def device_name(device: torch.device) -> str:
    """Return what ``run.json`` calls the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def interrupt_flag() -> Iterator[list[bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a flag that the loop reads between steps; a second one stops at once."""
    flag: list[bool] = []

    def note(number: int, frame: Any) -> None:
        if flag:
            raise KeyboardInterrupt
        flag.append(True)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
