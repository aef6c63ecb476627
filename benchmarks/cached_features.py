"""Training a head on cached feature maps beside running the frozen backbone: seconds per epoch, in one process.

python benchmarks/cached_features.py [--backbone efficientnet-lite0] [--size 224] [--images 64] [--epochs 3]

Both ways are the loop of ``gwapctl train --freeze-backbone`` on the same made-up scenes, decoding included, with random
weights; one of them with ``--cache-features``. Images are mirrored, so that the cache holds two maps of each. One epoch
of the backbone is timed, and the best of several from the cache. Target: 20 times faster.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from needs import run_script

from gwapctl.config import TrainConfig, build_train_config
from gwapctl.datasets.synthetic import make_synthetic_voc
from gwapctl.device import keep_freed_memory, resolve_device
from gwapctl.train.checkpoint import Training
from gwapctl.train.classification import ClassificationTask
from gwapctl.train.data import load_train_data
from gwapctl.train.feature_cache import FeatureCache, size_text
from gwapctl.train.loop import train_step
from gwapctl.train.task import Resources

TARGET = 20


def start(folder: Path, options: argparse.Namespace, device: torch.device) -> ClassificationTask:
    """Set a training of the head up, as ``gwapctl train`` does."""
    settings = {
        "backbone": options.backbone,
        "weights": "none",
        "freeze_backbone": True,
        "cache_features": True,
        "image_size": (options.size, options.size),
        "batch_size": options.batch,
        "epochs": options.epochs + 1,
    }
    config = build_train_config(str(folder), None, settings)
    assert isinstance(config, TrainConfig)
    return ClassificationTask(config, load_train_data(config, None), Resources(device))


def seconds_of_epoch(task: ClassificationTask, training: Training) -> float:
    """Run one epoch of steps and return how long it took."""
    batches = task.batches(training.iteration)
    began = time.perf_counter()
    for _ in range(task.per_epoch):
        train_step(training, batches, 1e-3)
        training.iteration += 1
    if task.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Time both ways and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3, help="epochs from the cache, the best of which counts")
    options = parser.parse_args()
    device = resolve_device("auto")
    if device.type == "cpu":
        keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        # 60 % of them are for training
        make_synthetic_voc(Path(folder) / "scenes", images=round(options.images / 0.6), seed=0)
        task = start(Path(folder) / "scenes", options, device)
        training, train = Training(task), task.data.train
        slow = seconds_of_epoch(task, training)
        cache = FeatureCache(
            Path(folder) / "cache",
            task.model,
            train,
            size=task.config.image_size,
            precision=task.config.precision,
            mirrored=True,
        )
        size, began = cache.missing_bytes(), time.perf_counter()
        cache.fill(task.model)
        filling = time.perf_counter() - began
        task.read(cache)
        fast = min(seconds_of_epoch(task, training) for _ in range(options.epochs))
    shape = " x ".join(map(str, cache.shape))
    print(f"{options.backbone}, {options.size} px, {len(train)} images, batch {options.batch}, {device.type}")
    print(f"backbone and head  {slow:>8.2f} s per epoch")
    print(f"making the cache   {filling:>8.2f} s once, {size_text(size)}: two maps of {shape} per image")
    print(f"head from cache    {fast:>8.3f} s per epoch, {slow / fast:.0f} x faster, target {TARGET} x")


if __name__ == "__main__":
    run_script(main)
