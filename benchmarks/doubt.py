"""Does doubt rank wrong boxes before right ones, and do split regions find more objects? Two tables, docs/doubt.md.

python benchmarks/doubt.py --row RUN DATASET ROOT [--row ...] [--split-row RUN DATASET ROOT ...] [--out docs/doubt.md]

A row is a run, a data set and its root. Boxes are of the classes that the labels name, by Otsu's threshold, from one
pass of the network per image at ``--scales`` by ``--map``. Wrong is a box whose IoU with every object of its class is
below 0.5. AUROC is the chance that a wrong box has more doubt than a right one; its interval is over 1,000 resamples of
the images. Objects are found by boxes one to one, the best IoU first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from needs import run_script

from gwapctl.boxes import FloatArray, iou
from gwapctl.datasets import open_dataset, reporting_split
from gwapctl.datasets.base import BoxedSample, ClassName
from gwapctl.files import write_text
from gwapctl.images.decode import read_image
from gwapctl.maps.localizer import MapResult
from gwapctl.maps.reading import MapReading
from gwapctl.predict.classifier import ClassifierPredictor, load_model
from gwapctl.predict.cut import Cut, Cutting
from gwapctl.predict.labelled import indices_of
from gwapctl.regions import parse_box_rule

CORRECT = 0.5
RESAMPLES = 1000
FEW = 10  # right or wrong boxes below which no AUROC is said
MANY = 300  # images of a split from which on one of ``--every`` is taken
RULES = ("otsu", "otsu+grabcut")
WAYS = {
    "one box (`--single`)": Cutting(parse_box_rule("otsu")),
    "`--max-boxes 10`": Cutting(parse_box_rule("otsu"), max_boxes=10),
    "`--split`": Cutting(parse_box_rule("otsu"), split=True),
    "one box, grabcut": Cutting(parse_box_rule("otsu+grabcut")),
    "`--split`, grabcut": Cutting(parse_box_rule("otsu+grabcut"), split=True),
}


@dataclass(frozen=True)
class Seen:
    """A class in an image, as the network sees it: the ``sample``, its ``objects`` (N, 4), the class's ``score``."""

    sample: BoxedSample
    size: tuple[int, int]
    objects: FloatArray
    score: float
    result: MapResult
    index: int

    def cut(self, cut: Cut) -> Cut:
        """Return ``cut`` for this image."""
        return cut.on_image(self.sample.path)


def seen(run: str, dataset: str, root: str, reading: MapReading, every: int) -> tuple[str, Iterator[Seen]]:
    """Return what to call the images, and every class that they show with what the network says of it."""
    data = open_dataset(dataset, Path(root))
    split = reporting_split(data)
    predictor = load_model(run, device="cpu", precision="fp32").predictor(reading=reading)
    assert isinstance(predictor, ClassifierPredictor)
    samples = [sample for sample in data.boxed_samples(split) if sample.labels]
    samples = samples[::every] if len(samples) > MANY else samples
    return f"{Path(root if root != '.' else dataset).name} {split}", _passes(predictor, data.classes, samples)


def _passes(
    predictor: ClassifierPredictor, classes: tuple[ClassName, ...], samples: list[BoxedSample]
) -> Iterator[Seen]:
    model = predictor.info.classes
    index = indices_of({"all": classes}, model, "the run")["all"]
    for sample in samples:
        image = read_image(sample.path)
        wanted = [index[label] for label in sample.labels]
        (result,) = predictor.localizer.run([image], [wanted], top_k=0)
        for place, label in enumerate(sample.labels):
            objects = sample.boxes[(sample.box_labels == label) & ~sample.difficult]
            if len(objects):
                size = image.shape[1], image.shape[0]
                yield Seen(sample, size, objects, float(result.probabilities[wanted[place]]), result, place)


def doubt_table(items: list[Seen]) -> pd.DataFrame:
    """Return a row per box: its rule, whether it is wrong, and what may tell."""
    rows = []
    for item in items:
        for rule in RULES:
            cut = item.cut(Cut(parse_box_rule(rule)))
            heat = item.result.heatmap(item.index)
            found = cut.boxes(heat, *item.size, item.result.terms_of(item.index))
            if not found:
                continue
            (alone,) = cut.boxes(heat, *item.size)
            rows.append(
                {
                    "rule": rule,
                    "image": item.sample.id,
                    "wrong": iou([found[0].region.box], item.objects).max() < CORRECT,
                    "class score": -item.score,
                    "thresholds": alone.doubt,
                    "thresholds and scales": found[0].doubt,
                }
            )
    return pd.DataFrame(rows)


def auroc(doubt: pd.Series, wrong: pd.Series) -> float:
    """Return the chance that a wrong box has more doubt than a right one; equal ones count half."""
    positives = int(wrong.sum())
    if positives in (0, len(wrong)):
        return float("nan")
    ranks = doubt.rank()[wrong].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (len(wrong) - positives)))


def interval(table: pd.DataFrame, column: str) -> tuple[float, float]:
    """Return the 95 % interval of the AUROC over resamples of the images."""
    rng = np.random.default_rng(0)
    groups = list(table.groupby("image").indices.values())
    drawn = (np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]) for _ in range(RESAMPLES))
    pairs = table[[column, "wrong"]]
    resampled = (pairs.take(rows).reset_index(drop=True) for rows in drawn)
    low, high = np.nanquantile([auroc(part[column], part["wrong"]) for part in resampled], [0.025, 0.975])
    return float(low), float(high)


def doubt_rows(name: str, table: pd.DataFrame) -> Iterator[str]:
    """Yield the lines of one data set."""
    for rule, part in table.groupby("rule", sort=False):
        part = part.reset_index(drop=True)
        cells = []
        for column in ("class score", "thresholds", "thresholds and scales"):
            low, high = interval(part, column)
            cells.append(f"{auroc(part[column], part['wrong']):.2f} ({low:.2f} to {high:.2f})")
        yield f"| {name} | {rule} | {len(part)} | {100 * part['wrong'].mean():.0f} | {' | '.join(cells)} |"


def split_rows(name: str, items: list[Seen]) -> Iterator[str]:
    """Yield a line per way of cutting: boxes and objects per class and image, precision, recall, F1, doubt's AUROC."""
    objects = sum(len(item.objects) for item in items)
    for way, asked in WAYS.items():
        rows = []
        for number, item in enumerate(items):
            cut = item.cut(asked.cut("otsu"))
            found = cut.boxes(item.result.heatmap(item.index), *item.size, item.result.terms_of(item.index))
            right = matched([box.region.box for box in found], item.objects)
            rows += [(number, box.doubt, not hit) for box, hit in zip(found, right, strict=True)]
        table = pd.DataFrame(rows, columns=["item", "doubt", "wrong"])
        hits = int((~table["wrong"]).sum())
        numbers = 100 * hits / len(table), 100 * hits / objects, 200 * hits / (len(table) + objects)
        cells = [f"{len(table) / len(items):.2f}", f"{objects / len(items):.2f}", *(f"{one:.1f}" for one in numbers)]
        rare = min(hits, len(table) - hits) < FEW
        cells.append("" if rare else f"{auroc(table['doubt'], table['wrong']):.2f}")
        yield f"| {name} | {way} | {' | '.join(cells)} |"


def matched(boxes: list[FloatArray], objects: FloatArray) -> list[bool]:
    """Return which of the boxes are right, each object by one box, the best IoU first."""
    right = [False] * len(boxes)
    if not boxes:
        return right
    overlap = iou(boxes, objects)
    while overlap.max() >= CORRECT:
        box, other = np.unravel_index(int(overlap.argmax()), overlap.shape)
        right[box] = True
        overlap[box], overlap[:, other] = 0, 0
    return right


PAGE = """# Doubt, and objects that touch

Written by `python benchmarks/doubt.py`. The numbers are of one run each, frozen `efficientnet-lite0` with head `gwap`,
read at {scales} pixels with map `{map}`. Of splits of more than 300 images one of {every} was taken.

## Does doubt rank wrong boxes first?

A box's doubt is how much it moves (1 - IoU) where the map is cut at other thresholds, 0.3 below to 0.3 above the one
that was used, and where it is seen at each of the scales alone. From saved maps, which are means over scales,
thresholds alone are tried. Other map methods were tried, too, and told nothing more. Boxes are of the classes that the
labels name, one per class. AUROC is the chance that a wrong box (IoU below 0.5) has more doubt than a right one: 0.5 is
a guess, 1 would be perfect. Beside it that of the class's score, low scores first. In brackets 95 % intervals over
images. How far thresholds go, 0.3 rather than 0.2, was settled with these very images in view: no row is blind to it.

| images | box rule | boxes | wrong % | class score | doubt, thresholds | doubt, thresholds and scales |
|---|---|---|---|---|---|---|
{doubt}

{verdict}

## Does splitting help?

Precision and recall of boxes at an IoU of 0.5, one to one, of classes that the labels name, by Otsu's threshold. The
two settings of `--split` (peaks 15 % of the shorter side apart, valleys 0.25 deep) were chosen on the training images
of `fruits-voc`.

| images | boxes | per class and image | objects | precision | recall | F1 | AUROC of doubt |
|---|---|---|---|---|---|---|---|
{split}
"""
VERDICT = """\
Doubt tells more than the class's score does in {better} of {all} rows. Where the interval holds 0.5,
nothing is shown: such boxes can be looked at in any order."""


def main() -> None:
    """Print both tables, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    row = {"nargs": 3, "action": "append", "default": [], "metavar": ("RUN", "DATASET", "ROOT")}
    parser.add_argument("--row", **row)
    parser.add_argument("--split-row", **row)
    parser.add_argument("--map", default="fused")
    parser.add_argument("--scales", default="224,320,448")
    parser.add_argument("--every", type=int, default=1, help="take one of so many images where a split has over 300")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    reading = MapReading(asked.map, [int(scale) for scale in asked.scales.split(",")])
    doubt: list[str] = []
    split: list[str] = []
    better = 0
    for given in dict.fromkeys(map(tuple, [*asked.row, *asked.split_row])):
        name, items = seen(*given, reading, asked.every)
        kept = list(items)
        if list(given) in asked.row:
            table = doubt_table(kept)
            doubt += doubt_rows(name, table)
            parts = [part.reset_index(drop=True) for _, part in table.groupby("rule")]
            better += sum(
                auroc(part["thresholds and scales"], part["wrong"]) > auroc(part["class score"], part["wrong"])
                for part in parts
            )
            print(*doubt[-len(RULES) :], sep="\n", flush=True)
        if list(given) in asked.split_row:
            split += split_rows(name, kept)
            print(*split[-len(WAYS) :], sep="\n", flush=True)
    if asked.out is not None:
        verdict = VERDICT.format(better=better, all=len(doubt))
        tables = {"doubt": "\n".join(doubt), "split": "\n".join(split), "verdict": verdict}
        write_text(asked.out, PAGE.format(**tables, map=asked.map, scales=asked.scales, every=asked.every))


if __name__ == "__main__":
    run_script(main)
