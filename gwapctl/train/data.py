"""What a training sees: samples to learn from and to be judged by, and images without any object.

Samples are the weak view of a data set (``Dataset.samples``), which carries no boxes. The exceptions are heads that
say that they see boxes, and the images that show their boxes to a detector: the boxes of all others go no further than
``load_detector_data``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from gwapctl.config import DetectorConfig, RunConfig, TrainConfig
from gwapctl.datasets import open_dataset, training_splits
from gwapctl.datasets.base import (
    BoxedSample,
    Dataset,
    Sample,
    fingerprint,
    holdout,
    warn_of_one_class,
    without_boxes,
)
from gwapctl.datasets.subset import background_folder, background_samples, without_classes
from gwapctl.errors import DataError, UsageError, lookup, option, setting
from gwapctl.networks.heads import head_class
from gwapctl.networks.heads.base import Head
from gwapctl.train.augmentations import AUGMENTATIONS


@dataclass(frozen=True)
class TrainData:
    """What training sees: the classes, samples to train and to validate on, and images without any object.

    Samples have no boxes (``Sample``), unless the head sees them (``BoxedSample``). ``skipped`` are the ids of images
    that cannot be read and were left out, by the part that they were in; ``whole`` is the fingerprint of ``train`` with
    them, for it tells what data this is.
    """

    dataset: Dataset
    train: Sequence[Sample]
    val: Sequence[Sample]
    train_split: str
    val_split: str | None
    background: Sequence[Sample] = ()
    skipped: dict[str, list[str]] = field(default_factory=dict)
    whole: str | None = None

    @property
    def parts(self) -> dict[str, Sequence[Sample]]:
        """Map the names of the parts to their images."""
        return {"train": self.train, "val": self.val, "background": self.background}

    @property
    def identity(self) -> dict[str, Any]:
        """What all processes of a training must agree on: the images of every part, and those that were left out."""
        prints = {name: fingerprint(samples) for name, samples in self.parts.items()}
        return {"skipped": self.skipped, "fingerprints": prints}

    @property
    def summary(self) -> str:
        """Say how many images of which split train, and which validate."""
        judged = f"{len(self.val):,} to validate on ({self.val_split})" if self.val else "none to validate on"
        return f"{len(self.train):,} images of {self.train_split} to train on, {judged}"

    def without(self, skipped: Mapping[str, Sequence[str]]) -> TrainData:
        """Return the data without the images of these ids, by part."""
        kept = dict(self.parts)
        for part, ids in skipped.items():
            left_out = set(ids)
            kept[part] = [sample for sample in kept[part] if sample.id not in left_out]
        listed = {part: list(ids) for part, ids in skipped.items()}
        return replace(self, **kept, skipped=listed, whole=fingerprint(self.train))  # type: ignore[arg-type]

    def describe(self) -> dict[str, Any]:
        """Return the ``dataset`` part of ``run.json``."""
        described: dict[str, Any] = {
            "name": self.dataset.name,
            "root": str(self.dataset.root.resolve()),
            "fingerprint": self.whole or fingerprint(self.train),
            "train_split": self.train_split,
            "val_split": self.val_split,
            "n_train": len(self.train),
            "n_val": len(self.val),
            "classes": [{"name": item.name, "id": item.id} for item in self.dataset.classes],
            "example": (self.val or self.train)[0].path.as_posix(),  # an image to look at
        }
        if self.skipped:
            described |= {"n_skipped": sum(map(len, self.skipped.values())), "skipped": self.skipped}
        if self.background:
            described |= {"n_background": len(self.background), "background_fingerprint": fingerprint(self.background)}
        return described


@dataclass(frozen=True)
class DetectorData(TrainData):
    """What a detector's training sees: ``train`` without boxes, and the boxes of the ``subset`` (image ids) alone.

    ``boxed`` has the samples of the subset by their index in ``train``; ``val`` has its boxes, to judge by. So has
    ``judged``, the same images as ``train``, where a detector learns from boxes that something else found: no true box
    is learned from then, and there is no subset.
    """

    val: Sequence[BoxedSample]
    subset: list[str] = field(default_factory=list)
    boxed: dict[int, BoxedSample] = field(default_factory=dict)
    judged: Sequence[BoxedSample] = ()

    @property
    def listing(self) -> str:
        """The text of the run's ``box_labelled.txt``: the subset, in the order in which it was chosen."""
        return "".join(f"{name}\n" for name in self.subset)

    def describe_subset(self) -> dict[str, Any]:
        """Return the ``box_subset`` part of ``run.json``; ``hash`` begins the SHA-256 of ``box_labelled.txt``."""
        digest = hashlib.sha256(self.listing.encode()).hexdigest()[:16]
        return {"hash": digest, "n": len(self.subset), "fraction": len(self.subset) / len(self.train)}


def divide(config: RunConfig, dataset: Dataset, *, boxes: bool, own_val: bool = True) -> TrainData:
    """Divide a data set, with its ``boxes`` or without.

    It is judged on the set's own val split where it has one, ``own_val`` is set and no fold is asked for, else on a
    seeded part of train.

    Raises:
        DataError: a split is missing or empty, or a class has no training image.

    """
    view: Callable[[str], Sequence[Sample]] = dataset.boxed_samples if boxes else dataset.samples
    train_split, val_split = training_splits(dataset)
    train, val = list(view(train_split)), list[Sample]()
    if val_split is not None and own_val and config.fold is None:
        val = list(view(val_split))
    elif config.val_fraction > 0:
        train, val = holdout(train, config.val_fraction, config.seed, config.fold or 0)
        val_split = f"{config.val_fraction:g} of {train_split}, seed {config.seed}"
        val_split += "" if config.fold is None else f", fold {config.fold}"
    else:
        val_split = None
    if getattr(config, "epochs", None) != 0:  # with 0, nothing is learnt
        require_all_classes(dataset, train, train_split)
    return TrainData(dataset, train, val, train_split, val_split)


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
    dataset = open_dataset(config.dataset, root)
    background = [] if config.background is None else background_folder(config.background)
    if config.background_classes:
        background = background_samples(dataset, config.background_classes, training_splits(dataset)[0])
        dataset = without_classes(dataset, config.background_classes)
    mixes = config.augment and lookup("augmentation", config.augment, AUGMENTATIONS).mixes_labels
    if mixes and dataset.multi_label:
        raise UsageError(
            f"{option('augment', config.augment)} mixes one class per image, and images of {dataset.name} have "
            "several. Choose one that leaves labels alone."
        )
    data = replace(divide(config, dataset, boxes=head.sees_boxes), background=background)
    if config.keep == "best" and not data.val:
        instead = f"Set {option('val_fraction')} above 0, or {setting('keep', 'last')}"
        raise UsageError(f"{setting('keep', 'best')} needs validation images. {instead}.")
    if head.sees_boxes and not all(_has_boxes(part) for part in (data.train, data.val) if part):
        raise DataError(
            f"head {config.head} pools inside ground-truth boxes, and {dataset.name} at {dataset.root} has none "
            "for training or validation. Choose head gwap."
        )
    warn_of_one_class(dataset, data.train, data.train_split)
    return data if check is None else check(data)


def _check_background(config: TrainConfig, head: type[Head]) -> None:
    folder, classes = config.background is not None, bool(config.background_classes)
    by_folder, by_class = option("background"), option("background_classes")
    if folder and classes:
        raise UsageError(f"{by_folder} and {by_class} both say where background images are. Give one.")
    if (folder or classes) and not head.learns_from_background:
        asked = by_folder if folder else by_class
        raise UsageError(f"{asked} is of no use to head {config.head}. Drop it, or choose head background.")
    if head.learns_from_background and not (folder or classes) and config.head_options.get("l1") != 0:
        raise UsageError(
            f"head {config.head} needs images without objects. Give a folder of them with {by_folder}, or classes of "
            f"the data set that show none with {by_class}."
        )


def _has_boxes(samples: Sequence[Sample]) -> bool:
    return any(isinstance(sample, BoxedSample) and len(sample.boxes) for sample in samples)


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


def load_detector_data(
    config: DetectorConfig, root: Path | None, check: Callable[[TrainData], TrainData] | None = None
) -> DetectorData:
    """Open the data set, hold images out where ``val_fraction`` is above 0, and choose those that show their boxes.

    ``check`` says which images are used, before those with boxes are chosen; without one it is all. Errors are those of
    ``divide``, and a ``DataError`` where there is no box.
    """
    dataset = open_dataset(config.dataset, root)
    data = divide(config, dataset, boxes=True, own_val=config.val_fraction > 0)
    data = data if check is None else check(data)
    train, val = cast(Sequence[BoxedSample], data.train), cast(Sequence[BoxedSample], data.val)
    true_boxes = config.boxes_from is None
    subset = []
    if true_boxes:
        subset = box_labelled_subset(train, len(dataset.classes), config.box_proportion, config.seed)
    chosen = set(subset)
    return DetectorData(
        dataset,
        [without_boxes(sample) for sample in train],
        val,
        data.train_split,
        data.val_split,
        skipped=data.skipped,
        whole=data.whole,
        subset=subset,
        boxed={index: sample for index, sample in enumerate(train) if sample.id in chosen},
        judged=() if true_boxes else train,
    )


def box_labelled_subset(samples: Sequence[BoxedSample], classes: int, proportion: float, seed: int) -> list[str]:
    """Return the ids of the images whose boxes may be seen: of every class the same share of its images.

    The paper says "for each category some images have boxes" (arXiv 1809.08264, section VI) and no more; the procedure
    is ours. Every class has one seeded permutation of its images (those with an object of it that is not difficult).
    One sequence of images is built: the class of which the smallest share is chosen so far appends the next unused
    image of its permutation. The subset is the shortest prefix that holds ``ceil(proportion N_c)`` images of every
    class, so subsets of one seed nest. It depends on ids and ``seed``, not on the order of ``samples``. A chosen image
    shows all its boxes, and images hold several classes, so the subset may be a larger share of all images than
    ``proportion``. An image without any object that counts is never chosen.

    Raises:
        UsageError: ``proportion`` is not above 0 and at most 1.
        DataError: no image has a box of an object that is not difficult.

    """
    if not 0 < proportion <= 1:
        raise UsageError(f"{option('box_proportion')} must be above 0 and at most 1, not {proportion}.")
    present = {s.id: sorted(set(s.box_labels[~s.difficult].tolist())) for s in samples}
    queues: list[list[str]] = []
    for label in range(classes):
        members = sorted(name for name, labels in present.items() if label in labels)
        order = np.random.default_rng([seed, label]).permutation(len(members))
        queues.append([members[index] for index in order[::-1]])  # the next one is the last
    totals = [len(queue) for queue in queues]
    if not any(totals):
        without = f"Train without {option('detector')}"
        raise DataError(f"no image of the training split has a box, which a detector needs. {without}.")
    wanted = [math.ceil(Fraction(str(proportion)) * total) for total in totals]  # 0.1 of 30 is 3, never 4
    counts = [0] * classes
    chosen: dict[str, None] = {}
    while any(count < need for count, need in zip(counts, wanted, strict=True)):
        _, label = min((Fraction(counts[c], totals[c]), c) for c in range(classes) if queues[c])
        name = queues[label].pop()
        if name in chosen:
            continue
        chosen[name] = None
        for other in present[name]:
            counts[other] += 1
    return list(chosen)
