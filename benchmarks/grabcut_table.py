"""What --refine grabcut gains: GT-known accuracy with and without it, and its milliseconds per image.

python benchmarks/grabcut_table.py --row RUN DATASET ROOT [--row ...] [--box-rule otsu --scales 160,224,320 ...]

A row is a run or model, a data set and its root. `gwapctl evaluate` is called twice with the same options, once with
`--refine none` and once with `--refine grabcut` (options that this script does not know are passed on), and a markdown
table printed: accuracies in percent, CorLoc where images have several classes. "best cut" is the plain maps' accuracy
at the best threshold for that very set (MaxBoxAcc), which nobody knows beforehand. Milliseconds are medians over the
first images of the split, one thread, decoding not included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
from needs import run_script

from gwapctl.datasets import open_dataset
from gwapctl.images.decode import read_image
from gwapctl.predict.map_folder import MapFolder
from gwapctl.predict.predictions import read_predictions
from gwapctl.regions import map_to_boxes, parse_box_rule

HEAD = (
    "model",
    "data set",
    "images",
    "box rule",
    "full image",
    "centred box",
    "best cut",
    "plain",
    "refined",
    "gain",
    "ms",
)
IMAGES_TIMED = 50


def gwapctl(*arguments: str) -> str:
    """Run the command and return what it prints."""
    command = [sys.executable, "-m", "gwapctl", *arguments]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def evaluate(model: str, dataset: str, root: str, options: list[str], refine: str) -> dict[str, Any]:
    """Return the document of one evaluation."""
    data = ("--dataset", dataset, "--root", root)
    return json.loads(gwapctl("evaluate", model, *data, *options, "--refine", refine, "--json"))


def milliseconds(model: str, dataset: str, root: str, document: dict[str, Any]) -> float:
    """Return the median time that a refined box takes, on maps of the model as they are by default."""
    rule = parse_box_rule(document["options"]["box_rule"])
    samples = open_dataset(dataset, Path(root)).boxed_samples(document["split"])[:IMAGES_TIMED]
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "images.txt"
        names.write_text("\n".join(str(sample.path.absolute()) for sample in samples))
        gwapctl("localize", str(names), "--model", model, "--save", "map", "--out", f"{folder}/out", "--quiet")
        maps = MapFolder(f"{folder}/out")
        pairs = [(maps.load(item.id), read_image(Path(item.image))) for item in read_predictions(f"{folder}/out")]
    cv2.setNumThreads(1)
    times = []
    for heatmaps, image in pairs:
        start = time.perf_counter()
        map_to_boxes(heatmaps if heatmaps.ndim == 2 else heatmaps[0], rule, image=image)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def row(model: str, dataset: str, root: str, options: list[str]) -> tuple[str, ...]:
    """Return the cells of one row."""
    plain, refined = (evaluate(model, dataset, root, options, refine) for refine in ("none", "grabcut"))
    several = "top1_loc_error" not in plain["metrics"]
    metric = "cor_loc" if several else "gt_known_error"

    def accuracy(numbers: dict[str, float]) -> float:
        return numbers[metric] if several else 100 - numbers[metric]

    floors = [accuracy(plain["floors"][name]) for name in ("full_image", "centred_box")]
    before, after = (accuracy(document["metrics"]) for document in (plain, refined))
    return (
        Path(model).name,
        f"{Path(root).name or Path(dataset).name} {plain['split']}{' (CorLoc)' if several else ''}",
        str(plain["n"]),
        plain["options"]["box_rule"],
        *(f"{number:.1f}" for number in floors),
        "" if several else f"{plain['metrics']['max_box_acc']:.1f}",  # CorLoc is a mean over classes
        f"{before:.1f}",
        f"{after:.1f}",
        f"{after - before:+.1f}",
        f"{milliseconds(model, dataset, root, refined):.0f}",
    )


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", nargs=3, action="append", required=True, metavar=("MODEL", "DATASET", "ROOT"))
    known, options = parser.parse_known_args()
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for model, dataset, root in known.row:
        print(f"| {' | '.join(row(model, dataset, root, options))} |", flush=True)


if __name__ == "__main__":
    run_script(main)
