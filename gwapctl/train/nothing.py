"""What a model learns from images of nothing: below which score an image shows none of its classes."""

from __future__ import annotations

from collections.abc import Sequence

from gwapctl.metrics.nothing import none_threshold
from gwapctl.networks.classifier import ModelInfo


def with_none_threshold(info: ModelInfo, shown: Sequence[float], nothing: Sequence[float]) -> ModelInfo:
    """Return ``info`` with the threshold that images held out choose; as it is where none of them is of nothing.

    ``shown`` are the best scores of images of some class, ``nothing`` those of images of none.
    """
    if not nothing:
        return info
    said = {"none": {"n_shown": len(shown), "n_nothing": len(nothing)}}
    chosen = {"none_threshold": none_threshold(shown, nothing), "provenance": info.provenance | said}
    return info.model_copy(update=chosen)
