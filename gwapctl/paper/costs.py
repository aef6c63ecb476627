"""What trainings and evaluations take, from what earlier ones took here: the same work, at the median of its speeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gwapctl.paper.measured import Config, run_config
from gwapctl.runs import find_runs

Way = tuple[object, ...]


@dataclass(frozen=True)
class Cost:
    """What a piece of work takes, from its settings; ``images_per_second`` is measured, None where nobody did.

    ``images`` counts image presentations in training, ``evaluated`` forward passes in evaluation. None: the data is not
    here to be counted. ``evaluation_seconds`` are what the same evaluations took before, None where nobody did them.
    """

    iterations: int | None
    images: int | None
    evaluated: int | None
    images_per_second: float | None
    evaluation_seconds: float | None

    @property
    def seconds(self) -> float | None:
        """Seconds of training at the measured speed, None where a factor is not known."""
        if self.images == 0:
            return 0.0
        return self.images / self.images_per_second if self.images and self.images_per_second else None


@dataclass(frozen=True)
class Speeds:
    """How fast the runs below a folder were trained and evaluated.

    What is not known of a head is that of all heads together: most of the work is the same.
    """

    runs: Path

    def training(self, config: Config) -> float | None:
        """Return the images per second of training a network, None where nothing like it was trained."""
        return self._trained.get(_network(config), self._trained.get(_network(config)[:-1]))

    def evaluating(self, config: Config, options: Mapping[str, Any]) -> float | None:
        """Return the seconds that evaluating a network by ``options`` takes per image, None where nobody did."""
        return self._evaluated.get((_network(config)[:-1], _reading(options)))

    @cached_property
    def _trained(self) -> dict[Way, float]:
        found: dict[Way, list[float]] = {}
        for run in find_runs(self.runs):
            if (config := run_config(run)) is not None:
                speeds = [row["images_per_second"] for row in run.history() if "images_per_second" in row]
                for network in (_network(config), _network(config)[:-1]):
                    found.setdefault(network, []).extend(speeds)
        return {network: statistics.median(speeds) for network, speeds in found.items() if speeds}

    @cached_property
    def _evaluated(self) -> dict[Way, float]:
        found: dict[Way, list[float]] = {}
        for run in find_runs(self.runs):
            config = run_config(run)
            for document in [] if config is None else run.evaluations():
                if config is not None and (seconds := document.get("seconds")):
                    network, options = _network(config)[:-1], document.get("options") or {}
                    for known in (options, options | {"map": None}):
                        found.setdefault((network, _reading(known)), []).append(seconds / document["n"])
        return {way: statistics.median(seconds) for way, seconds in found.items()}


def _network(config: Config) -> Way:
    """Return what decides the speed of a network, as far as one machine goes; the head comes last."""
    names = ("cam_conv", "output_stride", "cache_features", "image_size", "train_sizes", "short_side", "weak", "head")
    return (config.backbone, *(repr(getattr(config, name, None)) for name in names))


def _reading(options: Mapping[str, Any]) -> Way:
    """Return what decides how long an image takes: the map, and several sizes or crops of it, if any."""
    scales = options.get("scales")
    several = tuple(scales) if isinstance(scales, list | tuple) and len(scales) > 1 else ()
    return options.get("map"), several, options.get("crops") or "none"
