"""Every training setting, declared once: type, default, bounds, help, panel, and whether it has a flag of its own.

What reads the declarations: ``run_config`` checks by them, ``gwapctl train`` makes its flags, ``--set`` and
``--settings`` from them, and ``docs/settings.md`` is written from them. No pydantic here: help needs these classes, and
importing pydantic takes longer than drawing the help.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from gwapctl.errors import UsageError

NETWORK, DETECTOR, IMAGES, SCHEDULE, MACHINE = "Network", "Detector", "Images", "Schedule", "Machine"
READING = "Reading maps"  # what the run stores
PANELS = (NETWORK, DETECTOR, IMAGES, SCHEDULE, READING, MACHINE)

BOOLEANS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class Bounds:
    """What a number must keep to. pydantic reads it as metadata of ``annotated_types``, by that package's protocol."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    __is_annotated_types_grouped_metadata__ = True

    def __iter__(self) -> Iterator[object]:
        import annotated_types

        for name, kind in (("ge", "Ge"), ("gt", "Gt"), ("le", "Le"), ("lt", "Lt")):
            if (bound := getattr(self, name)) is not None:
                yield getattr(annotated_types, kind)(bound)

    def __str__(self) -> str:
        signs = {">=": self.ge, ">": self.gt, "<=": self.le, "<": self.lt}
        return ", ".join(f"{sign} {bound}" for sign, bound in signs.items() if bound is not None)


@dataclass(frozen=True)
class About:
    """What a declaration says beside type and default: of a setting that is ``--set KEY=VALUE``.

    ``spelled``: how its flag is written (or was, in version 0.1.0) where that departs from the key.
    """

    help: str
    panel: str
    spelled: str = ""
    flag: ClassVar[bool] = False


class Flag(About):
    """The same of a setting that people use: it has a flag of its own as well."""

    flag = True


Side = Annotated[int, Bounds(ge=16, le=4096)]


class RunSettings:
    """What a classifier and a detector are both asked: data, trunk, schedule, and how the numbers are computed."""

    dataset: str
    backbone: Annotated[str, Flag("Network that reads the image.", NETWORK)]
    weights: Annotated[str, Flag("First weights: imagenet, none, a file, a run or a zoo entry.", NETWORK)] = "imagenet"
    batch_size: Annotated[
        int, Bounds(ge=1), Flag("Images per step, of all processes.", MACHINE, spelled="--batch-size -b")
    ] = 4
    accumulate: Annotated[int, Bounds(ge=1), About("Batches per optimizer step.", SCHEDULE)] = 1
    optimizer: Annotated[Literal["sgd", "adamw"], About("What moves the weights.", SCHEDULE)] = "sgd"
    lr: Annotated[float, Bounds(gt=0), Flag("Learning rate.", SCHEDULE)] = 5e-4
    bias_lr_factor: Annotated[float, Bounds(gt=0), About("Biases learn this much faster.", SCHEDULE)] = 1.0
    momentum: Annotated[float, Bounds(ge=0, lt=1), About("Of SGD.", SCHEDULE)] = 0.9
    nesterov: Annotated[bool, About("Nesterov's momentum in place of the plain one of SGD.", SCHEDULE)] = False
    weight_decay: Annotated[float, Bounds(ge=0), About("On weights, not biases.", SCHEDULE)] = 5e-4
    schedule: Annotated[Literal["step", "cosine", "constant"], About("Of the learning rate.", SCHEDULE)] = "step"
    step_every: Annotated[int, Bounds(ge=1), About("Iterations between steps.", SCHEDULE)] = 20_000
    step_factor: Annotated[float, Bounds(gt=0, le=1), About("Factor of a step.", SCHEDULE)] = 0.1
    warmup: Annotated[int, Bounds(ge=0), About("Iterations of linear warm-up.", SCHEDULE)] = 0
    ema: Annotated[
        float, Bounds(ge=0, lt=1), About("Keep a moving average of the weights, 0.999; 0: none.", SCHEDULE)
    ] = 0.0
    cache_features: Annotated[bool, Flag("Run what is frozen once, keep its maps.", NETWORK)] = False
    flip: Annotated[bool, About("Mirror half of the images.", IMAGES)] = True
    val_fraction: Annotated[
        float, Bounds(ge=0, lt=1), Flag("Share of train held out where there is no val split.", IMAGES)
    ] = 0.1
    fold: Annotated[
        int | None,
        Bounds(ge=0),
        About("Which part of train is held out, of 1 / val_fraction.", IMAGES),
    ] = None
    precision: Annotated[Literal["auto", "fp32", "bf16"], Flag("auto: bf16 where native.", MACHINE)] = "auto"
    deterministic: Annotated[
        bool, About("Only deterministic algorithms.", MACHINE, spelled="--deterministic/--fast")
    ] = False
    seed: Annotated[int, Bounds(ge=0), Flag("Start of every random choice.", SCHEDULE)] = 0
    recipe: str | None = None


class ClassifierSettings(RunSettings):
    """Everything that decides the weights of a classifier, besides the data itself, and how its maps are then read.

    The defaults are the paper's where it states one (GWAP, arXiv 1809.08264, IV-A), otherwise ours; ``defaults_for``
    adapts them to the data set. ``map``, ``scales`` and ``box_rule`` are what the model stores; None and (): the head's
    own map at the input size, and ``paper20``.
    """

    backbone = "googlenet"
    output_stride: Annotated[
        Literal[8, 16, 32] | None, Flag("Pixels per cell of its feature map: 8, 16 or 32.", NETWORK)
    ] = None
    cam_conv: Annotated[bool, Flag("Add CAM's 3x3 convolution of 1024 channels.", NETWORK)] = False
    cam_groups: Annotated[Literal[1, 2], About("The groups of CAM's convolution; 2 as released.", NETWORK)] = 1
    head: Annotated[str, Flag("Pooling and classifier.", NETWORK)] = "gwap"
    head_options: Annotated[
        dict[str, int | float], About("Options of the head.", NETWORK, spelled="--head-option")
    ] = {}  # noqa: RUF012 - pydantic gives each config its own
    head_start: Annotated[
        Literal["random", "imagenet"],
        About("Start its classes as mixtures of those of ImageNet's classifier that their images look like.", NETWORK),
    ] = "random"
    new_head: Annotated[
        bool, About("Take the backbone alone from weights.", NETWORK, spelled="--new-head/--take-head")
    ] = False
    image_size: Annotated[tuple[Side, Side], Flag("Input size, 224 or 320x240 (width x height).", IMAGES)] = (600, 600)
    train_sizes: Annotated[tuple[Side, ...], About("Draw each batch's size from these.", IMAGES)] = ()
    epochs: Annotated[int | None, Bounds(ge=0), Flag("Length in passes over the images; 0: none.", SCHEDULE)] = None
    iterations: Annotated[int | None, Bounds(ge=1), Flag("Length in optimizer steps.", SCHEDULE)] = None
    head_lr_factor: Annotated[float, Bounds(gt=0), About("The head learns this much faster.", SCHEDULE)] = 1.0
    added_lr_factor: Annotated[
        float, Bounds(gt=0), About("The backbone's layers without ImageNet weights learn this much faster.", SCHEDULE)
    ] = 1.0
    min_crop: Annotated[
        float, Bounds(gt=0, le=1), About("Random crops of at least this share of the image; 1: none.", IMAGES)
    ] = 1.0
    crop_aspect: Annotated[
        float,
        Bounds(ge=1),
        About("Random crops change the aspect ratio by up to this factor; 1: they keep it.", IMAGES),
    ] = 1.0
    augment: Annotated[str | None, Flag("What else is done to images.", IMAGES)] = None
    background: Annotated[str | None, Flag("Folder of images without objects, for head background.", IMAGES)] = None
    background_classes: Annotated[
        tuple[str, ...], Flag("Or classes, by name or id, that are no targets then.", IMAGES)
    ] = ()
    freeze_backbone: Annotated[
        bool, Flag("Train the head alone.", NETWORK, spelled="--freeze-backbone/--train-backbone")
    ] = False
    trained_stages: Annotated[
        int | None, Bounds(ge=0), Flag("Train the backbone's last stages alone; none: all.", NETWORK)
    ] = None
    batch_norm: Annotated[
        Literal["auto", "frozen", "train"], About("auto: frozen when pretrained and the batch is small.", NETWORK)
    ] = "auto"
    class_weights: Annotated[
        Literal["none", "auto"],
        About("auto: rare classes weigh more where classes differ by more than a factor of three.", SCHEDULE),
    ] = "none"
    keep: Annotated[Literal["best", "last"], About("Weights to keep: best on validation, or last.", SCHEDULE)] = "best"
    compile: Annotated[bool, About("Use torch.compile.", MACHINE)] = False
    map: Annotated[str | None, About("Map method (gwapctl models list maps); none: the head's own.", READING)] = None
    scales: Annotated[tuple[Annotated[int, Bounds(ge=1)], ...], About("Sizes whose maps are averaged.", READING)] = ()
    box_rule: Annotated[str | None, About("paper20, otsu or fixed:0.3.", READING)] = None


class DetectorSettings(RunSettings):
    """Everything that decides the weights of a detector, besides the data itself.

    The defaults are the joint end-to-end schedule of py-R-FCN for VOC 2007 + 2012 (METHODS 5.1; its one image times
    ``iter_size`` 2 is ``batch_size`` 1 times ``accumulate`` 2). ``batch_size`` counts images with boxes; a weak branch
    sees as many others beside them. Images get ``short_side``, or less where the longer side would pass ``long_side``.
    """

    backbone = "resnet50"
    detector: Annotated[Literal["rfcn"], Flag("Train a detector, from boxes of some images.", DETECTOR)] = "rfcn"
    weak: Annotated[
        Literal["none", "gap", "gwap", "gwap+gap"],
        Flag("Its branch that learns from image-level labels.", DETECTOR),
    ] = "none"
    weak_weight: Annotated[float, Bounds(ge=0), About("Of the weak branch's loss.", DETECTOR)] = 0.1
    box_proportion: Annotated[
        float, Bounds(gt=0, le=1), Flag("Share of each class's images that show their boxes.", DETECTOR)
    ] = 1.0
    boxes_from: Annotated[
        str | None, Flag("Learn from boxes that a run or a file has found, not from true ones.", DETECTOR)
    ] = None
    rounds: Annotated[
        int, Bounds(ge=1, le=9), Flag("Of boxes-from: the later ones learn from its own boxes, too.", DETECTOR)
    ] = 1
    composites: Annotated[
        float,
        Bounds(ge=0, le=10),
        About("Of boxes-from: images composed of its least doubtful boxes, for each image that has boxes.", DETECTOR),
    ] = 0.0
    pooling: Annotated[Literal["ps_roi_pool", "ps_roi_align"], About("Of the score maps.", DETECTOR)] = "ps_roi_pool"
    candidates: Annotated[int, Bounds(ge=1), About("Proposals of an image before NMS, at most.", DETECTOR)] = 6000
    proposals: Annotated[int, Bounds(ge=1), About("Proposals of an image after NMS, at most.", DETECTOR)] = 300
    image_scores: Annotated[
        bool, About("Multiply a box's score by the weak branch's chance of its class.", DETECTOR)
    ] = False
    support: Annotated[
        bool, About("Add the scores of the boxes around a box to its own: wholes before their parts.", DETECTOR)
    ] = False
    area_exponent: Annotated[
        float | None,
        Bounds(ge=0, le=4),
        About("Multiply a box's score by its share of the image to this power; none: what labels choose.", DETECTOR),
    ] = 0.0
    refine: Annotated[
        Literal["none", "grabcut"], About("Move its boxes to the edges that GrabCut finds in the image.", DETECTOR)
    ] = "none"
    frozen_stages: Annotated[
        int, Bounds(ge=0, le=5), About("Stages of a pretrained network that do not learn, of five.", DETECTOR)
    ] = 2
    short_side: Annotated[int, Bounds(ge=32, le=4096), About("Pixels of an input's shorter side.", DETECTOR)] = 600
    long_side: Annotated[int, Bounds(ge=32, le=4096), About("At most, of its longer side.", DETECTOR)] = 1000
    batch_size = 1
    accumulate = 2
    iterations: Annotated[int, Bounds(ge=1), Flag("Length in optimizer steps.", SCHEDULE)] = 110_000
    lr = 1e-3
    bias_lr_factor = 2.0
    step_every = 80_000
    val_fraction = 0.0


@dataclass(frozen=True)
class Setting:
    """One setting as its class declares it: the key of recipes and ``run.json``, and what may stand there."""

    key: str
    type: Any
    bounds: Bounds
    default: Any
    about: About

    @property
    def optional(self) -> bool:
        """Whether None is a value."""
        return NoneType in get_args(self.type)

    @property
    def plain(self) -> Any:
        """The type without None."""
        kinds = [kind for kind in get_args(self.type) if kind is not NoneType]
        return kinds[0] if get_origin(self.type) in (Union, UnionType) else self.type

    @property
    def spelling(self) -> str:
        """How its flag is written: ``--batch-size -b``, ``--cam-conv/--no-cam-conv``."""
        name = self.key.replace("_", "-")
        return self.about.spelled or (f"--{name}/--no-{name}" if self.plain is bool else f"--{name}")

    @property
    def words(self) -> tuple[str, ...]:
        """Every word of the spelling by itself."""
        return tuple(self.spelling.replace("/", " ").split())

    @property
    def allowed(self) -> str:
        """What may stand there, for a person."""
        text = " ".join(part for part in (_allowed(self.plain), str(self.bounds)) if part)
        return f"{text}, or none" if self.optional else text

    def parse(self, text: str) -> Any:
        """Read a value as ``--set`` and flags write it; one that does not fit stays a text, which the check refuses."""
        return None if self.optional and text == "none" else _parse(self.plain, text)

    def write(self, value: object) -> str:
        """Write a value as ``parse`` reads it."""
        if isinstance(value, Mapping):
            return ",".join(f"{name}={part}" for name, part in value.items())
        if isinstance(value, list | tuple):
            return ("x" if _is_size(self.plain) else ",").join(map(str, value))
        return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def settings_of(owner: type[RunSettings]) -> dict[str, Setting]:
    """Return the settings that a class declares, by key."""
    found = {}
    for key, hint in get_type_hints(owner, include_extras=True).items():
        notes = getattr(hint, "__metadata__", ())
        about = next((note for note in notes if isinstance(note, About)), None)
        if about is not None:
            bounds = next((note for note in notes if isinstance(note, Bounds)), Bounds())
            found[key] = Setting(key, hint.__origin__, bounds, getattr(owner, key, None), about)
    return found


@cache
def all_settings() -> dict[str, Setting]:
    """Return every setting by key, panel after panel; what classifiers and detectors share as classifiers have it."""
    found = settings_of(ClassifierSettings)
    found |= {key: setting for key, setting in settings_of(DetectorSettings).items() if key not in found}
    return dict(sorted(found.items(), key=lambda item: PANELS.index(item[1].about.panel)))


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Read what ``--set`` gave: ``["momentum=0.8"]`` becomes ``{"momentum": 0.8}``.

    A key that there is not stays in, with its text: the check of all settings names it together with other mistakes.

    Raises:
        UsageError: a text is not KEY=VALUE, or names what is no setting but an argument.

    Example:
        >>> parse_changes(["momentum=0.8", "image_size=320x240", "flip=no"])
        {'momentum': 0.8, 'image_size': (320, 240), 'flip': False}

    """
    changes: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals):
            raise UsageError(f"--set takes KEY=VALUE, not {text!r}. gwapctl train --settings lists the keys.")
        if key in ("dataset", "recipe"):
            raise UsageError(f"--set {key}: that is {'--recipe' if key == 'recipe' else 'DATASET'}, not a setting.")
        setting = all_settings().get(key)
        parsed = value if setting is None else setting.parse(value)
        if isinstance(parsed, dict):  # options of the head may come one by one
            parsed = changes.get(key, {}) | parsed
        changes[key] = parsed
    return changes


def as_arguments(values: Mapping[str, object]) -> list[str]:
    """Write settings as options of ``gwapctl train``."""
    written: list[str] = []
    for key, value in values.items():
        setting = all_settings()[key]
        if not setting.about.flag:
            written += ["--set", f"{key}={setting.write(value)}"]
        elif isinstance(value, bool):
            written += [setting.words[0 if value else 1]]
        else:
            written += [setting.words[0], setting.write(value)]
    return written


def successor(word: str) -> str | None:
    """Say what a flag that version 0.1.0 had has become, None where it is none."""
    for setting in all_settings().values():
        if word in setting.words and not setting.about.flag:
            value = str(word == setting.words[0]).lower() if setting.plain is bool else "VALUE"
            return f"{word} is now --set {setting.key}={value}."
    return None


def _allowed(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(map(str, parts[:-1])) + f" or {parts[-1]}" if len(parts) > 1 else str(parts[0])
    if origin is Annotated:
        return f"{_allowed(parts[0])} {parts[1]}"
    if origin is dict:
        return "numbers by name, such as r=10,q=3"
    if origin is tuple and parts[0] is str:
        return "names, such as cat,dog"
    if origin is tuple:
        form = "224 or 320x240 (width x height)" if _is_size(kind) else "224,448"
        return f"pixels {get_args(parts[0])[1]}, such as {form}"
    return KINDS[kind]


def _is_size(kind: Any) -> bool:
    """Tell a width and height from a list of numbers."""
    return get_origin(kind) is tuple and Ellipsis not in get_args(kind)


def _parse(kind: Any, text: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {str(choice): choice for choice in parts}.get(text, text)
    if origin is Annotated:
        return _parse(parts[0], text)
    if origin is dict:
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        numbers = {name.strip(): _number(value) for name, _, value in pairs}
        return numbers if all(equals for _, equals, _ in pairs) else text
    if _is_size(kind):
        sides = text.lower().split("x")
        return (int(sides[0]), int(sides[-1])) if len(sides) < 3 and all(s.isdecimal() for s in sides) else text
    if origin is tuple:
        return tuple(_parse(parts[0], part.strip()) for part in text.split(",")) if text else ()
    if kind is bool:
        return BOOLEANS.get(text.lower(), text)
    return _number(text) if kind in (int, float) else text


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
