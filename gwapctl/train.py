"""Training from image-level labels: one readable loop, resumable to the bit.

Boxes never come here: samples are the weak view of a data set (``Dataset.samples``), which carries none.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gwapctl.backbones import build_backbone
from gwapctl.backbones.caffemodel import caffe_weights
from gwapctl.config import TrainConfig
from gwapctl.datasets import open_dataset, training_splits
from gwapctl.datasets.base import Dataset, Sample, fingerprint, holdout
from gwapctl.device import autocast, keep_freed_memory, resolve_device
from gwapctl.errors import DataError, ModelError, UsageError
from gwapctl.files import atomic_path
from gwapctl.heads import HeadOutput
from gwapctl.metrics.classification import ClassificationAP, TopKError
from gwapctl.model import Classifier, ModelInfo, build_classifier, load_matching, load_tensors, save_model
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.runs import Run, now
from gwapctl.transforms import EvaluationImages, TrainingBatches, TrainingImages, load_batches, targets
from gwapctl.zoo import find_weights

SMALL_BATCH = 16  # below it, batch statistics are too noisy to replace pretrained ones


@dataclass(frozen=True)
class TrainData:
    """What training sees: two lists of samples without boxes, and the classes."""

    dataset: Dataset
    train: list[Sample]
    val: list[Sample]
    train_split: str
    val_split: str | None

    def describe(self) -> dict[str, Any]:
        """Return the ``dataset`` part of ``run.json``."""
        return {
            "name": self.dataset.name,
            "root": str(self.dataset.root.resolve()),
            "fingerprint": fingerprint(self.train),
            "train_split": self.train_split,
            "val_split": self.val_split,
            "n_train": len(self.train),
            "n_val": len(self.val),
            "classes": [{"name": item.name, "id": item.id} for item in self.dataset.classes],
        }


def load_train_data(config: TrainConfig, root: Path | None) -> TrainData:
    """Open the data set and divide it: its own val split where it has one, else a seeded part of train.

    Raises:
        DataError: the data set or a split is missing, empty, or a class has no training image.

    """
    dataset = open_dataset(config.dataset, root)
    train_split, val_split = training_splits(dataset)
    train = dataset.samples(train_split)
    val: list[Sample] = []
    if val_split is not None:
        val = dataset.samples(val_split)
    elif config.val_fraction > 0:
        train, val = holdout(train, config.val_fraction, config.seed)
        val_split = f"{config.val_fraction:g} of {train_split}, seed {config.seed}"
    if config.keep == "best" and not val:
        raise UsageError("--keep best needs validation images. Set --val-fraction above 0, or use --keep last.")
    _require_all_classes(dataset, train, train_split)
    return TrainData(dataset, train, val, train_split, val_split)


def _require_all_classes(dataset: Dataset, train: Sequence[Sample], split: str) -> None:
    if not train:
        raise DataError(f"split {split!r} of {dataset.name} at {dataset.root} has no images.")
    present = {label for sample in train for label in sample.labels}
    missing = [item.name for index, item in enumerate(dataset.classes) if index not in present]
    if missing:
        names = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise DataError(
            f"{len(missing)} of {len(dataset.classes)} classes have no training image in split {split!r} of "
            f"{dataset.name}: {names}. Add images or remove the classes; `gwapctl data check` shows the counts."
        )


def model_info(config: TrainConfig, dataset: Dataset, backbone: Any) -> ModelInfo:
    """Describe the model that ``config`` asks for."""
    sizes = config.train_sizes or config.image_size
    return ModelInfo(
        backbone=config.network,
        head=config.head,
        head_options=config.head_options,
        classes=dataset.classes,
        multi_label=dataset.multi_label,
        input_size=config.image_size,
        train_sizes=(min(sizes), max(sizes)),
        mean=backbone.mean,
        std=backbone.std,
        provenance={"dataset": dataset.name, "recipe": config.recipe, "seed": config.seed},
    )


class Training:
    """The state of one training run: model, optimizer, and how far it is."""

    def __init__(
        self, config: TrainConfig, data: TrainData, device: torch.device, weights: Path | None, workers: int = 0
    ) -> None:
        self.config, self.data, self.device, self.workers = config, data, device, workers
        torch.manual_seed(config.seed)
        self.model, self.not_loaded = _build_model(config, data.dataset, weights)
        self.model.to(device).to(memory_format=torch.channels_last)
        pretrained = config.weights != "none"
        self.frozen = _freeze(self.model, config, pretrained)
        self.optimizer = _build_optimizer(self.model, config)
        self.ema = _moving_average(self.model, config.ema) if config.ema else None
        self.labels, self.counts = targets(data.train, len(data.dataset.classes))
        self.iteration = 0
        self.best: dict[str, Any] = {}

    @property
    def per_epoch(self) -> int:
        """Iterations in one epoch."""
        return max(1, len(self.data.train) // self.config.batch_size)

    @property
    def total(self) -> int:
        """Iterations of the whole run."""
        return self.config.iterations or (self.config.epochs or 0) * self.per_epoch

    @property
    def averaged(self) -> Classifier:
        """The model that is judged and saved: the moving average where there is one."""
        if self.ema is None:
            return self.model
        return cast(Classifier, self.ema.module)

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as plain tensors and numbers."""
        return {
            "iteration": self.iteration,
            "best": self.best,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.iteration, self.best = state["iteration"], state["best"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        torch.set_rng_state(state["rng"].cpu())

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches from the present iteration to the last."""
        config = self.config
        sizes = tuple((size, size) for size in config.train_sizes) or (config.image_size,)
        images = TrainingImages(self.data.train, config.seed, config.flip, config.min_crop)
        sampler = TrainingBatches(
            len(self.data.train),
            config.batch_size,
            sizes,
            config.seed,
            self.iteration * config.accumulate,
            self.total * config.accumulate,
        )
        return load_batches(images, sampler, self.workers)


def _build_model(config: TrainConfig, dataset: Dataset, weights: Path | None) -> tuple[Classifier, list[str]]:
    """Build the model with its first weights; return it and the names of layers that ``weights`` did not fill."""
    blank = build_backbone(config.network)
    info = model_info(config, dataset, blank)
    model = build_classifier(info, pretrained=config.weights == "imagenet")
    if model.head.sees_boxes:
        raise UsageError(f"head {config.head} needs object boxes, and training here sees image-level labels alone.")
    if weights is None:
        return model, []
    is_caffe = weights.suffix == ".caffemodel"
    tensors = caffe_weights(weights, config.network) if is_caffe else load_tensors(weights)
    return model, load_matching(model, tensors, weights)


def _moving_average(model: Classifier, decay: float) -> AveragedModel:
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def _freeze(model: Classifier, config: TrainConfig, pretrained: bool) -> list[nn.Module]:
    """Stop what is not to be trained; return the modules that stay in eval mode (batch norm statistics stand still)."""
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    small = pretrained and config.batch_size < SMALL_BATCH
    if config.freeze_backbone:
        model.backbone.requires_grad_(False)
        return [model.backbone]
    if config.batch_norm == "frozen" or (config.batch_norm == "auto" and small):
        for norm in norms:
            norm.requires_grad_(False)
        return list(norms)
    return []


def _build_optimizer(model: Classifier, config: TrainConfig) -> torch.optim.Optimizer:
    """Group parameters: weights decay, biases and norms do not (as in CAM's prototxt); factors scale the rate."""
    groups = []
    for part, factor in ((model.backbone, 1.0), (model.head, config.head_lr_factor)):
        weights = [p for p in part.parameters() if p.requires_grad and p.ndim > 1]
        biases = [p for p in part.parameters() if p.requires_grad and p.ndim <= 1]
        groups.append({"params": weights, "lr_factor": factor, "weight_decay": config.weight_decay})
        groups.append({"params": biases, "lr_factor": factor * config.bias_lr_factor, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def learning_rate(config: TrainConfig, iteration: int, total: int) -> float:
    """Return the learning rate of ``iteration``: linear warm-up, then steps, half a cosine, or constant."""
    if iteration < config.warmup:
        return config.lr * (iteration + 1) / config.warmup
    if config.schedule == "step":
        return config.lr * config.step_factor ** (iteration // config.step_every)
    if config.schedule == "cosine":
        share = (iteration - config.warmup) / max(1, total - config.warmup)
        return config.lr * 0.5 * (1 + math.cos(math.pi * share))
    return config.lr


def classification_loss(logits: Tensor, labels: Tensor, counts: Tensor, multi_label: bool) -> Tensor:
    """Return the loss of logits ``(B, C)``.

    Multi-label: sigmoid cross-entropy summed over classes and divided by the batch, as Caffe's layer does; classes with
    count 0 (only difficult objects) are left out. Single-label: softmax cross-entropy, the mean over the batch.
    """
    if not multi_label:
        return functional.cross_entropy(logits, labels.argmax(dim=1))
    loss = functional.binary_cross_entropy_with_logits(logits, labels, weight=counts, reduction="sum")
    return loss / len(logits)


def train(
    config: TrainConfig,
    folder: Path,
    *,
    root: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    resume: bool = False,
    progress: ProgressCallback | None = None,
) -> Run:
    """Train a classifier into the run folder ``folder``, or continue the run that is there.

    The folder is made ready by the caller (``files.prepare_output_folder``). ``workers`` are threads that read
    images; by default one per core but one, at most 8.

    Raises:
        KeyboardInterrupt: it was stopped; the state is saved and ``resume`` continues exactly.
        GwapctlError: data, weights, settings or the device cannot be used.

    """
    place = resolve_device(device)
    _set_determinism(config)
    if place.type == "cpu":
        keep_freed_memory()
    data = load_train_data(config, root)
    weights = None if config.weights in ("none", "imagenet") else find_weights(config.weights)
    training = Training(config, data, place, weights, default_workers() if workers is None else workers)
    run = _open_run(folder, config, training) if resume else _create_run(folder, config, training)
    try:
        with _interrupt_flag() as interrupted:
            _train_loop(training, run, interrupted, progress)
    except KeyboardInterrupt:
        _save_state(training, run)
        run.update(status="interrupted", iterations=training.iteration)
        raise
    if config.keep == "last":
        save_model(training.averaged, folder)
    (folder / "state.pt").unlink(missing_ok=True)
    run.update(status="finished", finished=now(), iterations=training.iteration, best=training.best)
    return run


def default_workers() -> int:
    """Return how many threads read images: the cores but one, at least 1 and at most 8."""
    return min(8, max(1, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 2))


def _train_loop(training: Training, run: Run, interrupted: list[bool], progress: ProgressCallback | None) -> None:
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
            _end_epoch(training, run, meter, lr)
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


def _end_epoch(training: Training, run: Run, meter: Meter, lr: float) -> None:
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
    _save_state(training, run)
    run.update(iterations=training.iteration, best=training.best)
    meter.started = time.monotonic()


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
