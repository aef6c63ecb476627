"""Which images cannot be read, found before a training and not in the middle of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from gwapctl.datasets.base import Sample
from gwapctl.errors import DataError
from gwapctl.images.decode import image_size, read_image
from gwapctl.progress import Progress, ProgressCallback

DECODED = 5000  # images up to which each is decoded, not only its header read


def unreadable_images(
    samples: Sequence[Sample], *, every: bool, progress: ProgressCallback | None = None
) -> dict[Path, str]:
    """Map the images that cannot be read to what is wrong with them, in the order of ``samples``.

    All are decoded where there are at most ``DECODED``, or ``every`` says so; else their headers alone are read, which
    finds what is missing, empty or no image, and not what is truncated.
    """
    paths = list(dict.fromkeys(sample.path for sample in samples))
    check = partial(_problem, read_image if every or len(paths) <= DECODED else image_size)
    broken = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (path, problem) in enumerate(zip(paths, pool.map(check, paths), strict=True), start=1):
            if problem is not None:
                broken[path] = problem
            if progress is not None:
                progress(Progress(done, len(paths), "images", "checking"))
    return broken


def _problem(read: Callable[[Path], object], path: Path) -> str | None:
    try:
        read(path)
    except DataError as error:
        return str(error)
    return None
