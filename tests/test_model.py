"""Saved models, the zoo, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from gwapctl.config import build_train_config
from gwapctl.datasets.base import ClassName
from gwapctl.errors import DataError, ModelError
from gwapctl.networks.classifier import (
    Classifier,
    ModelInfo,
    build_classifier,
    load_classifier,
    load_tensors,
    save_model,
)
from gwapctl.networks.publish import write_entry
from gwapctl.networks.zoo import entries, find_recipe, list_models, read_card, resolve_model, verify_entry, zoo_folder
from gwapctl.runs import Run

NAMES = ("kite", "größe", "dog")


def info(**changes: Any) -> ModelInfo:
    fields: dict[str, Any] = {
        "backbone": "resnet-s",
        "head": "gwap",
        "classes": tuple(ClassName(name, f"n{i}") for i, name in enumerate(NAMES)),
        "multi_label": False,
        "input_size": (40, 24),
        "train_sizes": (24, 40),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.25, 0.3),
        **changes,
    }
    return ModelInfo(**fields)


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return build_classifier(info()).eval()


def test_a_saved_model_comes_back_the_same(model: Classifier, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 24, 40), dtype=torch.uint8)
    save_model(model, tmp_path)
    loaded = load_classifier(tmp_path)
    assert loaded.info == model.info
    assert not loaded.training
    for a, b in zip(model(images), loaded(images), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_half_precision_halves_the_file_and_hardly_moves_the_logits(model: Classifier, tmp_path: Path) -> None:
    save_model(model, tmp_path / "full")
    save_model(model, tmp_path / "half", half=True)
    full, half = (tmp_path / name / "weights.safetensors" for name in ("full", "half"))
    assert half.stat().st_size < 0.55 * full.stat().st_size
    images = torch.randint(0, 256, (1, 3, 24, 40), dtype=torch.uint8)
    assert torch.allclose(load_classifier(half.parent)(images).logits, model(images).logits, atol=5e-3)


def test_images_are_rgb_in_0_to_255_and_normalised_inside(model: Classifier) -> None:
    images = torch.randint(0, 256, (2, 3, 24, 40), dtype=torch.uint8)
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1)
    expected = model.backbone((images.float() / 255 - mean) / std)
    assert torch.allclose(model.feature_map(images), expected, atol=1e-4)
    assert torch.equal(model.feature_map(images), model.feature_map(images.float()))


def test_scores_are_a_softmax_or_one_sigmoid_per_class(model: Classifier) -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0]])
    assert model.probabilities(logits).sum().item() == pytest.approx(1)
    several = build_classifier(info(multi_label=True))
    assert torch.allclose(several.probabilities(logits), 1 / (1 + torch.exp(-logits)))


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    bare, torches = tmp_path / "bare.safetensors", tmp_path / "weights.pth"
    bare.write_bytes(pickle.dumps(Bomb()))
    torch.save({"a": torch.zeros(1)}, torches)
    for path in (bare, torches):
        with pytest.raises(ModelError, match="pickle"):
            load_tensors(path)
    assert not (tmp_path / "exploded").exists()


def test_broken_and_foreign_files_are_named(model: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.json"):
        load_classifier(tmp_path)
    save_model(model, tmp_path)
    weights = tmp_path / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(ModelError, match="not a readable safetensors"):
        load_classifier(tmp_path)
    weights.write_bytes(whole)
    document = json.loads((tmp_path / "model.json").read_text())
    document["classes"].append({"name": "cat", "id": "n9"})
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="do not fit"):
        load_classifier(tmp_path)
    (tmp_path / "model.json").write_text('{"backbone": "resnet-s"}')
    with pytest.raises(ModelError, match="not a model description"):
        load_classifier(tmp_path)


def test_unknown_models_name_the_zoo(tmp_path: Path) -> None:
    known = next(iter(entries()))
    with pytest.raises(ModelError, match=f"Did you mean '{known}'"):
        resolve_model(known[:-1])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ModelError, match="unfinished"):
        resolve_model(str(tmp_path))


def finished_run(folder: Path, model: Classifier) -> Path:
    config = build_train_config("tiny-imagenet", None, {"batch_size": 4})
    dataset = {"name": "tiny-imagenet", "n_train": 40, "fingerprint": "x"}
    run = Run.create(folder, {"config": config.model_dump(mode="json"), "dataset": dataset, "device": "cpu"})
    run.update(status="finished", iterations=30, best={"iteration": 20})
    save_model(model, folder)
    return folder


def evaluation(n: int) -> dict[str, Any]:
    numbers = {"gt_known_error": 40.0, "top1_error": 50.123456, "extra": 1.0}
    return {
        "dataset": "tiny-imagenet",
        "split": "val",
        "n": n,
        "created": "2026-01-02T03:04:05+00:00",
        "options": {"scales": [64, 96], "map": "fused", "box_rule": "fixed:0.4"},
        "metrics": numbers,
        "floors": {"full_image": numbers, "centred_box": {"gt_known_error": 45.0}},
    }


def test_a_bundled_run_verifies_and_tells_its_numbers(model: Classifier, tmp_path: Path) -> None:
    run, entry, measured = finished_run(tmp_path / "run", model), tmp_path / "entry", tmp_path / "val.json"
    measured.write_text(json.dumps(evaluation(500)))
    write_entry(run, entry)
    (entry / "card.md").write_text((entry / "card.md").read_text() + "\nMy own words.\n")
    write_entry(run, entry, [measured])
    card = read_card(entry)
    assert (card["metrics"]["top1_error"], card["epoch_kept"]) == (50.1235, 2.0)
    assert card["evaluations"][0]["command"].endswith("--dataset tiny-imagenet --split val --scales 64,96")
    assert card["evaluations"][0]["centred_box"] == {"gt_known_error": 45.0}
    assert "My own words." in (entry / "card.md").read_text()
    assert len(verify_entry(entry)) == 4
    measured.write_text(json.dumps(evaluation(20)))
    with pytest.raises(DataError, match="too small"):
        write_entry(run, entry, [measured])


def test_a_damaged_entry_does_not_verify(model: Classifier, tmp_path: Path) -> None:
    write_entry(finished_run(tmp_path / "run", model), tmp_path / "entry")
    with torch.no_grad():
        model.head.classifier.bias[0] += 1
    save_model(model, tmp_path / "entry", half=True)
    with pytest.raises(ModelError, match="sha256"):
        verify_entry(tmp_path / "entry")


def test_an_unfinished_run_is_not_bundled(model: Classifier, tmp_path: Path) -> None:
    run = Run.open(finished_run(tmp_path / "run", model))
    run.update(status="interrupted")
    with pytest.raises(DataError, match="not finished"):
        write_entry(run.folder, tmp_path / "entry")


def test_every_entry_of_the_zoo_holds_what_its_card_says() -> None:
    folders = entries()
    assert len(folders) >= 1
    assert {row["name"] for row in list_models()} == set(folders)
    for name, folder in folders.items():
        recipe = folder / "recipe.toml"
        if recipe.is_file():
            card = read_card(folder)
            config = build_train_config(card.get("dataset", "tiny-imagenet"), find_recipe(name), {})
            assert config.recipe == "recipe"
        if (folder / "weights.safetensors").is_file():
            assert (folder / "weights.safetensors").stat().st_size < 8_000_000
            assert len(verify_entry(folder)) == 4


def test_every_recipe_of_the_zoo_is_valid() -> None:
    recipes = sorted((zoo_folder() / "recipes").glob("*.toml")) + sorted(zoo_folder().glob("*/recipe.toml"))
    assert len(recipes) >= 1
    for recipe in recipes:
        build_train_config("voc", recipe, {})


def test_torn_history_and_later_rows_are_dropped(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {"config": {}, "dataset": {}})
    for iteration in (10, 20, 30):
        run.append_history({"iteration": iteration, "loss": 1.0})
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"iteration": 40, "lo')
    assert [row["iteration"] for row in run.history()] == [10, 20, 30]
    run.truncate_history(20)
    assert [row["iteration"] for row in run.history()] == [10, 20]
