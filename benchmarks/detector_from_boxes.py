"""What a detector learned from a classifier's boxes is worth, beside those boxes and one that learned from true ones.

python benchmarks/detector_from_boxes.py fruits-voc bccd-voc --seeds 0 1 2
python benchmarks/detector_from_boxes.py voc2012-part imagenet-20 --set iterations=4000
python benchmarks/detector_from_boxes.py --docs

A set is a name of ``SETS``, or a folder. For each seed a classifier is trained (recipe photos), a detector on its boxes
(``train --detector rfcn --boxes-from``), and the same detector on true boxes where the training images have some. All
are read on the split that the data set reports on, and rows are appended to ``--csv`` as they are known: rows that are
there are not measured again, a training that was stopped is resumed. ``--set`` changes settings of both detectors.
Minutes are of all processors together and of the training alone; other load adds to them, up to as much again.
``--on held-out`` keeps a third of the training images out of every training and reads those in place of the test split:
settings are chosen so, and the page leaves such rows out.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from needs import run_script

from gwapctl.boxes import Detections, as_boxes, iou
from gwapctl.config import build_train_config, defaults_for
from gwapctl.config.settings import as_arguments, parse_changes
from gwapctl.datasets import open_dataset, reporting_split, training_splits
from gwapctl.datasets.base import BoxedSample, Dataset, holdout
from gwapctl.files import write_text
from gwapctl.images.decode import read_image
from gwapctl.metrics.detection import DetectionAP
from gwapctl.predict.classifier import Model, load_model
from gwapctl.predict.cut import Cut
from gwapctl.regions import parse_box_rule
from gwapctl.runs import Run

HERE = Path(__file__).parent
CORRECT = 0.5
LIKELY = 0.05  # the chance of a class from which the classifier's boxes of it are detections
WAYS = {"single": (1, 0.0), "max-boxes 5": (5, 0.0)}
HELD_OUT, SHARE = "held-out", 1 / 3
RECIPE = "photos"  # of the classifier, unless --recipe says otherwise
ROWS = {
    **{way: f"classifier's boxes, {way}" for way in WAYS},
    "detector": "detector from these boxes",
    "ceiling": "the same detector from true boxes",
}


@dataclass(frozen=True)
class Spec:
    """A data set: how it is named, where it lies below ``--data``, and the classes that are complete (none: all)."""

    dataset: str | None
    folder: str
    complete: tuple[str, ...] = ()


SETS = {
    "fruits-voc": Spec(None, "fruits-voc"),
    "voc2012-part": Spec("voc2012", "voc2012-part", ("cat", "cow", "dog", "horse", "sheep")),
    "imagenet-20": Spec("imagenet", "imagenet-20"),
    "bccd-voc": Spec(None, "bccd-voc"),
}


@dataclass(frozen=True)
class Work:
    """One set and seed: its ``name``, ``spec`` and ``data`` set, and where its runs lie."""

    name: str
    spec: Spec
    seed: int
    asked: argparse.Namespace

    @property
    def source(self) -> list[str]:
        """The data set's argument of ``gwapctl train``, and its root."""
        folder = str(self.asked.data / self.spec.folder)
        return [folder] if self.spec.dataset is None else [self.spec.dataset, "--root", folder]

    @property
    def dataset(self) -> Dataset:
        """The data set, opened."""
        name, *root = self.source
        return open_dataset(name, Path(root[1]) if root else None)

    @property
    def changes(self) -> str:
        """The changed settings of the detectors, as one text."""
        return " ".join(sorted(self.asked.set))

    def run(self, what: str) -> Path:
        """Return the run's folder."""
        recipe = "" if self.asked.recipe == RECIPE or what == "ceiling" else f"-{self.asked.recipe}"
        changed = "" if what == "classifier" else "".join(f"-{one.replace('=', '')}" for one in sorted(self.asked.set))
        on = f"-{HELD_OUT}" if self.asked.on == HELD_OUT else ""
        return Path(self.asked.out) / f"{self.name}{on}-{what}-{self.seed}{changed}{recipe}"

    def samples(self, data: Dataset) -> tuple[str, list[BoxedSample]]:
        """Return the split that boxes are judged on, and its images that show something."""
        if self.asked.on == HELD_OUT:
            split = training_splits(data)[0]
            held = {one.id for one in holdout(data.samples(split), SHARE, self.seed)[1]}
            return f"{split} {HELD_OUT}", [one for one in data.boxed_samples(split) if one.id in held and one.labels]
        split = reporting_split(data)
        return split, [one for one in data.boxed_samples(split) if one.labels]

    def train(self, what: str, options: Sequence[str]) -> float:
        """Train, or finish, a run, and return the minutes of processors that all of its goes took."""
        folder = self.run(what)
        log = folder.with_suffix(".seconds")
        finished = (folder / "run.json").is_file() and Run.open(folder).finished
        if not finished:
            again = ["--resume"] if (folder / "run.json").is_file() else []
            command = [sys.executable, "-m", "gwapctl", "train", *self.source, *options]
            command += ["--seed", str(self.seed), "--out", str(folder), *again]
            if self.asked.feature_cache is not None:
                command += ["--feature-cache", str(self.asked.feature_cache)]
            if self.asked.on == HELD_OUT:
                command += ["--val-fraction", str(SHARE), "--set", "fold=0"]
            folder.parent.mkdir(parents=True, exist_ok=True)
            before = _seconds()
            try:
                subprocess.run(command, check=True)
            finally:
                with log.open("a", encoding="utf-8") as file:
                    file.write(f"{_seconds() - before:.1f}\n")
        return sum(map(float, log.read_text(encoding="utf-8").split())) / 60 if log.is_file() else float("nan")


def _seconds() -> float:
    """Return the seconds of processors that finished processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# --- what is measured -----------------------------------------------------------------------------------------------


def measure(work: Work) -> Iterator[dict[str, Any]]:
    """Yield the rows of one set and seed."""
    data = work.dataset
    split, samples = work.samples(data)
    chosen = [
        index for index, one in enumerate(data.classes) if one.name in work.spec.complete or not work.spec.complete
    ]
    recipe = work.asked.recipe
    common = {"dataset": work.name, "split": split, "n": len(samples), "seed": work.seed, "recipe": recipe}
    known = rows_of(work.asked.csv)
    changed = {what: "" if what in WAYS else work.changes for what in ROWS}  # the classifier knows no detector's

    def lacks(what: str) -> bool:
        rows = known
        for column, value in {**common, "what": what, "settings": changed[what]}.items():
            rows = rows[rows[column] == value]
        return rows.empty

    def row(what: str, found: list[Detections], minutes: float) -> dict[str, Any]:
        scores = judge(found, samples, chosen)
        return {**common, "settings": changed[what], "what": what, **scores, "minutes": round(minutes, 2)}

    if not any(lacks(what) for what in ROWS):
        return
    minutes = work.train("classifier", ["--recipe", recipe])
    if any(lacks(way) for way in WAYS):
        for way, found in classifier_boxes(work.run("classifier"), samples, len(data.classes)).items():
            yield row(way, found, minutes)
    settings = as_arguments(parse_changes(work.asked.set))
    ways = {"detector": ["--detector", "rfcn", "--boxes-from", str(work.run("classifier")), *settings]}
    if recipe == RECIPE and any(len(sample.boxes) for sample in data.boxed_samples(training_splits(data)[0])):
        ways["ceiling"] = [*_without_found_boxes(), *settings]
    for what, options in ways.items():
        if lacks(what):
            minutes = work.train(what, options)
            yield row(what, detector_boxes(work.run(what), samples), minutes)


def _without_found_boxes() -> list[str]:
    """Return the settings of a detector from found boxes, for true ones."""
    found = build_train_config("photos", None, {"detector": "rfcn", "boxes_from": "run"})
    other = {"rounds", "composites", "area_exponent", "refine"}  # which only found boxes have
    values = {key: getattr(found, key) for key in defaults_for("photos", True, True) if key not in other}
    return ["--detector", "rfcn", *as_arguments(values)]


def classifier_boxes(run: Path, samples: Sequence[BoxedSample], classes: int) -> dict[str, list[Detections]]:
    """Return the boxes that the classifier draws by its stored rule, of likely classes and of those that are there.

    Of classes that are not likely they score nothing: they only tell where a class is that is known to be there.
    """
    from gwapctl.maps.localizer import Localizer

    model = load_model(str(run), device="cpu", precision="fp32")
    assert isinstance(model, Model)
    localizer, rule = Localizer(model.classifier, precision="fp32", device="cpu"), parse_box_rule(model.info.box_rule)
    found: dict[str, list[Detections]] = {way: [] for way in WAYS}
    for sample in samples:
        image = read_image(sample.path)
        (result,) = localizer.run([image], [list(sample.labels)], top_k=min(5, classes))
        order = [] if result.shared else list(result.classes)
        wanted = [c for c in order if c in sample.labels or result.probabilities[c] >= LIKELY]
        for way, (most, area) in WAYS.items():
            cut, rows = Cut(rule, most, area).on_image(sample.path), list[tuple[Any, int, float]]()
            for label in wanted:
                chance = float(result.probabilities[label])
                regions = cut.regions(result.heatmap(order.index(label)), image.shape[1], image.shape[0])
                hottest = max((region.score for region in regions), default=0.0) or 1.0
                rows += [(region.box, label, chance * region.score / hottest) for region in regions]
            boxes, labels, scores = zip(*rows, strict=True) if rows else ((), (), ())
            found[way].append(Detections(as_boxes(boxes), np.array(scores, np.float64), np.array(labels, np.int64)))
    return found


def detector_boxes(run: Path, samples: Sequence[BoxedSample]) -> list[Detections]:
    """Return all boxes that a detector finds."""
    reader = load_model(str(run), device="cpu", precision="fp32").predictor().reader
    return [reader.run([read_image(sample.path)])[0] for sample in samples]


def judge(found: Sequence[Detections], samples: Sequence[BoxedSample], chosen: Sequence[int]) -> dict[str, float]:
    """Return detection AP at IoU 0.5 over the ``chosen`` classes, and CorLoc.

    That is the share of pairs of an image and a class in it whose best-scoring box of the class is on an object of it;
    where every image shows one class, GT-known accuracy.
    """
    meter, hits = DetectionAP(), list[bool]()
    for one, sample in zip(found, samples, strict=True):
        meter.update(one.boxes, one.scores, one.labels, sample.boxes, sample.box_labels, sample.difficult)
        for label in set(sample.box_labels[~sample.difficult].tolist()) & set(chosen):
            own = np.flatnonzero(one.labels == label)
            best = one.boxes[own[[one.scores[own].argmax()]]] if len(own) else one.boxes[:0]
            hits.append(bool((iou(best, sample.boxes[sample.box_labels == label]) >= CORRECT).any()))
    rows = [row for label, row in meter.per_class().items() if label in chosen]
    scores = {name: float(np.mean([row[f"det_ap_{name}"] for row in rows])) for name in ("11pt", "area")}
    return {
        "det_map_11pt": round(scores["11pt"], 2),
        "det_map_area": round(scores["area"], 2),
        "cor_loc": round(100 * float(np.mean(hits)), 2),
    }


# --- rows and page --------------------------------------------------------------------------------------------------

COLUMNS = [
    "dataset",
    "split",
    "n",
    "seed",
    "recipe",
    "settings",
    "what",
    "det_map_11pt",
    "det_map_area",
    "cor_loc",
    "minutes",
]
PAGE = """# A detector from found boxes

Written by `python benchmarks/detector_from_boxes.py --docs` from `benchmarks/detector_from_boxes.csv`, whose rows the
same script measures; nothing here is written by hand.

A frozen `efficientnet-lite0` learns the classes from image-level labels (recipe `photos`) and draws boxes on the
training images by its stored rule. A detector learns from them and from images composed of what those hold that are
least in doubt (`train --detector rfcn --boxes-from RUN`); image-level labels choose how much the size of a box counts
in its score (`area_exponent`, from up to 1,000 images), and its boxes are moved half way to the edges that GrabCut
finds (`refine`). The same one from all true boxes, where neither is done, tells what found boxes cost. No image of the
split below was learned from. Settings were chosen on a third of the training images of `fruits-voc` and of
`voc2012-part`, kept out of trainings (`--on held-out`), or by the true boxes of their training images, which nothing
else saw.

AP is detection AP at IoU 0.5 (11 points, mean over classes; of `voc2012-part` over its five complete ones: cat, cow,
dog, horse, sheep). CorLoc asks, of each class that an image shows, whether the best-scoring box of it is on an object
of it; where images show one class it is GT-known accuracy. All are the mean over seeds with the range in brackets.
Minutes are those that all processors together spent on the row's training, not the clock's: two cores take half of
them at best. Where other work ran beside it, as for the detectors from found boxes, they are nearly twice as many as
alone. A detector's hold those of drawing the classifier's boxes on the training images, of composing images, and of
computing the maps of the frozen trunk, some of which the one from true boxes then finds there.

| images | n | boxes | seeds | AP | CorLoc | minutes |
|---|---:|---|---:|---:|---:|---:|
{rows}

{gains}
"""


def rows_of(file: Path) -> pd.DataFrame:
    """Return the rows that are there."""
    if not file.is_file():
        return pd.DataFrame(columns=COLUMNS)
    return pd.read_csv(file, keep_default_na=False, na_values={"minutes": [""]})


def append(file: Path, row: dict[str, Any]) -> None:
    """Add a row to the file."""
    pd.DataFrame([row], columns=COLUMNS).to_csv(file, mode="a", header=not file.is_file(), index=False)


def page(rows: pd.DataFrame) -> str:
    """Return the page's text."""
    rows = rows[~rows["split"].astype(str).str.endswith(HELD_OUT)]
    lines, gains = list[str](), list[str]()
    for (name, split, recipe), part in rows.groupby(["dataset", "split", "recipe"], sort=False):
        title = f"{name} {split}" + ("" if recipe == RECIPE else f" (`{recipe}`)")
        classifier = part[part["what"].isin(WAYS)]
        lines += [table_row(title, what, classifier[classifier["what"] == what]) for what in WAYS]
        for settings, own in part[~part["what"].isin(WAYS)].groupby("settings", sort=False):
            named = title + (f" (`{settings}`)" if settings else "")
            lines += [table_row(named, what, own[own["what"] == what]) for what in ("detector", "ceiling")]
            gains += gain(named, classifier, own[own["what"] == "detector"])
    return PAGE.format(rows="\n".join(filter(None, lines)), gains="\n".join(gains))


def table_row(named: str, what: str, own: pd.DataFrame) -> str:
    """Return a line of the table, nothing where there are no rows."""
    if own.empty:
        return ""
    cells = [spread(own[column]) for column in ("det_map_11pt", "cor_loc", "minutes")]
    return f"| {named} | {own['n'].iloc[0]} | {ROWS[what]} | {len(own)} | {' | '.join(cells)} |"


def gain(named: str, classifier: pd.DataFrame, detector: pd.DataFrame) -> list[str]:
    """Say how far the detector is from the better of the classifier's two ways, by the means."""
    if classifier.empty or detector.empty:
        return []
    numbers = ["det_map_11pt", "cor_loc"]
    ap, cor_loc = detector[numbers].mean() - classifier.groupby("what")[numbers].mean().max()
    return [f"- {named}: AP {ap:+.1f}, CorLoc {cor_loc:+.1f} against the better way to draw the classifier's boxes."]


def spread(values: pd.Series) -> str:
    """Write the mean, and the range where there are several.

    >>> spread(pd.Series([1.0, 2.0]))
    '1.5 (1.0 to 2.0)'
    """
    text = f"{values.mean():.1f}"
    return text if len(values) == 1 else f"{text} ({values.min():.1f} to {values.max():.1f})"


def main() -> None:
    """Measure what is asked for, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(SETS)}, or folders below --data")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recipe", default=RECIPE, help="of the classifiers")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the detectors")
    parser.add_argument("--on", choices=("test", HELD_OUT), default="test")
    parser.add_argument("--out", type=Path, default=Path("runs/from-boxes"), help="folder of the runs")
    parser.add_argument("--feature-cache", type=Path, help="folder of kept maps, 1 to 2 GB for 1,000 images")
    parser.add_argument("--csv", type=Path, default=HERE / "detector_from_boxes.csv")
    parser.add_argument("--docs", nargs="?", type=Path, const=Path("docs/detector.md"), help="write the page")
    asked = parser.parse_args()
    for seed in asked.seeds:
        for name in asked.sets:
            for row in measure(Work(Path(name).name, SETS.get(name, Spec(None, name)), seed, asked)):
                append(asked.csv, row)
                print({key: row[key] for key in COLUMNS if key in row}, flush=True)
    if asked.docs is not None:
        write_text(asked.docs, page(rows_of(asked.csv)))
        print(f"wrote {asked.docs}")


if __name__ == "__main__":
    run_script(main)
