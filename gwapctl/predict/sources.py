"""What may be localized: paths, folders and arrays; and what becomes of an image that cannot be read."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from gwapctl.errors import UsageError, printable
from gwapctl.inputs import find_inputs
from gwapctl.predict.prediction import Prediction, Source

OnError = Literal["raise", "keep"]


def sources(images: Source | Iterable[Source]) -> Iterator[Source]:
    """Yield single images; folders become their images."""
    if isinstance(images, str | Path | np.ndarray):
        images = [images]
    for image in images:
        if isinstance(image, np.ndarray):
            yield _checked_array(image)
        elif Path(image).is_dir():
            yield from (item.path for item in find_inputs([str(image)], notice=warnings.warn))
        else:
            yield image


def source_name(source: Source) -> str:
    """Return the path as given, as it can be written down (``errors.printable``); empty for an array."""
    return "" if isinstance(source, np.ndarray) else printable(str(source))


def checked(results: Iterable[Prediction], on_error: OnError) -> Iterator[Prediction]:
    """Pass results on; with ``raise``, the first that has an error raises it."""
    for found in results:
        if found.error is not None and on_error == "raise":
            raise found.error
        yield found


def _checked_array(image: Source) -> Source:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UsageError(f"an image is a path or a uint8 array (H, W, 3) in RGB, this one is {found}.")
    return image
