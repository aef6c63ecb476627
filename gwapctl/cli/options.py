"""Options that mean the same in every verb, and the texts they are written in.

A verb declares ``device: options.Device = "auto"``; name, help and panel come from here. Its docstring is its help: one
sentence, and two or three lines under ``Examples:``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from gwapctl.cli import console
from gwapctl.config.settings import MACHINE, NETWORK, Setting, all_settings
from gwapctl.datasets.layouts import folder_layouts
from gwapctl.errors import UsageError, any_of
from gwapctl.maps import MAPS, layer_maps
from gwapctl.maps.reading import AS_STORED, READING_OPTIONS, split_options

if TYPE_CHECKING:
    from gwapctl.regions import BoxRule as Rule

DATA, MODEL, OUTPUT, SETTINGS = "Data", "Model", "Output", "Every setting"


def _set_quiet(value: bool) -> bool:
    console.settings.quiet = console.settings.quiet or value
    return value


def _set_verbose(value: bool) -> bool:
    console.settings.verbose = console.settings.verbose or value
    return value


def _set_debug(value: bool) -> bool:
    console.settings.debug = console.settings.debug or value
    return value


_DATASET = typer.Argument(
    metavar="DATASET",
    help=f"A data set's name (gwapctl data list), or a folder: {folder_layouts()}.",
    show_default=False,
)
DatasetName = Annotated[str, _DATASET]
DatasetNameIfAny = Annotated[str | None, _DATASET]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        help="Folder that holds the data set's official folder, or that folder itself.",
        rich_help_panel=DATA,
        show_default="$GWAPCTL_DATA, ./data, then the cache",
    ),
]
Split = Annotated[
    str | None, typer.Option("--split", help="Split to read.", rich_help_panel=DATA, show_default="the reported one")
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Use only the first N images.", rich_help_panel=DATA, show_default=False),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", envvar="GWAPCTL_OFFLINE", help="Never use the network.", rich_help_panel=MACHINE),
]

ModelSpec = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A run folder, a zoo entry (gwapctl models list) or a saved model's folder.",
        rich_help_panel=MODEL,
        show_default="1,000 classes of ImageNet",
    ),
]
Scales = Annotated[
    str | None,
    typer.Option(
        "--scales",
        help="Input sizes whose maps are averaged, such as 224,448,672.",
        rich_help_panel=MODEL,
        show_default="what the model stores",
    ),
]
Resize = Annotated[
    Literal["warp", "keep"] | None,
    typer.Option(
        "--resize",
        help="Warp each image to the model's aspect ratio, or keep its own.",
        rich_help_panel=MODEL,
        show_default="what the model stores",
    ),
]
MapMethod = Annotated[
    str | None,
    typer.Option(
        "--map",
        help=f"How the map is made: {any_of(MAPS)}.",
        rich_help_panel=MODEL,
        show_default="what the model stores",
    ),
]
Layer = Annotated[
    str | None,
    typer.Option(
        "--layer",
        help=f"Layers of {any_of(layer_maps(), 'and')}: names or numbers of gwapctl models show, such as 3,layers.4.",
        rich_help_panel=MODEL,
        show_default="the last feature map",
    ),
]
Fuse = Annotated[
    Literal["mean", "max", "product"] | None,
    typer.Option(
        "--fuse", help="How the maps of several layers become one.", rich_help_panel=MODEL, show_default="mean"
    ),
]
Close = Annotated[
    str | None,
    typer.Option(
        "--close",
        help="Close gaps in the map up to a share of the shorter side, such as 5%.",
        rich_help_panel=MODEL,
        show_default="what the model stores",
    ),
]
Crops = Annotated[
    Literal["none", "ten"],
    typer.Option("--crops", help="ten: CAM's ten crops, in place of scales.", rich_help_panel=MODEL),
]
BackpropSeg = Annotated[
    Literal["none", "mean", "grabcut"],
    typer.Option("--backprop-seg", help="Cut the map of backprop into object and rest.", rich_help_panel=MODEL),
]
Flip = Annotated[bool, typer.Option("--flip", help="Average maps over the mirrored image, too.", rich_help_panel=MODEL)]
READING = {  # the options of a MapReading
    "map": MapMethod,
    "scales": Scales,
    "resize": Resize,
    "flip": Flip,
    "layer": Layer,
    "fuse": Fuse,
    "close": Close,
    "crops": Crops,
    "backprop_seg": BackpropSeg,
}
BoxRule = Annotated[
    str | None,
    typer.Option(
        "--box-rule",
        help="How a map becomes a box: paper20, otsu or fixed:0.3.",
        rich_help_panel=MODEL,
        show_default="what the model stores",
    ),
]
Threshold = Annotated[
    str | None,
    typer.Option(
        "--threshold",
        help="Short for a box rule: otsu, or a fraction of the map's range such as 0.2.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
Refine = Annotated[
    Literal["grabcut", "none"] | None,
    typer.Option(
        "--refine",
        help="grabcut: boxes follow the edges of the image. none: those of the map alone.",
        rich_help_panel=MODEL,
        show_default="as the box rule says",
    ),
]

Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Where to write.", rich_help_panel=OUTPUT, show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.", rich_help_panel=OUTPUT)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue where an earlier call stopped.", rich_help_panel=OUTPUT)
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.", rich_help_panel=OUTPUT)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=OUTPUT)]

Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=MACHINE)]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    typer.Option("--precision", help="Number format of the network's arithmetic.", rich_help_panel=MACHINE),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Settings from a TOML file, a zoo entry or a name.",
        rich_help_panel=NETWORK,
        show_default=False,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other setting, such as momentum=0.8. Repeatable.",
        rich_help_panel=SETTINGS,
        show_default=False,
    ),
]
ShowSettings = Annotated[
    bool,
    typer.Option("--settings", help="List every setting, its value here, and do nothing.", rich_help_panel=SETTINGS),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", "-b", min=1, help="Images per step.", rich_help_panel=MACHINE, show_default=False),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Threads that read images.",
        rich_help_panel=MACHINE,
        show_default="one per core, up to 8",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Start of every random choice.", rich_help_panel=MACHINE)]

Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Only errors on stderr.", callback=_set_quiet, rich_help_panel=MACHINE),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Say more on stderr.", callback=_set_verbose, rich_help_panel=MACHINE),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        envvar="GWAPCTL_DEBUG",
        help="Show the traceback of an error.",
        callback=_set_debug,
        rich_help_panel=MACHINE,
    ),
]


def with_settings(verb: Callable[..., None]) -> Callable[..., None]:
    """Give the verb a flag for every setting that people use; its ``**given`` gets those that were typed.

    Unset means what the recipe or the data set's defaults say. In the help they come before ``--set``, the parameter
    ``changes``.
    """
    signature = inspect.signature(verb, eval_str=True)
    flags = [_flag(setting) for setting in all_settings().values() if setting.about.flag]
    own = {name: parameter for name, parameter in signature.parameters.items() if name != "given"}
    before = list(own).index("changes")
    every = [*list(own.values())[:before], *flags, *list(own.values())[before:]]

    @functools.wraps(verb)
    def command(**values: Any) -> None:
        typed = {key: value for key, value in values.items() if key not in own and value is not None}
        given = {key: _typed(all_settings()[key], value) for key, value in typed.items()}
        verb(**{name: value for name, value in values.items() if name in own}, **given)

    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in every]
    )
    command.__annotations__ = {one.name: one.annotation for one in every}
    return command


def _setting_help(setting: Setting) -> str:
    """Return the help of a setting's flag, with all names that may stand there."""
    from gwapctl.networks.backbones import BACKBONES
    from gwapctl.networks.heads import HEADS

    names = {"backbone": [*BACKBONES, "timm:NAME"], "head": HEADS}.get(setting.key)
    return setting.about.help if names is None else f"{setting.about.help.rstrip('.')}: {any_of(names)}."


def _flag(setting: Setting) -> inspect.Parameter:
    """Return the parameter that Typer reads for one setting."""
    option = typer.Option(
        *setting.spelling, help=_setting_help(setting), rich_help_panel=setting.about.panel, show_default=False
    )
    annotation: Any = Annotated[_on_the_command_line(setting.plain) | None, option]
    return inspect.Parameter(setting.key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


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


def asked_rule(box_rule: str | None, threshold: str | None) -> Rule | None:
    """Return the rule that ``--box-rule`` or ``--threshold`` names, None where neither is given.

    Raises:
        UsageError: both are given, or there is no such rule.

    """
    from gwapctl.regions import parse_box_rule

    return None if box_rule is None and threshold is None else parse_box_rule(box_rule, threshold=threshold)


def with_reading(verb: Callable[..., None]) -> Callable[..., None]:
    """Let ``verb`` take the options that say how maps are read, and get them as one ``MapReading``.

    They stand where its parameter ``reading`` does.
    """
    signature = inspect.signature(verb, eval_str=True)
    defaults = {name: getattr(AS_STORED, READING_OPTIONS[name]) for name in READING}

    @functools.wraps(verb)
    def command(*arguments: Any, **values: Any) -> None:
        asked = {name: values.pop(name, defaults[name]) for name in READING}
        asked["scales"], asked["layer"] = parse_scales(asked["scales"]), parse_layers(asked["layer"])
        asked["close"] = parse_share(asked["close"], "--close")
        verb(*arguments, reading=split_options(asked)[0], **values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(n, keyword, default=defaults[n], annotation=a) for n, a in READING.items()]
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters += added if parameter.name == "reading" else [parameter.replace(kind=keyword)]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def parse_scales(text: str | None) -> tuple[int, ...] | None:
    """Read ``--scales``: ``"224,448"`` becomes ``(224, 448)``.

    Raises:
        UsageError: not a comma-separated list of positive whole numbers.

    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--scales {text!r} is not a list of sizes in pixels. Write it like --scales 224,448,672.")
    return tuple(int(part) for part in parts)


def parse_layers(text: str | None) -> tuple[str, ...] | None:
    """Read ``--layer``: ``"3,layers.4"`` becomes ``("3", "layers.4")``.

    Raises:
        UsageError: an empty name.

    """
    if text is None:
        return None
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UsageError(f"--layer {text!r} names no layer. Write it like --layer 3 or --layer 3,layers.4.")
    return names


def parse_share(text: str | None, option: str) -> float | None:
    """Read a share: ``"5%"`` and ``"0.05"`` become 0.05.

    Raises:
        UsageError: not a number from 0 to below 1.

    """
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(f"{option} {text!r} is not a share from 0 to below 1. Write it like {option} 5%.")
    return share


def parse_names(text: str | None, option: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Read a comma-separated list whose items must be among ``choices``; None gives ``()``.

    Raises:
        UsageError: an item is unknown; the message lists the choices.

    """
    names = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    for name in names:
        if name not in choices:
            raise UsageError(f"{option} does not know {name!r}. Choose from: {', '.join(choices)}.")
    return names
