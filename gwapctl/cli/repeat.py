"""``gwapctl train --from-run``: a run once more, from what its ``run.json`` says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gwapctl.cli import console
from gwapctl.errors import DataError, UsageError

if TYPE_CHECKING:
    from gwapctl.config import DetectorConfig, TrainConfig
    from gwapctl.runs import Run


class Repeat(NamedTuple):
    """What a run was trained with: its settings, where its data are now, and whether broken images were left out."""

    config: TrainConfig | DetectorConfig
    root: Path | None
    skip_broken: bool


def repeat_of(folder: Path, root: Path | None, device: str, offline: bool, typed: Mapping[str, Any]) -> Repeat:
    """Return how to train the run in ``folder`` again, and say what is not as it was then.

    Args:
        folder: the run.
        root: where its data set is to be looked for; None: where it was.
        device: what is asked for: numbers of another device differ.
        offline: whether a data set that comes by itself may not be fetched.
        typed: what else was asked for, by flag; a repeated run takes none of it.

    Raises:
        UsageError: something else is asked for.
        DataError: it is no run, or its images or first weights are others now.

    """
    from gwapctl.config import stored_config
    from gwapctl.datasets.download import TRAINING, ensure_dataset
    from gwapctl.runs import Run

    asked = [flag for flag, value in typed.items() if value]
    if asked:
        raise UsageError(f"--from-run repeats {folder} as it was. Leave out {', '.join(asked)}.")
    run = Run.open(folder)
    config, known = stored_config(run.document["config"]), run.document["dataset"]
    place = root or _root_of(run, config.dataset)
    ensure_dataset(config.dataset, place, offline=offline, splits=TRAINING, announce=console.note)
    _require_same_data(config, place, run)
    _require_same_weights(config, place, run)
    for remark in _changes(run, device):
        console.warn(f"{remark}: numbers may differ")
    return Repeat(config, place, bool(known.get("skipped")))


def _root_of(run: Run, name: str) -> Path | None:
    """Return where the data of a run are to be looked for: where they were, if there is still something."""
    from gwapctl.datasets import DATASETS
    from gwapctl.datasets.subset import split_name

    root = run.document["dataset"].get("root")
    if split_name(name)[0] in DATASETS:
        return Path(root) if root and Path(root).is_dir() else None
    return root_of_run(run.folder, name)


def _require_same_data(config: TrainConfig | DetectorConfig, root: Path | None, run: Run) -> None:
    from gwapctl.train.loop import TASKS

    now = TASKS[type(config)].load_data(config, root, lambda whole: whole).describe()
    for key, what in (("fingerprint", "training images"), ("background_fingerprint", "background images")):
        if run.document["dataset"].get(key) != now.get(key):
            where = run.document["dataset"].get("root")
            raise DataError(
                f"the {what} of {config.dataset} in {now['root']} are not those that {run.folder} was trained on ("
                f"{where}). Give those with --root, or train anew: gwapctl train {config.dataset}"
            )


def _require_same_weights(config: TrainConfig | DetectorConfig, root: Path | None, run: Run) -> None:
    """Compare the file of first weights, where the run says which it was."""
    from gwapctl.train.first_weights import described_weights
    from gwapctl.train.loop import TASKS

    known, now = run.document.get("first_weights"), described_weights(TASKS[type(config)], config, root)
    if known and now and known["sha256"] != now["sha256"]:
        raise DataError(
            f"the weights {config.weights} in {now['file']} are not those that {run.folder} began with (SHA-256 "
            f"{known['sha256'][:12]}..., now {now['sha256'][:12]}...). Bring back {known['file']}."
        )


def _changes(run: Run, device: str) -> Iterator[str]:
    """Yield in words what decides a result and is another now."""
    import torch

    from gwapctl.device import device_name, resolve_device
    from gwapctl.runs import library_versions

    then, now = run.document.get("versions") or {}, library_versions()
    changed = [f"{name} {then.get(name, 'missing')} is {now.get(name, 'missing')}" for name in {**then, **now}]
    changed = [text for name, text in zip({**then, **now}, changed, strict=True) if then.get(name) != now.get(name)]
    if changed:
        yield f"versions changed since {run.folder} ({', '.join(changed)})"
    name = device_name(resolve_device(device))
    if run.document.get("device") != name:
        yield f"{run.folder} was trained on {run.document.get('device')}, and this is {name}"
    threads = run.document.get("threads")
    if name == "cpu" and threads not in (None, torch.get_num_threads()):
        yield f"{run.folder} was trained with {threads} threads of torch, and here are {torch.get_num_threads()}"


def root_of_run(folder: Path, dataset: str) -> Path | None:
    """Return where a run's data set counts from, if it is a folder's name and lay elsewhere than here."""
    from gwapctl.datasets import DATASETS
    from gwapctl.datasets.folders import recorded_path
    from gwapctl.datasets.subset import split_name
    from gwapctl.runs import Run

    whole = split_name(dataset)[0]
    root = (Run.open(folder).document.get("dataset") or {}).get("root")
    if root is None or whole in DATASETS or Path(whole).exists():
        return None
    folder_now = recorded_path(whole, Path(root))
    tops = () if folder_now is None else folder_now.parents
    return next((top for top in tops if (top / whole).exists()), None)
