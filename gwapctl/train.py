"""Training from image-level labels: one readable loop, resumable to the bit."""

from __future__ import annotations

import importlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gwapctl.config import TrainConfig
from gwapctl.datasets.base import fingerprint
from gwapctl.device import autocast, keep_freed_memory, resolve_device
from gwapctl.errors import DataError, MissingDependencyError, ModelError, UsageError
from gwapctl.files import atomic_path
from gwapctl.heads import HeadOutput
from gwapctl.metrics.classification import ClassificationAP, TopKError
from gwapctl.model import save_model
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.runs import Run, now
from gwapctl.train_setup import Training, classification_loss, learning_rate, load_train_data
from gwapctl.transforms import EvaluationImages, load_batches
from gwapctl.zoo import find_weights


def train(
    config: TrainConfig,
    folder: Path,
    *,
    root: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    progress: ProgressCallback | None = None,
) -> Run:
    """Train a classifier into the run folder ``folder``, or continue the run that is there.

    The folder is made ready by the caller (``files.prepare_output_folder``). ``workers`` are threads that read
    images; by default one per core but one, at most 8. With ``tensorboard`` the rows of ``history.jsonl`` also go as
    scalars to the folder ``tensorboard`` of the run.

    Raises:
        KeyboardInterrupt: it was stopped; the state is saved and ``resume`` continues exactly.
        GwapctlError: data, weights, settings or the device cannot be used.

    """
    if tensorboard:
        require_tensorboard()
    place = resolve_device(device)
    _set_determinism(config)
    if place.type == "cpu":
        keep_freed_memory()
    data = load_train_data(config, root)
    weights = None if config.weights in ("none", "imagenet") else find_weights(config.weights)
    training = Training(config, data, place, weights, default_workers() if workers is None else workers)
    run = _open_run(folder, config, training) if resume else _create_run(folder, config, training)
    try:
        with _interrupt_flag() as interrupted, _scalar_writer(training, run, tensorboard) as scalars:
            _train_loop(training, run, interrupted, scalars, progress)
    except KeyboardInterrupt:
        _save_state(training, run)
        run.update(status="interrupted", iterations=training.iteration)
        raise
    except Exception:
        run.update(status="failed", iterations=training.iteration)
        raise
    if config.keep == "last":
        save_model(training.averaged, folder)
    (folder / "state.pt").unlink(missing_ok=True)
    run.update(status="finished", finished=now(), iterations=training.iteration, best=training.best)
    return run


def default_workers() -> int:
    """Return how many threads read images: the cores but one, at least 1 and at most 8."""
    return min(8, max(1, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 2))


def _train_loop(
    training: Training, run: Run, interrupted: list[bool], scalars: Any, progress: ProgressCallback | None
) -> None:
    config, total = training.config, training.total
    step_model: Callable[..., HeadOutput] = torch.compile(training.model) if config.compile else training.model
    meter = Meter(config.batch_size * config.accumulate)
    batches = training.batches()
    while training.iteration < total:
        lr = learning_rate(config, training.iteration, total)
        meter.add(train_step(training, step_model, batches, lr))
        training.iteration += 1
        if progress:
            progress(Progress(training.iteration, total, "it", meter.text(lr, training.device)))
        if training.iteration % training.per_epoch == 0 or training.iteration == total:
            _end_epoch(training, run, meter, lr, scalars)
        if interrupted:
            raise KeyboardInterrupt


def train_step(
    training: Training, model: Callable[..., HeadOutput], batches: Iterator[tuple[Tensor, Tensor]], lr: float
) -> Tensor:
    """Take one optimizer step over ``accumulate`` batches and return the mean loss (a tensor, not yet waited for)."""
    config, device = training.config, training.device
    training.model.train()
    for module in training.frozen:
        module.eval()
    for group in training.optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    training.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    for _ in range(config.accumulate):
        images, indices = next(batches)
        labels, counts = (table[indices].to(device, non_blocking=True) for table in (training.labels, training.counts))
        with autocast(device, config.precision):
            logits = model(images.to(device, non_blocking=True)).logits
        loss = classification_loss(logits.float(), labels, counts, training.data.dataset.multi_label)
        (loss / config.accumulate).backward()  # type: ignore[no-untyped-call]
        total += loss.detach() / config.accumulate
    training.optimizer.step()
    if training.ema is not None:
        training.ema.update_parameters(training.model)
    return total


class Meter:
    """Loss and speed since the last report, read from the device only when they are shown."""

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.losses: list[Tensor] = []
        self.started = self.shown = time.monotonic()
        self.line = ""

    def add(self, loss: Tensor) -> None:
        """Take in the loss of one step."""
        self.losses.append(loss)

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
        """Return mean loss and speed, and start anew."""
        row = {"loss": torch.stack(self.losses).mean().item(), "images_per_second": self.speed()}
        self.losses, self.started = [], time.monotonic()
        return row


def _end_epoch(training: Training, run: Run, meter: Meter, lr: float, scalars: Any) -> None:
    """Judge on validation images, keep the best weights, and save the state."""
    config = training.config
    row = {"iteration": training.iteration, "epoch": training.iteration / training.per_epoch, **meter.reset(), "lr": lr}
    if not math.isfinite(row["loss"]):
        raise ModelError(
            f"the loss became {row['loss']} at iteration {training.iteration}. Lower --lr or use --warmup."
        )
    if training.data.val:
        scores = validate(training)
        row |= {f"val_{name}": value for name, value in scores.items()}
        better = selection_score(scores) > training.best.get("selection", -math.inf)
        if config.keep == "best" and better:
            training.best = {"iteration": training.iteration, "selection": selection_score(scores), **scores}
            save_model(training.averaged, run.folder)
    run.append_history(row)
    if scalars is not None:
        for name in row.keys() - {"iteration"}:
            scalars.add_scalar(name, row[name], training.iteration)
    _save_state(training, run)
    run.update(iterations=training.iteration, best=training.best)
    meter.started = time.monotonic()


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


def _scalar_writer(training: Training, run: Run, wanted: bool) -> AbstractContextManager[Any]:
    """Return what writes scalars, or None; rows after the present iteration are void, as in ``truncate_history``."""
    if not wanted:
        return nullcontext()
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
    started: AbstractContextManager[Any] = writer(run.folder / "tensorboard", purge_step=training.iteration + 1)
    return started


def selection_score(scores: dict[str, float]) -> float:
    """Return what decides between checkpoints, larger is better: area mAP, or minus the top-1 error."""
    return scores["voc_map_area"] if "voc_map_area" in scores else -scores["top1_error"]


def validate(training: Training) -> dict[str, float]:
    """Return the classification metrics of the present weights on the validation images, at the model's input size."""
    model, samples, config = training.averaged, training.data.val, training.config
    step = max(8, config.batch_size)
    batches = [range(start, min(start + step, len(samples))) for start in range(0, len(samples), step)]
    loader = load_batches(EvaluationImages(samples, config.image_size), batches, training.workers)
    precision_meter, error_meter = ClassificationAP(len(model.info.classes)), TopKError()
    model.eval()
    with torch.inference_mode():
        for images, indices in loader:
            with autocast(training.device, config.precision):
                scores = model.probabilities(model(images.to(training.device)).logits.float()).cpu().numpy()
            for row, index in zip(scores, indices.tolist(), strict=True):
                sample = samples[index]
                if model.info.multi_label:
                    precision_meter.update(row, sample.labels, sample.ignored)
                else:
                    error_meter.update([int(c) for c in (-row).argsort(kind="stable")[:5]], sample.labels[0])
    return precision_meter.compute() if model.info.multi_label else error_meter.compute()


def _create_run(folder: Path, config: TrainConfig, training: Training) -> Run:
    document = {
        "config": config.model_dump(mode="json"),
        "dataset": training.data.describe(),
        "device": _device_name(training.device),
        "seed": config.seed,
        "not_loaded": training.not_loaded,
    }
    return Run.create(folder, document)


def _open_run(folder: Path, config: TrainConfig, training: Training) -> Run:
    run = Run.open(folder)
    path = folder / "state.pt"
    if run.finished:
        raise UsageError(f"{folder} is finished: there is nothing to resume.")
    if run.document["config"] != config.model_dump(mode="json"):
        raise UsageError(f"{folder} was started with other settings. Resume with --out and --resume alone.")
    if run.document["dataset"]["fingerprint"] != fingerprint(training.data.train):
        raise DataError(f"the training images of {training.data.dataset.name} are not those {folder} was started with.")
    if path.is_file():
        training.load_state(_read_state(path))
    run.truncate_history(training.iteration)
    run.update(status="running")
    return run


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for broken or unsafe files
        raise ModelError(f"{path} cannot be resumed from: {str(error).splitlines()[0]}") from error
    return state


def _save_state(training: Training, run: Run) -> None:
    with atomic_path(run.folder / "state.pt") as temporary:
        torch.save(training.state(), temporary)


def _set_determinism(config: TrainConfig) -> None:
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not config.deterministic and len(config.train_sizes) <= 1


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def _interrupt_flag() -> Iterator[list[bool]]:
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
