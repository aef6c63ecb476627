"""What is registered of each kind, one row per entry: for ``gwapctl models|data list`` and the tables of the docs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gwapctl.cli import console
from gwapctl.datasets import DATASETS, DatasetEntry
from gwapctl.engines import ENGINES, EngineEntry
from gwapctl.errors import unknown_name
from gwapctl.formats import EXPORTERS, READERS
from gwapctl.maps import MAPS, MapMethod
from gwapctl.networks.backbones import BACKBONES, BackboneEntry
from gwapctl.networks.backbones.pretrained import PretrainedWeights
from gwapctl.networks.heads import HEADS, HeadEntry, head_options
from gwapctl.train.augmentations import AUGMENTATIONS

Row = dict[str, str]


@dataclass(frozen=True)
class Kind:
    """One kind: its registry, the ``columns`` of its table (key: heading), and those that a terminal has room for.

    ``about`` says of an entry what is no attribute of it.
    """

    entries: Mapping[str, Any]
    columns: dict[str, str]
    brief: tuple[str, ...]
    about: Callable[[str, Any], Row] = lambda *_: {}

    def rows(self) -> list[Row]:
        """Return one row per entry."""
        return [self._row(name, entry) for name, entry in self.entries.items()]

    def _row(self, name: str, entry: Any) -> Row:
        said = {"name": name, **self.about(name, entry)}
        return {
            key: said[key] if key in said else getattr(entry, key) for key in ("name", "label", "help", *self.columns)
        }


def _head(name: str, entry: HeadEntry) -> Row:
    head = entry.load()
    needs = "ground-truth boxes" if head.sees_boxes else "images without objects" if head.learns_from_background else ""
    return {"needs": needs, "options": ", ".join(f"{option}={value}" for option, value in head_options(name).items())}


def _backbone(_: str, entry: BackboneEntry) -> Row:
    if isinstance(entry.weights, PretrainedWeights):
        weights = f"{entry.weights.size_mb:.0f} MB"
    else:
        weights = "none" if entry.weights is None else "a package"
    uses = {"strides": "8, 16, 32" if entry.strides else "one", "detector": "yes" if entry.trunk else "no"}
    return {"weights": weights, **uses}


def _dataset(name: str, entry: DatasetEntry) -> Row:
    marks = " and ".join(mark for mark, there in (("boxes", entry.boxes), ("masks", entry.masks)) if there)
    command = f"gwapctl data get {name}"
    fetched = command if any(archive.urls for archive in entry.archives) else f"{command} --archive FILE"
    how = "when needed" if entry.automatic else fetched if entry.archives else "by hand"
    return {"marks": marks or "labels alone", "how": how}


def _engine(_: str, entry: EngineEntry) -> Row:
    comes = f"`pip install 'gwapctl[{entry.extra}]'`" if entry.extra else "gwapctl"
    return {"formats": ", ".join(entry.precisions), "comes": comes}


def _map(_: str, entry: MapMethod) -> Row:
    backward = {0: "none", 1: "a backward pass"}.get(entry.backward, f"{entry.backward} backward passes")
    depth = {None: "", "image": " through all; all activations in memory", "layer": " down to T"}[entry.gradient_at]
    return {"cost": backward + depth}


KINDS: dict[str, Kind] = {
    "heads": Kind(
        HEADS,
        {
            "name": "`--head`",
            "label": "called",
            "help": "logits from",
            "needs": "needs",
            "options": "`--set head_options`",
        },
        ("name", "help", "options"),
        _head,
    ),
    "backbones": Kind(
        BACKBONES,
        {
            "name": "`--backbone`",
            "label": "called",
            "help": "what it is",
            "weights": "ImageNet weights",
            "strides": "strides",
            "detector": "serves a detector",
        },
        ("name", "help", "weights", "detector"),
        _backbone,
    ),
    "maps": Kind(
        MAPS,
        {"name": "`--map`", "formula": "formula", "paper": "source", "needs": "needs", "cost": "cost beside `class`"},
        ("name", "help", "needs"),
        _map,
    ),
    "augmentations": Kind(
        AUGMENTATIONS,
        {"name": "`--augment`", "label": "called", "help": "what it does", "settings": "settings", "paper": "source"},
        ("name", "help", "settings"),
    ),
    "engines": Kind(
        ENGINES,
        {
            "name": "`--engine`",
            "label": "called",
            "help": "what it is",
            "formats": "computes in",
            "comes": "comes with",
        },
        ("name", "help", "formats", "comes"),
        _engine,
    ),
    "datasets": Kind(
        DATASETS,
        {"name": "name", "label": "called", "help": "what it is", "marks": "has", "how": "comes"},
        ("name", "label", "help", "marks"),
        _dataset,
    ),
    "formats": Kind(
        EXPORTERS,
        {"name": "`--format`", "help": "writes", "box": "a box is", "precision": "precision", "readers": "read by"},
        ("name", "help", "readers"),
    ),
    "readers": Kind(
        READERS,
        {"name": "read", "label": "called", "suffix": "suffix", "help": "written by"},
        ("name", "suffix", "help"),
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
    if not json:  # docs have code in backticks
        rows = [{key: text.replace("`", "") for key, text in row.items()} for row in rows]
    console.print_rows(name, rows, KINDS[name].brief, json)
