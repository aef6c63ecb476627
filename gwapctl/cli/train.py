"""``gwapctl train``: from a data set with image-level labels to a run folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gwapctl.cli import console, options
from gwapctl.errors import UsageError, any_of, lookup
from gwapctl.maps import MAPS
from gwapctl.networks.backbones import BACKBONES
from gwapctl.networks.heads import HEADS

if TYPE_CHECKING:
    from gwapctl.config import DetectorConfig, TrainConfig
    from gwapctl.runs import Run

NETWORK, DETECTOR, SCHEDULE, IMAGES = "Network", "Detector", "Schedule", "Images"
READING = "How the run's maps are read"


def _setting(flag: str, text: str, panel: str, **more: Any) -> Any:
    """Declare one setting: unset means what the recipe or the data set's defaults say."""
    return typer.Option(flag, help=text, rich_help_panel=panel, show_default=False, **more)


def train(
    context: typer.Context,
    dataset: options.DatasetName,
    root: options.Root = None,
    offline: options.Offline = False,
    recipe: Annotated[
        str | None, _setting("--recipe", "Settings from a TOML file, a zoo entry or a name.", NETWORK)
    ] = None,
    backbone: Annotated[
        str | None,
        _setting("--backbone", f"Network that reads the image: {any_of([*BACKBONES, 'timm:NAME'])}.", NETWORK),
    ] = None,
    output_stride: Annotated[
        int | None, _setting("--output-stride", "Pixels per cell of its feature map: 8, 16 or 32.", NETWORK)
    ] = None,
    cam_conv: Annotated[
        bool | None, _setting("--cam-conv/--no-cam-conv", "Add CAM's 3x3 convolution of 1024 channels.", NETWORK)
    ] = None,
    cam_groups: Annotated[int | None, _setting("--cam-groups", "Its groups, 1 or 2 (as released).", NETWORK)] = None,
    head: Annotated[str | None, _setting("--head", f"Pooling and classifier: {any_of(HEADS)}.", NETWORK)] = None,
    head_option: Annotated[
        list[str] | None, _setting("--head-option", "An option of the head, such as r=10. Repeatable.", NETWORK)
    ] = None,
    weights: Annotated[
        str | None, _setting("--weights", "First weights: imagenet, none, a file, a run or a zoo entry.", NETWORK)
    ] = None,
    new_head: Annotated[
        bool | None, _setting("--new-head/--take-head", "Take the backbone alone from --weights.", NETWORK)
    ] = None,
    freeze_backbone: Annotated[
        bool | None, _setting("--freeze-backbone/--train-backbone", "Train the head alone.", NETWORK)
    ] = None,
    cache_features: Annotated[
        bool | None,
        _setting("--cache-features/--no-cache-features", "Run the frozen backbone once, keep its maps.", NETWORK),
    ] = None,
    batch_norm: Annotated[
        Literal["auto", "frozen", "train"] | None,
        _setting("--batch-norm", "auto: frozen when pretrained and the batch is small.", NETWORK),
    ] = None,
    detector: Annotated[
        Literal["rfcn"] | None, _setting("--detector", "Train a detector, from boxes of some images.", DETECTOR)
    ] = None,
    weak: Annotated[
        Literal["none", "gap", "gwap", "gwap+gap"] | None,
        _setting("--weak", "Its branch that learns from image-level labels.", DETECTOR),
    ] = None,
    weak_weight: Annotated[float | None, _setting("--weak-weight", "Of the branch's loss; 0.1.", DETECTOR)] = None,
    box_proportion: Annotated[
        float | None, _setting("--box-proportion", "Share of each class's images that show their boxes.", DETECTOR)
    ] = None,
    pooling: Annotated[
        Literal["ps_roi_pool", "ps_roi_align"] | None, _setting("--pooling", "Of the score maps.", DETECTOR)
    ] = None,
    short_side: Annotated[int | None, _setting("--short-side", "Pixels of an input's shorter side.", DETECTOR)] = None,
    long_side: Annotated[int | None, _setting("--long-side", "At most, of its longer side.", DETECTOR)] = None,
    image_size: Annotated[
        str | None, _setting("--image-size", "Input size, 224 or 320x240 (width x height).", IMAGES)
    ] = None,
    train_sizes: Annotated[
        str | None, _setting("--train-sizes", "Draw each batch's size from these, such as 64,96,128.", IMAGES)
    ] = None,
    batch_size: options.BatchSize = None,
    flip: Annotated[bool | None, _setting("--flip/--no-flip", "Mirror half of the images.", IMAGES)] = None,
    min_crop: Annotated[
        float | None, _setting("--min-crop", "Random crops of at least this share of the image; 1 = none.", IMAGES)
    ] = None,
    background: Annotated[
        str | None, _setting("--background", "Folder of images without objects, for head background.", IMAGES)
    ] = None,
    background_classes: Annotated[
        str | None, _setting("--background-classes", "Or classes, by name or id, that are no targets then.", IMAGES)
    ] = None,
    skip_broken: Annotated[
        bool,
        typer.Option(
            "--skip-broken", help="Leave out images that cannot be read, and count them.", rich_help_panel=IMAGES
        ),
    ] = False,
    val_fraction: Annotated[
        float | None, _setting("--val-fraction", "Share of train held out where there is no val split.", IMAGES)
    ] = None,
    keep: Annotated[
        Literal["best", "last"] | None, _setting("--keep", "Weights to keep: best on validation, or last.", SCHEDULE)
    ] = None,
    epochs: Annotated[int | None, _setting("--epochs", "Length in passes over the images; 0: none.", SCHEDULE)] = None,
    iterations: Annotated[int | None, _setting("--iterations", "Length in optimizer steps.", SCHEDULE)] = None,
    optimizer: Annotated[Literal["sgd", "adamw"] | None, _setting("--optimizer", "sgd or adamw.", SCHEDULE)] = None,
    lr: Annotated[float | None, _setting("--lr", "Learning rate.", SCHEDULE)] = None,
    head_lr_factor: Annotated[float | None, _setting("--head-lr-factor", "The head learns faster.", SCHEDULE)] = None,
    bias_lr_factor: Annotated[float | None, _setting("--bias-lr-factor", "Biases learn faster.", SCHEDULE)] = None,
    momentum: Annotated[float | None, _setting("--momentum", "Of SGD.", SCHEDULE)] = None,
    weight_decay: Annotated[float | None, _setting("--weight-decay", "On weights, not biases.", SCHEDULE)] = None,
    schedule: Annotated[
        Literal["step", "cosine", "constant"] | None, _setting("--schedule", "Of the learning rate.", SCHEDULE)
    ] = None,
    step_every: Annotated[int | None, _setting("--step-every", "Iterations between steps.", SCHEDULE)] = None,
    step_factor: Annotated[float | None, _setting("--step-factor", "Factor of a step.", SCHEDULE)] = None,
    warmup: Annotated[int | None, _setting("--warmup", "Iterations of linear warm-up.", SCHEDULE)] = None,
    accumulate: Annotated[int | None, _setting("--accumulate", "Batches per optimizer step.", SCHEDULE)] = None,
    ema: Annotated[float | None, _setting("--ema", "Keep a moving average of the weights, 0.999.", SCHEDULE)] = None,
    seed: Annotated[int | None, _setting("--seed", "Start of every random choice.", SCHEDULE)] = None,
    map: Annotated[str | None, _setting("--map", f"{any_of(MAPS)}.", READING)] = None,
    scales: Annotated[str | None, _setting("--scales", "Sizes whose maps are averaged: 224,448.", READING)] = None,
    box_rule: Annotated[str | None, _setting("--box-rule", "paper20, otsu or fixed:0.3.", READING)] = None,
    out: options.Out = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    device: options.Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16"] | None, _setting("--precision", "auto: bf16 where native.", options.MACHINE)
    ] = None,
    compile: Annotated[bool | None, _setting("--compile/--no-compile", "Use torch.compile.", options.MACHINE)] = None,
    deterministic: Annotated[
        bool | None, _setting("--deterministic/--fast", "Only deterministic algorithms.", options.MACHINE)
    ] = None,
    workers: options.Workers = None,
    feature_cache: Annotated[
        Path | None,
        typer.Option(
            "--feature-cache",
            envvar="GWAPCTL_FEATURES",
            help="Folder for --cache-features; trainings share it.",
            rich_help_panel=options.MACHINE,
            show_default="in the user's cache",
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also log to RUN/tensorboard.", rich_help_panel=options.OUTPUT)
    ] = False,
) -> None:
    """Train a classifier that says where it looks, from image-level labels alone; or a detector from few boxes.

    Examples:
      gwapctl train voc --backbone googlenet
      gwapctl train my-photos --epochs 20 --out runs/mine
      gwapctl train voc07+12 --detector rfcn --weak gwap --box-proportion 0.05

    """
    from gwapctl.config import SETTINGS, build_train_config
    from gwapctl.networks.zoo import find_recipe
    from gwapctl.runs import new_run_folder
    from gwapctl.train.recipes import default_recipe

    chosen = {name: context.params.get(name) for name in SETTINGS - {"dataset", "recipe"}}
    chosen |= {"image_size": options.parse_size(image_size), "train_sizes": options.parse_scales(train_sizes)}
    chosen["scales"] = options.parse_scales(scales)
    chosen["head_options"] = _head_options(head_option)
    chosen["background_classes"] = _names(background_classes)
    given = {name: value for name, value in chosen.items() if value is not None}
    if resume:
        config = _resumed_config(dataset, out, given)
    else:
        recipe = recipe or default_recipe(dataset, given)
        config = build_train_config(dataset, find_recipe(recipe) if recipe else None, given)
    folder = out or new_run_folder(Path("runs"), f"{Path(dataset).name}-{config.backbone}-{config.method}")
    _require_network(config)
    if dry_run:
        _show_plan(config, folder, root, json)
        return
    _run(
        config, folder, root, offline, resume, overwrite, device, workers, feature_cache, tensorboard, skip_broken, json
    )


def _require_network(config: TrainConfig | DetectorConfig) -> None:
    """Find out at once whether the network can be built, before anything is promised, downloaded or opened."""
    import torch

    from gwapctl.config import DetectorConfig
    from gwapctl.networks.backbones import build_backbone, pretrained_weights_info
    from gwapctl.networks.heads import check_head
    from gwapctl.networks.rfcn.trunk import check_trunk
    from gwapctl.regions import parse_box_rule

    if isinstance(config, DetectorConfig):
        check_trunk(config.backbone)
        return
    pretrained_weights_info(config.backbone)
    if config.output_stride is not None:
        with torch.device("meta"):  # shapes alone: nothing is allocated or drawn
            build_backbone(config.backbone, output_stride=config.output_stride)
    check_head(config.head, config.head_options)
    if config.map is not None:
        lookup("map method", config.map, MAPS)
    if config.box_rule is not None:
        parse_box_rule(config.box_rule)


def _names(text: str | None) -> tuple[str, ...] | None:
    """Split a comma-separated list; None stays None."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _head_options(texts: list[str] | None) -> dict[str, int | float] | None:
    """Read ``name=number`` pairs."""
    pairs = [text.partition("=") for text in texts or []]
    try:
        return {name: int(value) if value.isdecimal() else float(value) for name, _, value in pairs} or None
    except ValueError:
        raise UsageError(f"--head-option takes name=number, such as r=10, not {', '.join(texts or [])}.") from None


def _resumed_config(dataset: str, out: Path | None, given: dict[str, Any]) -> TrainConfig | DetectorConfig:
    """Take the settings from the run that is resumed; a flag that says otherwise is a mistake."""
    from gwapctl.config import stored_config
    from gwapctl.runs import Run

    if out is None:
        raise UsageError("--resume needs the run folder. Give it with --out.")
    stored = stored_config(Run.open(out).document["config"])
    asked = {"dataset": dataset, **given}
    wrong = [name for name, value in asked.items() if getattr(stored, name, None) != value]
    if wrong:
        was = ", ".join(f"{name} = {getattr(stored, name, None)}" for name in wrong)
        raise UsageError(f"{out} was started with {was}. Resume it with the same settings, or start another --out.")
    return stored


def _run(
    config: TrainConfig | DetectorConfig,
    folder: Path,
    root: Path | None,
    offline: bool,
    resume: bool,
    overwrite: bool,
    device: str,
    workers: int | None,
    feature_cache: Path | None,
    tensorboard: bool,
    skip_broken: bool,
    json: bool,
) -> None:
    """Fetch what is missing and may be fetched, train, and say what came out."""
    from gwapctl.config import DetectorConfig
    from gwapctl.datasets.download import ensure_dataset
    from gwapctl.files import prepare_output_folder
    from gwapctl.networks.heads import head_class
    from gwapctl.train.bookkeeping import require_tensorboard
    from gwapctl.train.classification import train as train_classifier
    from gwapctl.train.detection import train_detector

    if tensorboard:  # before anything is downloaded
        require_tensorboard()
    with console.progress("downloading") as fetched:
        ensure_dataset(config.dataset, root, offline=offline, progress=fetched, announce=console.note)
    announce_weights(config, offline)
    if resume and root is None:
        root = _root_of_run(folder, config.dataset)
    prepare_output_folder(folder, overwrite=overwrite, resume=resume)
    by = f" by recipe {config.recipe}" if config.recipe else ""
    console.note(f"training {config.backbone} + {config.method} on {config.dataset}{by} into {folder}")
    if not isinstance(config, DetectorConfig) and head_class(config.head).sees_boxes:
        console.note("this head sees ground-truth boxes, in training and in use: it is not weakly supervised")
    with console.progress("training") as shown:
        verb: Callable[..., Run] = partial(train_classifier, feature_cache=feature_cache, detail=console.detail)
        if isinstance(config, DetectorConfig):
            verb = train_detector
        run = verb(
            config,
            folder,
            root=root,
            device=device,
            workers=workers,
            resume=resume,
            tensorboard=tensorboard,
            skip_broken=skip_broken,
            announce=console.note,
            warn=console.warn,
            check_progress=shown,
            progress=shown,
        )
    _show_result(run, json)


def _root_of_run(folder: Path, dataset: str) -> Path | None:
    """Return where a run's data set counts from, if it is a folder's name and lay elsewhere than here."""
    from gwapctl.datasets import DATASETS
    from gwapctl.datasets.places import recorded_place
    from gwapctl.datasets.subset import split_name
    from gwapctl.runs import Run

    whole = split_name(dataset)[0]
    root = (Run.open(folder).document.get("dataset") or {}).get("root")
    if root is None or whole in DATASETS or Path(whole).exists():
        return None
    place = recorded_place(whole, Path(root))
    tops = [] if place is None else [top for top in place.parents if (top / whole).exists()]
    return tops[0] if tops else None


def announce_weights(config: TrainConfig | DetectorConfig, offline: bool) -> None:
    """Say what will be downloaded, or refuse when nothing may be."""
    from gwapctl.config import DetectorConfig
    from gwapctl.networks.backbones import pretrained_weights_info
    from gwapctl.networks.rfcn.trunk import trunk_weights

    weights = trunk_weights if isinstance(config, DetectorConfig) else pretrained_weights_info
    info = weights(config.backbone) if config.weights == "imagenet" else None
    if info is None or info.cached:
        return
    if offline:
        raise UsageError(
            f"--weights imagenet needs {info.url} ({info.size_mb:.0f} MB), and --offline forbids it. Put the file at "
            f"{info.path}, or use --weights none, a run, a zoo entry or a weights.safetensors."
        )
    console.note(f"downloading ImageNet weights of {config.backbone}: {info.size_mb:.0f} MB from {info.url}")


def _show_plan(config: TrainConfig | DetectorConfig, folder: Path, root: Path | None, json: bool) -> None:
    """Print the settings as they would be written to ``run.json``, and where the run would go."""
    settings = config.model_dump(mode="json")
    if json:
        console.print_json({"schema_version": 1, "out": str(folder), "root": root and str(root), "config": settings})
        return
    console.print_table(["setting", "value"], [(name, _text(value)) for name, value in settings.items()])
    console.note(f"would train into {folder}")


def _show_result(run: Run, json: bool) -> None:
    best = {name: value for name, value in run.document["best"].items() if name not in ("iteration", "selection")}
    subset = run.document.get("box_subset")
    if json:
        boxes = {"box_subset": subset} if subset else {}
        console.print_json({"schema_version": 1, "run": str(run.folder), **run.document["best"], **boxes})
        return
    if subset:
        console.note(
            f"{subset['n']} images ({subset['fraction']:.1%}) showed their boxes: {run.folder}/box_labelled.txt"
        )
    numbers = ", ".join(f"{name} {value:.2f}" for name, value in best.items())
    console.note(f"finished {run.folder}" + (f"; validation: {numbers}" if numbers else ""))
    console.note(f"next: gwapctl evaluate {run.folder}, or gwapctl localize IMAGE --model {run.folder}")


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
