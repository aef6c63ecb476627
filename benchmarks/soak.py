"""Localize very many images in one process, and watch whether memory, open files or the rate drift.

    python benchmarks/soak.py --images 200000 --minutes 60

The images are hard links to a few synthetic ones, the network is a tiny one, so that hours of bookkeeping pass in
minutes. It prints a row per tenth, and at the end memory after the first 5,000 images and now.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from gwapctl.datasets.base import ClassName
from gwapctl.inputs import find_inputs
from gwapctl.networks.classifier import ModelInfo, build_classifier
from gwapctl.predict.classifier import Model
from gwapctl.predict.folder import localize_inputs

SETTLED = 5_000  # images after which memory must stay
DIFFERENT = 64
PER_FOLDER = 1_000


def tiny_model() -> Model:
    """Return a small network that looks at 32 x 32 pixels."""
    classes = tuple(ClassName(name, name) for name in ("apple", "banana", "cherry"))
    info = ModelInfo(
        backbone="resnet-s",
        head="gwap",
        classes=classes,
        multi_label=False,
        input_size=(32, 32),
        train_sizes=(32, 32),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    return Model(build_classifier(info).eval(), "tiny", device="cpu", precision="fp32")


def make_images(folder: Path, count: int) -> None:
    """Write ``DIFFERENT`` pictures, and hard links to them until there are ``count`` files."""
    random = np.random.default_rng(0)
    originals = []
    for index in range(min(DIFFERENT, count)):
        path = folder / "0" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = random.integers(0, 256, (4, 5, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(small, (64 + 8 * (index % 3), 48)))
        originals.append(path)
    for index in range(len(originals), count):
        path = folder / str(index // PER_FOLDER) / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        os.link(originals[index % len(originals)], path)


def memory_mib() -> float:
    """Return the memory of this process that is in use, in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files() -> int:
    """Return how many files this process has open (Linux)."""
    return len(list(Path("/proc/self/fd").iterdir()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and return 1 where memory grew by more than 5 % or files stayed open."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so long, whatever is done")
    parser.add_argument("--save", default="", help="of overlay, map and mask; by default predictions.jsonl alone")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gwapctl-soak-") as name:
        folder = Path(name)
        make_images(folder / "images", asked.images)
        inputs = find_inputs([str(folder / "images")])
        save = tuple(filter(None, asked.save.split(",")))
        stream = localize_inputs(tiny_model().predictor(), "tiny", inputs, out=folder / "out", save=save)
        started = last = time.process_time()
        ends = time.monotonic() + 60 * asked.minutes
        settled, tenth = (0.0, 0), max(1, asked.images // 10)
        print(f"{'images':>9} {'MiB':>8} {'files':>6} {'images per second of CPU':>25}")
        done = 0
        for done, _ in enumerate(stream, start=1):
            if done == min(SETTLED, asked.images):
                settled = memory_mib(), open_files()
            if done % tenth == 0:
                now = time.process_time()
                print(f"{done:>9,} {memory_mib():>8.1f} {open_files():>6} {tenth / (now - last):>25.0f}", flush=True)
                last = now
            if time.monotonic() > ends:
                break
        grown = memory_mib() / settled[0] - 1 if settled[0] else 0.0
        rate = done / (time.process_time() - started)
        print(
            f"memory after {min(SETTLED, done):,} images {settled[0]:.1f} MiB, after {done:,} {memory_mib():.1f} MiB:"
        )
        print(f"{grown:+.1%}; open files {settled[1]} and {open_files()}; {rate:.0f} images per second of CPU")
        return int(grown > 0.05 or open_files() > settled[1])


if __name__ == "__main__":
    sys.exit(main())
