"""How a model's maps are best read: every map, set of scales and box rule, on several data sets, beside two floors.

python benchmarks/reading_table.py runs/a runs/b --maps weight,class,fused --scales 224 --scales 160,224,320

Each run is measured on its own data set's reported split; ``MODEL=NAME`` or ``MODEL=NAME@ROOT`` names another one.
Numbers are GT-known accuracy at IoU 0.5 in percent, or CorLoc where images have several classes. The network reads
every image once at each size, whatever the number of maps and rules. ``margin`` is the smallest distance to the better
floor, over the data sets; the row with the largest one is the first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from needs import run_script

from gwapctl.datasets.base import BoxedSample, Dataset
from gwapctl.evaluate.ground_truth import true_boxes
from gwapctl.evaluate.predictions import FOREIGN, boxes_from_maps, match_classes
from gwapctl.evaluate.subject import find_dataset, find_samples, find_subject
from gwapctl.images.decode import read_image
from gwapctl.maps import MAPS
from gwapctl.maps.forward import Network
from gwapctl.maps.heatmap import PreparedImage, compose
from gwapctl.maps.methods import minmax
from gwapctl.metrics.localization import FLOORS, GtKnownLocalization
from gwapctl.networks.classifier import load_classifier
from gwapctl.networks.transforms import resize
from gwapctl.predict.cut import Cut
from gwapctl.regions import parse_box_rule

BATCH = 16


class Reading(NamedTuple):
    """One way to read boxes."""

    map: str
    scales: tuple[int, ...]
    rule: str


def measure(spec: str, readings: Sequence[Reading], limit: int | None) -> tuple[str, dict[str | Reading, float]]:
    """Return the data set's name, and the accuracy of every reading and floor on it."""
    spec, _, where = spec.partition("=")
    name, _, root = where.partition("@")
    subject = find_subject(spec)
    dataset = find_dataset(subject, name or None, Path(root) if root else None, None)
    split, samples = find_samples(subject, dataset, None)
    samples = [sample for sample in samples[:limit] if true_boxes(sample)]
    meters: dict[str | Reading, GtKnownLocalization] = {key: GtKnownLocalization() for key in (*FLOORS, *readings)}
    network = Network(load_classifier(subject.path), device=torch.device("cpu"))
    present = {label for sample in samples for label in sample.labels}
    match = match_classes(network.model.info.classes, dataset.classes, present, spec, dataset.name)
    of_model = {int(label): index for index, label in enumerate(match) if label != FOREIGN}
    for start in range(0, len(samples), BATCH):
        add_batch(samples[start : start + BATCH], network, readings, meters, of_model)
        print(f"\r{dataset.name} {split}: {start + BATCH}/{len(samples)}", end="", file=sys.stderr, flush=True)
    title = f"{Path(root).name if root else dataset.root.name} {split} ({len(samples)})"
    return title, {key: value(meter, dataset) for key, meter in meters.items()}


def value(meter: GtKnownLocalization, dataset: Dataset) -> float:
    """Return GT-known accuracy, or CorLoc of a data set with several classes in an image."""
    numbers = meter.compute()
    return numbers["cor_loc"] if dataset.multi_label else 100 - numbers["gt_known_error"]


def add_batch(
    samples: Sequence[BoxedSample],
    network: Network,
    readings: Sequence[Reading],
    meters: dict[str | Reading, GtKnownLocalization],
    of_model: dict[int, int],
) -> None:
    """Add the boxes of every reading of some images to the meters."""
    images = [read_image(sample.path) for sample in samples]
    classes = [[of_model[label] for label in true_boxes(sample)] for sample in samples]
    longest = max(map(len, classes))
    chosen = torch.tensor([row + [0] * (longest - len(row)) for row in classes])
    maps: dict[tuple[str, int], np.ndarray] = {}
    for size in sorted({size for reading in readings for size in reading.scales}):
        inputs = [resize(image, (size, size)) for image in images]
        step = max(1, BATCH * 224**2 // size**2)
        for index in range(0, len(inputs), step):
            part = slice(index, index + step)
            with torch.inference_mode():
                passed = network(inputs[part])
                for name in {reading.map for reading in readings}:
                    read = minmax(MAPS[name].read(passed, chosen[part])[0].float()).numpy()
                    for offset, of_image in enumerate(read):
                        maps.setdefault((name, size), np.empty(len(images), object))[index + offset] = of_image
    for index, (sample, image) in enumerate(zip(samples, images, strict=True)):
        ground_truth = true_boxes(sample)
        height, width = image.shape[:2]
        for floor, box in FLOORS.items():
            meters[floor].update(dict.fromkeys(ground_truth, box(width, height)[0]), ground_truth)
        for way in {(reading.map, reading.scales) for reading in readings}:
            terms = [maps[way[0], size][index] for size in way[1]]
            heat, _ = compose(
                [term[: len(ground_truth)] for term in terms], PreparedImage(width, height, {}), 0, "none"
            )
            heat = np.broadcast_to(heat, (len(ground_truth), *heat.shape[1:])).astype(np.float32)
            for rule in {reading.rule for reading in readings}:
                cut = Cut(parse_box_rule(rule).on_image(image))
                boxes = boxes_from_maps(
                    dict(zip(ground_truth, heat, strict=True)), cut, width, height, dict.fromkeys(ground_truth, "")
                )
                found = {label: box[0] if len(box) else None for label, box in boxes.items()}
                meters[Reading(*way, rule)].update(found, ground_truth)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL[=DATASET[@ROOT]]")
    parser.add_argument("--maps", default="weight,class,fused")
    parser.add_argument("--scales", action="append", help="repeatable")
    parser.add_argument("--rules", default="paper20,otsu,fixed:0.4,otsu+grabcut,fixed:0.4+grabcut")
    parser.add_argument("--best", type=int, help="print only so many rows")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--processes", type=int, default=1, help="data sets measured at the same time")
    asked = parser.parse_args()
    sizes = [tuple(map(int, text.split(","))) for text in asked.scales or ["224", "160,224,320", "224,448,672"]]
    readings = [Reading(m, s, r) for m in asked.maps.split(",") for s in sizes for r in asked.rules.split(",")]
    started = time.monotonic()
    with ProcessPoolExecutor(asked.processes) as pool:
        columns = dict(pool.map(measure, asked.models, repeat(readings), repeat(asked.limit)))
    floors = {title: max(numbers[floor] for floor in FLOORS) for title, numbers in columns.items()}
    margin = {way: min(numbers[way] - floors[title] for title, numbers in columns.items()) for way in readings}
    print(f"\r{time.monotonic() - started:.0f} s{' ' * 40}", file=sys.stderr)
    print("| map | scales | box rule |", *(f"{title} |" for title in columns), "margin |")
    print("|---|---|---|", "---:|" * (len(columns) + 1), sep="")
    for floor in FLOORS:
        print(f"| *{floor.replace('_', ' ')}* | | |", *(f"{numbers[floor]:.1f} |" for numbers in columns.values()), "|")
    for way in sorted(readings, key=lambda way: -margin[way])[: asked.best]:
        scales = ",".join(map(str, way.scales))
        cells = [f"{numbers[way]:.1f} |" for numbers in columns.values()]
        print(f"| {way.map} | {scales} | {way.rule} |", *cells, f"{margin[way]:+.1f} |")


if __name__ == "__main__":
    run_script(main)
