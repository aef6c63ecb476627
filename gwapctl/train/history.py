"""What a training tells while it runs: losses and speed, rows of the history, scalars for tensorboard."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from gwapctl.errors import MissingDependencyError, ModelError, option, setting
from gwapctl.runs import Run


class Meter:
    """Losses and speed since the last report, read from the device only when they are shown."""

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.values: dict[str, list[Tensor]] = {"loss": []}  # the loss and its parts, of every step
        self.started = self.shown = time.monotonic()
        self.line = ""

    def add(self, loss: Tensor, parts: Mapping[str, Tensor] | None = None) -> None:
        """Take in the loss of one step, and the parts that it has, if any."""
        for name, value in {"loss": loss, **(parts or {})}.items():
            self.values.setdefault(name, []).append(value)

    def text(self, lr: float, device: torch.device) -> str:
        """Return the line beside the progress bar; it changes at most twice a second."""
        if time.monotonic() - self.shown >= 0.5 or not self.line:
            self.shown = time.monotonic()
            memory = f" · {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else ""
            recent = torch.stack(self.values["loss"][-50:]).mean().item()
            self.line = f"loss {recent:.4f} · lr {lr:.2g} · {self.speed():.0f} images/s{memory}"
        return self.line

    def speed(self) -> float:
        """Return images per second since the last reset."""
        return len(self.values["loss"]) * self.images_per_step / max(1e-9, time.monotonic() - self.started)

    def reset(self) -> dict[str, float]:
        """Return the means of the loss and of its parts, and the speed, and start anew."""
        means = {name: torch.stack(values).mean().item() for name, values in self.values.items()}
        row = {**means, "images_per_second": self.speed()}
        self.values, self.started = {"loss": []}, time.monotonic()
        return row


def require_finite(row: Mapping[str, float]) -> None:
    """Raise ``ModelError`` where the loss of this row of the history is infinite or not a number."""
    if not math.isfinite(row["loss"]):
        raise ModelError(
            f"the loss became {row['loss']} at iteration {row['iteration']}. Lower {option('lr')} or use "
            f"{setting('warmup', 500)}."
        )


def require_tensorboard() -> None:
    """Raise ``MissingDependencyError`` where tensorboard, which writes the scalars, is not installed."""
    try:
        importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise MissingDependencyError(
            f"{option('tensorboard')} needs the package tensorboard. Run: pip install 'gwapctl[tensorboard]'"
        ) from error


def scalar_writer(run: Run, iteration: int, wanted: bool) -> AbstractContextManager[Any]:
    """Return what writes scalars, or None; rows after the present iteration are void, as in ``truncate_history``."""
    if not wanted:
        return nullcontext()
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
    return writer(run.folder / "tensorboard", purge_step=iteration + 1)  # type: ignore[no-any-return]
