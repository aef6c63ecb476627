"""What engines keep on disk, in the user's cache: networks in their own files, and which engine was fastest here."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gwapctl.engines import ENGINES
from gwapctl.engines.base import Images
from gwapctl.errors import DataError
from gwapctl.files import atomic_path, read_json, write_json
from gwapctl.networks.classifier import Classifier

SCHEMA_VERSION = 1  # part of every name: raise it where an old file would stand for something else
LIBRARIES = ("torch", *(package for entry in ENGINES.values() for package in entry.packages))
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")  # what tells the libraries to use less
HASH_DIGITS = 16


def cache_folder() -> Path:
    """Return the folder: ``engines`` in the user's cache. All of it can be deleted at any time."""
    from platformdirs import user_cache_path

    return user_cache_path("gwapctl") / "engines"


def fingerprint(model: Classifier) -> str:
    """Return a hash of what the backbone computes: its kind, its weights and the normalisation of images."""
    digest = hashlib.sha256(f"{SCHEMA_VERSION} {model.info.backbone} {model.info.output_stride}".encode())
    for name, tensor in [("scale", model.scale), ("shift", model.shift), *model.backbone.state_dict().items()]:
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:HASH_DIGITS]


def images_hash(images: Sequence[Images]) -> str:
    """Return a hash of images, by their pixels."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.shape}".encode())
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:HASH_DIGITS]


def machine() -> str:
    """Return a hash of what decides speed here: processor, threads, limits that the environment sets, libraries."""
    versions = [f"{name} {_version(name)}" for name in LIBRARIES]
    limits = [f"{name}={os.environ.get(name, '')}" for name in ISA_LIMITS]
    about = [str(SCHEMA_VERSION), _processor(), f"{torch.get_num_threads()} threads", *limits, *versions]
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:HASH_DIGITS]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "-"


def _processor() -> str:
    """Return the processor's name and what it can do, without what changes by the second."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    told = {line.partition(":")[0].strip(): line for line in reversed(lines)}
    return f"{platform.machine()} " + " ".join(told.get(key, "") for key in ("model name", "flags", "Features"))


@contextmanager
def made_files(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield paths of the same names in a folder of their own for whoever makes the files; then move them in order.

    Other processes see a file only when it and those before it are whole.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = tuple(Path(folder, path.name) for path in paths)
        yield made
        for source, kept in zip(made, paths, strict=True):
            with atomic_path(kept) as temporary:
                shutil.copyfile(source, temporary)


def remembered(key: str) -> dict[str, Any] | None:
    """Return what ``remember`` was told, None where it was told nothing, or it cannot be read."""
    try:
        found = read_json(_choice_file(key))
    except DataError:
        return None
    return found if isinstance(found, dict) else None


def remember(key: str, document: dict[str, Any]) -> None:
    """Keep ``document``; a cache that cannot be written is none."""
    with suppress(DataError):
        write_json(_choice_file(key), document)


def _choice_file(key: str) -> Path:
    return cache_folder() / "choices" / f"{key}.json"
