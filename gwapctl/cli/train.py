"""``gwapctl train``: from a data set with image-level labels to a run folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gwapctl.cli import console, many, options
from gwapctl.cli.repeat import root_of_run
from gwapctl.cli.settings_table import chosen_recipe, show_settings
from gwapctl.config.settings import all_settings, parse_changes
from gwapctl.config.settings import successor as successor  # what the command line asks about a flag that is no more
from gwapctl.errors import GwapctlError, UsageError

if TYPE_CHECKING:
    from gwapctl.cli.repeat import Repeat
    from gwapctl.config import DetectorConfig, TrainConfig
    from gwapctl.runs import Run
    from gwapctl.train.pseudo import BoxSource
    from gwapctl.train.task import Task

SkipBroken = Annotated[
    bool, options.option("--skip-broken", "Leave out images that cannot be read, and count them.", options.DATA)
]
Folds = Annotated[
    int | None,
    options.option(
        "--folds", "First estimate by this many trainings, each with other images held out.", options.DATA, min=2
    ),
]
FromRun = Annotated[
    Path | None,
    options.option("--from-run", "Repeat this run: its data, settings and seed.", options.DATA),
]
Tensorboard = Annotated[bool, options.option("--tensorboard", "Also log to RUN/tensorboard.", options.OUTPUT)]


@options.with_settings
def train(
    *,
    dataset: options.DatasetNameIfAny = None,
    root: options.Root = None,
    skip_broken: SkipBroken = False,
    folds: Folds = None,
    from_run: FromRun = None,
    recipe: options.Recipe = None,
    given: dict[str, Any],
    changes: options.Changes = None,
    settings: options.ShowSettings = False,
    out: options.Out = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    tensorboard: Tensorboard = False,
    device: options.Device = "auto",
    offline: options.Offline = False,
    workers: options.Workers = None,
    feature_cache: options.FeatureCache = None,
) -> None:
    """Train a classifier that says where it looks, from image-level labels alone; or a detector.

    A detector learns from few true boxes, or from boxes that a classifier or another tool found.

    Examples:
      gwapctl train voc --backbone googlenet
      gwapctl train my-photos --epochs 20 --set momentum=0.8 --out runs/mine
      gwapctl train voc07+12 --detector rfcn --weak gwap --box-proportion 0.05
      gwapctl train my-photos --detector rfcn --boxes-from runs/mine --out runs/found
      gwapctl train --from-run runs/mine --out runs/again

    """
    from gwapctl.train.recipes import with_network_of_weights

    typed = _asked(given, changes)
    asked = with_network_of_weights(typed)
    if settings:
        show_settings(dataset, recipe, {key: "flag" if key in given else "--set" for key in typed}, asked, json)
        return
    repeat: Repeat | None = None
    if from_run is not None:
        from gwapctl.cli.repeat import repeat_of

        others = {"DATASET": dataset, "--recipe": recipe, "--folds": folds, "--resume": resume}
        others |= {"--skip-broken": skip_broken, **{_flag_of(key): True for key in typed}}
        repeat = repeat_of(from_run, root, device, offline, others)
        dataset, root, skip_broken = repeat.config.dataset, repeat.root, repeat.skip_broken
    if dataset is None:
        raise UsageError("Missing argument 'DATASET': a data set's name (gwapctl data list), or a folder.")
    processes = many.meet()
    from gwapctl.config import build_train_config
    from gwapctl.device import resolve_device
    from gwapctl.files import require_output_folder
    from gwapctl.runs import Run, fold_folder, new_run_folder

    if folds and {"val_fraction", "fold"} & asked.keys():
        raise UsageError("--folds holds out an equal share of the images each time. Leave out --val-fraction and fold.")
    many.require_for_many(processes, out, folds)
    if out and processes.restarted and processes.on_first(lambda: many.was_launched(out, processes)):
        resume, overwrite = True, False
        if Run.open(out).finished:
            return
    if resume:
        config = _resumed_config(dataset, out, typed, folds)
    else:
        config = (
            repeat.config if repeat else build_train_config(dataset, chosen_recipe(dataset, recipe, asked)[1], asked)
        )
    folder = out or new_run_folder(Path("runs"), f"{Path(dataset).name}-{config.backbone}-{config.method}")
    _task(config).check(config)
    resolve_device(processes.device(device))
    boxes = _box_source(config, folder, device, workers, resume)
    if dry_run:
        if processes.first:
            _show_plan(config, folder, root, json)
        return
    from gwapctl.train import loop
    from gwapctl.train.history import require_tensorboard
    from gwapctl.train.task import Listener, Resources

    if tensorboard:  # this and what follows: before anything is downloaded
        require_tensorboard()
    if resume and root is None:
        root = root_of_run(fold_folder(folder, 0) if folds else folder, dataset)
    require_weights(config, offline, root)
    processes.on_first(lambda: require_output_folder(folder, overwrite=overwrite, resume=resume))
    with processes.in_turn():
        options.fetch_dataset(dataset, root, offline, heard=processes.beating)

    counted_folds = ["--folds", str(folds)] if folds else []
    again = shlex.join(["gwapctl", "train", dataset, *counted_folds, "--out", str(folder), "--resume"])

    def train_into(config: TrainConfig | DetectorConfig, into: Path) -> Run:
        _announce_training(config, into)
        with console.resumable(folder, again), console.progress("training") as shown:
            return loop.train_with(
                Resources.find(device, workers, feature_cache, root, boxes=boxes, processes=processes),
                config,
                into,
                skip_broken=skip_broken,
                resume=resume and (into / "run.json").is_file(),
                tensorboard=tensorboard,
                keep_folds=folds is not None,
                listener=Listener(console.note, console.detail, console.warn, shown, shown),
            )

    if folds is None:
        run = train_into(config, folder)
        if processes.first:
            _show_result(run, root, json)
        processes.leave()
        return
    from gwapctl.cli.folds import estimate_and_train
    from gwapctl.evaluate import Options

    options_of_folds = Options(root=root, device=device, workers=workers, split="held-out")
    run = estimate_and_train(config, folder, folds, train_into, options_of_folds, json=json, resume=resume)
    if not json:
        _show_result(run, root, json)


def _asked(given: dict[str, Any], changes: list[str] | None) -> dict[str, Any]:
    """Return the settings that flags and ``--set`` give; a setting that both give is a mistake."""
    changed = parse_changes(changes or [])
    both = sorted(given.keys() & changed.keys())
    if both:
        raise UsageError(f"{_flag_of(both[0])} and --set {both[0]} are the same setting. Give one of them.")
    return given | changed


def _flag_of(key: str) -> str:
    """Write a setting as it is typed."""
    setting = all_settings()[key]
    return setting.words[0] if setting.about.flag else f"--set {key}"


def _resumed_config(
    dataset: str, out: Path | None, given: dict[str, Any], folds: int | None = None
) -> TrainConfig | DetectorConfig:
    """Take the settings from the run that is resumed; a flag that says otherwise is a mistake.

    Of ``folds`` the first run says what that on all images will be trained with, too.
    """
    from gwapctl.config import stored_config
    from gwapctl.runs import Run, fold_folder

    if out is None:
        raise UsageError("--resume needs the run folder. Give it with --out.")
    first = fold_folder(out, 0) if folds else out
    stored = stored_config(Run.open(first).document["config"])
    asked = {"dataset": dataset, **given}
    wrong = [name for name, value in asked.items() if getattr(stored, name, None) != value]
    if wrong:
        was = ", ".join(f"{name} = {getattr(stored, name, None)}" for name in wrong)
        raise UsageError(f"{out} was started with {was}. Resume it with the same settings, or start another --out.")
    return stored


def _task(config: TrainConfig | DetectorConfig) -> type[Task[Any, Any]]:
    from gwapctl.train.loop import TASKS

    return TASKS[type(config)]


def _box_source(
    config: TrainConfig | DetectorConfig, folder: Path, device: str, workers: int | None, resume: bool
) -> BoxSource | None:
    """Return what finds the boxes that a detector is to learn from, None where there are none to find."""
    from gwapctl.train.pseudo import boxes_file

    spec = getattr(config, "boxes_from", None)
    if spec is None or (resume and boxes_file(folder, 1).is_file()):
        return None
    from gwapctl.evaluate.training_boxes import TrainingBoxes

    return TrainingBoxes(spec, device, workers)


def _announce_training(config: TrainConfig | DetectorConfig, folder: Path) -> None:
    by = f" by recipe {config.recipe}" if config.recipe else ""
    console.note(f"training {config.backbone} + {config.method} on {config.dataset}{by} into {folder}")
    for remark in _task(config).remarks(config):
        console.note(remark)


def require_weights(config: TrainConfig | DetectorConfig, offline: bool, root: Path | None) -> None:
    """Refuse first weights that are not there, and a download that is not allowed; say which released file is read."""
    from gwapctl.networks.backbones.caffe_releases import CAFFE
    from gwapctl.networks.weights_packages import way_on
    from gwapctl.networks.zoo import find_weights

    if config.weights not in ("none", "imagenet"):
        file = find_weights(config.weights, root)
        if file.suffix == CAFFE:
            console.note(f"weights: {file}")
    info = _task(config).imagenet_weights(config) if config.weights == "imagenet" else None
    if info is not None and offline and not info.cached:
        raise UsageError(
            f"--weights imagenet needs {info.url} ({info.size_mb:.0f} MB), and --offline forbids it. {way_on()} "
            f"Or put the file at {info.path}."
        )


def _show_plan(config: TrainConfig | DetectorConfig, folder: Path, root: Path | None, json: bool) -> None:
    """Print the settings as they would be written to ``run.json``, the images they meet, and where the run would go."""
    settings = config.model_dump(mode="json")
    data, words = _planned_data(config, root)
    if json:
        console.print_json(
            {"schema_version": 1, "out": str(folder), "root": root and str(root), "config": settings, "data": data}
        )
        return
    every = all_settings()
    written = {key: every[key].write(value) if key in every else value for key, value in settings.items()}
    console.print_table(["setting", "value"], list(written.items()))
    console.note(words)
    console.note(f"would train into {folder}")


def _planned_data(config: TrainConfig | DetectorConfig, root: Path | None) -> tuple[dict[str, Any] | None, str]:
    """Return which images a training sees and is judged by, as ``run.json`` would say it, and in words.

    None, and the words say why, where the data set cannot be opened: it may come when training starts.
    """
    from gwapctl.datasets import reporting_split

    try:
        data = _task(config).load_data(config, root, lambda whole: whole)
    except UsageError:  # that will not become right
        raise
    except GwapctlError as error:
        return None, f"images not counted: {error}"
    described = data.describe()
    found = {key: described[key] for key in ("train_split", "n_train", "val_split", "n_val")}
    try:
        reported, where = reporting_split(data.dataset), ""
    except GwapctlError:
        reported, where = data.dataset.reported or "none", ", which is not here"
    return found | {"reporting_split": reported}, f"{data.summary}; results are reported on {reported}{where}"


def _show_result(run: Run, root: Path | None, json: bool) -> None:
    from gwapctl.files import read_json

    best = {name: value for name, value in run.document["best"].items() if name not in ("iteration", "selection")}
    subset = run.document.get("box_subset")
    if json:
        boxes = {"box_subset": subset} if subset else {}
        console.print_json({"schema_version": 1, "run": str(run.folder), **run.document["best"], **boxes})
        return
    config = run.document["config"]
    if config.get("boxes_from"):
        from gwapctl.train.pseudo import boxes_file

        console.note(f"learned from found boxes alone, at last those in {boxes_file(run.folder, config['rounds'])}")
    elif subset:
        console.note(
            f"{subset['n']} images ({subset['fraction']:.1%}) showed their boxes: {run.folder}/box_labelled.txt"
        )
    numbers = ", ".join(f"{name} {value:.2f}" for name, value in best.items())
    judged = run.document["dataset"].get("val_split")
    console.note(f"finished {run.folder}" + (f"; validation on {judged}: {numbers}" if numbers else ""))
    stored = read_json(run.folder / "model.json")
    if stored.get("none_threshold") is not None:
        n = stored["provenance"]["none"]
        console.note(
            f"an image whose best class scores below {stored['none_threshold']:.2f} shows none of the classes: chosen "
            f"on {n['n_nothing']} held-out images of nothing and {n['n_shown']} others"
        )
    for command in _next(run, root):
        console.note(f"next: {shlex.join(command)}")


def _next(run: Run, root: Path | None) -> Iterator[list[str]]:
    """Yield what can be done with a run, as it can be typed: measure it, look at images of its data set."""
    from gwapctl.datasets import open_dataset, reporting_split
    from gwapctl.evaluate.subject import HELD_OUT

    folder, known = str(run.folder), run.document["dataset"]
    at = [] if root is None else ["--root", str(root)]
    try:
        reporting_split(open_dataset(run.document["config"]["dataset"], root))
        yield ["gwapctl", "evaluate", folder, *at]
    except GwapctlError:  # the images that it held out are all there is to measure on
        if known["n_val"]:
            yield ["gwapctl", "evaluate", folder, "--split", HELD_OUT, *at]
    if known.get("example"):
        yield ["gwapctl", "localize", known["example"], "--model", folder]
