"""Images whose classes are known beforehand: those of a data set, by its image-level labels. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from gwapctl.datasets.base import ClassName, Dataset, Sample
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.errors import DataError, UsageError, option, printable
from gwapctl.inputs import ImageInput

Labels = Mapping[str, Sequence[ClassName | str]]  # the classes of each image by its path


def labelled_images(dataset: Dataset) -> tuple[list[ImageInput], dict[str, tuple[ClassName, ...]]]:
    """Return the images of all splits of a data set, each once, and the classes that it says of each, by path.

    Boxes are not looked at. Classes that are there as difficult objects alone are not among them. Ids are paths below
    the data set's folder, or else below the folder that holds all images.

    Raises:
        DataError: an annotation is broken.

    """
    samples: dict[Path, Sample] = {}
    for split in dataset.splits():
        for sample in dataset.samples(split):
            samples.setdefault(sample.path, sample)
    paths = {path: path.absolute() for path in samples}
    top = dataset.root.absolute()
    if not all(path.is_relative_to(top) for path in paths.values()):
        top = Path(os.path.commonpath([path.parent for path in paths.values()]))
    inputs = [ImageInput(path, printable(whole.relative_to(top).as_posix())) for path, whole in paths.items()]
    labels = {
        printable(str(path)): tuple(dataset.classes[label] for label in sample.labels)
        for path, sample in samples.items()
    }
    return sorted(inputs, key=lambda item: item.id), labels


def indices_of(labels: Labels, classes: Sequence[ClassName], model: str) -> dict[str, tuple[int, ...]]:
    """Return the classes of each image as indices of the ``classes`` that ``model`` knows.

    Raises:
        UsageError: ``labels`` are not several classes by path.
        DataError: it does not know one of them.

    """
    if not isinstance(labels, Mapping) or not all(map(_are_several, labels.values())):
        raise UsageError("labels are the classes of each image by its path, such as {'a.jpg': ['cat', 'dog']}.")
    matcher = ClassMatcher(classes)
    asked = {path: [_named(name) for name in names] for path, names in labels.items()}
    found = {name: matcher.index(name.name, name.id) for name in {name for names in asked.values() for name in names}}
    missing = sorted(name.name for name, index in found.items() if index == FOREIGN)
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"{model} does not know {', '.join(map(repr, missing[:5]))}{more}, which the labels name. "
            f"Use a model trained on these classes, or leave out {option('labels')}."
        )
    return {path: tuple(dict.fromkeys(found[name] for name in names)) for path, names in asked.items()}


def _are_several(names: object) -> bool:
    return (
        isinstance(names, Sequence)
        and not isinstance(names, str)
        and all(isinstance(one, str | ClassName) for one in names)
    )


def _named(name: ClassName | str) -> ClassName:
    return name if isinstance(name, ClassName) else ClassName(name, "")
