"""Options that mean the same in every verb, and how a verb declares its own.

A verb declares ``device: options.Device = "auto"``; name, help and panel come from here. Its docstring is its help: one
sentence, and two or three lines under ``Examples:``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from gwapctl.cli import complete, console
from gwapctl.cli.parse import parse_layers, parse_scales, parse_share
from gwapctl.config.settings import MACHINE, NETWORK, Setting, all_settings
from gwapctl.datasets import DATASETS
from gwapctl.datasets.layouts import folder_layouts
from gwapctl.errors import UsageError, any_of
from gwapctl.maps import MAPS, layer_maps
from gwapctl.maps.reading import AS_STORED, READING_OPTIONS, MapReading, split_options
from gwapctl.offline import go_offline

if TYPE_CHECKING:
    from gwapctl.progress import ProgressCallback
    from gwapctl.regions import BoxRule as Rule

DATA, MODEL, OUTPUT, SETTINGS = "Data", "Model", "Output", "Every setting"
STORED = "what the model stores"
Verb = Callable[..., None]


def option(words: str, help: str, panel: str | None = None, unset: str = "", **more: Any) -> Any:
    """Declare an option: its ``words`` (``"--out -o"``), help and panel, and what holds where it is ``unset``."""
    return typer.Option(*words.split(), help=help, rich_help_panel=panel, show_default=unset or True, **more)


def argument(metavar: str, help: str, **more: Any) -> Any:
    """Declare an argument."""
    return typer.Argument(metavar=metavar, help=help, **more)


def _switch(words: str, help: str, name: str, **more: Any) -> Any:
    """Declare an option that sets ``name`` of the console's settings, at any level of the command line."""

    def remember(value: bool) -> bool:
        setattr(console.settings, name, getattr(console.settings, name) or value)
        return value

    return option(words, help, MACHINE, callback=remember, **more)


_DATASET = argument(
    "DATASET",
    f"A data set's name (gwapctl data list), or a folder: {folder_layouts()}.",
    autocompletion=complete.entries(DATASETS),
)
DatasetName = Annotated[str, _DATASET]
DatasetNameIfAny = Annotated[str | None, _DATASET]
Root = Annotated[
    Path | None,
    option(
        "--root",
        "Folder that holds the data set's official folder, or that folder itself.",
        DATA,
        "$GWAPCTL_DATA, ./data, then the cache",
    ),
]
Limit = Annotated[int | None, option("--limit", "Use only the first N images.", DATA, min=1)]


def _remember_offline(value: bool) -> bool:
    if value:
        go_offline()
    return value


Offline = Annotated[
    bool,
    option("--offline", "Never use the network.", MACHINE, envvar="GWAPCTL_OFFLINE", callback=_remember_offline),
]

ModelSpec = Annotated[
    str | None,
    option(
        "--model -m",
        "A run folder, a zoo entry (gwapctl models list) or a saved model's folder.",
        MODEL,
        "1,000 classes of ImageNet",
        autocompletion=complete.names(complete.models),
    ),
]
MapMethod = Annotated[
    str | None,
    option("--map", f"How the map is made: {any_of(MAPS)}.", MODEL, STORED, autocompletion=complete.entries(MAPS)),
]
Scales = Annotated[
    str | None, option("--scales", "Input sizes whose maps are averaged, such as 224,448,672.", MODEL, STORED)
]
READING = {  # the options of a MapReading
    "map": MapMethod,
    "scales": Scales,
    "resize": Annotated[
        Literal["warp", "keep"] | None,
        option("--resize", "Warp each image to the model's aspect ratio, or keep its own.", MODEL, STORED),
    ],
    "flip": Annotated[bool, option("--flip", "Average maps over the mirrored image, too.", MODEL)],
    "layer": Annotated[
        str | None,
        option(
            "--layer",
            f"Layers of {any_of(layer_maps(), 'and')}: names or numbers of gwapctl models show, such as 3,layers.4.",
            MODEL,
            "the last feature map",
        ),
    ],
    "fuse": Annotated[
        Literal["mean", "max", "product"] | None,
        option("--fuse", "How the maps of several layers become one.", MODEL, "mean"),
    ],
    "close": Annotated[
        str | None,
        option("--close", "Close gaps in the map up to a share of the shorter side, such as 5%.", MODEL, STORED),
    ],
    "crops": Annotated[
        Literal["none", "ten", "centre"],
        option("--crops", "In place of scales: CAM's ten crops, or the centre (resize 256, crop 224).", MODEL),
    ],
    "backprop_seg": Annotated[
        Literal["none", "mean", "grabcut"],
        option("--backprop-seg", "Cut the map of backprop into object and rest.", MODEL),
    ],
    "beta": Annotated[
        float | None,
        option("--beta", "How strongly the loss of dgl asks for the class.", MODEL, f"{STORED}, else 10", min=0),
    ],
}
BoxRule = Annotated[
    str | None, option("--box-rule", "How a map becomes a box: paper20, otsu or fixed:0.3.", MODEL, STORED)
]
Threshold = Annotated[
    str | None,
    option("--threshold", "Short for a box rule: otsu, or a fraction of the map's range such as 0.2.", MODEL),
]
Refine = Annotated[
    Literal["grabcut", "none"] | None,
    option(
        "--refine",
        "grabcut: boxes follow the edges of the image. none: those of the map, or the detector, alone.",
        MODEL,
        "as the model says",
    ),
]
Labels = Annotated[
    Literal["from-dataset"] | None,
    option("--labels", "The input is a data set: box exactly the classes that its labels name.", MODEL, "the model's"),
]

Out = Annotated[Path | None, option("--out -o", "Where to write.", OUTPUT)]
Overwrite = Annotated[bool, option("--overwrite", "Replace what is there already.", OUTPUT)]
Resume = Annotated[bool, option("--resume", "Continue where an earlier call stopped.", OUTPUT)]
DryRun = Annotated[bool, option("--dry-run", "Say what would be done, and do nothing.", OUTPUT)]
Json = Annotated[bool, option("--json", "Print JSON.", OUTPUT)]

Recipe = Annotated[
    str | None,
    option(
        "--recipe",
        "Settings from a TOML file, a zoo entry or a name.",
        NETWORK,
        autocompletion=complete.names(complete.recipes),
    ),
]
FeatureCache = Annotated[
    Path | None,
    option(
        "--feature-cache",
        "Folder for --cache-features; trainings share it.",
        MACHINE,
        "in the user's cache",
        envvar="GWAPCTL_FEATURES",
    ),
]
Changes = Annotated[
    list[str] | None,
    option("--set", "Any other setting, such as momentum=0.8. Repeatable.", SETTINGS, metavar="KEY=VALUE"),
]
ShowSettings = Annotated[bool, option("--settings", "List every setting, its value here, and do nothing.", SETTINGS)]

Device = Annotated[str, option("--device", "auto, cpu, cuda, cuda:1 or mps.", MACHINE)]
BatchSize = Annotated[int | None, option("--batch-size -b", "Images per step.", MACHINE, min=1)]
Workers = Annotated[
    int | None, option("--workers", "Threads that read images.", MACHINE, "one per core, up to 8", min=0)
]
EvaluatedFeatures = Annotated[
    Path | None,
    option(
        "--feature-cache",
        "Folder of feature maps of frozen backbones, to read in place of images where they suffice.",
        MACHINE,
        "none",
    ),
]
Seed = Annotated[int, option("--seed", "Start of every random choice.", MACHINE)]
Quiet = Annotated[bool, _switch("--quiet -q", "Only errors on stderr.", "quiet")]
Verbose = Annotated[bool, _switch("--verbose -v", "Say more on stderr.", "verbose")]
Debug = Annotated[bool, _switch("--debug", "Show the traceback of an error.", "debug", envvar="GWAPCTL_DEBUG")]


def with_common(verb: Verb) -> Verb:
    """Add ``-q``, ``-v`` and ``--debug``, whose callbacks do all there is to do, so that they work after every verb."""
    common = {"quiet": (Quiet, False), "verbose": (Verbose, False), "debug": (Debug, False)}
    return _expanded(verb, "", common, lambda _: {})


def with_settings(verb: Verb) -> Verb:
    """Put a flag for every setting that people use where the verb has ``given``, which gets those that were typed.

    Unset means what the recipe or the data set's defaults say.
    """
    flags = {key: setting for key, setting in all_settings().items() if setting.about.flag}

    def given(values: dict[str, Any]) -> dict[str, Any]:
        return {"given": {key: _typed(flags[key], value) for key, value in values.items() if value is not None}}

    return _expanded(verb, "given", {key: (_flag(setting), None) for key, setting in flags.items()}, given)


def with_reading(verb: Verb) -> Verb:
    """Put the options that say how maps are read where the verb has ``reading``, one ``MapReading``."""

    def reading(values: dict[str, Any]) -> dict[str, MapReading]:
        values |= {"scales": parse_scales(values["scales"]), "layer": parse_layers(values["layer"])}
        values["close"] = parse_share(values["close"], "--close")
        return {"reading": split_options(values)[0]}

    options = {name: (kind, getattr(AS_STORED, READING_OPTIONS[name])) for name, kind in READING.items()}
    return _expanded(verb, "reading", options, reading)


def _expanded(
    verb: Verb, name: str, options: Mapping[str, tuple[Any, Any]], gather: Callable[[dict[str, Any]], dict[str, Any]]
) -> Verb:
    """Return ``verb`` as Typer is to see it: with ``options`` in place of its parameter ``name``, or else at the end.

    ``options`` are annotation and default by name; ``gather`` makes arguments of the verb of their values.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(key, keyword, annotation=kind, default=unset) for key, (kind, unset) in options.items()]
    parameters = [one.replace(kind=keyword) for one in inspect.signature(verb, eval_str=True).parameters.values()]
    index = next((index for index, one in enumerate(parameters) if one.name == name), len(parameters))
    parameters[index : index + 1] = added

    @functools.wraps(verb)
    def command(**values: Any) -> None:
        gathered = gather({key: values.pop(key) for key in options})
        verb(**values, **gathered)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _flag(setting: Setting) -> Any:
    """Return the annotation that Typer reads for one setting; its help lists the names that may stand there."""
    from gwapctl.networks.backbones import BACKBONES
    from gwapctl.networks.heads import HEADS
    from gwapctl.train.augmentations import AUGMENTATIONS

    kinds: dict[str, Mapping[str, Any]] = {"backbone": BACKBONES, "head": HEADS, "augment": AUGMENTATIONS}
    help, more = setting.about.help, dict[str, Any]()
    if setting.key in kinds:
        registry = kinds[setting.key]
        names = [*registry, *["timm:NAME"] * (setting.key == "backbone")]
        help, more = f"{help.rstrip('.')}: {any_of(names)}.", {"autocompletion": complete.entries(registry)}
    elif setting.key == "weights":
        more = {"autocompletion": complete.names(complete.weights)}
    kind = _on_the_command_line(setting.plain) | None
    return Annotated[kind, option(setting.spelling, help, setting.about.panel, **more)]


def _on_the_command_line(kind: Any) -> Any:
    """Return the type that Typer reads a setting as; what it cannot read is a text, which the setting itself reads."""
    if get_origin(kind) is Literal:
        return kind if isinstance(get_args(kind)[0], str) else type(get_args(kind)[0])
    return kind if kind in (bool, int, float) else str


def _typed(setting: Setting, value: Any) -> Any:
    return value if setting.plain is str or not isinstance(value, str) else setting.parse(value)


def model_or_default(model: str | None) -> str:
    """Return ``--model``, or the default's name; say so where another has to stand in for it."""
    if model is not None:
        return model
    from gwapctl.networks.zoo import default_model

    name, stand_in = default_model()
    if stand_in:
        console.warn(stand_in)
    return name


def fetch_dataset(
    name: str,
    root: Path | None,
    offline: bool,
    splits: Sequence[str] | None = None,
    heard: Callable[[ProgressCallback], ProgressCallback] = lambda callback: callback,
) -> None:
    """Download what ``splits`` of a data set lack, by default those to train on, if it is one that comes by itself.

    ``heard`` makes what hears of progress from what shows it.
    """
    from gwapctl.datasets.download import TRAINING, ensure_dataset

    wanted = TRAINING if splits is None else splits
    with console.progress("downloading") as progress:
        ensure_dataset(name, root, offline=offline, splits=wanted, progress=heard(progress), announce=console.note)


def require_suffix(out: Path | None, *suffixes: str, name: str = "--out") -> None:
    """Refuse a file whose suffix says that it is something else than what is written there.

    Raises:
        UsageError: it ends in another suffix than ``suffixes``; one without any is what it is.

    """
    if out is not None and out.suffix and out.suffix.lower() not in suffixes:
        raise UsageError(f"{name} {out} does not end in {any_of(suffixes)}, which is what is written there.")


def asked_rule(box_rule: str | None, threshold: str | None) -> Rule | None:
    """Return the rule that ``--box-rule`` or ``--threshold`` names, None where neither is given.

    Raises:
        UsageError: both are given, or there is no such rule.

    """
    from gwapctl.regions import parse_box_rule

    return None if box_rule is None and threshold is None else parse_box_rule(box_rule, threshold=threshold)
