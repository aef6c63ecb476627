"""ImageNet weights on ImageNet's own classes: an unmodified network brings its classifier, and needs no training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file

from gwapctl.config import build_train_config
from gwapctl.datasets import open_dataset
from gwapctl.datasets.synthetic import make_synthetic_voc
from gwapctl.evaluate import Options, evaluate
from gwapctl.images.decode import read_image
from gwapctl.networks.backbones import pretrained_weights_info
from gwapctl.networks.classifier import load_classifier
from gwapctl.train.classification import build_model
from gwapctl.train.loop import train

CLASSES = 1000
SIZE = (64, 48)  # width, height
SETTINGS: dict[str, Any] = {
    "backbone": "resnet18",
    "head": "gap",
    "weights": "imagenet",
    "image_size": SIZE,
    "epochs": 0,
    "keep": "last",
    "val_fraction": 0.0,
}


def wnid(index: int) -> str:
    return f"n{10 * index:08d}"


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    torch.nn.init.normal_(network.fc.weight, std=1.0)
    return network


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, network: torch.nn.Module) -> Iterator[Path]:
    """Give torch.hub a cache that holds the weights of ``network`` as those of resnet18."""
    before, place = torch.hub.get_dir(), tmp_path_factory.mktemp("hub")
    torch.hub.set_dir(str(place))
    (place / "checkpoints").mkdir()
    weights = pretrained_weights_info("resnet18")
    assert weights is not None
    torch.save(network.state_dict(), weights.path)
    yield place
    torch.hub.set_dir(before)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of ImageNet with one image per class, and one of them in val."""
    root = tmp_path_factory.mktemp("data") / "imagenet"
    image = root / "image.JPEG"
    root.mkdir()
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8))
    for index in range(CLASSES):
        folder = root / "train" / wnid(index)
        folder.mkdir(parents=True)
        shutil.copy(image, folder / f"{wnid(index)}_1.JPEG")
    (root / "val" / wnid(7)).mkdir(parents=True)
    shutil.copy(image, root / "val" / wnid(7) / "ILSVRC2012_val_00000001.JPEG")
    return root


@pytest.mark.usefixtures("hub")
def test_an_unmodified_network_without_training_is_torchvisions(
    imagenet: Path, tmp_path: Path, network: torch.nn.Module
) -> None:
    (tmp_path / "run").mkdir()
    config = build_train_config("imagenet", None, SETTINGS)
    run = train(config, tmp_path / "run", root=imagenet.parent, device="cpu", workers=0)
    assert run.finished
    assert (run.document["iterations"], run.history()) == (0, [])
    model = load_classifier(run.folder)
    image = read_image(imagenet / "image.JPEG")
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        theirs = network((pixels / 255 - mean) / std)
        torch.testing.assert_close(model(pixels).logits, theirs, rtol=1e-4, atol=1e-4)
    document = evaluate(str(run.folder), Options(root=imagenet.parent, device="cpu"))
    right = int(theirs.argmax()) == 7
    assert document["metrics"]["top1_error"] == 100 * (not right)
    assert [row["id"] for row in document["per_class"]] == [wnid(7)]
    assert any("no blacklist" in note for note in document["notes"])


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("name", "changes"), [("imagenet", {"new_head": True}), ("imagenet:40", {})])
def test_everything_else_starts_with_a_classifier_of_its_own(
    imagenet: Path, name: str, changes: dict[str, Any]
) -> None:
    config = build_train_config(name, None, {**SETTINGS, **changes})
    dataset = open_dataset(name, imagenet.parent)
    model, _ = build_model(config, dataset, None)
    weights = model.state_dict()["head.classifier.weight"]
    assert len(weights) == len(dataset.classes)
    assert weights.std() < 0.02  # drawn with 0.01; that of the network has 1


def test_no_training_at_all_leaves_the_first_weights(tmp_path: Path) -> None:
    make_synthetic_voc(tmp_path / "set", images=12, seed=0, size=(64, 80))
    settings = {"backbone": "resnet-s", "weights": "none", "image_size": (32, 32), "epochs": 0, "keep": "best"}
    config = build_train_config(str(tmp_path / "set"), None, {**settings, "val_fraction": 0.25})
    (tmp_path / "run").mkdir()
    run = train(config, tmp_path / "run", device="cpu", workers=0)
    assert run.finished
    assert not (run.folder / "state.pt").exists()
    torch.manual_seed(config.seed)
    first, _ = build_model(config, open_dataset(config.dataset), None)
    saved = load_file(run.folder / "weights.safetensors")
    assert all(torch.equal(tensor, saved[key]) for key, tensor in first.state_dict().items())
