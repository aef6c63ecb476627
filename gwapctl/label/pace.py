"""About how long the steps of ``gwapctl label`` take here: a few seconds of trying, times what each step does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gwapctl.config import DetectorConfig
from gwapctl.errors import DataError
from gwapctl.images.decode import read_image
from gwapctl.label.steps import Box, Check, Find, Judge, Step, Train, Write

SIDE = 224  # of what the trunk is tried on
TRIED, PATIENCE = (
    6,
    1.0,
)  # images that are read, and passes, to see how long that takes; seconds after which no more are
START = 4.0  # seconds until a network is there

# what one image costs in forward passes at 224 x 224 of the same trunk, by the clock of a machine with two cores
HEAD_EPOCH = 0.02  # reading its features and training the head
CUT = 2.0  # GrabCut and doubt of its boxes
STEP = 2.0  # forward, losses and backward of the detector with a frozen trunk, for an image of 224 x 224
DRAWN = 1.0  # overlay and heat


@dataclass(frozen=True)
class Pace:
    """How fast this machine is: seconds to ``read`` one of the images, and for a trunk's ``forward`` pass of one."""

    read: float
    forward: float


def measure_pace(paths: Sequence[Path], backbone: str, device: str) -> Pace:
    """Read a few of the images, and run the trunk a few times."""
    return Pace(_reading(paths), _running(backbone, device))


def _reading(paths: Sequence[Path]) -> float:
    start, done = time.perf_counter(), 0
    for path in paths[:: max(1, len(paths) // TRIED)][:TRIED]:
        try:
            read_image(path)
        except DataError:  # the check will name it
            continue
        done += 1
        if time.perf_counter() - start > PATIENCE:
            break
    return (time.perf_counter() - start) / max(1, done)


def _running(backbone: str, device: str) -> float:
    import torch

    from gwapctl.device import resolve_device
    from gwapctl.networks.backbones import BACKBONES, build_backbone

    place = resolve_device(device)
    trunk = build_backbone(backbone, output_stride=16 if BACKBONES[backbone].strides else None).to(place).eval()
    images = torch.zeros(1, 3, SIDE, SIDE, device=place)
    taken: list[float] = []
    with torch.inference_mode():
        while len(taken) < TRIED and sum(taken) < PATIENCE:
            start = time.perf_counter()
            trunk(images).sum().item()
            taken.append(time.perf_counter() - start)
    return min(taken)


def seconds_of(step: Step, images: int, pace: Pace) -> float:
    """Return about how long ``step`` takes on a folder of so many images."""
    if isinstance(step, Check):
        return images * pace.read / 2
    if isinstance(step, Train):
        return START + _training(step, images, pace)
    if isinstance(step, Box):
        return START + images * (pace.read + pace.forward * (_area(224, 448, 672) + CUT))
    if isinstance(step, Find):
        return START + images * (pace.read + pace.forward * (1.5 + DRAWN))
    if isinstance(step, Write):
        return images * pace.read * (2.0 if step.review else 0.01)
    assert isinstance(step, Judge)
    return 2.0


def _training(step: Train, images: int, pace: Pace) -> float:
    """Return the seconds of a training without its start."""
    config = step.config
    if isinstance(config, DetectorConfig):
        size = config.short_side * config.long_side / SIDE**2
        shown = config.iterations * config.batch_size * config.accumulate
        again = (config.rounds - 1) * images * (pace.read + pace.forward * size)  # finds the next round's boxes
        return images * pace.read + again + shown * pace.forward * size * STEP
    epochs, size = config.epochs or 1, config.image_size[0] * config.image_size[1] / SIDE**2
    if config.cache_features:
        views = 2 if config.flip else 1
        return images * (pace.read + pace.forward * (views * size + epochs * HEAD_EPOCH))
    passes = 1.0 if config.freeze_backbone else 3.0  # backward is twice forward
    return images * epochs * (pace.read + pace.forward * size * passes)


def _area(*sides: int) -> float:
    """Return how many times the pixels of one pass passes at these sizes have."""
    return sum((side / SIDE) ** 2 for side in sides)
