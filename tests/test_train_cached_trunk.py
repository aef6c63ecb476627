"""A detector behind a frozen trunk: what the trunk makes of images is kept, and learned from as from the images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import clip_boxes_to_image

from gwapctl.boxes import iou
from gwapctl.config import DetectorConfig, build_train_config
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import Dataset, Sample
from gwapctl.draw import write_png
from gwapctl.errors import DataError, UsageError
from gwapctl.images.decode import read_image
from gwapctl.networks.rfcn.base import BoxTarget, DetectorInfo
from gwapctl.networks.rfcn.inference import DetectorReader, pad, split_trunk_maps
from gwapctl.networks.rfcn.losses import CODER
from gwapctl.networks.rfcn.rfcn import Detector
from gwapctl.networks.rfcn.store import build_detector, load_detector
from gwapctl.networks.transforms import resize
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.runs import Run
from gwapctl.train.loop import train_with
from gwapctl.train.pseudo import PseudoBoxes, boxes_file, pseudo_boxes
from gwapctl.train.task import Listener, Resources
from gwapctl.train.trunk_cache import TrunkCache
from tests.factories import SMALL_DETECTOR, copy_with_other_boxes, differing, start, stop_after, train_config

CLASSES = [{"name": name, "id": name} for name in ("a", "b")]
SMALL: dict[str, Any] = {**SMALL_DETECTOR, "boxes_from": "somebody", "frozen_stages": 5, "iterations": 6}


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    info = DetectorInfo(backbone="resnet-s", classes=CLASSES, short_side=40, long_side=56, weak="gwap")
    return build_detector(info).eval()


@pytest.fixture
def weights(voc: Path, tmp_path: Path) -> Path:
    """A small classifier's file, for a trunk that stays as it is."""
    settings = {"backbone": "resnet-s", "weights": "none", "image_size": (32, 32), "iterations": 1}
    return start(train_config(voc, **settings), tmp_path / "classifier").folder / "weights.safetensors"


def found_boxes(dataset: Dataset, samples: Sequence[Sample], progress: ProgressCallback) -> list[PseudoBoxes]:
    """One box in every image, of its first class."""
    del dataset, progress
    return [pseudo_boxes([[8 + n % 9, 8, 40, 40 + n % 5]], [one.labels[0]], [0.9]) for n, one in enumerate(samples)]


def train_from(config: DetectorConfig, out: Path, cache: Path, **options: Any) -> Run:
    out.mkdir(parents=True, exist_ok=True)
    listener = Listener(**{name: options.pop(name) for name in ("announce", "progress") if name in options})
    resources = Resources(torch.device("cpu"), feature_cache=cache, boxes=found_boxes)
    return train_with(resources, config, out, listener=listener, **options)


def cache_of(folder: Path, model: Detector, samples: Sequence[Sample], **options: Any) -> TrunkCache:
    return TrunkCache(folder, model, samples, precision="fp32", **{"mirrored": True, **options})


# ----------------------------------------------------------------------------------------------------------- the cache


def test_maps_are_those_of_each_image_alone(voc: Path, tmp_path: Path, detector: Detector) -> None:
    samples = open_dataset(str(voc)).samples("train")[:3]
    cache = cache_of(tmp_path, detector, samples)
    promised = cache.missing_bytes()
    cache.fill(detector)
    files = sorted(cache.folder.glob("*.npy"))
    assert len(files) == 6
    assert 0 < sum(file.stat().st_size for file in files) - promised <= 6 * 128  # numpy's headers
    reader = DetectorReader(detector, device="cpu")
    for index, sample in enumerate(samples):
        image = read_image(sample.path)
        (seen,) = reader.run([image])
        kept = reader.run_trunk_maps(cache.read(index), cache.geometry(index))
        np.testing.assert_allclose(kept.scores[:5], seen.scores[:5], atol=1e-3)
        write_png(tmp_path / "mirrored.png", image[:, ::-1])
        other = cache_of(tmp_path / "other", detector, [Sample("m", tmp_path / "mirrored.png", (0,))], mirrored=False)
        other.fill(detector)
        np.testing.assert_allclose(cache.read(index, mirrored=True), other.read(0), atol=0.05)
        (tmp_path / "mirrored.png").unlink()


def test_losses_are_those_of_the_images(tmp_path: Path, detector: Detector) -> None:
    """Images of one size; up to the rounding of float16."""
    for name in ("a", "b"):
        write_png(tmp_path / f"{name}.png", np.random.default_rng(ord(name)).integers(0, 255, (44, 60, 3), np.uint8))
    samples = [Sample(name, tmp_path / f"{name}.png", (1,)) for name in ("a", "b")]
    cache = cache_of(tmp_path, detector, samples)
    cache.fill(detector)
    shapes = [cache.geometry(index) for index in range(2)]
    inputs = [
        resize(read_image(one.path), (shape.input_width, shape.input_height))
        for one, shape in zip(samples, shapes, strict=True)
    ]
    images, sizes = pad(inputs)
    maps, _ = pad([cache.read(index) for index in range(2)])
    target = BoxTarget(torch.tensor([[4.0, 4, 30, 30]]), torch.tensor([1]), torch.tensor([False]))
    labels = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    losses = []
    for kept in (False, True):
        torch.manual_seed(0)
        conv4, conv5 = split_trunk_maps(detector, maps) if kept else detector.trunk_maps(images, sizes)
        detector.train()
        losses.append(detector.losses((conv4, detector.shared(conv5)), sizes, [target, target], labels))
        detector.eval()
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        assert float(losses[1][name].detach()) == pytest.approx(float(loss.detach()), rel=0.02), name


def test_what_is_there_is_not_computed_again(voc: Path, tmp_path: Path, detector: Detector) -> None:
    samples = open_dataset(str(voc)).samples("train")[:3]

    def stop() -> bool:
        return True

    with pytest.raises(KeyboardInterrupt):
        cache_of(tmp_path, detector, samples).fill(detector, stop=stop)
    again, done = cache_of(tmp_path, detector, samples[::-1]), list[Progress]()
    assert [index for index, _ in again.missing()] == [0, 1]
    again.fill(detector, progress=done.append)
    assert (len(done), again.missing(), again.missing_bytes()) == (2, [], 0)
    with torch.no_grad():
        next(detector.trunk.parameters()).add_(1)
    assert len(cache_of(tmp_path, detector, samples).missing()) == 3


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("stop", [2, 5])
def test_a_run_on_kept_maps_resumes_to_the_bit(voc: Path, tmp_path: Path, weights: Path, stop: int) -> None:
    settings = {"rounds": 2, "weak": "gwap", "cache_features": True, "ema": 0.5, "weights": str(weights)}
    config = train_config(voc, **SMALL | settings)
    said: list[str] = []
    whole = train_from(config, tmp_path / "whole", tmp_path / "cache", announce=said.append)
    assert any(text.startswith("computing the maps of the trunk") for text in said)
    with pytest.raises(KeyboardInterrupt):
        train_from(config, tmp_path / "parts", tmp_path / "cache", progress=after_caching(stop))
    parts = train_from(config, tmp_path / "parts", tmp_path / "elsewhere", resume=True)
    assert differing(whole.folder, parts.folder) == []
    assert boxes_file(whole.folder, 2).read_text() == boxes_file(parts.folder, 2).read_text()
    assert whole.document["features"]["key"] == parts.document["features"]["key"]


def after_caching(iterations: int) -> ProgressCallback:
    """Stop as ``stop_after`` does, counting iterations alone."""
    stop = stop_after(iterations)
    return lambda done: stop(done) if done.unit == "it" else None


def test_no_true_box_is_learned_from(voc: Path, tmp_path: Path, weights: Path) -> None:
    other = copy_with_other_boxes(voc, tmp_path / "other")
    config = partial(train_config, **SMALL | {"cache_features": True, "weights": str(weights)})
    runs = [train_from(config(folder), tmp_path / folder.name / "run", tmp_path / "cache") for folder in (voc, other)]
    assert differing(runs[0].folder, runs[1].folder) == []


def test_images_without_boxes_are_kept_for_the_weak_branch(voc: Path, tmp_path: Path, weights: Path) -> None:
    settings = SMALL | {"boxes_from": None, "box_proportion": 0.2, "weak": "gwap", "weights": str(weights)}
    run = train_from(train_config(voc, **settings, cache_features=True), tmp_path / "run", tmp_path / "cache")
    assert run.document["box_subset"]["fraction"] < 1
    assert run.document["features"]["images"] == run.document["dataset"]["n_train"]
    assert run.history()[-1].keys() >= {"weak_image", "weak_region", "roi_class"}


def test_the_average_of_the_weights_is_what_is_saved(voc: Path, tmp_path: Path, weights: Path) -> None:
    settings = SMALL | {"weights": str(weights), "cache_features": True}
    last, mean = (
        train_from(train_config(voc, **settings, ema=ema), tmp_path / str(ema), tmp_path / "cache") for ema in (0, 0.9)
    )
    trunk, neck = (
        [torch.equal(one, two) for one, two in zip(part(last), part(mean), strict=True)]
        for part in (
            lambda run: load_detector(run.folder).trunk.parameters(),
            lambda run: load_detector(run.folder).neck.parameters(),
        )
    )
    assert all(trunk)
    assert not any(neck)


def test_other_images_cannot_be_resumed(voc: Path, tmp_path: Path, weights: Path) -> None:
    config = train_config(voc, **SMALL | {"cache_features": True, "weights": str(weights)})
    with pytest.raises(KeyboardInterrupt):
        train_from(config, tmp_path / "run", tmp_path / "cache", progress=after_caching(2))
    run = Run.open(tmp_path / "run")
    run.update(features=run.document["features"] | {"fingerprint": "other"})
    with pytest.raises(DataError, match="cannot be resumed"):
        train_from(config, tmp_path / "run", tmp_path / "cache", resume=True)


# ------------------------------------------------------------------------------------------------------------ settings


def test_a_trunk_that_learns_is_not_kept() -> None:
    with pytest.raises(UsageError, match="frozen_stages 5"):
        build_train_config("photos", None, {"detector": "rfcn", "cache_features": True})
    found = {"detector": "rfcn", "boxes_from": "runs/a"}
    kept = [
        build_train_config("photos", None, found | more).cache_features
        for more in ({}, {"weights": "none"}, {"frozen_stages": 4})
    ]
    assert kept == [True, False, False]


def test_scores_of_the_image_multiply_those_of_its_boxes(detector: Detector) -> None:
    info = detector.info.model_copy(update={"image_scores": True})
    torch.manual_seed(0)
    both = build_detector(info).eval()
    both.load_state_dict(detector.state_dict())
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    images, sizes = pad([image])
    with torch.no_grad():
        assert detector.weak is not None
        features = detector.features(images, sizes)
        chance = detector.weak(features[1], [(5, 7)]).logits[0].sigmoid()[0]
        plain, multiplied = detector.detect(features, sizes)[0], both.detect(features, sizes)[0]
    best = [max(found["scores"][found["labels"] == 1]) for found in (plain, multiplied)]
    assert float(best[1]) == pytest.approx(float(best[0] * chance[1]))
    with pytest.raises(UsageError, match="image_scores"):
        build_train_config("photos", None, {"detector": "rfcn", "image_scores": True})


def test_boxes_around_a_box_support_it(detector: Detector) -> None:
    info = detector.info.model_copy(update={"support": True})
    torch.manual_seed(0)
    other = build_detector(info).eval()
    other.load_state_dict(detector.state_dict())
    images, sizes = pad([np.random.default_rng(1).integers(0, 255, (40, 56, 3), np.uint8)])
    with torch.no_grad():
        features = detector.features(images, sizes)
        regions, _ = detector.proposals(features[0], sizes)
        scores, offsets = detector.votes(features[1], regions)
        found = other.detect(features, sizes)[0]
    boxes = clip_boxes_to_image(CODER.decode_single(offsets, regions[0]), sizes[0]).double().numpy()
    chances = scores.softmax(1)[:, 1:].double().numpy()
    overlap = iou(boxes, boxes)
    best = found["boxes"][0].double().numpy()
    own = int(np.abs(boxes - best).sum(1).argmin())
    near = overlap[own] >= 0.6
    votes = float((overlap[own, near] * chances[near, found["labels"][0]]).sum())
    assert float(found["scores"][0]) == pytest.approx(votes / (1 + votes), rel=1e-4)
    assert bool((found["scores"] <= found["scores"][0]).all())


def test_fewer_proposals(detector: Detector) -> None:
    info = detector.info.model_copy(update={"candidates": 20, "proposals": 7})
    few = build_detector(info).eval()
    few.load_state_dict(detector.state_dict())
    images, sizes = pad([np.zeros((40, 56, 3), np.uint8)])
    with torch.no_grad():
        (regions,), _ = few.proposals(few.trunk_maps(images, sizes)[0], sizes)
    assert 0 < len(regions) <= 7
