"""The images that a verb is about, and what is known of them beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gwapctl.cli import console
from gwapctl.errors import UsageError

if TYPE_CHECKING:
    from gwapctl.datasets.base import ClassName
    from gwapctl.inputs import ImageInput


def find_images(
    inputs: Sequence[str], labels: str | None, *, recursive: bool = True
) -> tuple[list[ImageInput], Mapping[str, Sequence[ClassName]] | None]:
    """Return the images that ``inputs`` mean, and the classes of each by its path where ``labels`` says to know them.

    Raises:
        UsageError: an input is not there; with ``labels`` there is more than one, or it is no data set's name.
        DataError: there is no image, or the data set cannot be read.

    """
    from gwapctl.inputs import find_inputs

    if labels is None:
        return find_inputs(inputs, recursive=recursive, notice=console.warn), None
    from gwapctl.datasets import open_dataset
    from gwapctl.predict.labelled import labelled_images

    if len(inputs) != 1:
        raise UsageError("--labels from-dataset goes with one input, the data set. Give its folder or file alone.")
    dataset = open_dataset(inputs[0])
    found = labelled_images(dataset)
    for message in dataset.warnings():
        console.warn(message)
    return found
