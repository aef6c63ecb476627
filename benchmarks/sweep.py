"""All thresholds in one pass beside wsolevaluation's loop over them: 1000 thresholds, the same maps, in turns.

python benchmarks/sweep.py [--maps FOLDER] [--every 4] [--rounds 3]

"contour loop" is tests/reference/contour_loop.py: per threshold cut the map, follow all contours, take the one with the
largest polygon. "all contours" takes every contour's box and the best IoU with the object (MaxBoxAccV2). "noisy" maps
are the smooth ones plus Gaussian noise. Medians over the rounds, one thread; compile time is measured apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from needs import PARITY_MAPS, need_maps, run_script

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reference.contour_loop import boxes_at_thresholds

from gwapctl.boxes import from_inclusive, iou
from gwapctl.metrics.wsoleval import grid_map
from gwapctl.regions import normalise
from gwapctl.regions.contours import byte_levels, loose_boxes
from gwapctl.regions.sweep import component_boxes, contour_boxes, contour_ious

TAUS = np.arange(0, 1, 0.001)
NOISE = 0.01
OBJECT = from_inclusive([[40, 30, 170, 190]])
Task = Callable[[np.ndarray], object]


def contour_loop(scores: np.ndarray) -> np.ndarray:
    """Return the IoU of the largest polygon's box at each threshold, by the loop."""
    boxes = np.concatenate(boxes_at_thresholds(scores, TAUS, every_contour=False))
    return iou(from_inclusive(boxes), OBJECT)[:, 0]


def all_contours_loop(scores: np.ndarray) -> np.ndarray:
    """Return the best IoU of all contours at each threshold, by the loop."""
    found = boxes_at_thresholds(scores, TAUS, every_contour=True)
    starts = np.cumsum([0, *map(len, found[:-1])])
    return np.maximum.reduceat(iou(from_inclusive(np.concatenate(found)), OBJECT)[:, 0], starts)


def component_sweep(scores: np.ndarray) -> np.ndarray:
    """Return the IoU of the largest component's box at each threshold, in one pass (protocol paper)."""
    return iou(component_boxes(scores, TAUS)[0], OBJECT)[:, 0]


def contour_sweep(scores: np.ndarray) -> np.ndarray:
    """Return what ``contour_loop`` returns, in one pass (protocol wsoleval)."""
    levels, cuts = _levels_and_cuts(scores)
    height, width = levels.shape
    return iou(loose_boxes(contour_boxes(levels, cuts), width, height), OBJECT)[:, 0]


def all_contours_sweep(scores: np.ndarray) -> np.ndarray:
    """Return what ``all_contours_loop`` returns, in one pass (protocol wsoleval)."""
    return contour_ious(*_levels_and_cuts(scores), OBJECT)


def _levels_and_cuts(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    levels = byte_levels(grid_map(scores))
    return levels, (TAUS * int(levels.max())).astype(np.int64)


# name, ours, the loop it is compared with, least ratio on smooth and on noisy maps
ROWS: list[tuple[str, Task, Task, float, float]] = [
    ("component sweep (paper)", component_sweep, contour_loop, 9, 15),
    ("contour sweep (wsoleval)", contour_sweep, contour_loop, 3, 3),
    ("all contours (wsoleval V2)", all_contours_sweep, all_contours_loop, 3, 3),
]


def seconds(task: Task, scores: np.ndarray) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    task(scores)
    return time.perf_counter() - start


def first_calls(cache: str) -> float:
    """Return the time of the first call of each sweep in a fresh process with numba's cache in ``cache``."""
    code = (
        "import time, numpy as np; from gwapctl.regions import sweep; levels = np.eye(9, dtype=np.uint8) * 255;"
        "cuts = np.arange(255); start = time.perf_counter(); sweep.component_boxes(levels, [0.5]);"
        "sweep.contour_boxes(levels, cuts); sweep.contour_ious(levels, cuts, [[0, 0, 3, 3]]);"
        "print(time.perf_counter() - start)"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    """Print the ratios side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=Path, default=PARITY_MAPS)
    parser.add_argument("--every", type=int, default=4, help="take every n-th map")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as cache:
        print(
            f"first calls: {first_calls(cache):.1f} s with compilation, {first_calls(cache):.2f} s from numba's cache"
        )
    smooth = need_maps(options.maps)[:: options.every]
    generator = np.random.default_rng(0)
    noisy = [
        normalise(scores + generator.normal(0, NOISE, scores.shape)).astype(np.float64).clip(0, 1) for scores in smooth
    ]
    for _, ours, loop, _, _ in ROWS:
        ours(smooth[0])
        loop(smooth[0])
    print(f"{len(smooth)} maps, {len(TAUS)} thresholds, one thread, medians of {options.rounds} rounds, ms per map")
    print(f"{'':<28}{'maps':<8}{'loop':>8}{'ours':>8}{'ratio':>8}{'target':>8}")
    for name, ours, loop, *targets in ROWS:
        for kind, maps, target in zip(("smooth", "noisy"), (smooth, noisy), targets, strict=True):
            own = reference = 0.0
            for scores in maps:
                pairs = [(seconds(ours, scores), seconds(loop, scores)) for _ in range(options.rounds)]
                mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
                own, reference = own + mine, reference + theirs
            per_map = reference / len(maps) * 1e3, own / len(maps) * 1e3
            print(f"{name:<28}{kind:<8}{per_map[0]:>8.1f}{per_map[1]:>8.2f}{reference / own:>8.1f}{target:>8.0f}")


if __name__ == "__main__":
    run_script(main)
