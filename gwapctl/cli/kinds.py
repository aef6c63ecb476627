"""What is registered of each kind, one row per entry: for ``gwapctl models|data list`` and the tables of the docs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gwapctl.cli import console
from gwapctl.datasets import DATASETS, DatasetEntry
from gwapctl.errors import unknown_name
from gwapctl.formats import EXPORTERS, FormatEntry
from gwapctl.maps import MAPS, MapMethod
from gwapctl.networks.backbones import BACKBONES, BackboneEntry
from gwapctl.networks.backbones.pretrained import PretrainedWeights
from gwapctl.networks.heads import HEADS, HeadEntry, head_options

Row = dict[str, str]


@dataclass(frozen=True)
class Kind:
    """One kind: its ``rows``, the ``columns`` of its table (key: heading), and those that a terminal has room for."""

    rows: Callable[[], list[Row]]
    columns: dict[str, str]
    brief: tuple[str, ...]


def _head(name: str, entry: HeadEntry) -> Row:
    head = entry.load()
    needs = "ground-truth boxes" if head.sees_boxes else "images without objects" if head.learns_from_background else ""
    options = ", ".join(f"{option}={value}" for option, value in head_options(name).items())
    return {"name": name, "label": entry.label, "help": entry.help, "needs": needs, "options": options}


def _backbone(name: str, entry: BackboneEntry) -> Row:
    if isinstance(entry.weights, PretrainedWeights):
        weights = f"{entry.weights.size_mb:.0f} MB"
    else:
        weights = "none" if entry.weights is None else "a package"
    uses = {"strides": "8, 16, 32" if entry.strides else "one", "detector": "yes" if entry.trunk else "no"}
    return {"name": name, "label": entry.label, "help": entry.help, "weights": weights, **uses}


def _dataset(name: str, entry: DatasetEntry) -> Row:
    marks = " and ".join(mark for mark, there in (("boxes", entry.boxes), ("masks", entry.masks)) if there)
    command = f"gwapctl data get {name}"
    fetched = command if any(archive.urls for archive in entry.archives) else f"{command} --archive FILE"
    how = "when needed" if entry.automatic else fetched if entry.archives else "by hand"
    return {"name": name, "label": entry.label, "help": entry.help, "marks": marks or "labels alone", "how": how}


def _map(name: str, entry: MapMethod) -> Row:
    passes = {0: "none", 1: "a backward pass"}.get(entry.backward, f"{entry.backward} backward passes")
    depth = {None: "", "image": " through all; all activations in memory", "layer": " down to T"}[entry.gradient_at]
    about = {"formula": entry.formula, "paper": entry.paper, "needs": entry.needs, "cost": passes + depth}
    return {"name": name, "label": entry.label, "help": entry.help, **about}


def _format(name: str, entry: FormatEntry) -> Row:
    about = {"box": entry.box, "precision": entry.precision, "readers": entry.readers}
    return {"name": name, "label": entry.label, "help": entry.help, **about}


KINDS: dict[str, Kind] = {
    "heads": Kind(
        lambda: [_head(*item) for item in HEADS.items()],
        {"name": "`--head`", "label": "called", "help": "logits from", "needs": "needs", "options": "`--head-option`"},
        ("name", "help", "options"),
    ),
    "backbones": Kind(
        lambda: [_backbone(*item) for item in BACKBONES.items()],
        {
            "name": "`--backbone`",
            "label": "called",
            "help": "what it is",
            "weights": "ImageNet weights",
            "strides": "strides",
            "detector": "serves a detector",
        },
        ("name", "help", "weights", "detector"),
    ),
    "maps": Kind(
        lambda: [_map(*item) for item in MAPS.items()],
        {
            "name": "`--map`",
            "formula": "formula",
            "paper": "source",
            "needs": "needs",
            "cost": "cost beside `class`",
        },
        ("name", "help", "needs"),
    ),
    "datasets": Kind(
        lambda: [_dataset(*item) for item in DATASETS.items()],
        {"name": "name", "label": "called", "help": "what it is", "marks": "has", "how": "comes"},
        ("name", "label", "help", "marks"),
    ),
    "formats": Kind(
        lambda: [_format(*item) for item in EXPORTERS.items()],
        {
            "name": "`--format`",
            "help": "writes",
            "box": "a box is",
            "precision": "precision",
            "readers": "read by",
        },
        ("name", "help", "readers"),
    ),
}


def print_kind(name: str, choices: Sequence[str], json: bool) -> None:
    """Print what is registered of the kind ``name``.

    Raises:
        UsageError: it is none of ``choices``.

    """
    if name not in choices:
        raise unknown_name("kind", name, choices)
    rows = KINDS[name].rows()
    if json:
        console.print_json({"schema_version": 1, name: rows})
        return
    brief = KINDS[name].brief
    console.print_table(brief, [[row[key].replace("`", "") for key in brief] for row in rows])
