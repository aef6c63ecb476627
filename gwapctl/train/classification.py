"""Training from image-level labels: one readable loop, resumable to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gwapctl.config import TrainConfig
from gwapctl.device import autocast, keep_freed_memory, resolve_device
from gwapctl.errors import DataError
from gwapctl.metrics.classification import ClassificationAP, TopKError
from gwapctl.networks.classifier import save_model
from gwapctl.networks.heads.base import HeadOutput
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
from gwapctl.train.feature_cache import FeatureCache, default_place
from gwapctl.train.setup import Training, learning_rate, load_train_data


def train(
    config: TrainConfig,
    folder: Path,
    *,
    root: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    skip_broken: bool = False,
    feature_cache: Path | None = None,
    announce: Callable[[str], None] = lambda _: None,
    detail: Callable[[str], None] = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
    check_progress: ProgressCallback | None = None,
    progress: ProgressCallback | None = None,
) -> Run:
    """Train a classifier into the run folder ``folder``, or continue the run that is there.

    The folder is made ready by the caller (``files.prepare_output_folder``). ``workers`` are threads that read
    images; by default one per core but one, at most 8. With ``tensorboard`` the rows of ``history.jsonl`` also go as
    scalars to the folder ``tensorboard`` of the run. ``feature_cache`` is the folder of caches that
    ``config.cache_features`` uses (by default one in the user's cache); ``announce`` hears what is written there, and
    ``detail`` which tensors of first weights found no partner.

    All images are looked at before anything is built. One that cannot be read is an error, or left out and recorded in
    ``run.json`` where ``skip_broken`` says so; ``warn`` hears what is wrong with the data but no error.

    Raises:
        KeyboardInterrupt: it was stopped; the state is saved and ``resume`` continues exactly.
        GwapctlError: data, weights, settings or the device cannot be used.

    """
    if tensorboard:
        require_tensorboard()
    place = resolve_device(device)
    set_determinism(config.deterministic, one_size=len(config.train_sizes) <= 1)
    if place.type == "cpu":
        keep_freed_memory()
    known = left_out(folder) if resume else None
    data = load_train_data(config, root, ImageCheck(skip_broken, known, warn, announce, check_progress))
    for text in data.dataset.warnings():
        warn(text)
    weights = None if config.weights in ("none", "imagenet") else find_weights(config.weights)
    training = Training(config, data, place, weights, default_workers() if workers is None else workers)
    if training.not_loaded:
        detail(f"no partner in {config.weights} or in the network for: {', '.join(training.not_loaded)}")
    run = _open_run(folder, config, training) if resume else _create_run(folder, config, training)
    logged = scalar_writer(run, training.iteration, tensorboard)
    with kept_resumable(run, training), interrupt_flag() as interrupted, logged as scalars:
        if config.cache_features:
            _cache_features(training, run, feature_cache, interrupted, announce, progress)
        _train_loop(training, run, interrupted, scalars, progress)
    if config.keep == "last" or training.total == 0:  # 0: the first weights are the model
        save_model(training.averaged, folder)
    (folder / STATE).unlink(missing_ok=True)
    run.update(status="finished", finished=now(), iterations=training.iteration, best=training.best)
    return run


def _cache_features(
    training: Training,
    run: Run,
    place: Path | None,
    interrupted: list[bool],
    announce: Callable[[str], None],
    progress: ProgressCallback | None,
) -> None:
    """Let the training read the feature maps of its frozen backbone, after computing those that are not there yet."""
    config, data, known = training.config, training.data, run.document.get("features")
    cache = FeatureCache(
        place or (Path(known["folder"]).parent if known else default_place()),
        training.model,
        [*data.train, *data.val, *data.background],
        size=config.image_size,
        precision=config.precision,
        mirrored=config.flip,
    )
    if known and known["key"] != cache.key:
        raise DataError(f"{run.folder} cannot be resumed: its images, or the weights of its backbone, were changed.")
    announce(cache.announcement())
    run.update(features={"folder": str(cache.folder.resolve()), "key": cache.key, **cache.description})
    cache.fill(training.model, workers=training.workers, stop=lambda: bool(interrupted), progress=progress)
    training.features = cache


def _train_loop(
    training: Training, run: Run, interrupted: list[bool], scalars: Any, progress: ProgressCallback | None
) -> None:
    config, total = training.config, training.total
    network = training.network(training.model)
    step_model: Callable[..., HeadOutput] = torch.compile(network) if config.compile else network
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
    training.learn()
    for group in training.optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    training.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    multi_label, epoch = training.data.dataset.multi_label, training.iteration / training.per_epoch
    for _ in range(config.accumulate):
        batch, indices = next(batches)
        known = indices[: len(indices) - training.backgrounds_per_batch]  # behind them are images without labels
        labels, counts = (table[known].to(device, non_blocking=True) for table in (training.labels, training.counts))
        images, region = training.split(batch.to(device, non_blocking=True))
        with autocast(device, config.precision):
            output = model(images, region)
        loss = training.head.loss(output, labels, counts, multi_label=multi_label, epoch=epoch)
        (loss / config.accumulate).backward()  # type: ignore[no-untyped-call]
        total += loss.detach() / config.accumulate
    training.optimizer.step()
    if training.ema is not None:
        training.ema.update_parameters(training.model)
    return total


def _end_epoch(training: Training, run: Run, meter: Meter, lr: float, scalars: Any) -> None:
    """Judge on validation images, keep the best weights, and save the state."""
    config = training.config
    row = {"iteration": training.iteration, "epoch": training.iteration / training.per_epoch, **meter.reset(), "lr": lr}
    require_finite(row)
    if training.data.val:
        scores = validate(training)
        row |= {f"val_{name}": value for name, value in scores.items()}
        better = selection_score(scores) > training.best.get("selection", -math.inf)
        if config.keep == "best" and better:
            training.best = {"iteration": training.iteration, "selection": selection_score(scores), **scores}
            save_model(training.averaged, run.folder)
    keep_row(run, training, row, meter, scalars)


def selection_score(scores: dict[str, float]) -> float:
    """Return what decides between checkpoints, larger is better: area mAP, or minus the top-1 error."""
    return scores["voc_map_area"] if "voc_map_area" in scores else -scores["top1_error"]


def validate(training: Training) -> dict[str, float]:
    """Return the classification metrics of the present weights on the validation images, at the model's input size."""
    model, samples, config = training.averaged, training.data.val, training.config
    network = training.network(model)
    precision_meter, error_meter = ClassificationAP(len(model.info.classes)), TopKError()
    model.eval()
    with torch.inference_mode():
        for batch, indices in training.validation_batches():
            images, region = training.split(batch.to(training.device))
            with autocast(training.device, config.precision):
                scores = model.probabilities(network(images, region).logits.float()).cpu().numpy()
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
        "device": device_name(training.device),
        "seed": config.seed,
        "not_loaded": training.not_loaded,
        "sees_boxes": training.head.sees_boxes,
    }
    return Run.create(folder, document)


def _open_run(folder: Path, config: TrainConfig, training: Training) -> Run:
    background = "background_fingerprint"
    if Run.open(folder).document["dataset"].get(background) != training.data.describe().get(background):
        raise DataError(f"the background images are not those {folder} was started with.")
    run, state = open_run(folder, config, training.data.describe())
    if state is not None:
        training.load_state(state)
    return run
