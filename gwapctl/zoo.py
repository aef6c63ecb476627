"""Models by name: bundled zoo entries, run folders, paths. Listing needs no torch."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gwapctl.errors import DataError, ModelError, closest
from gwapctl.files import read_json

if TYPE_CHECKING:
    from gwapctl.model import Classifier

DEFAULT_MODEL = "resnet-s-gwap-tiny-imagenet"
_PACKAGED = Path(__file__).parent / "_zoo"
_CHECKOUT = Path(__file__).parent.parent / "models"
NOT_ENTRIES = ("recipes", "tables", "profiles")


def zoo_folder() -> Path:
    """Return the folder of the zoo: inside the installed package, else the checkout's ``models/``."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def entries() -> dict[str, Path]:
    """Return every zoo entry by name."""
    folders = sorted(path for path in zoo_folder().glob("*/card.md") if path.parent.name not in NOT_ENTRIES)
    return {path.parent.name: path.parent for path in folders}


def resolve_model(spec: str | None) -> Path:
    """Return the folder of the model called ``spec``: a run folder, a zoo entry, or any folder with a ``model.json``.

    None is the bundled default.

    Raises:
        ModelError: there is no such model (the message lists the zoo), or the folder holds none.

    """
    name = spec or DEFAULT_MODEL
    folder = Path(name)
    if folder.is_dir():
        if (folder / "model.json").is_file():
            return folder
        state = (
            "is a run without a model yet (unfinished?)" if (folder / "run.json").is_file() else "holds no model.json"
        )
        raise ModelError(f"{folder} {state}. Give a finished run or a name from `gwapctl models list`.")
    if folder.is_file():
        raise ModelError(f"{folder} is a file. Give the folder that holds model.json and weights.safetensors.")
    zoo = entries()
    if name not in zoo:
        listed = ", ".join(zoo) or "none"
        raise ModelError(f"no model {name!r}: neither a folder nor a zoo entry.{closest(name, zoo)} Zoo: {listed}.")
    if not (zoo[name] / "weights.safetensors").is_file():
        raise ModelError(f"zoo entry {name} has no weights. Train it: `gwapctl train DATASET --recipe {name}`.")
    return zoo[name]


def is_detector(folder: Path) -> bool:
    """Tell a detector's folder from a classifier's, by its ``model.json``."""
    document = read_json(folder / "model.json")
    return isinstance(document, dict) and document.get("task") == "detection"


def find_weights(spec: str) -> Path:
    """Return the safetensors file of ``spec``: a run, a zoo entry, or the file itself (``--weights``)."""
    path = Path(spec)
    return path if path.is_file() else resolve_model(spec) / "weights.safetensors"


def find_recipe(spec: str) -> Path:
    """Return the recipe file called ``spec``: a path, a zoo entry, or a name in ``models/recipes``.

    Raises:
        DataError: there is no such recipe; the message names the nearest.

    """
    if Path(spec).is_file():
        return Path(spec)
    known = {path.stem: path for path in sorted((zoo_folder() / "recipes").glob("*.toml"))}
    known |= {name: folder / "recipe.toml" for name, folder in entries().items() if (folder / "recipe.toml").is_file()}
    if spec not in known:
        raise DataError(f"no recipe {spec!r}.{closest(spec, known)} Give a TOML file or one of: {', '.join(known)}.")
    return known[spec]


def read_card(folder: Path) -> dict[str, Any]:
    """Read the TOML front matter of ``card.md`` (between two lines of ``+++``).

    Raises:
        ModelError: there is none, or it is broken.

    """
    path = folder / "card.md"
    try:
        _, front, _ = path.read_text(encoding="utf-8").split("+++\n", 2)
        return tomllib.loads(front)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} has no readable front matter: {error}.") from error


def list_models() -> list[dict[str, Any]]:
    """Return one row per zoo entry, as ``models list --json`` prints them."""
    rows = []
    for name, folder in entries().items():
        card = read_card(folder)
        fields = {key: card.get(key) for key in ("task", "backbone", "head", "dataset", "metrics")}
        rows.append({"name": name, "bundled": (folder / "weights.safetensors").is_file(), **fields})
    return rows


def verify_entry(folder: Path) -> list[str]:
    """Recompute what the card says of the weights: checksum, size, parameters, and logits on a made-up image.

    Returns:
        One line per check that holds.

    Raises:
        ModelError: a check does not hold.

    """
    from gwapctl.model import load_classifier

    said = read_card(folder).get("check")
    if not isinstance(said, dict):
        raise ModelError(f"{folder / 'card.md'} has no [check] table to verify against.")
    model = load_classifier(folder)
    file = folder / "weights.safetensors"
    found: dict[str, Any] = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "logits": check_logits(model),
    }
    for name, value in found.items():
        same = np.allclose(value, said[name], atol=1e-3) if name == "logits" else value == said[name]
        if not same:
            raise ModelError(f"{folder}: {name} is {value}, but card.md says {said[name]}. Is the file complete?")
    return [f"{name}: {value}" for name, value in found.items()]


def check_logits(model: Classifier) -> list[float]:
    """Return the first five logits of ``model`` on a fixed image of its input size: colour ramps, no file needed."""
    import torch

    width, height = model.info.input_size
    x = torch.linspace(0, 255, width).expand(height, width)
    y = torch.linspace(0, 255, height).unsqueeze(1).expand(height, width)
    image = torch.stack([x, y, (x * y).sqrt()]).unsqueeze(0)  # (1, 3, H, W)
    with torch.inference_mode():
        return [round(value, 4) for value in model(image).logits[0, :5].tolist()]
