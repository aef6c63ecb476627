"""What a detector's training is made of: the data it sees, the model, the optimizer, and how far it is.

The boxes of images outside the box-labelled subset go no further than ``load_detector_data``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gwapctl.config import DetectorConfig
from gwapctl.datasets import open_dataset, training_splits
from gwapctl.datasets.base import BoxedSample, Dataset, Sample, holdout, without_boxes
from gwapctl.networks.classifier import read_weights
from gwapctl.networks.rfcn.base import DetectorInfo
from gwapctl.networks.rfcn.rfcn import Detector
from gwapctl.networks.rfcn.store import build_detector, freeze_trunk, load_trunk
from gwapctl.networks.rfcn.trunk import build_trunk
from gwapctl.networks.transforms import read_ahead, targets
from gwapctl.train.box_subset import box_labelled_subset
from gwapctl.train.detector_batches import Batch, DetectorImages, MixedBatches, collate, is_wide
from gwapctl.train.setup import TrainData, build_optimizer, parameter_groups, require_all_classes


@dataclass(frozen=True)
class DetectorData:
    """What training sees: every image with its labels (``weak``), and boxes of the ``subset`` (image ids) alone.

    ``boxed`` has these samples by their place in ``weak.train``; ``val`` are the images held out, to judge by.
    """

    weak: TrainData
    subset: list[str]
    boxed: dict[int, BoxedSample]
    val: list[BoxedSample]

    @property
    def dataset(self) -> Dataset:
        """The data set."""
        return self.weak.dataset

    @property
    def listing(self) -> str:
        """The text of the run's ``box_labelled.txt``: the subset, in the order in which it was chosen."""
        return "".join(f"{name}\n" for name in self.subset)

    def describe_subset(self) -> dict[str, Any]:
        """Return the ``box_subset`` part of ``run.json``; ``hash`` begins the SHA-256 of ``box_labelled.txt``."""
        digest = hashlib.sha256(self.listing.encode()).hexdigest()[:16]
        return {"hash": digest, "n": len(self.subset), "fraction": len(self.subset) / len(self.weak.train)}


def load_detector_data(
    config: DetectorConfig, root: Path | None, check: Callable[[TrainData], TrainData] | None = None
) -> DetectorData:
    """Open the data set, hold images out where ``val_fraction`` is above 0, and choose those that show their boxes.

    The images held out are the set's own val split where it has one. ``check`` says which images are used, before those
    with boxes are chosen; without one it is all.

    Raises:
        DataError: the data set or a split is missing or empty, a class has no training image, or there is no box.

    """
    dataset = open_dataset(config.dataset, root)
    train_split, val_split = training_splits(dataset)
    samples = dataset.boxed_samples(train_split)
    train, val = samples, list[BoxedSample]()
    if not config.val_fraction:
        val_split = None
    elif val_split is not None:
        val = dataset.boxed_samples(val_split)
    else:
        kept = {sample.id for sample in holdout(samples, config.val_fraction, config.seed)[0]}
        train, val = [s for s in samples if s.id in kept], [s for s in samples if s.id not in kept]
        val_split = f"{config.val_fraction:g} of {train_split}, seed {config.seed}"
    require_all_classes(dataset, train, train_split)
    weak = TrainData(
        dataset, [without_boxes(s) for s in train], [without_boxes(s) for s in val], train_split, val_split
    )
    if check is not None:
        weak = check(weak)
        train, val = _kept(train, weak.train), _kept(val, weak.val)
    subset = box_labelled_subset(train, len(dataset.classes), config.box_proportion, config.seed)
    chosen = set(subset)
    return DetectorData(weak, subset, {place: s for place, s in enumerate(train) if s.id in chosen}, val)


def _kept(samples: list[BoxedSample], kept: list[Sample]) -> list[BoxedSample]:
    ids = {sample.id for sample in kept}
    return [sample for sample in samples if sample.id in ids]


def detector_info(config: DetectorConfig, data: DetectorData) -> DetectorInfo:
    """Describe the detector that ``config`` asks for."""
    with torch.device("meta"):  # shapes alone: nothing is allocated or drawn
        trunk = build_trunk(config.backbone)
    return DetectorInfo(
        backbone=config.backbone,
        classes=data.dataset.classes,
        weak=config.weak,
        pooling=config.pooling,
        short_side=config.short_side,
        long_side=config.long_side,
        mean=trunk.mean,
        std=trunk.std,
        provenance={
            "dataset": data.dataset.name,
            "recipe": config.recipe,
            "seed": config.seed,
            "box_proportion": config.box_proportion,
            "box_subset": data.describe_subset()["hash"],
        },
    )


class DetectorTraining:
    """The state of one training: model, optimizer, and how far it is.

    Regions and anchors are drawn with a generator seeded anew by ``begin_step``: what is drawn is a pure function of
    seed and iteration, and a resumed run needs no generator's state, on any device.
    """

    def __init__(
        self, config: DetectorConfig, data: DetectorData, device: torch.device, weights: Path | None, workers: int = 0
    ) -> None:
        self.config, self.data, self.device, self.workers = config, data, device, workers
        torch.manual_seed(config.seed)
        self.model = _build_model(config, data, weights)
        self.model.to(device).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(parameter_groups(self.model, config), config)
        labels, counts = targets(data.weak.train, len(data.dataset.classes))
        self.labels = torch.where(counts > 0, labels, -1.0)
        seen = config.weak != "none"
        self.others = [i for i in range(len(data.weak.train)) if i not in data.boxed] if seen else []
        self.iteration = 0
        self.best: dict[str, Any] = {}

    @property
    def images_per_step(self) -> int:
        """Images in one optimizer step, with boxes and without."""
        return self.config.batch_size * self.config.accumulate * (2 if self.others else 1)

    def begin_step(self) -> None:
        """Seed torch for the present iteration."""
        torch.manual_seed(int(np.random.SeedSequence([self.config.seed, self.iteration]).generate_state(1)[0]))

    def labels_of(self, batch: Batch) -> Tensor:
        """Return the labels (B, C) of a batch: 1 present, 0 absent, -1 only as difficult objects."""
        return self.labels[batch.indices].to(self.device, non_blocking=True)

    def batches(self) -> Iterator[Batch]:
        """Return the batches from the present iteration to the last."""
        config, samples = self.config, self.data.weak.train
        images = DetectorImages(samples, self.data.boxed, config.seed, config.flip, config.short_side, config.long_side)
        boxed = sorted(self.data.boxed)
        start, stop = self.iteration * config.accumulate, config.iterations * config.accumulate
        wide = {index: is_wide(samples[index]) for index in (*boxed, *self.others)}
        keys = MixedBatches(wide, boxed, self.others, config.batch_size, config.seed, start, stop)
        for pictures in read_ahead(images.__getitem__, keys, self.workers):
            yield collate(pictures)

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as plain tensors and numbers."""
        return {
            "iteration": self.iteration,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.iteration, self.best = state["iteration"], state["best"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def _build_model(config: DetectorConfig, data: DetectorData, weights: Path | None) -> Detector:
    """Build the detector with its first weights; a trunk that was trained before is frozen as R-FCN's."""
    model = build_detector(detector_info(config, data), pretrained=config.weights == "imagenet")
    if weights is not None:
        load_trunk(model, read_weights(weights, config.backbone, ""), weights)
        freeze_trunk(model)
    return model
