"""Images per second of training from JPEGs: decoded in every epoch, kept from the first on, and the network alone.

python benchmarks/train_from_files.py DATASET [--backbone googlenet] [--size 224] [--steps 20] [--rounds 7]

All take the same steps of ``gwapctl train`` (its defaults for a folder: batch 16, random crops of half of the area
or more, mirrored), in turns in one process; the best round of each counts. ``decoded whole`` is how images came before
they were kept: every pixel decoded, then cut and resized. ``decoded`` makes anew what would be kept, ``kept`` has it in
memory, ``kept on disk`` in --folder. ``network`` sees one batch again and again. Target: kept at 85 % of the network.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from needs import run_script
from results import Measured, add_csv_option, record

TARGET = 0.85
BETWEEN = 1.0  # seconds in which the readers of a contender that is done read the batches that they are ahead


def contenders(options: argparse.Namespace, folder: Path) -> tuple[Any, dict[str, Iterator[Any]]]:
    """Return a training, and the endless batches of each contender."""
    from itertools import repeat

    from gwapctl.config import build_train_config
    from gwapctl.device import keep_freed_memory
    from gwapctl.networks.transforms import read_sample
    from gwapctl.train.checkpoint import Training
    from gwapctl.train.classification import ClassificationTask
    from gwapctl.train.kept_images import InMemory, OnDisk
    from gwapctl.train.task import Listener, Resources

    settings = {"backbone": options.backbone, "image_size": (options.size, options.size), "weights": "none"}
    config = build_train_config(options.dataset, None, settings | {"epochs": 10_000})
    resources = Resources.find("auto", options.workers)
    if resources.device.type == "cpu":
        keep_freed_memory()
    data = ClassificationTask.load_data(config, None, None)  # type: ignore[arg-type]
    training = Training(ClassificationTask(config, data, resources))
    task = training.task
    on_disk = OnDisk(task.readers[0], folder)
    on_disk.fill(task.workers, lambda: False, Listener())
    in_memory = InMemory(task.readers[0])
    for sample in data.train:
        in_memory(sample)
    sources = {"decoded whole": read_sample, "decoded": task.readers[0], "kept": in_memory, "kept on disk": on_disk}
    batches = {}
    for name, source in sources.items():
        task.train_source = source
        batches[name] = task.batches(0)
    return training, {"network": repeat(next(batches["kept"])), **batches}


def rate(training: Any, batches: Iterator[Any], steps: int) -> float:
    """Return the images per second of some steps; what was read ahead before is used up first."""
    from gwapctl.networks.transforms import BATCHES_AHEAD
    from gwapctl.train.loop import train_step

    time.sleep(BETWEEN)
    for _ in range(BATCHES_AHEAD + 1):
        train_step(training, batches, 1e-4)
    started = time.perf_counter()
    for _ in range(steps):
        loss, _ = train_step(training, batches, 1e-4)
    float(loss)  # waits for the device
    return steps * training.task.images_per_step / (time.perf_counter() - started)


def main() -> None:
    """Let the contenders take turns; print rates, and their medians in each round beside the network's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--backbone", default="googlenet")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, help="threads that read images; by default as gwapctl train")
    parser.add_argument("--folder", type=Path, help="of decoded images; by default a temporary one")
    add_csv_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        training, batches = contenders(options, options.folder or Path(temporary))
        rates: dict[str, list[float]] = {name: [] for name in batches}
        for _ in range(options.rounds):
            for name, one in batches.items():
                rates[name].append(rate(training, one, options.steps))
    images, size = len(training.task.data.train), options.size
    print(f"{options.backbone}, {size} px, {images} images of {options.dataset}, {training.task.workers} readers")
    for name, found in rates.items():
        shares = [one / alone for one, alone in zip(found, rates["network"], strict=True)]
        told = f"{options.backbone}, {size} px, {training.task.workers} readers, {images} images; the step on one batch"
        if name != "network":
            record(
                options.csv,
                [Measured(f"training {options.backbone} from JPEGs, {name}", told, statistics.median(shares))],
            )
        print(f"{name:<16}{max(found):>9.1f} images/s{statistics.median(shares):>8.1%} of the network")
    print(f"target: kept at {TARGET:.0%} of the network or more")


if __name__ == "__main__":
    run_script(main)
