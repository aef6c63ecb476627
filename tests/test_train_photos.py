"""A folder of one's own trains as recipe ``photos`` says, and what its run stores is how its maps are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from gwapctl.config import build_train_config
from gwapctl.datasets import DATASETS
from gwapctl.datasets.base import ClassName
from gwapctl.errors import UsageError
from gwapctl.networks.backbones import build_backbone, imagenet_tensors
from gwapctl.networks.classifier import load_classifier
from gwapctl.networks.heads import build_head
from gwapctl.networks.rfcn.base import DetectorInfo
from gwapctl.networks.rfcn.store import build_detector
from gwapctl.networks.rfcn.trunk import build_trunk
from gwapctl.networks.zoo import find_recipe
from gwapctl.runs import Run
from gwapctl.train.recipes import default_recipe


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of ten photos: a red or a green block on noise."""
    generator = np.random.default_rng(0)
    for name, colour in (("apple", (40, 40, 220)), ("pear", (40, 220, 60))):
        for number in range(10):
            image = generator.integers(0, 90, (72, 96, 3), dtype=np.uint8)
            x, y = int(generator.integers(4, 50)), int(generator.integers(4, 30))
            image[y : y + 36, x : x + 40] = colour
            path = tmp_path / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
    return tmp_path / "photos"


def test_every_named_data_set_keeps_defaults_of_its_own() -> None:
    for name in DATASETS:
        assert default_recipe(name, {}) is None
        assert default_recipe(f"{name}:20", {}) is None
        assert build_train_config(name, None, {}).backbone in ("googlenet", "resnet18", "resnet-s")


@pytest.mark.parametrize(
    ("settings", "recipe"),
    [
        ({}, "photos"),
        ({"backbone": "efficientnet-lite2"}, "photos-efficientnet-lite2"),
        ({"head": "gap", "epochs": 3, "image_size": (96, 96)}, "photos"),
        ({"backbone": "resnet18"}, None),
        ({"weights": "none"}, None),
        ({"weights": "runs/a"}, None),
        ({"freeze_backbone": False}, None),
        ({"min_crop": 0.5}, None),
        ({"detector": "rfcn"}, None),
    ],
)
def test_whoever_asks_for_another_network_gets_it(settings: dict[str, Any], recipe: str | None) -> None:
    assert default_recipe("my-photos", settings) == recipe


def test_a_folder_of_photos_trains_in_one_line(photos: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    asked = ["--image-size", 96, "--feature-cache", tmp_path / "cache", "--out", tmp_path / "run"]
    result = run_cli("train", photos, *asked, "--json")
    assert result.code == 0, result.stderr
    assert json.loads(result.stdout)["run"] == str(tmp_path / "run")
    model, recipe = load_classifier(tmp_path / "run"), build_train_config("my", find_recipe("photos"), {})
    assert (model.info.backbone, model.info.output_stride, model.info.head) == ("efficientnet-lite0", 16, "gwap")
    assert model.info.weights_package is None  # the run holds its whole network
    assert (model.info.map, model.info.scales, model.info.box_rule) == (recipe.map, recipe.scales, recipe.box_rule)
    theirs = imagenet_tensors("efficientnet-lite0")["conv_head.weight"]
    assert torch.equal(model.backbone.state_dict()["network.conv_head.weight"], theirs)
    config = Run.open(tmp_path / "run").document["config"]
    assert (config["recipe"], config["freeze_backbone"], config["cache_features"]) == ("photos", True, True)
    found = run_cli("localize", photos / "pear", "--model", tmp_path / "run", "--scales", "96", "--format", "jsonl")
    assert [json.loads(line)["predictions"][0]["label"] for line in found.stdout.splitlines()].count("pear") >= 9


def test_what_a_run_is_read_with_is_stored(photos: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    asked = ["--image-size", 64, "--epochs", 1, "--feature-cache", tmp_path / "cache", "--out", tmp_path / "run"]
    reading = ["--set", "map=weight", "--set", "scales=64,96", "--set", "box_rule=fixed:0.4"]
    result = run_cli("train", photos, *asked, *reading)
    assert result.code == 0, result.stderr
    info = load_classifier(tmp_path / "run").info
    assert (info.map, info.scales, info.box_rule) == ("weight", (64, 96), "fixed:0.4")
    for wrong, said in ((["--set", "map=wieght"], "wieght"), (["--set", "box_rule=otzu"], "otzu")):
        refused = run_cli("train", photos, *wrong, "--out", tmp_path / "other")
        assert refused.code == 2
        assert said in refused.stderr
        assert not (tmp_path / "other").exists()


def test_the_weight_map_is_a_convolution_by_another_way() -> None:
    """``z = w F + b`` as a product of matrices, for both memory layouts, gradients included."""
    torch.manual_seed(0)
    head: Any = build_head("gwap", 24, 3, {})
    nn.init.normal_(head.weight_score.bias)
    for layout in (torch.contiguous_format, torch.channels_last):
        features = torch.randn(2, 24, 5, 7).to(memory_format=layout)
        expected = head.weight_score(features).flatten(1)
        torch.testing.assert_close(head.score(features), expected)
        parameters = list(head.weight_score.parameters())
        both = [torch.autograd.grad(z.square().sum(), parameters) for z in (head.score(features), expected)]
        for own, theirs in zip(*both, strict=True):
            torch.testing.assert_close(own, theirs)


def test_a_recipe_s_map_is_its_head_s(photos: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    asked = ["--image-size", 64, "--epochs", 1, "--feature-cache", tmp_path / "cache", "--head", "gap"]
    assert run_cli("train", photos, *asked, "--out", tmp_path / "run").code == 0
    assert load_classifier(tmp_path / "run").info.map is None
    found = run_cli("localize", photos / "pear" / "0.png", "--model", tmp_path / "run", "--scales", 64, "-v")
    assert found.code == 0, found.stderr
    assert "map class" in found.stderr
    refused = run_cli("train", photos, *asked, "--set", "map=fused", "--out", tmp_path / "other")
    assert refused.code == 2
    assert "weight map" in refused.stderr


# --- the same network under a detector ---


def test_the_trunk_is_the_backbone_cut_in_two() -> None:
    trunk = build_trunk("efficientnet-lite0").eval()
    backbone = build_backbone("efficientnet-lite0", pretrained=True).eval()
    trunk.load_state_dict(backbone.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        conv4 = trunk.conv4(images)
        assert conv4.shape == (1, 112, 4, 6)
        torch.testing.assert_close(trunk.conv5(conv4), backbone(images))


def test_a_detector_on_it_has_the_package_s_weights_and_normalisation(tmp_path: Path) -> None:
    info = DetectorInfo(backbone="efficientnet-lite0", classes=(ClassName("a", "a"), ClassName("b", "b")))
    model = build_detector(info, pretrained=True)
    state = model.trunk.state_dict()
    for name, tensor in imagenet_tensors("efficientnet-lite0").items():
        if not name.startswith("classifier"):
            assert torch.equal(state[f"network.{name}"], tensor), name
    learning = {name.split(".")[1] for name, parameter in model.trunk.named_parameters() if parameter.requires_grad}
    assert "conv_stem" not in learning
    assert "conv_head" in learning
    assert build_trunk("efficientnet-lite0").mean == (0.5, 0.5, 0.5)
    del tmp_path


def test_a_detector_has_one_stride(run_cli: Callable[..., Any], photos: Path) -> None:
    result = run_cli("train", photos, "--detector", "rfcn", "--output-stride", 8, "--dry-run")
    assert result.code == 2
    assert "output_stride is a classifier's" in result.stderr
    with pytest.raises(UsageError, match="efficientnet-lite0"):
        build_trunk("efficientnet-lite1")
