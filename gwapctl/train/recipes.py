"""Which recipe is used where none is named. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gwapctl.config import DEFAULT_BACKBONE
from gwapctl.datasets import DATASETS
from gwapctl.files import read_json
from gwapctl.networks.backbones import packaged_weights
from gwapctl.networks.zoo import entries, resolve_model


def with_network_of_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with the backbone of the model (run, zoo entry, folder) that ``weights`` name.

    Who names a backbone, too, has chosen: nothing is added then.

    Raises:
        ModelError: the model's folder is broken, or its weights are not installed.

    """
    weights = settings.get("weights", "none")
    if "backbone" in settings or weights in ("none", "imagenet") or Path(weights).is_file():
        return dict(settings)
    if weights not in entries() and not Path(weights).is_dir():  # whoever loads it says what it is not
        return dict(settings)
    document = read_json(resolve_model(weights) / "model.json")
    network, plus, added = str(document.get("backbone", "")).partition("+")
    cam = {"cam_conv": True, "cam_groups": 2 if added == "cam2" else 1} if plus else {}
    return {"backbone": network, **cam, **settings}


def default_recipe(dataset: str, settings: Mapping[str, Any]) -> str | None:
    """Return the name of the recipe that is used where none is named: ``photos`` for a folder of one's own, else None.

    Another network whose weights are installed has a recipe of its own, ``photos-NAME``.

    A few hundred photos cannot train a backbone. So whoever does not ask for another network, other weights or a
    backbone that learns gets a frozen one, whose weights are installed.
    """
    backbone = settings.get("backbone", DEFAULT_BACKBONE)
    learns = settings.get("freeze_backbone") is False or settings.get("trained_stages", 0) != 0
    changes = {"min_crop", "train_sizes", "cam_conv", "augment"} & settings.keys()
    other = (
        "detector" in settings
        or backbone not in packaged_weights()
        or settings.get("weights", "imagenet") != "imagenet"
    )
    if learns or changes or other or dataset.partition(":")[0] in DATASETS:
        return None
    return "photos" if backbone == DEFAULT_BACKBONE else f"photos-{backbone}"
