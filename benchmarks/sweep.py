"""All thresholds in one pass beside wsolevaluation's loop over them: 1000 thresholds, the same maps, in turns.

python benchmarks/sweep.py [--maps FOLDER] [--every 4] [--rounds 7]

All maps are brought to 224 x 224. There the sweep of components costs the same whatever the map, and the loop costs the
more, the more contours a threshold has; their mean number is said. So each target stands for one kind of map. "fine"
ones have about 14 contours, as have wsolevaluation's of ILSVRC: the default model's of four photos that come with
scikit-image, read at one large scale. "smooth" ones are those of three scales, as `gwapctl demo` reads them. "noisy"
ones are the fine ones plus Gaussian noise. With --maps there are those, and they plus noise.

"contour loop" is tests/reference/contour_loop.py: per threshold cut the map, follow all contours, take the one with
the largest polygon. "all contours" takes every contour's box and the best IoU with the object (MaxBoxAccV2). A round is
all maps by the one, then by the other, as an evaluation goes through them; of each map the least time of all rounds
counts (what is more is other processes'), of the processor, one thread. Compile time is measured apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from needs import need_maps, run_script
from results import Measured, add_csv_option, record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reference.contour_loop import boxes_at_thresholds

from gwapctl.boxes import from_inclusive, iou
from gwapctl.demo import PHOTO_SCALES, PHOTOS
from gwapctl.metrics.wsoleval import grid_map
from gwapctl.predict.classifier import load_model
from gwapctl.regions import normalise
from gwapctl.regions.contours import byte_levels, loose_boxes
from gwapctl.regions.sweep import component_boxes, contour_boxes, contour_ious

TAUS = np.arange(0, 1, 0.001)
NOISE = 0.01
FINE = (1344,)  # the scale of the fine maps
KINDS = ("fine", "smooth", "noisy")
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


# name, ours, the loop it is compared with, least ratio by kind of map
ROWS: list[tuple[str, Task, Task, dict[str, int]]] = [
    ("component sweep (paper)", component_sweep, contour_loop, {"fine": 9, "noisy": 15}),
    ("contour sweep (wsoleval)", contour_sweep, contour_loop, dict.fromkeys(KINDS, 3)),
    ("all contours (wsoleval V2)", all_contours_sweep, all_contours_loop, dict.fromkeys(KINDS, 3)),
]


def photo_maps(scales: tuple[int, ...]) -> list[np.ndarray]:
    """Return the default model's maps of the photos, (224, 224) in [0, 1]."""
    photos = [getattr(skimage.data, name)() for name in (*PHOTOS.values(), "astronaut")]
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a scale far from the training's
        return [grid_map(found.maps[0]) for found in load_model().stream(photos, scales=scales)]


def with_noise(maps: list[np.ndarray]) -> list[np.ndarray]:
    """Return the maps plus Gaussian noise, in [0, 1]."""
    generator = np.random.default_rng(0)
    return [normalise(scores + generator.normal(0, NOISE, scores.shape)).astype(float).clip(0, 1) for scores in maps]


def contours_per_threshold(maps: list[np.ndarray]) -> float:
    """Return how many contours the maps have on average at 20 thresholds."""
    cuts = [scores > tau for scores in maps for tau in TAUS[25::50]]
    found = [cv2.findContours(cut.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0] for cut in cuts]
    return statistics.mean(map(len, found))


def seconds(task: Task, maps: list[np.ndarray]) -> list[float]:
    """Return the processor's time for each map."""
    times = []
    for scores in maps:
        start = time.process_time()
        task(scores)
        times.append(time.process_time() - start)
    return times


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
    parser.add_argument("--maps", type=Path, help="a folder of *.npy instead of the maps of the photos")
    parser.add_argument("--every", type=int, default=1, help="take every n-th map")
    parser.add_argument("--rounds", type=int, default=7)
    add_csv_option(parser)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.maps:
        given = need_maps(options.maps)[:: options.every]
        kinds = {"given": given, "noisy": with_noise(given)}
    else:
        fine = photo_maps(FINE)
        kinds = dict(zip(KINDS, (fine, photo_maps(PHOTO_SCALES), with_noise(fine)), strict=True))
    with tempfile.TemporaryDirectory() as cache:
        print(
            f"first calls: {first_calls(cache):.1f} s with compilation, {first_calls(cache):.2f} s from numba's cache"
        )
    contours = ", ".join(f"{kind} {contours_per_threshold(maps):.1f}" for kind, maps in kinds.items())
    print(f"{len(kinds['noisy'])} maps of each kind, 224 x 224; contours per threshold: {contours}")
    print(f"{len(TAUS)} thresholds, one thread, best of {options.rounds} rounds, ms per map")
    print(f"{'':<28}{'maps':<8}{'loop':>8}{'ours':>8}{'ratio':>8}{'target':>8}")
    for name, ours, loop, targets in ROWS:
        for kind, maps in kinds.items():
            rounds = [(seconds(loop, maps), seconds(ours, maps)) for _ in range(options.rounds)]
            reference, own = np.min(rounds, axis=0).mean(axis=1) * 1e3
            target = targets.get(kind, "-")
            told = f"{len(TAUS)} thresholds on maps of 224 x 224, one thread: wsolevaluation's loop of OpenCV calls"
            record(options.csv, [Measured(f"{name}, {kind} maps", told, reference / own)])
            print(f"{name:<28}{kind:<8}{reference:>8.1f}{own:>8.2f}{reference / own:>8.1f}{target:>8}")


if __name__ == "__main__":
    run_script(main)
