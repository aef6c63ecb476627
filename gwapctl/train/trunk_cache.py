"""What a detector's frozen trunk makes of images: computed once, kept on disk, read in place of the images.

A cache is a folder whose name ends in a hash of all that decides its values, which ``cache.json`` spells out, but for
the images: of each it has ``plain-HASH.npy`` and, where mirrored ones are wanted, ``mirrored-HASH.npy``, conv4 and
conv5 one behind the other ``(h, w, K4 + K5)`` in float16. Sizes differ from image to image. A file appears whole or
not at all, so that a cache that was interrupted is filled up where it stopped, and trainings on other images share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from gwapctl.datasets.base import Sample
from gwapctl.device import autocast, used_precision
from gwapctl.errors import DataError, ModelError, option, setting
from gwapctl.files import atomic_path, write_json
from gwapctl.geometry import Geometry
from gwapctl.images.decode import image_size, read_image
from gwapctl.networks.rfcn.inference import TrunkMaps, pad
from gwapctl.networks.rfcn.rfcn import Detector
from gwapctl.networks.transforms import Image, read_ahead, resize
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.train.feature_cache import (
    MIRRORED,
    PLAIN,
    announcement,
    cache_folder,
    cache_key,
    free_bytes,
    images_hash,
    size_text,
    weights_hash,
)

SCHEMA_VERSION = 1  # part of the hash: raise it where the same description would stand for other values


class TrunkCache:
    """The maps of ``samples`` by their index, each image alone and without padding, as a reader sees it.

    Args:
        parent: the folder of caches, in which this one's lies.
        model: the detector whose trunk is frozen, where it will run.
        samples: all images.
        precision: of the trunk's arithmetic: ``auto``, ``fp32`` or ``bf16``.
        mirrored: whether the mirrored images are wanted, too.
        wanted: the indices of the images whose maps are kept; None: all.

    Raises:
        DataError: an image is missing, or the folder is another cache's.

    """

    def __init__(
        self,
        parent: Path,
        model: Detector,
        samples: Sequence[Sample],
        *,
        precision: str,
        mirrored: bool,
        wanted: Iterable[int] | None = None,
    ) -> None:
        self.samples, self.precision = samples, precision
        self.wanted = range(len(samples)) if wanted is None else sorted(wanted)
        self.variants = (PLAIN, MIRRORED) if mirrored else (PLAIN,)
        info, trunk = model.info, model.trunk
        self._sides, self._stride = (info.short_side, info.long_side), trunk.stride
        self.channels = trunk.conv4_channels + trunk.channels
        self.description = {
            "schema_version": SCHEMA_VERSION,
            "backbone": info.backbone,
            "weights": weights_hash(trunk.state_dict()),
            "short_side": info.short_side,
            "long_side": info.long_side,
            "precision": used_precision(precision, model.scale.device),
            "dtype": "float16",
        }
        self.key = cache_key(self.description)
        self.folder = cache_folder(parent, f"{info.backbone}-trunk", self.description)
        self.fingerprint = images_hash(samples)
        self._sizes: dict[int, tuple[int, int]] = {}
        self._names = [images_hash([sample]) for sample in samples]

    def described(self) -> dict[str, Any]:
        """Return what ``run.json`` says of it."""
        where = {"folder": str(self.folder.resolve()), "key": self.key}
        return {**where, **self.description, "images": len(self.wanted), "fingerprint": self.fingerprint}

    def geometry(self, index: int) -> Geometry:
        """Return how an image becomes the trunk's input."""
        if index not in self._sizes:  # the file's own: an annotation may be wrong
            self._sizes[index] = image_size(self.samples[index].path)
        return Geometry.within(*self._sizes[index], *self._sides)

    def read(self, index: int, *, mirrored: bool = False) -> TrunkMaps:
        """Return the maps of an image, ``(h, w, K4 + K5)``."""
        return cast(TrunkMaps, np.load(self._path(index, MIRRORED if mirrored else PLAIN), allow_pickle=False))

    def _path(self, index: int, variant: str) -> Path:
        return self.folder / f"{variant}-{self._names[index]}.npy"

    def missing(self) -> list[tuple[int, list[str]]]:
        """Return the images that have to be seen, each with the variants that it lacks."""
        there = {file.name for file in self.folder.glob("*.npy")}
        lacks = {i: [v for v in self.variants if self._path(i, v).name not in there] for i in self.wanted}
        return [(index, variants) for index, variants in lacks.items() if variants]

    def missing_bytes(self) -> int:
        """Return how much will be written."""
        cells = 0
        for index, variants in self.missing():
            size = self.geometry(index)
            rows, columns = (-(-side // self._stride) for side in (size.input_height, size.input_width))
            cells += len(variants) * rows * columns
        return cells * 2 * self.channels

    def announcement(self) -> str:
        """Say in one line what will be read, or computed and written, and where."""
        maps = f"maps of the trunk of {len(self.wanted)} images"
        return announcement(maps, self.folder, self.missing_bytes(), mirrored=MIRRORED in self.variants)

    def fill(
        self,
        model: Detector,
        missing: Sequence[tuple[int, list[str]]] | None = None,
        *,
        workers: int = 0,
        stop: Callable[[], bool] = lambda: False,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Compute and write what is missing, or this part of it.

        Raises:
            KeyboardInterrupt: ``stop()`` was true between two images; whole files are kept.
            DataError: an image cannot be read, or the disk is too small.
            ModelError: a map does not fit float16.

        """
        missing = self.missing() if missing is None else missing
        self._require_space()
        write_json(self.folder / "cache.json", self.description)
        model.trunk.eval()
        for done, (index, image) in enumerate(self._images([index for index, _ in missing], workers), start=1):
            for variant in missing[done - 1][1]:
                maps = self._maps(model, image[:, ::-1] if variant == MIRRORED else image)
                with atomic_path(self._path(index, variant)) as temporary, temporary.open("wb") as file:
                    np.save(file, maps, allow_pickle=False)
            if progress:
                progress(Progress(done, len(missing), "images", "caching maps of the trunk"))
            if stop():
                raise KeyboardInterrupt

    def _images(self, indices: Sequence[int], workers: int) -> Iterator[tuple[int, Image]]:
        """Yield images as the trunk takes them."""

        def seen(index: int) -> tuple[int, Image]:
            image = read_image(self.samples[index].path)
            size = Geometry.within(image.shape[1], image.shape[0], *self._sides)
            return index, resize(image, (size.input_width, size.input_height))

        for batch in read_ahead(seen, ([index] for index in indices), workers):
            yield from batch

    def _maps(self, model: Detector, image: Image) -> TrunkMaps:
        images, sizes = pad([image])
        device = model.scale.device
        with torch.inference_mode(), autocast(device, self.precision):
            both = torch.cat([one.float() for one in model.trunk_maps(images.to(device), sizes)], dim=1)
        maps = both[0].permute(1, 2, 0).to(torch.float16)
        if not bool(torch.isfinite(maps).all()):
            raise ModelError(
                f"a map of {model.info.backbone} has values beyond float16. Train it with "
                f"{setting('cache_features', False)}."
            )
        return cast(TrunkMaps, maps.contiguous().cpu().numpy())

    def _require_space(self) -> None:
        needed, free = self.missing_bytes(), free_bytes(self.folder)
        if needed > free:
            raise DataError(
                f"the maps of the trunk need {size_text(needed)} at {self.folder}, where {size_text(free)} are free. "
                f"Choose another disk with {option('feature_cache')}, or train with {setting('cache_features', False)}."
            )
