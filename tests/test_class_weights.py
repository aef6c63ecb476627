"""Where a class has many images and another few, the labels of the rare one weigh more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from factories import save_image, start, train_config
from torch.nn import functional

from gwapctl.config import build_train_config
from gwapctl.networks.heads.base import classification_loss
from gwapctl.networks.zoo import find_recipe
from gwapctl.train.class_weights import balancing_weights

SETTINGS = {
    "backbone": "resnet-s",
    "weights": "none",
    "image_size": (32, 32),
    "batch_size": 4,
    "iterations": 2,
    "val_fraction": 0.0,
    "keep": "last",
}


def labels(*counts: int) -> torch.Tensor:
    return torch.cat([torch.eye(len(counts))[label].repeat(count, 1) for label, count in enumerate(counts)])


def test_every_class_weighs_the_same_in_total() -> None:
    weights = balancing_weights(labels(40, 10, 10))
    assert weights is not None
    assert weights.tolist() == [0.5, 2, 2]
    assert (labels(40, 10, 10) * weights).sum(dim=0).tolist() == [20, 20, 20]


def test_classes_that_differ_by_a_factor_of_three_are_left_alone() -> None:
    assert balancing_weights(labels(30, 10)) is None
    assert balancing_weights(labels(31, 10)) is not None
    assert balancing_weights(labels(31, 0)) is None  # nothing is learned of the other


@pytest.mark.parametrize("multi_label", [True, False])
def test_the_loss_counts_labels_as_they_weigh(multi_label: bool) -> None:
    logits, true = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), labels(3, 1, 1)
    plain = classification_loss(logits, true, torch.ones_like(true), multi_label)
    if multi_label:
        assert torch.equal(plain, functional.binary_cross_entropy_with_logits(logits, true, reduction="sum") / 5)
    else:
        assert torch.allclose(plain, functional.cross_entropy(logits, true.argmax(1)), rtol=0, atol=1e-6)
    twice = torch.where(true > 0, 2.0, 1.0)
    alone = [classification_loss(logits, true, mask, multi_label) for mask in (true, torch.ones_like(true), twice)]
    torch.testing.assert_close(alone[2], alone[0] + alone[1])


def test_the_recipe_of_folders_asks_for_weights_and_papers_do_not() -> None:
    assert build_train_config("photos", find_recipe("photos"), {}).class_weights == "auto"
    assert build_train_config("voc", None, {}).class_weights == "none"


def test_a_run_says_how_its_classes_weigh(tmp_path: Path) -> None:
    for name, count in (("apple", 12), ("pear", 2)):
        for number in range(count):
            save_image(tmp_path / "data" / name / f"{number}.jpg")
    said: list[str] = []
    run = start(train_config(tmp_path / "data", **SETTINGS, class_weights="auto"), tmp_path / "a", announce=said.append)
    assert run.document["class_weights"] == pytest.approx([7 / 12, 3.5])
    assert "3.50 for pear, 0.58 for apple (class_weights='none': all the same)" in "\n".join(said)
    plain = start(train_config(tmp_path / "data", **SETTINGS), tmp_path / "b", announce=said.append)
    assert "class_weights" not in plain.document
