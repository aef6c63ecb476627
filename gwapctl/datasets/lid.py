"""LID 2020, track 3: pixel masks for 23,151 images of ILSVRC's validation set (lidchallenge.github.io).

Images, classes and boxes are ImageNet's; the challenge adds one mask per image, ``ILSVRC2012_val_XXXXXXXX.png``, any
value but 0 inside the object. Its page says nothing of folders, so the masks may lie anywhere below ``lid``; so may the
list of ids, ``ILSVRC_Val_Mask_23151.txt`` (xiaomengyc/SEM), without which the masks that are there decide. ImageNet
lies below ``lid``, too, or beside it. Training images are those of ImageNet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

from gwapctl.datasets.base import BoxedSample, ClassName, Dataset, Sample
from gwapctl.datasets.folders import candidates, read_lines
from gwapctl.datasets.imagenet import FOLDERS, ImageNet, open_imagenet
from gwapctl.errors import DataError, option

FOLDER = "lid"
IMAGES = 23_151  # of val; those of the test set are not public
_MASKS = "ILSVRC2012_val_*.png"
_IDS = "ILSVRC_Val_Mask_*.txt"


class Lid(Dataset):
    """``val`` are the images that have a mask; ``train`` is ImageNet's. The blacklist is no part of this challenge."""

    name = "lid"
    multi_label = False

    def __init__(self, root: Path, imagenet: ImageNet) -> None:
        self.root = root
        self._imagenet = imagenet

    @cached_property
    def classes(self) -> tuple[ClassName, ...]:  # type: ignore[override]  # ImageNet finds them only when asked for
        """The classes of ImageNet."""
        return self._imagenet.classes

    @cached_property
    def _masks(self) -> dict[str, Path]:
        """Map image names without suffix to mask files, as the list of ids says where there is one."""
        found = {path.stem: path for path in sorted(_files(self.root, _MASKS))}
        listed = next(_files(self.root, _IDS), None)
        if listed is None:
            return found
        ids = [line.split()[0].removesuffix(".JPEG") for line in read_lines(listed)]
        missing = [name for name in ids if name not in found]
        if missing:
            self.problems.error(
                f"{self.root} lacks {len(missing)} of the {len(ids)} masks that {listed} lists, such as "
                f"{missing[0]}.png. Unpack the masks of the challenge again."
            )
        return {name: found[name] for name in ids if name in found}

    def splits(self) -> tuple[str, ...]:
        """Return those of ``train`` and ``val`` that ImageNet has here."""
        return self._imagenet.splits()

    def samples(self, split: str) -> list[Sample]:
        """Return the samples of ``split``; those of ``train`` without reading any box."""
        return super().samples(split) if split == "val" else self._imagenet.samples(split)

    def boxed_samples(self, split: str) -> list[BoxedSample]:
        """Return the samples of ``split``; those of ``val`` have a mask, and boxes where ImageNet's are there."""
        if split != "val":
            return self._imagenet.boxed_samples(split)
        samples = [
            replace(sample, mask=self._masks[sample.path.stem])
            for sample in self._imagenet.boxed_samples(split)
            if sample.path.stem in self._masks
        ]
        absent = len(self._masks) - len(samples)
        if absent:
            self.problems.error(
                f"ImageNet at {self._imagenet.root} lacks {absent} of the {len(self._masks)} images that have a mask."
                " Complete its val folder."
            )
        return samples

    def notes(self, split: str) -> list[str]:
        """Say where masks are missing, unless they were all there."""
        count = len(self._masks)
        return [f"{count:,} masks are here, not the {IMAGES:,} of the challenge"] * (split == "val" and count != IMAGES)


def open_lid(roots: Sequence[Path]) -> Lid:
    """Open the masks below one of ``roots``, and ImageNet below them or beside them.

    Raises:
        DataError: one of the two is missing.

    """
    for root in roots:
        for folder in candidates(root, FOLDER):
            if folder.resolve().name == FOLDER and next(_files(folder, _MASKS), None) is not None:
                return Lid(folder, _imagenet_of(folder, roots))
    looked = ", ".join(str(root / FOLDER) for root in roots)
    raise DataError(
        f"lid is not here: no {_MASKS} below {looked}. Say where with {option('root')}, or run: gwapctl data get lid."
    )


def _files(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files called so below ``folder``; not in ImageNet and its 1.3 million training images."""
    for inside, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name not in ("train", *FOLDERS))
        yield from (Path(inside, name) for name in sorted(names) if fnmatch(name, pattern))


def _imagenet_of(folder: Path, roots: Sequence[Path]) -> ImageNet:
    try:
        return open_imagenet([folder, folder.resolve().parent, *roots])
    except DataError as error:
        raise DataError(f"{folder} holds masks of ILSVRC's validation images, which are missing: {error}") from error
