"""What the loop of ``train/loop.py`` asks of whatever is trained."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from gwapctl.config import RunConfig
from gwapctl.device import autocast, resolve_device
from gwapctl.errors import DataError
from gwapctl.networks.backbones.pretrained import PretrainedWeights
from gwapctl.networks.zoo import find_weights
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.runs import Run
from gwapctl.train.data import TrainData
from gwapctl.train.distributed import ALONE, Processes
from gwapctl.train.pseudo import BoxSource

Batch = TypeVar("Batch")
Output = TypeVar("Output")


@dataclass(frozen=True)
class Listener:
    """What hears of a training, for the library never prints.

    ``announce`` hears what is about to be done, ``detail`` what only few want to know, ``warn`` what is wrong with the
    data but no error. ``progress`` is called after every iteration, ``check_progress`` while images are looked at.
    """

    announce: Callable[[str], None] = lambda _: None
    detail: Callable[[str], None] = lambda _: None
    warn: Callable[[str], None] = lambda _: None
    progress: ProgressCallback | None = None
    check_progress: ProgressCallback | None = None

    def stoppable(self, interrupted: Callable[[], bool]) -> ProgressCallback:
        """Return what passes the progress of looking at images on, and raises KeyboardInterrupt once interrupted."""

        def progress(done: Progress) -> None:
            if interrupted():
                raise KeyboardInterrupt
            if self.check_progress:
                self.check_progress(done)

        return progress


def default_workers(processes: int = 1) -> int:
    """Return how many threads read images: the cores but one, at least 1 and at most 8; of ``processes`` their share.

    >>> default_workers(1000)
    1
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 3 * processes
    return min(8, max(1, cores // processes - 1))


@dataclass(frozen=True)
class Resources:
    """What a task may use: the device, ``workers`` threads that read images, and the folder of feature caches.

    Without ``feature_cache`` the caches lie in the user's own cache. ``root`` is the folder of data, where files of
    first weights may lie, too. ``boxes`` finds boxes of training images, for a detector that learns from those.
    ``processes`` are those that train together.
    """

    device: torch.device
    workers: int = 0
    feature_cache: Path | None = None
    root: Path | None = None
    boxes: BoxSource | None = None
    processes: Processes = ALONE

    @classmethod
    def find(
        cls,
        device: str,
        workers: int | None = None,
        feature_cache: Path | None = None,
        root: Path | None = None,
        boxes: BoxSource | None = None,
        processes: Processes = ALONE,
    ) -> Resources:
        """Return what is there of what is asked for: ``auto`` is a device, and None as many workers as there may be."""
        workers = default_workers(processes.local_count) if workers is None else workers
        place = resolve_device(processes.device(device))
        return cls(place, workers, feature_cache, root, boxes, processes)


class Task(ABC, Generic[Batch, Output]):
    """What is trained. It knows its data, model and loss; the loop knows the order of things and how far it is.

    A subclass builds its model after ``super().__init__``, which seeds torch, and sets the attributes below.
    """

    config: RunConfig
    data: TrainData
    model: nn.Module
    keep: Literal["best", "last"]  # which weights become the model: those that ``select`` chose, or the last
    total: int  # iterations of the whole run, each ``accumulate`` batches and one step of the optimizer
    row_every: int  # iterations between two rows of the history, and two saved states
    per_epoch: int | None  # iterations in one epoch; None: the history does not count in epochs
    images_per_step: int  # images in one iteration
    one_size: bool  # whether all batches have the same size, so that trying algorithms out pays

    def __init__(self, config: RunConfig, data: TrainData, resources: Resources) -> None:
        self.config, self.data, self.resources = config, data, resources
        self.device, self.workers, self.processes = resources.device, resources.workers, resources.processes
        self.processes.require_batch(min(config.batch_size, len(data.train)))
        torch.manual_seed(config.seed)

    @staticmethod
    @abstractmethod
    def load_data(config: Any, root: Path | None, check: Callable[[TrainData], TrainData]) -> TrainData:
        """Open the data set of this task's ``config``; ``check`` says which images are used."""

    @staticmethod
    def check(config: Any) -> None:
        """Refuse a network that cannot be built, before anything is promised, downloaded or opened.

        Raises:
            UsageError: a name or option that does not exist.

        """

    @staticmethod
    def imagenet_weights(config: Any) -> PretrainedWeights | None:
        """Return the download of the network's ImageNet weights; None: they are installed, or there are none."""
        return None

    @staticmethod
    def remarks(config: Any) -> list[str]:
        """Return what whoever trains this should know."""
        return []

    @property
    def first_weights(self) -> Path | None:
        """The file that ``config.weights`` names, if it names one."""
        named = self.config.weights not in ("none", "imagenet")
        return find_weights(self.config.weights, self.resources.root) if named else None

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups of parameters, each with the factor ``lr_factor`` of its learning rate."""

    def describe(self) -> dict[str, Any]:
        """Return what ``run.json`` says of this task beside settings, data, device and seed."""
        return {}

    def require_same_data(self, run: Run) -> None:
        """Raise ``DataError`` where the run that is to be resumed was started with other data."""
        dataset = run.document["dataset"]
        if dataset["fingerprint"] != self.data.describe()["fingerprint"]:
            raise DataError(f"the training images of {dataset['name']} are not those {run.folder} was started with.")

    def prepare(self, run: Run, interrupted: Callable[[], bool], listener: Listener) -> None:
        """Make what the first iteration needs, once the run is there; ``interrupted()`` tells of Ctrl-C."""

    def part(self, iteration: int) -> tuple[int, int]:
        """Return how far the learning rate's schedule is in ``iteration``, and how long it is."""
        return iteration, self.total

    @abstractmethod
    def batches(self, iteration: int) -> Iterator[Batch]:
        """Yield the batches from the first of ``iteration`` to the last of all, ``accumulate`` per iteration.

        Of several processes each reads its part of a batch, and knows how large the whole is.
        """

    @abstractmethod
    def begin_step(self, iteration: int) -> None:
        """Set what learns to training, and whatever else an iteration begins with."""

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Move a batch to the device and run the network on it; return what ``loss`` needs."""

    @abstractmethod
    def loss(self, output: Output, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (a scalar) and the named parts that the history shows beside it, if any.

        Of several processes the mean of them is the whole batch's, of the values and of the gradients.
        """

    def end_step(self) -> None:
        """Follow the weights that the optimizer has just changed."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Return the metrics of the present weights on the images held out."""

    @abstractmethod
    def select(self, scores: dict[str, float], best: dict[str, Any]) -> dict[str, Any] | None:
        """Return what ``run.json`` calls the best from now on, or None where ``best`` (may be empty) stays it."""

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs of this task, as plain tensors and numbers."""
        return {"model": self.model.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.model.load_state_dict(state["model"])

    def conclude(self, interrupted: Callable[[], bool], listener: Listener) -> None:
        """Choose what the trained model stores beside its last weights."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model with its present weights into the run's ``folder``."""


class Step(nn.Module):
    """Forward pass and loss of a task as one module, which ``DistributedDataParallel`` can wrap."""

    def __init__(self, task: Task[Any, Any]) -> None:
        super().__init__()
        self.task, self.model = task, task.model

    def forward(self, batch: Any, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its named parts."""
        with autocast(self.task.device, self.task.config.precision):
            output = self.task.forward(batch)
        return self.task.loss(output, iteration)
