"""What reading maps costs: images per second, and memory above a plain classification. Measured where asked for.

The speed is that of one thread that has its images decoded and resized already, which tells map methods apart; like
every speed it is a number of the machine. On a CPU it is per second of computing, all cores of this process together:
other programs on the machine do not count. The memory is no number of the machine: it is the tensors that are alive at
the same time for one image, less those of classifying it, without what libraries take inside one operation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gwapctl.datasets.base import BoxedSample
from gwapctl.evaluate.from_model import object_regions, sees_boxes
from gwapctl.images.decode import read_image

if TYPE_CHECKING:
    from gwapctl.maps.localizer import Localizer

IMAGES = 64
PASSES, ENOUGH = 20, 20.0  # of some tenth of a second each; seconds after which no other is started
MEBIBYTE = 2**20


def measure_cost(localizer: Localizer, samples: Sequence[BoxedSample]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return what the map of the best class costs on the first ``IMAGES`` of ``samples``, and how it was timed.

    ``images_per_second`` is of the fastest of at most ``PASSES`` passes; ``extra_memory_mib`` is per image, and left
    out on devices whose memory cannot be asked for.
    """
    import torch

    chosen = samples[:IMAGES]
    images = [localizer.prepare(read_image(sample.path)) for sample in chosen]
    regions = object_regions(localizer, chosen, images)

    def run(count: int) -> None:
        localizer.run(images[:count], regions=None if regions is None else regions[:count])

    run(localizer.batch_size)  # the first pass is slower
    clock = time.process_time if localizer.device.type == "cpu" else time.perf_counter
    timed = [_seconds(lambda: run(len(images)), clock)]
    while len(timed) < PASSES and sum(timed) < ENOUGH:
        timed.append(_seconds(lambda: run(len(images)), clock))
    seconds = min(timed)
    memory = _extra_memory(localizer, lambda: run(1))
    how = {
        "images": len(images),
        "batch_size": localizer.batch_size,
        "device": str(localizer.device),
        "threads": torch.get_num_threads(),
    }
    return {"images_per_second": len(images) / seconds, **memory}, how


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def _extra_memory(localizer: Localizer, read_one: Callable[[], object]) -> dict[str, float]:
    """Return the mebibytes that the map of one image takes beyond the classification of an image of that size."""
    from gwapctl.maps.memory import peak_memory

    whole = peak_memory(read_one, localizer.device)
    plain = peak_memory(lambda: _classify_one(localizer), localizer.device)
    if whole is None or plain is None:
        return {}
    return {"extra_memory_mib": max(0, whole - plain) / MEBIBYTE}


def _classify_one(localizer: Localizer) -> None:
    """Run the network on one image, without any map; a head that sees boxes looks at all of it."""
    import torch

    width, height = localizer.model.info.input_size
    image = torch.zeros(1, 3, height, width, device=localizer.device).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        features = localizer.model.feature_map(image)
        region = torch.ones_like(features[:, :1])
        localizer.model.head(features, region) if sees_boxes(localizer) else localizer.model.head(features)
