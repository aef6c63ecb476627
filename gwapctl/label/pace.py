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
TRIED = 6  # images that are read, and passes, to see how long that takes
PATIENCE = 1.0  # seconds after which no more are
START = 4.0  # seconds until a network is there

# what one image costs, in forward passes of the trunk at 224 x 224 with 32 bits, measured with efficientnet-lite0
CACHED = 0.6  # a view of it, for the feature cache
HEAD_EPOCH = 0.1  # reading its features and training the head
BOXED = 6.5  # maps at three scales, GrabCut and doubt
STEP, CACHED_STEP = 1.0, 0.15  # of the detector in training, with a frozen trunk, whose maps may be cached
COMPOSED = 1.5  # an image composed of others
FOUND = 2.5  # the detector, GrabCut, the overlay and the heat
SIZED = 4.0  # boxes cut out and looked at, to choose how much their size counts


@dataclass(frozen=True)
class Pace:
    """How fast this machine is: seconds to ``read`` one of the images, and for a trunk's ``forward`` pass of one.

    Both are what all cores take together where nothing else runs.
    """

    read: float
    forward: float


def measure_pace(paths: Sequence[Path], backbone: str, device: str) -> Pace:
    """Read a few of the images and run the trunk a few times, by the time of the processor: others may be at work."""
    import torch

    cores = torch.get_num_threads()
    return Pace(_reading(paths) / cores, _running(backbone, device, cores))


def _reading(paths: Sequence[Path]) -> float:
    start, taken = time.perf_counter(), list[float]()
    for path in paths[:: max(1, len(paths) // TRIED)][:TRIED]:
        before = time.thread_time()
        try:
            read_image(path)
        except DataError:  # the check will name it
            continue
        taken.append(time.thread_time() - before)
        if time.perf_counter() - start > PATIENCE:
            break
    return sum(taken) / max(1, len(taken))


def _running(backbone: str, device: str, cores: int) -> float:
    import torch

    from gwapctl.device import resolve_device
    from gwapctl.networks.backbones import BACKBONES, build_backbone

    place = resolve_device(device)
    on_cpu = place.type == "cpu"
    clock = time.thread_time if on_cpu else time.perf_counter
    trunk = build_backbone(backbone, output_stride=16 if BACKBONES[backbone].strides else None).to(place).eval()
    images = torch.zeros(1, 3, SIDE, SIDE, device=place)
    start, taken = time.perf_counter(), list[float]()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            while len(taken) < TRIED and time.perf_counter() - start < PATIENCE:
                before = clock()
                trunk(images).sum().item()
                taken.append(clock() - before)
    finally:
        torch.set_num_threads(cores)
    return min(taken) / (cores if on_cpu else 1)


def seconds_of(step: Step, images: int, pace: Pace) -> float:
    """Return about how long ``step`` takes on a folder of so many images."""
    if isinstance(step, Check):
        return images * pace.read
    if isinstance(step, Train):
        return START + _training(step, images, pace)
    if isinstance(step, Box):
        return START + images * (pace.read + pace.forward * BOXED)
    if isinstance(step, Find):
        return START + images * (pace.read + pace.forward * FOUND)
    if isinstance(step, Write):
        return images * pace.read * (2.0 if step.review else 0.1)
    assert isinstance(step, Judge)
    return 2.0


def _training(step: Train, images: int, pace: Pace) -> float:
    """Return the seconds of a training without its start."""
    config = step.config
    if isinstance(config, DetectorConfig):
        from gwapctl.train.area import MOST_IMAGES  # both need torch
        from gwapctl.train.composites import how_many

        size = config.short_side * config.long_side / SIDE**2
        shown = config.iterations * config.batch_size * config.accumulate
        again = (config.rounds - 1) * images * (pace.read + pace.forward * size)  # finds the next round's boxes
        composed = how_many(config.composites, images)
        cached = (images + composed) * 2 * CACHED * size if config.cache_features else 0.0
        each = CACHED_STEP if config.cache_features else STEP
        sized = min(images, MOST_IMAGES) * SIZED * size if config.area_exponent is None else 0.0
        return images * pace.read + again + pace.forward * (COMPOSED * composed + cached + shown * size * each + sized)
    epochs, size = config.epochs or 1, config.image_size[0] * config.image_size[1] / SIDE**2
    if config.cache_features:
        views = 2 if config.flip else 1
        return images * (pace.read + pace.forward * size * (views * CACHED + epochs * HEAD_EPOCH))
    passes = 1.0 if config.freeze_backbone else 3.0  # backward is twice forward
    return images * epochs * (pace.read + pace.forward * size * passes)
