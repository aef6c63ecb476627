"""What a figure shows: models, with the names of their columns, and images, with what a data set knows about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray
from gwapctl.datasets.base import BoxedSample, ClassName
from gwapctl.errors import DataError, GwapctlError, UsageError, option
from gwapctl.evaluate.subject import find_dataset, find_samples, find_subject
from gwapctl.images.decode import ImageArray, read_image
from gwapctl.inputs import find_inputs
from gwapctl.networks.heads import HEADS
from gwapctl.predict.classifier import Model, load_model
from gwapctl.predict.detector import DetectorModel
from gwapctl.runs import Run, find_runs

DETECTOR_NAMES = {
    "none": "R-FCN",
    "gap": "R-FCN + GAP",
    "gwap": "R-FCN + GWAP",
    "gwap+gap": "R-FCN + GWAP + GAP",
}


@dataclass(frozen=True, eq=False)
class FigureModel:
    """A model in a figure and the name of its column."""

    model: Model | DetectorModel
    name: str

    @property
    def classifier(self) -> Model:
        """The model, which must be a classifier; a UsageError says that it is a detector."""
        if self.model.detects:
            raise UsageError(f"{self.model.name} is a detector, which has no map of its own here. Use it in figure 9.")
        return self.model

    @cached_property
    def map(self) -> str:
        """Where its head looks: the weight map, or the class map where the head pools with fixed weights."""
        try:
            self.classifier.predictor(map="weight")
        except UsageError:
            return "class"
        return "weight"


def find_models(models: Sequence[str], runs: Path, *, detectors: bool = False) -> list[FigureModel]:
    """Load ``models`` (runs, folders, zoo entries); without any, the newest finished run of each head below ``runs``.

    ``detectors``: the newest detectors instead, if there are any, in the precision in which ``localize`` finds boxes.

    Raises:
        DataError: there is no finished run.
        ModelError: a model is missing or broken.

    """
    specs = list(models) or newest_runs(runs, detectors=detectors)
    loaded = [load_model(spec, precision="auto" if detectors else "fp32") for spec in specs]
    names = [_name(model) for model in loaded]
    count = Counter(names)
    return [
        FigureModel(model, f"{name}\n{Path(spec).name}" if count[name] > 1 else name)
        for model, name, spec in zip(loaded, names, specs, strict=True)
    ]


def _name(model: Model | DetectorModel) -> str:
    if model.detects:
        return DETECTOR_NAMES.get(model.info.weak, model.info.weak)
    return HEADS[model.info.head].label


def newest_runs(runs: Path, *, detectors: bool = False) -> list[str]:
    """Return the newest finished run of each head below ``runs``, in the order of ``HEADS``.

    ``detectors``: of each weak branch, the last of ``DETECTOR_NAMES`` first; classifiers where there is no detector.
    A DataError says that there is none.
    """
    newest: dict[str, Run] = {}
    for run in sorted(find_runs(runs), key=lambda one: str(one.document.get("started", ""))):
        config = run.document.get("config") or {}
        kind = f"detector {config.get('weak')}" if config.get("detector") else str(config.get("head"))
        if run.finished and (run.folder / "model.json").is_file():
            newest[kind] = run
    of_detectors = [f"detector {weak}" for weak in reversed(DETECTOR_NAMES)]
    chosen = [kind for kind in of_detectors if detectors and kind in newest]
    chosen = chosen or [head for head in HEADS if head in newest and HEADS[head].in_figures]
    if not chosen:
        instead = f"Give models with {option('models')}, or a folder of runs with {option('runs')}"
        raise DataError(f"{runs} holds no finished run. {instead}.")
    return [str(newest[kind].folder) for kind in chosen]


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
        """The decoded image ``(H, W, 3)``; a DataError says that it cannot be read."""
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
    classes: tuple[ClassName, ...] = ()
    samples: list[BoxedSample] = []
    try:
        subject = find_subject(model)
        data = find_dataset(subject, dataset, root, None)
        classes, samples = data.classes, find_samples(subject, data, None)[1]
    except GwapctlError:
        if dataset is not None or not images:
            raise  # else the pictures are worth having without ground truth
    if not images:
        return [_figure_image(sample, classes) for sample in samples[:count]]
    by_id = {sample.id: sample.path for sample in samples}
    by_path = {sample.path.resolve(): sample for sample in samples}
    named = [[by_id[text]] if text in by_id else [item.path for item in find_inputs([text])] for text in images]
    found = [(path, by_path.get(path.resolve())) for paths in named for path in paths]
    return [FigureImage(path) if sample is None else _figure_image(sample, classes) for path, sample in found]


def _figure_image(sample: BoxedSample, classes: Sequence[ClassName]) -> FigureImage:
    known = list(dict.fromkeys([*sample.labels, *sample.box_labels.tolist()]))
    indices = np.array([known.index(label) for label in sample.box_labels.tolist()], np.int64)
    return FigureImage(sample.path, tuple(classes[label] for label in known), sample.boxes, indices)
