"""Everything under ``models/``, recursively: each TOML is read by what uses it, and the counts are stated."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gwapctl.config import DetectorConfig, build_train_config
from gwapctl.maps.layers import resolve_layers
from gwapctl.networks.backbones import build_backbone
from gwapctl.networks.zoo import entries, find_recipe, read_card, zoo_folder
from gwapctl.paper.profile import apply_profile, load_profile
from gwapctl.paper.specification import TABLES, load_table
from tests.factories import save_image

MODELS = zoo_folder()
TOMLS = sorted(MODELS.rglob("*.toml"))
RECIPES = sorted((MODELS / "recipes").glob("*.toml"))


def test_every_toml_is_a_recipe_a_table_or_a_profile() -> None:
    """So that the tests below, which go through these folders, leave none out; the wheel must not lose them either."""
    places = [path for name in ("recipes", "tables", "profiles") for path in (MODELS / name).iterdir()]
    places += [folder / "recipe.toml" for folder in entries().values() if (folder / "recipe.toml").is_file()]
    assert sorted(places) == TOMLS
    assert len(RECIPES) > 40
    assert {path.stem for path in (MODELS / "tables").iterdir()} == set(TABLES)


def test_there_is_no_code_in_it() -> None:
    kinds = {path.suffix for path in MODELS.rglob("*") if path.is_file()}
    assert kinds <= {".toml", ".md", ".json", ".safetensors", ".csv"}


@pytest.mark.parametrize("path", TOMLS, ids=lambda path: str(path.relative_to(MODELS)))
def test_every_toml_is_read_by_what_uses_it(path: Path) -> None:
    if path.parent.name == "tables":
        assert load_table(path.stem).name == path.stem
        assert path.stem in TABLES
    elif path.parent.name == "profiles":
        profile = load_profile(path.stem)
        assert profile is not None
        assert all(apply_profile(load_table(name), profile).rows for name in profile.tables)
    else:
        config = build_train_config(dataset_of(path), path, {})
        assert isinstance(config, DetectorConfig) == ("detector" in tomllib.loads(path.read_text()))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_command_line_takes_every_recipe(path: Path, run_cli: Callable[..., Any], tmp_path: Path) -> None:
    save_image(tmp_path / "nothing.png", 8, 6)
    background = ["--background", tmp_path] if path.stem.endswith("background") else []
    result = run_cli("train", dataset_of(path), "--recipe", path, *background, "--dry-run", "--json")
    assert result.code == 0, result.stderr
    assert json.loads(result.stdout)["config"]["recipe"] == path.stem


def dataset_of(recipe: Path) -> str:
    """Return a data set that a recipe is for, by its name."""
    start = recipe.stem.partition("-")[0].replace("released", "imagenet")  # ImageNet networks as released
    return start if start in ("voc", "imagenet", "cub") else "tiny-imagenet"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_line_of_a_recipe_has_its_source(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            assert re.search(r" # \S.{3}", line), f"no source: {line}"


def test_every_row_of_every_table_has_its_recipe_and_agrees_with_it() -> None:
    used = set()
    for name in TABLES:
        spec = load_table(name)
        for row in (row for row in spec.rows if row.recipe is not None):
            used.add(row.recipe)
            config = build_train_config(spec.train_dataset, find_recipe(str(row.recipe)), {})
            stated = config.model_dump(mode="json")
            assert {key: stated[key] for key in row.config} == row.config, f"table {name}, row {row.id}"
            assert config.recipe == row.recipe
    assert used <= {path.stem for path in RECIPES}
    assert len([name for name in used if name.startswith(("voc-", "imagenet-", "released-"))]) >= 25


def test_the_layers_that_rows_ask_for_are_there() -> None:
    asked = 0
    for name in TABLES:
        for row in load_table(name).rows:
            if row.evaluate.layer is not None:
                with torch.device("meta"):  # names suffice
                    backbone = build_backbone(str(row.config["backbone"]))
                assert resolve_layers(backbone, row.evaluate.layer) == row.evaluate.layer
                asked += 1
    assert asked == 4


def test_cards_and_recipes_of_the_zoo_are_there() -> None:
    for name, folder in entries().items():
        assert read_card(folder)["dataset"], name
