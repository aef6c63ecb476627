"""Feature maps of a frozen backbone, or of its frozen first stages: computed once, kept on disk, read for the images.

A cache is a folder whose name ends in a hash of all that decides its values, which ``cache.json`` spells out. Beside it
lie shards, ``plain-00000.npy`` and on: feature maps ``(n, h, w, K)`` in float16 of consecutive images, and
``mirrored-00000.npy`` those of the mirrored images. A shard appears whole or not at all, so that a cache that was
interrupted is filled up where it stopped, and several trainings share it. Boxes are not in it: where samples have some,
their region is made anew and goes beside the feature map, as one more channel.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from gwapctl.datasets.base import BoxedSample, Sample, without_boxes
from gwapctl.device import autocast, used_precision
from gwapctl.errors import DataError, ModelError, option, setting
from gwapctl.files import atomic_path, read_json, write_json
from gwapctl.images.decode import read_image
from gwapctl.networks.backbones.base import Backbone
from gwapctl.networks.classifier import Classifier
from gwapctl.networks.transforms import EvaluationImages, Key, load_batches, resize, sample_region
from gwapctl.progress import Progress, ProgressCallback

SCHEMA_VERSION = 1  # part of the hash: raise it where the same description would stand for other values
SHARD_IMAGES, MAX_SHARDS = 64, 256  # little is lost to Ctrl-C, and few files are open at once
BATCH = 32  # whatever the batch of training: a shard that is made again is the same to the bit
PLAIN, MIRRORED = "plain", "mirrored"

FeatureMap = npt.NDArray[np.float16]


def default_folder() -> Path:
    """Return the folder where caches lie unless another is asked for: ``features`` in the user's cache."""
    from platformdirs import user_cache_path

    return user_cache_path("gwapctl") / "features"


class FeatureCache:
    """The feature maps of ``samples``, of which a training and its validation each use a part.

    Which images those are does not decide the cache: another seed that holds out others reads the same one.

    Args:
        parent: the folder of caches, in which this one's lies.
        model: the classifier whose backbone, or the beginning of it, is frozen, where it will run.
        samples: all images, in any order.
        size: the network's input (width, height).
        precision: of the backbone's arithmetic: ``auto``, ``fp32`` or ``bf16``.
        mirrored: whether the mirrored images are wanted, too.
        last: how many of the backbone's last stages are no part of it: the maps are what these read.

    Raises:
        DataError: an image is missing, or the folder is another cache's.
        ModelError: the feature map does not fit float16.

    """

    def __init__(
        self,
        parent: Path,
        model: Classifier,
        samples: Sequence[Sample],
        *,
        size: tuple[int, int],
        precision: str,
        mirrored: bool,
        last: int = 0,
    ) -> None:
        images = {sample.path: without_boxes(sample) for sample in samples}
        self.samples = sorted(images.values(), key=lambda sample: sample.path)
        self.size, self.precision, self.last = size, precision, last
        self.variants = (PLAIN, MIRRORED) if mirrored else (PLAIN,)
        width, height = size
        self.shape = tuple(self._maps(model, torch.zeros(1, 3, height, width)).shape[1:])  # (h, w, K)
        self._per_shard = max(SHARD_IMAGES, math.ceil(len(self.samples) / MAX_SHARDS))
        self.shards = math.ceil(len(self.samples) / self._per_shard)
        self.description = {
            "schema_version": SCHEMA_VERSION,
            "backbone": model.info.backbone,
            "weights": weights_hash(frozen_part(model, last)),
            **({"without_last_stages": last} if last else {}),
            "image_size": list(size),
            "precision": used_precision(precision, model.scale.device),
            "images": len(self.samples),
            "fingerprint": images_hash(self.samples),
            "shape": list(self.shape),
            "dtype": "float16",
            "images_per_shard": self._per_shard,
        }
        self.key = cache_key(self.description)
        self.folder = cache_folder(parent, model.info.backbone, self.description)
        self._row = {sample.path: row for row, sample in enumerate(self.samples)}
        self._open: dict[tuple[str, int], FeatureMap] = {}

    def missing(self) -> list[tuple[int, list[str]]]:
        """Return the shards that have to be computed, each with the variants that it lacks."""
        lacks = {shard: [v for v in self.variants if not self._is_there(v, shard)] for shard in range(self.shards)}
        return [(shard, variants) for shard, variants in lacks.items() if variants]

    def missing_bytes(self) -> int:
        """Return how much will be written."""
        maps = sum(len(variants) * len(self._images_of(shard)) for shard, variants in self.missing())
        return maps * 2 * math.prod(self.shape)

    def _images_of(self, shard: int) -> range:
        return range(len(self.samples))[shard * self._per_shard : (shard + 1) * self._per_shard]

    def _path(self, variant: str, shard: int) -> Path:
        return self.folder / f"{variant}-{shard:05d}.npy"

    def _is_there(self, variant: str, shard: int) -> bool:
        """Open a shard if it is there and whole; one that is not counts as missing, and is replaced."""
        if (variant, shard) in self._open:
            return True
        try:
            maps: FeatureMap = np.load(self._path(variant, shard), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):  # no such file; torn, or not an array
            return False
        if maps.dtype != np.float16 or maps.shape != (len(self._images_of(shard)), *self.shape):
            return False
        self._open[variant, shard] = maps
        return True

    def fill(
        self,
        model: Classifier,
        missing: Sequence[tuple[int, list[str]]] | None = None,
        *,
        workers: int = 0,
        stop: Callable[[], bool] = lambda: False,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Compute and write what is missing, or this part of it. The order of images and batches is fixed.

        Raises:
            KeyboardInterrupt: ``stop()`` was true between two batches; whole shards are kept.
            DataError: an image cannot be read, or the disk is too small.
            ModelError: a feature map does not fit float16.

        """
        todo = self.missing() if missing is None else missing
        self._require_space()
        write_json(self.folder / "cache.json", self.description)
        done, total = 0, sum(len(self._images_of(shard)) for shard, _ in todo)
        for shard, variants in todo:
            rows = self._images_of(shard)
            maps = {variant: np.empty((len(rows), *self.shape), np.float16) for variant in variants}
            batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
            for images, indices in load_batches(EvaluationImages(self.samples, self.size), batches, workers):
                for variant, part in maps.items():
                    seen = images.flip(3) if variant == MIRRORED else images
                    computed = self._maps(model, seen)
                    part[indices.numpy() - rows.start] = computed.cpu().numpy()
                done += len(indices)
                if progress:
                    progress(Progress(done, total, "images", "caching feature maps"))
                if stop():
                    raise KeyboardInterrupt
            for variant, part in maps.items():
                with atomic_path(self._path(variant, shard)) as temporary, temporary.open("wb") as file:
                    np.save(file, part, allow_pickle=False)
        if missing is None:
            self.require_all()

    def require_all(self) -> None:
        """Raise ``DataError`` where something is missing after all was written."""
        if self.missing():
            raise DataError(f"{self.folder} cannot be read back after it was written. Is the disk in order?")

    def _maps(self, model: Classifier, images: Tensor) -> Tensor:
        """Return the maps of RGB images ``(B, 3, H, W)`` in 0..255 as ``(B, h, w, K)`` in float16."""
        model.eval()
        device = model.scale.device
        with torch.inference_mode(), autocast(device, self.precision):
            maps = model.early_map(images.to(device), self.last).permute(0, 2, 3, 1).to(torch.float16)
        if not bool(torch.isfinite(maps).all()):
            raise ModelError(
                f"a feature map of {model.info.backbone} has values beyond float16. Train it without "
                f"{option('cache_features')}."
            )
        return maps

    def _require_space(self) -> None:
        needed, free = self.missing_bytes(), free_bytes(self.folder)
        if needed > free:
            raise DataError(
                f"the feature maps need {size_text(needed)} at {self.folder}, where {size_text(free)} are free. Choose "
                f"another disk with {option('feature_cache')}, a smaller {option('image_size')}, or "
                f"{setting('flip', False)}, which halves them."
            )

    def announcement(self) -> str:
        """Say in one line what will be read, or computed and written, and where."""
        maps = f"feature maps of {len(self.samples)} images"
        return announcement(maps, self.folder, self.missing_bytes(), mirrored=MIRRORED in self.variants)

    def read(self, sample: Sample, *, mirrored: bool = False) -> FeatureMap:
        """Return the feature map of ``sample``, ``(h, w, K)``, as a copy in memory."""
        shard, row = divmod(self._row[sample.path], self._per_shard)
        return np.array(self._open[MIRRORED if mirrored else PLAIN, shard][row])

    def read_with_region(self, sample: Sample, *, mirrored: bool = False) -> FeatureMap:
        """Return the same; that of a sample with boxes is ``(h, w, K + 1)``, and the last channel is its region."""
        found = self.read(sample, mirrored=mirrored)
        if not isinstance(sample, BoxedSample):
            return found
        return np.dstack([found, self._region(sample, mirrored=mirrored)])

    def _region(self, sample: BoxedSample, *, mirrored: bool) -> FeatureMap:
        """Return the share of each cell that the boxes cover, ``(h, w)``: what a head makes of the region itself."""
        width, height = sample.size or read_image(sample.path).shape[1::-1]
        region = resize(sample_region(sample, width, height), self.size)
        whole = torch.from_numpy(np.ascontiguousarray(region[:, ::-1] if mirrored else region))
        cells = functional.adaptive_avg_pool2d(whole[None].float() / 255, (self.shape[0], self.shape[1]))
        return cells[0].numpy().astype(np.float16)


@dataclass(frozen=True)
class TrainingFeatures:
    """``TrainingImages`` without crops, as feature maps: the same images of an epoch are mirrored."""

    cache: FeatureCache
    samples: Sequence[Sample]
    seed: int
    flip: bool

    def __getitem__(self, key: Key) -> tuple[FeatureMap, int]:
        """Return the feature map ``(h, w, K | K + 1)`` and the sample's index."""
        mirrored = self.flip and np.random.default_rng([self.seed, key.epoch, key.image]).random() < 0.5
        return self.cache.read_with_region(self.samples[key.image], mirrored=mirrored), key.image


@dataclass(frozen=True)
class EvaluationFeatures:
    """``EvaluationImages`` as feature maps."""

    cache: FeatureCache
    samples: Sequence[Sample]

    def __getitem__(self, index: int) -> tuple[FeatureMap, int]:
        """Return the feature map ``(h, w, K | K + 1)`` and the sample's index."""
        return self.cache.read_with_region(self.samples[index]), index


def cache_key(description: Mapping[str, object]) -> str:
    """Hash what decides a cache's values."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def cache_folder(parent: Path, name: str, description: Mapping[str, object]) -> Path:
    """Return the folder of a cache; it is a ``DataError`` that one is there and tells of other values."""
    plain = "".join(char if char.isalnum() or char in "._+-" else "_" for char in name)
    folder = parent / f"{plain}-{cache_key(description)}"
    path = folder / "cache.json"
    if path.is_file() and read_json(path) != description:
        raise DataError(f"{path} tells of other feature maps than its folder's name. Delete {folder}.")
    return folder


def announcement(maps: str, folder: Path, needed: int, *, mirrored: bool) -> str:
    """Say in one line that ``maps`` are read, or that ``needed`` bytes are computed and written, and where."""
    maps += " and of their mirror images" if mirrored else ""
    if not needed:
        return f"reading the {maps} from {folder}"
    return f"computing the {maps} once: {size_text(needed)} to write to {folder}"


def free_bytes(folder: Path) -> int:
    """Return how much is free where a folder is, or will be."""
    existing = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    return shutil.disk_usage(existing).free


def frozen_part(model: Classifier, last: int) -> dict[str, Tensor]:
    """Return the tensors of the backbone of ``model`` without its ``last`` stages, by their names in saved weights."""
    backbone, tensors = cast(Backbone, model.backbone), model.backbone.state_dict()
    late = {id(tensor) for layer in (backbone.late_layers(last) if last else []) for tensor in _tensors(layer)}
    learned = {name for name, tensor in model.backbone.state_dict(keep_vars=True).items() if id(tensor) in late}
    return {name: tensor for name, tensor in tensors.items() if name not in learned}


def _tensors(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(), *layer.buffers()]


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().reshape(-1).data)
    return digest.hexdigest()[:16]


def images_hash(samples: Sequence[Sample]) -> str:
    """Hash ids, sizes in bytes and times of change of the images: one that was edited has another feature map."""
    digest = hashlib.sha256()
    for sample in samples:
        try:
            state = sample.path.stat()
        except OSError as error:
            raise DataError(f"cannot read {sample.path}: {error.strerror or error}. Restore it.") from error
        digest.update(f"{sample.id}\t{state.st_size}\t{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def size_text(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
