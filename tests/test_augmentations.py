"""Hide-and-Seek and CutMix: what becomes of pixels and labels, and that a resumed run draws the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from gwapctl.config import build_train_config
from gwapctl.errors import UsageError
from gwapctl.networks.heads.base import HeadOutput
from gwapctl.train.augmentations import AUGMENTATIONS
from gwapctl.train.augmentations.cutmix import cutmix
from gwapctl.train.augmentations.has import GRID, hide_and_seek
from gwapctl.train.classification import ClassificationTask
from gwapctl.train.classifier_batches import Labelled
from gwapctl.train.data import load_train_data
from gwapctl.train.loop import train
from gwapctl.train.task import Resources
from tests.factories import assert_same_weights, differing, start, stop_after

MEAN = torch.tensor([120.4, 130.0, 140.0])
SMALL: dict[str, Any] = {
    "backbone": "resnet-s",
    "weights": "none",
    "image_size": (48, 32),
    "batch_size": 6,
    "iterations": 6,
    "precision": "fp32",
    "keep": "last",
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            image = generator.integers(0, 256, (32, 40, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "photos" / name / f"{number}.png"), image)
    return tmp_path / "photos"


def make_batch(count: int = 5, channels: int = 3) -> torch.Tensor:
    """Return images ``(count, channels, 42, 56)``, each of one value of its own."""
    return (torch.arange(count, dtype=torch.uint8) + 1).view(-1, 1, 1, 1).repeat(1, channels, 42, 56)


def test_hidden_patches_have_the_mean_colour_and_half_of_them_are_hidden() -> None:
    images = hide_and_seek(make_batch(100, channels=4), 100, MEAN, np.random.default_rng(0)).images
    hidden = images[:, 0] == 120
    assert torch.equal(hidden, images[:, 2] == 140)
    patches = hidden.view(100, GRID, 42 // GRID, GRID, 56 // GRID)
    assert torch.equal(patches.all(4).all(2), patches.any(4).any(2))  # whole patches
    share = patches[:, :, 0, :, 0].float().mean((1, 2))
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert len(share.unique()) > 5  # each image has its own
    assert torch.equal(images[:, 3], make_batch(100)[:, 0])  # the region stays


def test_a_box_of_the_partner_is_pasted_and_its_label_has_the_boxs_share() -> None:
    shares = []
    for seed in range(200):
        images, partners, share = cutmix(make_batch(), 4, MEAN, np.random.default_rng(seed))
        assert partners is not None
        assert sorted(partners.tolist()) == [0, 1, 2, 3]
        for index, partner in enumerate(partners.tolist()):
            inside = images[index, 0] == partner + 1
            assert torch.equal(inside, images[index, 2] == partner + 1)
            if partner != index:
                assert inside.float().mean() == pytest.approx(1 - share, abs=1e-6)
                rows, columns = inside.any(1).sum(), inside.any(0).sum()
                assert rows * columns == inside.sum()  # one box
        assert (images[4] == 5).all()  # an image without labels stays
        shares.append(share)
    assert min(shares) < 0.2
    assert max(shares) > 0.95
    assert np.mean(shares) > 0.5  # boxes are cut off at the image's border


def test_the_loss_of_mixed_labels_is_cross_entropy_of_soft_ones(photos: Path) -> None:
    config: Any = build_train_config(str(photos), None, {**SMALL, "augment": "cutmix"})
    task = ClassificationTask(config, load_train_data(config, None), Resources(torch.device("cpu")))
    logits, partners = torch.randn(3, 2), torch.tensor([1, 2, 0])
    labels = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    loss, _ = task.loss(Labelled(HeadOutput(logits), labels, torch.ones(3, 2), partners, 0.7), 0)
    expected = functional.cross_entropy(logits, 0.7 * labels + 0.3 * labels[partners])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_resumed_run_is_bit_identical(photos: Path, tmp_path: Path, name: str) -> None:
    settings = {**SMALL, "augment": name, "accumulate": 2, "trained_stages": 2}
    config = build_train_config(str(photos), None, settings)
    whole = start(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "parts", progress=stop_after(3))
    parts = train(config, tmp_path / "parts", device="cpu", workers=2, resume=True)
    assert_same_weights(whole.folder, parts.folder)
    plain = start(build_train_config(str(photos), None, settings | {"augment": None}), tmp_path / "plain")
    assert differing(whole.folder, plain.folder)


def test_what_does_not_go_together(photos: Path, voc: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    cached = {**SMALL, "augment": "has", "freeze_backbone": True, "cache_features": True}
    with pytest.raises(UsageError, match="cache_features reads no images, which augment changes: leave one out"):
        build_train_config(str(photos), None, cached)
    several = run_cli(
        "train", voc, "--augment", "cutmix", "--backbone", "resnet-s", "--weights", "none", "--out", tmp_path / "run"
    )
    assert several.code == 2
    assert "--augment cutmix mixes one class per image" in several.stderr
    unknown = run_cli("train", photos, "--augment", "cutmx", "--dry-run")
    assert unknown.code == 2
    assert "unknown augmentation 'cutmx'. Did you mean 'cutmix'?" in unknown.stderr
