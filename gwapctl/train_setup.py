"""What a training run is made of: the data it sees, the model, the optimizer, and how far it is.

Boxes never come here: samples are the weak view of a data set (``Dataset.samples``), which carries none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
from gwapctl.errors import DataError, UsageError
from gwapctl.model import Classifier, ModelInfo, build_classifier, load_matching, load_tensors
from gwapctl.transforms import TrainingBatches, TrainingImages, load_batches, targets

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
