"""The images of a figure, and what a data set knows about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.datasets.base import BoxedSample, ClassName
from gwapctl.errors import GwapctlError
from gwapctl.evaluate.subject import find_dataset, find_samples, find_subject
from gwapctl.images.decode import ImageArray, read_image
from gwapctl.inputs import find_inputs


@dataclass(frozen=True, eq=False)
class FigureImage:
    """One image; ``classes`` of what it shows and its ``boxes`` (N, 4) in original pixels, where they are known.

    ``box_classes`` (N,) are indices in ``classes``.
    """

    path: Path
    classes: tuple[ClassName, ...] = ()
    boxes: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))
    box_classes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @cached_property
    def pixels(self) -> ImageArray:
        """The decoded image ``(H, W, 3)``.

        Raises:
            DataError: it cannot be read.

        """
        return read_image(self.path)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def names(self) -> str:
        """The names of what it shows."""
        return ", ".join(item.name for item in self.classes)


def find_images(
    images: Sequence[str], model: str, *, dataset: str | None = None, root: Path | None = None, count: int = 4
) -> list[FigureImage]:
    """Return the images that ``images`` name: files, folders, globs, or ids of the data set's reported split.

    Without ``images`` the first ``count`` of that split; the data set is by default the one that ``model`` was trained
    on. Files that it does not hold have neither classes nor boxes.

    Raises:
        UsageError: no images are given and the model does not say what it was trained on, or one does not exist.
        DataError: the data set is not there.

    """
    try:
        classes, samples = _open(model, dataset, root)
    except GwapctlError:
        if dataset is not None or not images:
            raise
        classes, samples = (), []  # the pictures are worth having without ground truth
    if not images:
        return [_figure_image(sample, classes) for sample in samples[:count]]
    by_id = {sample.id: sample for sample in samples}
    by_path = {sample.path.resolve(): sample for sample in samples}
    found = []
    for text in images:
        for path in [by_id[text].path] if text in by_id else [item.path for item in find_inputs([text])]:
            known = by_path.get(path.resolve())
            found.append(FigureImage(path) if known is None else _figure_image(known, classes))
    return found


def _open(model: str, dataset: str | None, root: Path | None) -> tuple[tuple[ClassName, ...], list[BoxedSample]]:
    target = find_subject(model)
    data = find_dataset(target, dataset, root, None)
    return data.classes, find_samples(target, data, None)[1]


def _figure_image(sample: BoxedSample, classes: Sequence[ClassName]) -> FigureImage:
    known = tuple(dict.fromkeys([*sample.labels, *sample.box_labels.tolist()]))
    indices = np.array([known.index(label) for label in sample.box_labels.tolist()], np.int64)
    return FigureImage(sample.path, tuple(classes[label] for label in known), sample.boxes, indices)
