"""What is evaluated, and on which images: the words of the command line turned into paths, data sets and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gwapctl.datasets import DATASETS, open_dataset, open_named, reporting_split, splits_to_report, training_splits
from gwapctl.datasets.base import BoxedSample, Dataset, Sample, fingerprint, holdout
from gwapctl.datasets.download import TRAINING
from gwapctl.datasets.folders import data_folders, recorded_path
from gwapctl.datasets.subset import evenly_spread, split_name, without_classes
from gwapctl.datasets.wsoleval import WsolevalDataset
from gwapctl.errors import DataError, UsageError, option
from gwapctl.formats import read_suffixes
from gwapctl.formats.reading import checked_samples, folder_kind, read_boxes
from gwapctl.formats.stored import holds_maps
from gwapctl.networks.zoo import resolve_model
from gwapctl.predict.predictions import PREDICTIONS
from gwapctl.runs import Run

HELD_OUT = "held-out"  # the images that a run kept out of its training: what settings may be chosen on


@dataclass(frozen=True)
class Subject:
    """A model, a folder of maps, or a file or folder of boxes; ``run`` where the model is a run's."""

    kind: Literal["model", "maps", "boxes"]
    path: Path
    name: str
    run: Run | None = None

    @property
    def config(self) -> dict[str, Any]:
        """What the run was trained with; empty for anything else."""
        return dict(self.run.document.get("config") or {}) if self.run else {}

    @property
    def learning_stages(self) -> int | None:
        """How many of the last stages of its backbone a run trained; None: all, or it is not known."""
        return 0 if self.config.get("freeze_backbone") else self.config.get("trained_stages")


def find_subject(spec: str) -> Subject:
    """Tell what ``spec`` is by looking at it: a run, a model's folder, maps, boxes, or the name of a zoo entry.

    Raises:
        DataError: a file or folder that is none of these.
        ModelError: no such file, folder or zoo entry.

    """
    path = Path(spec)
    if path.is_file():
        if path.suffix.lower() not in read_suffixes():
            raise DataError(f"{path} is no file of boxes ({', '.join(read_suffixes())}). Make one with gwapctl boxes.")
        return Subject("boxes", path, spec)
    if path.is_dir() and not (path / "model.json").is_file() and not (path / "run.json").is_file():
        if holds_maps(path):
            return Subject("maps", path, spec)
        if (path / PREDICTIONS).is_file() or folder_kind(path) is not None:
            return Subject("boxes", path, spec)
        raise DataError(
            f"{path} is neither a run or model (run.json, model.json), nor does it hold maps (.npy), {PREDICTIONS} or "
            "boxes as VOC's XML files or YOLO's labels and classes.txt. "
            "Train one with gwapctl train, or make maps with gwapctl localize --save map --out."
        )
    folder = resolve_model(spec)
    return Subject("model", folder, spec, Run.open(folder) if (folder / "run.json").is_file() else None)


def find_dataset(subject: Subject, name: str | None, root: Path | None, masks: Path | None) -> Dataset:
    """Open the data set called ``name``, by default the one that the run was trained on.

    Classes that were background in training are left out of that one, for the run's model does not know them.

    Raises:
        UsageError: no name is given and the subject is not a run.
        DataError: the data set is not there.

    """
    trained_on = subject.config.get("dataset")
    if name is None and trained_on is None:
        unsaid = f"{subject.name} does not say on which data set to evaluate it"
        raise UsageError(f"{unsaid}. Give one with {option('dataset')}.")
    if name in (None, trained_on) and subject.run is not None:
        dataset = _dataset_of_run(subject, subject.run, here_first=name is not None, root=root)
    else:
        dataset = open_dataset(str(name), root)
    if masks is not None and isinstance(dataset, WsolevalDataset):
        return WsolevalDataset(dataset.root, masks)  # its masks are named by its files, not by the images
    removed = subject.config.get("background_classes")
    return without_classes(dataset, removed) if removed and name in (None, trained_on) else dataset


def _dataset_of_run(subject: Subject, run: Run, *, here_first: bool, root: Path | None) -> Dataset:
    """Open the data set that a run was trained on, wherever we are now: its name may count from another folder."""
    name = str(subject.config["dataset"])
    recorded = Path(run.document["dataset"].get("root") or "")
    whole, count = split_name(name)
    if whole in DATASETS:
        at = root or (recorded if recorded.name and recorded.is_dir() else None)
        return open_named(whole, at) if count is None else evenly_spread(open_named(whole, at), count)
    if root is not None:
        folders = [root / whole, root / Path(whole).name, root]
    else:
        then = recorded_path(whole, recorded) if recorded.name else None
        known = [] if then is None else [then]
        here, beside = [Path(whole)], list[Path]()
        if Path(whole).name not in ("", ".."):  # "." is any folder
            here += [folder / whole for folder in data_folders()]
            beside = [folder / whole for folder in subject.path.resolve().parents]  # moved together
        folders = [*here, *known, *beside] if here_first else [*known, *here, *beside]
    found = next((folder for folder in folders if folder.exists()), None)
    if found is None:
        raise DataError(
            f"{subject.name} was trained on {whole}, which was at {recorded} and is not there any more. "
            f"Say where it is now with {option('dataset')}, or with {option('root')} the folder that holds it."
        )
    return open_dataset(str(found) if count is None else f"{found}:{count}")


def dataset_name(spec: str, name: str | None) -> str | None:
    """Return the name of the data set to evaluate ``spec`` on: ``name``, else the one that the run was trained on."""
    return name or find_subject(spec).config.get("dataset")


def splits_needed(name: str, split: str | None) -> tuple[str, ...]:
    """Return the splits of the data set ``name`` that an evaluation on ``split`` reads."""
    if split == HELD_OUT:
        return TRAINING
    return splits_to_report(name) if split is None else (split,)


def find_samples(subject: Subject, dataset: Dataset, split: str | None) -> tuple[str, list[BoxedSample]]:
    """Return the split's name and its samples; by default the split that results are reported on.

    Raises:
        DataError: there is no such split, or it is empty.
        UsageError: ``held-out`` of something that held no image out.

    """
    if split == HELD_OUT:
        return _held_out(subject, dataset)
    try:
        split = split or reporting_split(dataset)
    except DataError as error:
        if not subject.config.get("val_fraction"):
            raise
        held_out = f"the images that its training kept out: {option('split', HELD_OUT)}"
        raise DataError(f"{error} Or measure {subject.name} on {held_out}.") from None
    return split, dataset.boxed_samples(split)


def find_checked(subject: Subject, dataset: Dataset, split: str | None, file: Path) -> tuple[str, list[BoxedSample]]:
    """Return a name and the samples that ``file`` has checked boxes of, with these; by default those of all splits.

    In a set of one class per image, images keep the class that they had where a box shows it, and those that show
    nothing are left out: there is nothing to judge by.

    Raises:
        DataError: the file cannot be read, or has none of the images, or a class that the data set lacks.

    """
    parts = dict(find_samples(subject, dataset, name) for name in (dataset.splits() if split is None else (split,)))
    before = {sample.path: sample for part in parts.values() for sample in part}
    samples = checked_samples(before.values(), dataset.classes, read_boxes(file), file)
    if not dataset.multi_label:
        samples = [replace(one, labels=_one_of(one, before[one.path])) for one in samples if one.labels]
    if not samples:
        raise DataError(f"no image of {file} shows an object, so there is nothing to judge by. Check more images.")
    paths = {sample.path for sample in samples}
    found = [name for name, part in parts.items() if any(sample.path in paths for sample in part)]
    return f"{'+'.join(found)}, boxes of {file.name}", samples


def _one_of(checked: BoxedSample, before: BoxedSample) -> tuple[int, ...]:
    return before.labels if set(before.labels) <= set(checked.labels) else checked.labels[:1]


def trained_split(subject: Subject, dataset: Dataset | None = None) -> str | None:
    """Return the split that a run was trained on, None where none is known, or where it was not of ``dataset``."""
    known = {} if subject.run is None else subject.run.document["dataset"]
    if dataset is not None and dataset.name != known.get("name"):
        return None
    split: str | None = known.get("train_split")
    return split


def seen_in_training(subject: Subject, dataset: Dataset, split: str, samples: Sequence[Sample]) -> int:
    """Return how many of the ``samples`` of ``split`` are among those that a run was trained on.

    Only the training split, and ``trainval`` and its parts, are looked at: reading others takes time and finds none.
    """
    trained_on, config = trained_split(subject, dataset), subject.config
    if trained_on not in dataset.splits() or (split != trained_on and "trainval" not in (split, trained_on)):
        return 0
    trained, fraction = list(dataset.samples(trained_on)), float(config.get("val_fraction") or 0)
    if fraction and (training_splits(dataset)[1] is None or config.get("fold") is not None):
        trained, _ = holdout(trained, fraction, int(config["seed"]), config.get("fold") or 0)
    paths = {sample.path for sample in trained}
    return sum(sample.path in paths for sample in samples)


def _held_out(subject: Subject, dataset: Dataset) -> tuple[str, list[BoxedSample]]:
    """Divide the training split as ``train`` did and return the part that training did not see."""
    config, run = subject.config, subject.run
    train_split, val_split = training_splits(dataset)
    train_split = trained_split(subject, dataset) or train_split  # earlier versions chose another
    fold = config.get("fold")
    if val_split is not None and fold is None:
        return val_split, dataset.boxed_samples(val_split)
    if run is not None and dataset.name != run.document["dataset"]["name"]:  # training saw none of it
        return train_split, dataset.boxed_samples(train_split)
    fraction = float(config.get("val_fraction") or 0)
    if run is None or not fraction:
        raise UsageError(
            f"{subject.name} kept no image out of its training, so there is nothing to choose settings on. "
            f"Train with {option('val_fraction', 0.1)}."
        )
    samples = dataset.boxed_samples(train_split)
    trained, held = holdout(samples, fraction, int(config["seed"]), fold or 0)
    if fingerprint(trained) != run.document["dataset"]["fingerprint"]:
        raise DataError(
            f"{dataset.name} at {dataset.root} is not what {subject.name} was trained on, so the images that it kept "
            f"out are not known. Give the folder of the same data with {option('root')}."
        )
    skipped = (run.document["dataset"].get("skipped") or {}).get("val", ())
    ids = {sample.id for sample in held} - set(skipped)
    name = f"{HELD_OUT} {fraction:g} of {train_split}, seed {config['seed']}"
    name += "" if fold is None else f", fold {fold}"
    return name, [sample for sample in samples if sample.id in ids]
