"""Which file a training begins with, so that the same run can be made again, or refused where the file is another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwapctl.config import RunConfig
from gwapctl.networks.zoo import find_weights

if TYPE_CHECKING:
    from gwapctl.train.task import Task


def described_weights(task: type[Task[Any, Any]], config: RunConfig, root: Path | None) -> dict[str, str] | None:
    """Return the file of first weights that ``config`` names, and its SHA-256, as ``run.json`` has them.

    None where there are none, where a download is yet to come, and where a package holds them: those of our own version
    have one SHA-256.
    """
    if config.weights == "none":
        return None
    if config.weights == "imagenet":
        download = task.imagenet_weights(config)
        file = None if download is None else download.file
    else:
        file = find_weights(config.weights, root)
    if file is None:
        return None
    with file.open("rb") as stream:
        return {"file": str(file), "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
