"""What every data set reader yields, and how a training split is divided."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.errors import DataError, option, printable, reading


@dataclass(frozen=True)
class ClassName:
    """One class: the readable ``name`` and the data set's own ``id`` (a wnid, or the name again)."""

    name: str
    id: str


@dataclass(frozen=True)
class Sample:
    """One image with image-level labels and nothing else: all that weakly supervised training ever sees.

    ``id`` is unique in its split and keeps folders and suffix out of the way of other images (relative path or the data
    set's own id). ``labels`` are the indices of the classes present; ``ignored`` those that are present only as
    difficult objects: neither positive nor negative. ``size`` is (width, height) of the upright image where the
    annotation says it.
    """

    id: str
    path: Path
    labels: tuple[int, ...]
    ignored: tuple[int, ...] = ()
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Write the id so that it can be stored: a file's name may hold bytes that are no text."""
        if not self.id.isascii():
            object.__setattr__(self, "id", printable(self.id))


@dataclass(frozen=True)
class BoxedSample(Sample):
    """A sample with object positions, for evaluation and for the few heads and detectors that say they need them.

    ``boxes`` (N, 4) follow ``gwapctl.boxes``; ``box_labels`` (N,) are class indices; ``difficult`` (N,) flags. ``mask``
    is an image file whose pixels from ``mask_level`` on (255 = ignore where the data set says so) are foreground, if
    there is one.
    """

    boxes: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))
    box_labels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    difficult: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    mask: Path | None = None
    mask_level: int = 1


class Problems:
    """What a reader finds wrong with a data set: raised at once, or ``collecting`` for ``gwapctl data check``.

    ``warnings`` are about what a reader mended or left out (an inverted box): never raised, each kept once, with its
    kind.
    """

    def __init__(self) -> None:
        self.collecting = False
        self.errors: list[str] = []
        self.warnings: dict[str, str] = {}

    def error(self, message: str) -> None:
        """Raise ``DataError``, or note the message and let the reader go on without the image."""
        if not self.collecting:
            raise DataError(message)
        self.errors.append(message)

    def warn(self, *messages: str, kind: str = "") -> None:
        """Note what was mended. Warnings of one ``kind`` may be many, one per image: ``summary`` counts them."""
        self.warnings |= {message: kind or message for message in messages}

    def summary(self) -> list[str]:
        """Return one line per kind of warning: the first of that kind, and how many more there are."""
        count = Counter(self.warnings.values())
        first = {kind: message for message, kind in reversed(self.warnings.items())}
        more = {kind: f" (and {number - 1} more like this)" if number > 1 else "" for kind, number in count.items()}
        return [first[kind] + more[kind] for kind in count]


class Dataset:
    """A data set on disk. Readers implement ``_read``, and fill ``_splits`` or implement ``splits``."""

    name: str
    root: Path
    classes: tuple[ClassName, ...]
    multi_label: bool  # several classes per image (sigmoid, VOC mAP) or exactly one (softmax, top-k error)
    _splits: Mapping[str, Any]  # splits that are present: where they lie
    reported: str | None = None  # the split that results on a set with a name are reported on; None: what is there
    blacklist: frozenset[str] = frozenset()  # ids of images that the official localization error leaves out

    @cached_property
    def problems(self) -> Problems:
        """What this reader found wrong so far."""
        return Problems()

    @cached_property
    def class_index(self) -> dict[str, int]:
        """The index of each class by its id."""
        return {item.id: index for index, item in enumerate(self.classes)}

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits that are present on disk."""
        return tuple(self._splits)

    def boxed_samples(self, split: str) -> list[BoxedSample]:
        """Return the samples of ``split`` with boxes, in a stable order.

        Raises:
            DataError: the split is missing or empty, or an annotation is broken (the message names the file).

        """
        self.require_split(split)
        with reading(self.root):
            samples = [sample for sample in self._read(split) if sample is not None]
        self.require_images(samples, split)
        return samples

    def _read(self, split: str) -> Iterable[BoxedSample | None]:
        """Yield the samples of a split that is there; None for an image that is among the problems."""
        raise NotImplementedError

    def samples(self, split: str) -> list[Sample]:
        """Return the samples of ``split`` without any box: the view of weakly supervised training."""
        return [without_boxes(sample) for sample in self.boxed_samples(split)]

    def stray_annotations(self) -> Iterable[Path]:
        """Return the annotation files that no image belongs to, where a layout has a file per image."""
        return ()

    def notes(self, split: str) -> list[str]:
        """Return what a reader of results on ``split`` must know about the data."""
        del split
        return []

    def warnings(self) -> list[str]:
        """Return what readers mended so far, one line per kind, paths from ``root``: for verbs that do something else.

        ``gwapctl data check`` lists all of them.
        """
        return [text.replace(f"{self.root}{os.sep}", "") for text in self.problems.summary()]

    def require_split(self, split: str) -> None:
        """Raise ``DataError`` unless ``split`` is present; the message lists what is."""
        if split not in self.splits():
            present = ", ".join(self.splits()) or "none"
            raise DataError(f"{self.name} at {self.root} has no split {split!r}. Present: {present}.")

    def require_images(self, samples: Sequence[Sample], split: str) -> None:
        """Raise ``DataError`` where a split has no image, unless the problems collected say why."""
        if not samples and not self.problems.errors:
            raise DataError(
                f"{self.name} at {self.root} has no image in split {split!r}. Put images there or choose another split."
            )


def warn_of_one_class(dataset: Dataset, samples: Sequence[Sample], split: str) -> None:
    """Note where every image of ``split`` shows the same one class: there is nothing to tell apart."""
    shown = {(*sample.labels, *sample.ignored) for sample in samples}
    if len(shown) == 1 and len(labels := next(iter(shown))) == 1:
        dataset.problems.warn(
            f"every image of split {split!r} of {dataset.root} shows the one class {dataset.classes[labels[0]].name!r}:"
            " a classifier learns nothing from that. Add images of other classes, or of none."
        )


def without_boxes(sample: Sample) -> Sample:
    """Drop everything but the image-level part of ``sample``."""
    return Sample(**{item.name: getattr(sample, item.name) for item in fields(Sample)})


def fingerprint(samples: Sequence[Sample]) -> str:
    """Hash ids and image-level labels: the identity of the data that a run was trained or evaluated on."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.id}\t{sample.labels}\t{sample.ignored}\n".encode())
    return digest.hexdigest()[:16]


def holdout(samples: Sequence[Sample], fraction: float, seed: int, fold: int = 0) -> tuple[list[Sample], list[Sample]]:
    """Divide ``samples`` into (train, held out); every class gives the same fraction of its images, order is kept.

    An image belongs to the stratum of its first label, one without any to a stratum of its own. The draw depends on
    ids and ``seed`` alone. Of one seed and ``fraction``, no image is held out by two ``fold``s.

    Raises:
        DataError: the fraction leaves nothing on one of the sides.

    Example:
        >>> samples = [Sample(f"{i}.jpg", Path(f"{i}.jpg"), labels=(i % 2,)) for i in range(10)]
        >>> train, held = holdout(samples, 0.2, seed=0)
        >>> len(train), sorted(sample.labels for sample in held)
        (8, [(0,), (1,)])

    """
    generator = np.random.default_rng(seed)
    strata: dict[int, list[int]] = {}
    for index in sorted(range(len(samples)), key=lambda i: samples[i].id):
        strata.setdefault(samples[index].labels[0] if samples[index].labels else -1, []).append(index)
    order = [np.asarray(members)[generator.permutation(len(members))] for _, members in sorted(strata.items())]
    # largest remainders over all strata, so that small classes do not all round to zero
    ranks = sorted((((i + 0.5) / len(members)), int(index)) for members in order for i, index in enumerate(members))
    first, last = (round(fraction * number * len(samples)) for number in (fold, fold + 1))
    held = {index for _, index in ranks[first:last]}
    train = [sample for index, sample in enumerate(samples) if index not in held]
    val = [sample for index, sample in enumerate(samples) if index in held]
    if not train or not val:
        asked = option("val_fraction", fraction)
        raise DataError(f"{asked} of {len(samples)} images leaves an empty part. Choose another.")
    return train, val
