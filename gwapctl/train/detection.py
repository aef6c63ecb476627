"""Training a detector from few boxes and many image-level labels: one readable loop, resumable to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gwapctl.config import DetectorConfig
from gwapctl.device import autocast, keep_freed_memory, resolve_device
from gwapctl.errors import DataError
from gwapctl.files import write_text
from gwapctl.images.decode import read_image
from gwapctl.metrics.detection import DetectionAP
from gwapctl.networks.rfcn import save_detector, total_loss
from gwapctl.networks.rfcn.inference import DetectorReader
from gwapctl.networks.zoo import find_weights
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.runs import Run, now
from gwapctl.train.bookkeeping import (
    STATE,
    Meter,
    default_workers,
    device_name,
    interrupt_flag,
    keep_row,
    kept_resumable,
    left_out,
    open_run,
    require_finite,
    require_tensorboard,
    scalar_writer,
    set_determinism,
)
from gwapctl.train.check import ImageCheck
from gwapctl.train.detector_batches import Batch
from gwapctl.train.detector_setup import DetectorTraining, load_detector_data
from gwapctl.train.setup import learning_rate

SUBSET = "box_labelled.txt"
MOST_BETWEEN_ROWS = 1000  # iterations between two rows of the history, and two saved states; a tenth of short runs


def train_detector(
    config: DetectorConfig,
    folder: Path,
    *,
    root: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    skip_broken: bool = False,
    announce: Callable[[str], None] = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
    check_progress: ProgressCallback | None = None,
    progress: ProgressCallback | None = None,
) -> Run:
    """Train a detector into the run folder ``folder``, or continue the run that is there.

    The arguments are those of ``train.train``. The last weights are kept, as the papers do; images held out are judged
    at every row of the history, for the reader alone. ``box_labelled.txt`` lists the images whose boxes were seen.

    Raises:
        KeyboardInterrupt: it was stopped; the state is saved and ``resume`` continues exactly.
        GwapctlError: data, weights, settings or the device cannot be used.

    """
    if tensorboard:
        require_tensorboard()
    place = resolve_device(device)
    set_determinism(config.deterministic, one_size=False)
    if place.type == "cpu":
        keep_freed_memory()
    known = left_out(folder) if resume else None
    data = load_detector_data(config, root, ImageCheck(skip_broken, known, warn, announce, check_progress))
    for text in data.dataset.warnings():
        warn(text)
    weights = None if config.weights in ("none", "imagenet") else find_weights(config.weights)
    training = DetectorTraining(config, data, place, weights, default_workers() if workers is None else workers)
    run = _open_run(folder, config, training) if resume else _create_run(folder, config, training)
    logged = scalar_writer(run, training.iteration, tensorboard)
    with kept_resumable(run, training), interrupt_flag() as interrupted, logged as scalars:
        _train_loop(training, run, interrupted, scalars, progress)
    save_detector(training.model, folder)
    (folder / STATE).unlink(missing_ok=True)
    run.update(status="finished", finished=now(), iterations=training.iteration, best=training.best)
    return run


def _train_loop(
    training: DetectorTraining, run: Run, interrupted: list[bool], scalars: Any, progress: ProgressCallback | None
) -> None:
    config, total = training.config, training.config.iterations
    between_rows = max(1, min(MOST_BETWEEN_ROWS, total // 10))
    meter = Meter(training.images_per_step)
    batches = training.batches()
    while training.iteration < total:
        lr = learning_rate(config, training.iteration, total)
        meter.add(*train_step(training, batches, lr))
        training.iteration += 1
        if progress:
            progress(Progress(training.iteration, total, "it", meter.text(lr, training.device)))
        if training.iteration % between_rows == 0 or training.iteration == total:
            _end_row(training, run, meter, lr, scalars)
        if interrupted:
            raise KeyboardInterrupt


def train_step(training: DetectorTraining, batches: Iterator[Batch], lr: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Take one optimizer step over ``accumulate`` batches; return the mean loss and parts (tensors, not waited for)."""
    config, device = training.config, training.device
    training.model.train()
    training.begin_step()
    for group in training.optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    training.optimizer.zero_grad(set_to_none=True)
    total, parts = torch.zeros((), device=device), dict[str, Tensor]()
    for _ in range(config.accumulate):
        batch = next(batches)
        objects = [target and target.to(device) for target in batch.targets]
        with autocast(device, config.precision):
            losses = training.model(
                batch.images.to(device, non_blocking=True), batch.sizes, objects, training.labels_of(batch)
            )
        loss = total_loss(losses, config.weak_weight)
        (loss / config.accumulate).backward()  # type: ignore[no-untyped-call]
        total += loss.detach() / config.accumulate
        for name, part in losses.items():
            parts[name] = parts.get(name, 0) + part.detach() / config.accumulate
    training.optimizer.step()
    return total, parts


def _end_row(training: DetectorTraining, run: Run, meter: Meter, lr: float, scalars: Any) -> None:
    """Write a row of the history, with the precision on images held out, and save the state."""
    row = {"iteration": training.iteration, **meter.reset(), "lr": lr}
    require_finite(row)
    if training.data.val:
        scores = validate(training)
        row |= {f"val_{name}": value for name, value in scores.items()}
        training.best = {"iteration": training.iteration, **scores}
    keep_row(run, training, row, meter, scalars)


def validate(training: DetectorTraining) -> dict[str, float]:
    """Return ``det_map_11pt`` and ``det_map_area`` of the present weights on the images held out."""
    reader = DetectorReader(training.model, precision=training.config.precision, device=str(training.device))
    meter = DetectionAP()
    for start in range(0, len(training.data.val), reader.batch_size):
        samples = training.data.val[start : start + reader.batch_size]
        for sample, found in zip(samples, reader.run([read_image(s.path) for s in samples]), strict=True):
            meter.update(found.boxes, found.scores, found.labels, sample.boxes, sample.box_labels, sample.difficult)
    return meter.compute()


def _create_run(folder: Path, config: DetectorConfig, training: DetectorTraining) -> Run:
    document = {
        "config": config.model_dump(mode="json"),
        "dataset": training.data.weak.describe(),
        "box_subset": training.data.describe_subset(),
        "device": device_name(training.device),
        "seed": config.seed,
    }
    write_text(folder / SUBSET, training.data.listing)
    return Run.create(folder, document)


def _open_run(folder: Path, config: DetectorConfig, training: DetectorTraining) -> Run:
    run, state = open_run(folder, config, training.data.weak.describe())
    if run.document["box_subset"] != training.data.describe_subset():
        raise DataError(
            f"the images with boxes of {training.data.dataset.name} are not those {folder} was started with."
        )
    if state is not None:
        training.load_state(state)
    return run
