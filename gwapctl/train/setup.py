"""What a training run is made of: the data it sees, the model, the optimizer, and how far it is.

Samples are the weak view of a data set (``Dataset.samples``), which carries no boxes. The one exception are heads that
say that they see boxes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gwapctl.config import RunConfig, TrainConfig
from gwapctl.datasets import open_dataset, training_splits
from gwapctl.datasets.backgrounds import background_folder, background_samples, without_classes
from gwapctl.datasets.base import BoxedSample, Dataset, Sample, fingerprint, holdout, warn_of_one_class
from gwapctl.errors import DataError, UsageError
from gwapctl.maps.resolve import require_map
from gwapctl.networks.backbones import build_backbone, imagenet_classifier
from gwapctl.networks.classifier import Classifier, ModelInfo, build_classifier, load_matching, read_weights
from gwapctl.networks.heads import Head, head_class
from gwapctl.networks.transforms import (
    EvaluationImages,
    Items,
    TrainingBatches,
    TrainingImages,
    load_batches,
    split_region,
    targets,
)
from gwapctl.train.feature_cache import EvaluationFeatures, FeatureCache, OnFeatures, TrainingFeatures

ILSVRC, ILSVRC_CLASSES = ("imagenet", "lid"), 1000  # data sets whose classes are sorted wnids, as torchvision's
SMALL_BATCH = 16  # below it, batch statistics are too noisy to replace pretrained ones


@dataclass(frozen=True)
class TrainData:
    """What training sees: the classes, samples to train and to validate on, and images without any object.

    Samples have no boxes (``Sample``), unless the head sees them (``BoxedSample``). ``skipped`` are the ids of images
    that cannot be read and were left out, by the part that they were in; ``whole`` is the fingerprint of ``train`` with
    them, for it tells what data this is.
    """

    dataset: Dataset
    train: list[Sample]
    val: list[Sample]
    train_split: str
    val_split: str | None
    background: list[Sample] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    whole: str | None = None

    @property
    def parts(self) -> dict[str, list[Sample]]:
        """Map the names of the parts to their images."""
        return {"train": self.train, "val": self.val, "background": self.background}

    def without(self, skipped: Mapping[str, Sequence[str]]) -> TrainData:
        """Return the data without the images of these ids, by part."""
        removed = {part: set(ids) for part, ids in skipped.items()}
        kept = {
            part: [sample for sample in samples if sample.id not in removed.get(part, ())]
            for part, samples in self.parts.items()
        }
        return replace(
            self,
            train=kept["train"],
            val=kept["val"],
            background=kept["background"],
            skipped={part: list(ids) for part, ids in skipped.items()},
            whole=fingerprint(self.train),
        )

    def describe(self) -> dict[str, Any]:
        """Return the ``dataset`` part of ``run.json``."""
        background = {"n_background": len(self.background), "background_fingerprint": fingerprint(self.background)}
        return {
            "name": self.dataset.name,
            "root": str(self.dataset.root.resolve()),
            "fingerprint": self.whole or fingerprint(self.train),
            "train_split": self.train_split,
            "val_split": self.val_split,
            "n_train": len(self.train),
            "n_val": len(self.val),
            "classes": [{"name": item.name, "id": item.id} for item in self.dataset.classes],
            **({"n_skipped": sum(map(len, self.skipped.values())), "skipped": self.skipped} if self.skipped else {}),
            **(background if self.background else {}),
        }


def load_train_data(
    config: TrainConfig, root: Path | None, check: Callable[[TrainData], TrainData] | None = None
) -> TrainData:
    """Open the data set and divide it: its own val split where it has one, else a seeded part of train.

    ``check`` then says which images are used, such as an ``ImageCheck``; without one it is all.

    Raises:
        DataError: the data set or a split is missing, empty, or a class has no training image; the head needs boxes
            and there are none.
        UsageError: settings and head do not fit each other.

    """
    head = head_class(config.head)
    _check_background(config, head)
    if config.cache_features and head.sees_boxes:
        raise UsageError(f"head {config.head} needs boxes beside the feature maps. Drop --cache-features.")
    dataset = open_dataset(config.dataset, root)
    background: list[Sample] = []
    if config.background is not None:
        background = background_folder(config.background)
    if config.background_classes:
        background = background_samples(dataset, config.background_classes, training_splits(dataset)[0])
        dataset = without_classes(dataset, config.background_classes)
    train_split, val_split = training_splits(dataset)
    view = dataset.boxed_samples if head.sees_boxes else dataset.samples
    train: list[Sample] = [*view(train_split)]
    val: list[Sample] = []
    if val_split is not None:
        val = [*view(val_split)]
    elif config.val_fraction > 0:
        train, val = holdout(train, config.val_fraction, config.seed)
        val_split = f"{config.val_fraction:g} of {train_split}, seed {config.seed}"
    if config.keep == "best" and not val:
        raise UsageError("--keep best needs validation images. Set --val-fraction above 0, or use --keep last.")
    require_all_classes(dataset, train, train_split)
    if head.sees_boxes:
        _require_boxes(config, dataset, train, val)
    warn_of_one_class(dataset, train, train_split)
    data = TrainData(dataset, train, val, train_split, val_split, background)
    return data if check is None else check(data)


def _check_background(config: TrainConfig, head: type[Head]) -> None:
    folder, classes = config.background is not None, bool(config.background_classes)
    if folder and classes:
        raise UsageError("--background and --background-classes both say where background images are. Give one.")
    if (folder or classes) and not head.learns_from_background:
        flag = "--background" if folder else "--background-classes"
        raise UsageError(f"{flag} is of no use to head {config.head}. Drop it, or choose --head background.")
    if head.learns_from_background and not (folder or classes) and config.head_options.get("l1") != 0:
        raise UsageError(
            f"head {config.head} needs images without objects. Give a folder of them with --background, or classes of "
            "the data set that show none with --background-classes."
        )


def _require_boxes(config: TrainConfig, dataset: Dataset, *parts: Sequence[Sample]) -> None:
    for part in filter(None, parts):
        if not any(isinstance(sample, BoxedSample) and len(sample.boxes) for sample in part):
            raise DataError(
                f"head {config.head} pools inside ground-truth boxes, and {dataset.name} at {dataset.root} has none "
                "for training or validation. Choose --head gwap."
            )


def require_all_classes(dataset: Dataset, train: Sequence[Sample], split: str) -> None:
    """Raise ``DataError`` where a class has no training image, or there is none at all."""
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
    head = head_class(config.head)
    provenance: dict[str, Any] = {"dataset": dataset.name, "recipe": config.recipe, "seed": config.seed}
    if head.sees_boxes:
        provenance["sees_boxes"] = True
    return ModelInfo(
        backbone=config.network,
        output_stride=backbone.output_stride,
        head=config.head,
        head_options=config.head_options,
        classes=dataset.classes,
        multi_label=dataset.multi_label,
        input_size=config.image_size,
        train_sizes=(min(sizes), max(sizes)),
        mean=backbone.mean,
        std=backbone.std,
        map=config.map or head.map,
        scales=config.scales,
        box_rule=config.box_rule or "paper20",
        provenance=provenance,
    )


class Training:
    """The state of one training run: model, optimizer, and how far it is."""

    def __init__(
        self, config: TrainConfig, data: TrainData, device: torch.device, weights: Path | None, workers: int = 0
    ) -> None:
        self.config, self.data, self.device, self.workers = config, data, device, workers
        torch.manual_seed(config.seed)
        self.model, self.not_loaded = build_model(config, data.dataset, weights)
        self.model.to(device).to(memory_format=torch.channels_last)
        pretrained = config.weights != "none"
        self.frozen = _freeze(self.model, config, pretrained)
        self.optimizer = _build_optimizer(self.model, config)
        self.ema = _moving_average(self.model, config.ema) if config.ema else None
        self.labels, self.counts = targets(data.train, len(data.dataset.classes))
        self.backgrounds_per_batch = self.head.background_images(config.batch_size)
        self.features: FeatureCache | None = None  # what is read in place of the images, once it is filled
        self.iteration = 0
        self.best: dict[str, Any] = {}

    @property
    def head(self) -> Head:
        """The head in training: it knows the loss."""
        return cast(Head, self.model.head)

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

    def learn(self) -> None:
        """Switch to training what learns; going through the hundreds of parts of a frozen network takes time."""
        (self.model.head if self.config.freeze_backbone else self.model).train()
        for module in self.frozen:
            module.eval()

    def network(self, model: Classifier) -> nn.Module:
        """Return what batches go through: all of ``model``, or its head alone where feature maps are cached."""
        return model if self.features is None else OnFeatures(cast(Head, model.head))

    def split(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split a batch into what the network reads and the region of each image, if it has one."""
        return split_region(batch) if self.features is None else (batch, None)

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as plain tensors and numbers."""
        return {
            "iteration": self.iteration,
            "best": self.best,
            "model": self._kept(self.model.state_dict()),
            "ema": self._kept(self.ema.state_dict()) if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.iteration, self.best = state["iteration"], state["best"]
        strict = not self.config.cache_features
        self.model.load_state_dict(state["model"], strict=strict)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.load_state_dict(state["ema"], strict=strict)
        torch.set_rng_state(state["rng"].cpu())

    def _kept(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Leave out a backbone whose feature maps are cached: it never changes, and is there when the run resumes."""
        if not self.config.cache_features:
            return tensors
        return {name: tensor for name, tensor in tensors.items() if "backbone" not in name.split(".")[:2]}

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches from the present iteration to the last."""
        config = self.config
        sizes = tuple((size, size) for size in config.train_sizes) or (config.image_size,)
        samples = [*self.data.train, *self.data.background]
        images: Items = TrainingImages(samples, config.seed, config.flip, config.min_crop)
        if self.features is not None:
            images = TrainingFeatures(self.features, samples, config.seed, config.flip)
        sampler = TrainingBatches(
            len(self.data.train),
            config.batch_size,
            sizes,
            config.seed,
            self.iteration * config.accumulate,
            self.total * config.accumulate,
            len(self.data.background),
            self.backgrounds_per_batch,
        )
        return load_batches(images, sampler, self.workers)

    def validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches of the validation images, in their order, at the model's input size."""
        samples = self.data.val
        images: Items = EvaluationImages(samples, self.config.image_size)
        if self.features is not None:
            images = EvaluationFeatures(self.features, samples)
        step = max(8, self.config.batch_size)
        batches = [range(start, min(start + step, len(samples))) for start in range(0, len(samples), step)]
        return load_batches(images, batches, self.workers)


def build_model(config: TrainConfig, dataset: Dataset, weights: Path | None) -> tuple[Classifier, list[str]]:
    """Build the model with its first weights; return it and the names of layers that ``weights`` did not fill."""
    blank = build_backbone(config.network, output_stride=config.output_stride)
    info = model_info(config, dataset, blank)
    model = build_classifier(info, pretrained=config.weights == "imagenet")
    if config.map is not None:
        require_map(model, config.map)
    of_ilsvrc = dataset.name in ILSVRC and len(dataset.classes) == ILSVRC_CLASSES
    if config.weights == "imagenet" and of_ilsvrc and not config.new_head:  # an unmodified network keeps its classifier
        model.head.load_state_dict(imagenet_classifier(config.network, config.head) or model.head.state_dict())
    if weights is None:
        return model, []
    tensors = read_weights(weights, config.network, config.head)
    if config.new_head:  # another head's scores would be an advantage where heads are compared
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    return model, load_matching(model, tensors, weights)


def _moving_average(model: Classifier, decay: float) -> AveragedModel:
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def _freeze(model: Classifier, config: TrainConfig, pretrained: bool) -> list[nn.Module]:
    """Stop what is not to be trained; return the modules that stay in eval mode (batch norm statistics stand still)."""
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    small = pretrained and config.batch_size < SMALL_BATCH
    if config.freeze_backbone:  # in eval mode for good: ``learn`` does not touch it
        model.backbone.requires_grad_(False).eval()
        return []
    if config.batch_norm == "frozen" or (config.batch_norm == "auto" and small):
        for norm in norms:
            norm.requires_grad_(False)
        return list(norms)
    return []


def _build_optimizer(model: Classifier, config: TrainConfig) -> torch.optim.Optimizer:
    backbone = parameter_groups(model.backbone, config)
    return build_optimizer([*backbone, *parameter_groups(model.head, config, config.head_lr_factor)], config)


def parameter_groups(part: nn.Module, config: RunConfig, factor: float = 1.0) -> list[dict[str, Any]]:
    """Group the trained parameters: weights decay, biases and norms do not (as in CAM's prototxt).

    ``lr_factor`` of a group scales its rate.
    """
    weights = [p for p in part.parameters() if p.requires_grad and p.ndim > 1]
    biases = [p for p in part.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": weights, "lr_factor": factor, "weight_decay": config.weight_decay},
        {"params": biases, "lr_factor": factor * config.bias_lr_factor, "weight_decay": 0.0},
    ]


def build_optimizer(groups: Sequence[dict[str, Any]], config: RunConfig) -> torch.optim.Optimizer:
    """Return the optimizer of the parameter groups that are not empty."""
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def learning_rate(config: RunConfig, iteration: int, total: int) -> float:
    """Return the learning rate of ``iteration``: linear warm-up, then steps, half a cosine, or constant."""
    if iteration < config.warmup:
        return config.lr * (iteration + 1) / config.warmup
    if config.schedule == "step":
        return config.lr * config.step_factor ** (iteration // config.step_every)
    if config.schedule == "cosine":
        share = (iteration - config.warmup) / max(1, total - config.warmup)
        return config.lr * 0.5 * (1 + math.cos(math.pi * share))
    return config.lr
