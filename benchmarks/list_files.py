"""Seconds and memory of listing many images: gwapctl's inputs, and its index of names, beside a plain os.walk.

python benchmarks/list_files.py [--count 100000] [--folders 100] [--rounds 3]

Empty files with names of photos are made in a temporary folder. Every contender runs in a process of its own, in turns;
the best round of each counts, and the highest memory of the whole process. Targets at 100,000: 3 s and 300 MB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from needs import run_script

CONTENDERS = ("os.walk", "inputs", "index")
SECONDS, MEGABYTES = 3, 300


def make_files(folder: Path, count: int, folders: int) -> None:
    """Make ``count`` empty files, spread over ``folders``."""
    for number in range(folders):
        inner = folder / f"class_{number:03d}"
        inner.mkdir()
        for index in range(number, count, folders):
            (inner / f"n{number:08d}_{index:06d}.jpg").touch()


def listed(name: str, folder: Path) -> tuple[float, int, float]:
    """List ``folder`` in this process; return seconds, how many images that were, and its highest memory in MB."""
    import resource

    from gwapctl.inputs import find_inputs
    from gwapctl.predict.image_index import ImageIndex

    started = time.perf_counter()
    if name == "os.walk":
        found: list[object] = [f"{path}/{file}" for path, _, names in os.walk(folder) for file in names]
    else:
        inputs = find_inputs([str(folder)])
        found = [*inputs]
        if name == "index":
            ImageIndex(item.id for item in inputs)
    seconds = time.perf_counter() - started
    return seconds, len(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Let the contenders take turns; print seconds, ratios and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--folders", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)  # set in the processes of the contenders
    options = parser.parse_args()
    if options.contender:
        name, folder = options.contender
        print(*listed(name, Path(folder)))
        return
    best: dict[str, tuple[float, int, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        make_files(Path(temporary), options.count, options.folders)
        for _ in range(options.rounds):
            for name in CONTENDERS:
                command = [sys.executable, sys.argv[0], "--contender", name, temporary]
                words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                found = float(words[0]), int(words[1]), float(words[2])
                best[name] = min(best.get(name, found), found)
    print(f"{best['inputs'][1]:,} images in {options.folders} folders")
    for name, (seconds, _, megabytes) in best.items():
        print(f"{name:<10}{seconds:>8.2f} s{seconds / best['os.walk'][0]:>8.1f} x os.walk{megabytes:>8.0f} MB")
    print(f"target at 100,000: {SECONDS} s and {MEGABYTES} MB")


if __name__ == "__main__":
    run_script(main)
