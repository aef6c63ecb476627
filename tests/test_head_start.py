"""Heads that start as mixtures of the classes of ImageNet's classifier: ``head_start``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from gwapctl.config import build_train_config, read_recipe
from gwapctl.networks.backbones import imagenet_tensors
from gwapctl.networks.classifier import load_classifier
from gwapctl.networks.zoo import find_recipe
from gwapctl.progress import Progress
from gwapctl.runs import Run
from gwapctl.train.head_start import MOST_PHOTOS, photos_to_look_at, set_start, source_mixtures
from gwapctl.train.loop import train
from gwapctl.train.task import Listener


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of six photos, blocks of a colour on noise; one is narrow."""
    generator = np.random.default_rng(0)
    for name, colour in (("apple", (40, 40, 220)), ("pear", (40, 220, 60)), ("plum", (160, 40, 90))):
        for number in range(6):
            image = generator.integers(0, 90, (72, 96 if number else 50, 3), dtype=np.uint8)
            image[10:50, 8:40] = colour
            path = tmp_path / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
    return tmp_path / "photos"


def test_mixtures_are_what_a_class_has_more_of() -> None:
    """Against sums written out one by one, with photos of several classes, of none, and a class that none shows."""
    generator = np.random.default_rng(3)
    chances = generator.dirichlet(np.full(7, 0.3), 20)
    labels = generator.random((20, 4)) < 0.4
    labels[:3], labels[:, 3] = False, False
    expected = np.zeros((4, 7))
    for label in range(3):
        counts = [row[label] / max(row.sum(), 1) for row in labels]
        mean = sum(count * chance for count, chance in zip(counts, chances, strict=True)) / sum(counts)
        above = np.maximum(mean - chances.mean(0), 0)
        expected[label] = above / above.sum()
    found = source_mixtures(torch.from_numpy(chances), torch.from_numpy(labels).float())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_class_starts_as_what_its_photos_look_like(multi_label: bool) -> None:
    weight = 20 * torch.eye(5, 6)
    looks = torch.tensor([3, 3, 1, 1, 1, 4])  # the class of the other classifier that each photo looks like
    pooled = torch.nn.functional.one_hot(looks, 6).float()
    labels = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1, 1, 2]), 3).float()
    layer = nn.Linear(6, 3)
    set_start(layer, weight, torch.zeros(5), pooled, labels, multi_label=multi_label)
    torch.testing.assert_close(layer.weight.detach(), weight[[3, 1, 4]], atol=1e-3, rtol=0)
    logits, share = layer(pooled).detach(), torch.tensor([2 / 6, 3 / 6, 1 / 6])
    torch.testing.assert_close(logits.mean(0), torch.logit(share) if multi_label else torch.zeros(3), atol=1e-4, rtol=0)
    assert logits.argmax(1).tolist() == [0, 0, 1, 1, 1, 2]


def test_of_many_photos_some_are_looked_at() -> None:
    assert photos_to_look_at(7, 0) == list(range(7))
    some = photos_to_look_at(3 * MOST_PHOTOS, 1)
    assert len(set(some)) == MOST_PHOTOS
    assert some == sorted(some) == photos_to_look_at(3 * MOST_PHOTOS, 1)
    assert some != photos_to_look_at(3 * MOST_PHOTOS, 2)


def _train(photos: Path, folder: Path, listener: Listener | None = None, **settings: Any) -> Run:
    small = {"image_size": (64, 64), "epochs": 2, "batch_size": 4, "warmup": 0, "precision": "fp32"} | settings
    config = build_train_config(str(photos), find_recipe("photos-imagenet-start"), small)
    resume, cache = (folder / "run.json").is_file(), folder.parent / "cache"
    return train(config, folder, device="cpu", feature_cache=cache, resume=resume, listener=listener or Listener())


def test_it_is_the_same_from_images_and_from_kept_maps(photos: Path, tmp_path: Path) -> None:
    """Before the first step: each class is a mixture of ImageNet's, by an independent way to say so."""
    _train(photos, tmp_path / "kept", epochs=0)
    _train(photos, tmp_path / "read", epochs=0, cache_features=False)
    models = [load_classifier(tmp_path / name) for name in ("kept", "read")]
    weights = [model.head.state_dict()["classifier.weight"] for model in models]
    torch.testing.assert_close(*weights, atol=2e-3, rtol=0)  # kept maps are float16
    rows = imagenet_tensors("efficientnet-lite0")["classifier.weight"].double()
    mixture = torch.linalg.lstsq(rows.T, weights[0].double().T).solution.T
    torch.testing.assert_close(mixture @ rows, weights[0].double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(mixture.sum(1), torch.ones(3, dtype=torch.float64), atol=1e-3, rtol=0)
    assert mixture.min() > -1e-3
    other = _train(photos, tmp_path / "random", epochs=0, head_start="random")
    assert not torch.allclose(load_classifier(other.folder).head.state_dict()["classifier.weight"], weights[0])


def _stopping(where: str) -> Listener:
    """Press Ctrl-C when a training tells ``where`` it is."""

    def progress(done: Progress) -> None:
        if where in (done.unit, done.text):
            raise KeyboardInterrupt

    return Listener(progress=progress, check_progress=progress)


@pytest.mark.parametrize("where", ["starting the head", "it"])
def test_one_that_stops_resumes_to_the_bit(photos: Path, tmp_path: Path, where: str) -> None:
    whole = _train(photos, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _train(photos, tmp_path / "stopped", _stopping(where))
    stopped = _train(photos, tmp_path / "stopped")
    one, other = (load_classifier(run.folder).head.state_dict() for run in (whole, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_recipe_differs_from_recipe_photos_where_it_says_so() -> None:
    plain, started = (read_recipe(find_recipe(name)) for name in ("photos", "photos-imagenet-start"))
    different = {key for key in plain | started if plain.get(key) != started.get(key)}
    assert different == {"head_start", "head_lr_factor"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--weights", "none"], "head_start = imagenet needs weights = imagenet"),
        (["--backbone", "googlenet"], "googlenet has no ImageNet classifier of its own behind it"),
        (["--head", "wildcat"], "head wildcat has no linear layer"),
    ],
)
def test_what_cannot_start_so_is_refused(
    photos: Path, tmp_path: Path, run_cli: Callable[..., Any], settings: list[str], said: str
) -> None:
    result = run_cli("train", photos, *settings, "--set", "head_start=imagenet", "--out", tmp_path / "run")
    assert result.code == 2
    assert said in result.stderr
    assert not (tmp_path / "run").exists()
