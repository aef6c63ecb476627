"""How close is map -> box to the bare OpenCV calls? 224 x 224, one threshold, largest component, the same maps.

python benchmarks/map_to_boxes.py [--maps FOLDER] [--rounds 30]; the target is at least 0.85 times their rate.

The bare calls are normalise, threshold, connectedComponentsWithStats and the row with most pixels. Ours also refuses
NaN, settles ties, and takes the mean heat. Both run in turns on each map; medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from needs import PARITY_MAPS, need_maps, run_script

from gwapctl.regions import map_to_boxes, parse_box_rule

TARGET = 0.85


def bare(heatmap: np.ndarray) -> list[int]:
    """Return x, y, width, height of the largest component above 20 %."""
    heat = cv2.normalize(heatmap, None, 0, 1, cv2.NORM_MINMAX)
    _, mask = cv2.threshold(heat, 0.2, 255, cv2.THRESH_BINARY)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax(), :4].tolist()


def seconds(function: Callable[[np.ndarray], object], heatmap: np.ndarray) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    function(heatmap)
    return time.perf_counter() - start


def main() -> None:
    """Print the medians and the ratio of the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=Path, default=PARITY_MAPS)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    maps = [heatmap.astype(np.float32) for heatmap in need_maps(options.maps)]
    rule = parse_box_rule("paper20")
    cv2.setNumThreads(1)

    def ours(heatmap: np.ndarray) -> object:
        return map_to_boxes(heatmap, rule)

    own, reference = 0.0, 0.0
    for heatmap in maps:
        pairs = [(seconds(ours, heatmap), seconds(bare, heatmap)) for _ in range(options.rounds)]
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        own, reference = own + mine, reference + theirs
    print(f"{len(maps)} maps, one thread, medians of {options.rounds} rounds")
    print(f"bare OpenCV   {reference / len(maps) * 1e6:8.0f} us per map")
    print(f"map_to_boxes  {own / len(maps) * 1e6:8.0f} us per map")
    print(f"rate {reference / own:.2f} of the bare calls, target at least {TARGET}")


if __name__ == "__main__":
    run_script(main)
