"""What ``gwapctl label`` does with a folder: which network and why, the steps, and about how long each takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gwapctl.config import DEFAULT_BACKBONE
from gwapctl.config.run_config import FOUND_BOXES
from gwapctl.datasets import open_dataset, training_splits
from gwapctl.datasets.base import Dataset, Sample
from gwapctl.datasets.folders import has_images, list_images
from gwapctl.errors import DataError, UsageError, any_of, counted, lookup, option
from gwapctl.evaluate.training_boxes import MIN_AREA, MOST_BOXES
from gwapctl.formats import EXPORTERS
from gwapctl.label.pace import Pace, measure_pace, seconds_of
from gwapctl.label.steps import Box, Check, Find, Judge, Machine, Step, Train, Write
from gwapctl.networks.backbones import packaged_weights
from gwapctl.predict.cut import Cutting
from gwapctl.predict.predictions import PREDICTIONS

# --- how it labels: all that there is to choose stands here; the other settings are those of gwapctl train ----------

FROZEN = "photos"  # the recipe of a frozen network with ImageNet's weights
SMALL: dict[str, Any] = {  # where these weights are not installed: of what comes with gwapctl
    "backbone": "resnet-s",
    "weights": "resnet-s-gwap-tiny-imagenet",
    "image_size": (128, 128),
}
MOST_CACHED, UNCACHED = 10_000, {"cache_features": False, "epochs": 3}  # images; a megabyte of features for each
BOXES = Cutting(max_boxes=MOST_BOXES, min_area=MIN_AREA)  # as `train --boxes-from RUN` cuts what it learns from
DETECTOR: dict[str, Any] = {}  # in what it departs from every detector that learns from found boxes
BASE, LONGEST = 300, 4  # images that its iterations are for; more images get as many times more, at most
FEWEST, ADVISED = 5, 20  # images of a class

# --- what it writes --------------------------------------------------------------------------------------------------

CHECK, CLASSIFIER, FIRST, DETECTOR_RUN = "check.json", "classifier", "classifier-boxes.jsonl", "detector"
FOUND, COCO, REVIEW, EVALUATIONS = "found", "boxes.json", "review", "evaluations"
RUNS = (CLASSIFIER, DETECTOR_RUN)
JUDGED = ("detector", "classifier")  # whose boxes are measured


@dataclass(frozen=True)
class Asked:
    """What is asked: a labelled ``folder`` (any data set), and where the results go.

    ``format`` is one of ``EXPORTERS`` and comes beside COCO. ``classifier`` and ``detector`` change settings of the two
    trainings.
    """

    folder: str
    out: Path
    format: str = "coco"
    seed: int = 0
    classifier: Mapping[str, Any] = field(default_factory=dict)
    detector: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a format that a detector's boxes do not fit."""
        lookup("format", self.format, EXPORTERS)
        if self.format == "png":
            raise UsageError(f"{option('format', 'png')} is of masks, and a detector finds boxes. Choose another.")

    def to_json(self) -> dict[str, Any]:
        """Return what a call that continues must repeat."""
        settings = {"classifier": dict(self.classifier), "detector": dict(self.detector)}
        return {"dataset": self.folder, "seed": self.seed, **settings}


@dataclass(frozen=True)
class Network:
    """Which classifier is trained: ``name`` for a person, ``why``, and the settings and recipe that make it."""

    name: str
    why: str
    settings: Mapping[str, Any]
    recipe: str | None = None

    @property
    def backbone(self) -> str:
        """The name of its backbone."""
        return str(self.settings.get("backbone", DEFAULT_BACKBONE))


@dataclass(frozen=True)
class Plan:
    """The steps for one folder. ``samples`` are its images, ``remarks`` what whoever labels it should know."""

    asked: Asked
    network: Network
    samples: Sequence[Sample]
    classes: Sequence[str]
    steps: Sequence[Step]
    remarks: Sequence[str]
    machine: Machine

    @property
    def nothing(self) -> int:
        """How many images show none of the classes."""
        return sum(not sample.labels for sample in self.samples)

    @cached_property
    def pace(self) -> Pace:
        """How fast this machine is, by a second or two of trying."""
        return measure_pace([sample.path for sample in self.samples], self.network.backbone, self.machine.device)

    def seconds(self, step: Step, *, afresh: bool = False) -> float:
        """Return about how long a step takes; nothing where its result is there, unless all is done ``afresh``."""
        return 0.0 if step.done and not afresh else seconds_of(step, len(self.samples), self.pace)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as ``label.json`` has it."""
        network = {"name": self.network.name, "why": self.network.why}
        steps = [{"title": step.title, "command": ["gwapctl", *step.words]} for step in self.steps]
        return {"schema_version": 1, **self.asked.to_json(), "network": network, "steps": steps}


def make_plan(asked: Asked, machine: Machine) -> Plan:
    """Look at a folder, choose the network and list the steps. Annotations are read, images are not.

    Raises:
        DataError: the folder is no labelled data set, has one class alone, or too few images of one.
        UsageError: there is no such format or data set.

    """
    dataset = _open(asked.folder)
    samples = _all_samples(dataset)
    remarks = _check_classes(dataset)
    network = choose_network(len(samples))
    steps = _steps(asked, machine, network, dataset, len(samples))
    return Plan(asked, network, samples, [one.name for one in dataset.classes], steps, remarks, machine)


def _open(folder: str) -> Dataset:
    """Open the data set, or say what a folder lacks that is none."""
    try:
        return open_dataset(folder)
    except DataError as error:
        images = list_images(Path(folder))
        if not images and Path(folder).is_dir():
            raise DataError(f"{folder} has no image. Put the images of each class into a folder of its own.") from error
        if has_images(Path(folder)):
            raise DataError(
                f"{folder} has {counted(len(images), 'image')} and does not say what they show. Put those of each "
                "class into a folder of its own, or list them in a CSV file with the columns image,label."
            ) from error
        raise


def _all_samples(dataset: Dataset) -> list[Sample]:
    """Return the images of all splits, each once."""
    found: dict[Path, Sample] = {}
    for split in dataset.splits():
        for sample in dataset.samples(split):
            found.setdefault(sample.path, sample)
    return list(found.values())


def _check_classes(dataset: Dataset) -> list[str]:
    """Refuse labels that nothing can be learned from; return what is to be said about them."""
    split = training_splits(dataset)[0]
    samples = dataset.samples(split)
    count = Counter(label for sample in samples for label in sample.labels)
    if not count:
        raise DataError(f"no image of {dataset.root} has a label. Say what is on each: a folder per class, or a CSV.")
    if len(dataset.classes) == 1 and not any(not sample.labels for sample in samples):
        raise DataError(
            f"every image of {dataset.root} shows the one class {dataset.classes[0].name!r}, and there is nothing to "
            "tell it from. Add images of other classes, or of none in a folder _none."
        )
    few = {one.name: count[index] for index, one in enumerate(dataset.classes) if count[index] < ADVISED}
    if (worst := min(few.values(), default=ADVISED)) < FEWEST:
        name = next(name for name, number in few.items() if number == worst)
        raise DataError(
            f"class {name!r} of {dataset.root} has {counted(worst, 'image')} to train on, and at least {FEWEST} are "
            f"needed, better {ADVISED}. Add some, or remove the class."
        )
    if few:
        return [f"few images of {any_of(few, 'and')}: boxes get better from {ADVISED} images of a class on."]
    return []


def choose_network(images: int) -> Network:
    """Return the classifier for a folder of that many images: by what is installed, and by what it would cost."""
    if DEFAULT_BACKBONE not in packaged_weights() or packaged_weights()[DEFAULT_BACKBONE].path is None:
        why = f"the ImageNet weights of {DEFAULT_BACKBONE}, which give better boxes, are not installed"
        return Network(f"small network, {SMALL['backbone']}", why, SMALL)
    name = f"frozen {DEFAULT_BACKBONE}"
    if images > MOST_CACHED:
        gigabytes = images // 1000
        why = f"features of {images:,} images would take {gigabytes} GB, so it reads them anew in each of 3 epochs"
        return Network(name, why, UNCACHED, FROZEN)
    why = f"it has learned from ImageNet, and {images:,} images are too few to train all of a network"
    return Network(name, why, {}, FROZEN)


def _steps(asked: Asked, machine: Machine, network: Network, dataset: Dataset, images: int) -> list[Step]:
    folder, out = asked.folder, asked.out
    seed = {"seed": asked.seed} if asked.seed else {}
    classifier, detector = out / CLASSIFIER, out / DETECTOR_RUN
    first, found = out / FIRST, out / FOUND
    others = () if asked.format == "coco" else (asked.format,)
    return [
        Check(folder, out / CHECK),
        Train(
            f"train a classifier: {network.name}",
            folder,
            classifier,
            {**network.settings, **seed, **asked.classifier},
            machine,
            network.recipe,
        ),
        Box("box the labels' classes with it", folder, classifier, first, BOXES, machine),
        Train(
            "train a detector from these boxes",
            folder,
            detector,
            {**_detector_settings(network, first, images), **seed, **asked.detector},
            machine,
        ),
        Find("find objects with it", folder, detector, found, machine),
        *(Write(f"write {EXPORTERS[name].label}", found, name, destination(out, name)) for name in others),
        Write("write COCO and the review page", found, "coco", destination(out, "coco"), out / REVIEW),
        *_judging(asked, dataset, dict(zip(JUDGED, (found / PREDICTIONS, first), strict=True))),
    ]


def _detector_settings(network: Network, boxes: Path, images: int) -> dict[str, Any]:
    """Return the settings of the detector; more images get more iterations."""
    small = {key: value for key, value in network.settings.items() if key in ("backbone", "weights", "cache_features")}
    settings = {"detector": "rfcn", "boxes_from": str(boxes), **small, **DETECTOR}
    if images > BASE:
        base = settings.get("iterations", FOUND_BOXES["iterations"])
        settings["iterations"] = round(base * min(images / BASE, LONGEST) / 100) * 100
    return settings


def _judging(asked: Asked, dataset: Dataset, boxes: Mapping[str, Path]) -> list[Step]:
    """Return the measurements on every split that has true boxes, of the classifier's boxes, too."""
    splits = [one for one in dataset.splits() if any(len(sample.boxes) for sample in dataset.boxed_samples(one))]
    folder = asked.out / EVALUATIONS
    return [
        Judge(who, asked.folder, split, file, folder / f"{split}-{who}.json")
        for split in splits
        for who, file in boxes.items()
    ]


def destination(out: Path, name: str) -> Path:
    """Return where boxes in the format ``name`` go."""
    return out / (COCO if name == "coco" else EXPORTERS[name].filename or name)


def written_names() -> list[str]:
    """Return the names of all that may be written below the folder, ``label.json`` last."""
    own = [CHECK, CLASSIFIER, FIRST, DETECTOR_RUN, FOUND, REVIEW, EVALUATIONS]
    return [*own, *(destination(Path(), name).name for name in EXPORTERS), "label.json"]
