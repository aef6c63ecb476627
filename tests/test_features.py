"""Cached feature maps: what makes a cache another one, how a torn one heals, and that training from it is training."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from gwapctl.config import TrainConfig, build_train_config
from gwapctl.datasets.base import BoxedSample, Sample
from gwapctl.errors import DataError, ModelError, UsageError
from gwapctl.images.decode import read_image
from gwapctl.networks.classifier import Classifier, load_classifier
from gwapctl.networks.transforms import Key, TrainingImages, resize
from gwapctl.progress import Progress
from gwapctl.runs import Run
from gwapctl.train import feature_cache as features
from gwapctl.train.classification import ClassificationTask
from gwapctl.train.data import load_train_data
from gwapctl.train.feature_cache import EvaluationFeatures, FeatureCache, TrainingFeatures
from gwapctl.train.loop import train
from gwapctl.train.task import Resources
from tests.factories import assert_same_weights, make_small_classifier, stop_after, train_config, weights_of
from tests.factories import start as start_training

CPU = Resources(torch.device("cpu"))
SIZE = (48, 32)  # width, height
VIT = "timm:test_vit2"  # with a register token
SMALL: dict[str, Any] = {
    "backbone": "resnet-s",
    "weights": "none",
    "freeze_backbone": True,
    "image_size": SIZE,
    "batch_size": 6,
    "epochs": 3,
    "lr": 0.05,
    "schedule": "cosine",
    "warmup": 2,
    "precision": "fp32",
    "keep": "last",
}
config_for = partial(train_config, **SMALL)
make_model = partial(make_small_classifier, names=("a", "b"), input_size=SIZE)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Seven images of noise, given in another order than that of their paths."""
    generator = np.random.default_rng(0)
    found = []
    for number in (4, 0, 6, 2, 1, 5, 3):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), generator.integers(0, 256, (40, 56, 3), dtype=np.uint8))
        found.append(Sample(path.name, path, (number % 2,)))
    return found


def open_cache(place: Path, samples: list[Sample], model: Classifier | None = None, **changes: Any) -> FeatureCache:
    options: dict[str, Any] = {"size": SIZE, "precision": "fp32", "mirrored": True} | changes
    return FeatureCache(place, model or make_model(), samples, **options)


def shards_of(cache: FeatureCache) -> dict[str, int]:
    """Return name and time of writing of every shard."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(cache.folder.glob("*.npy"))}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images to a shard."""
    monkeypatch.setattr(features, "SHARD_IMAGES", 3)


# --- what is in a cache ---


@pytest.mark.parametrize("backbone", ["resnet-s", VIT])
@pytest.mark.usefixtures("small_shards")
def test_a_map_is_the_backbones_own_also_mirrored(tmp_path: Path, samples: list[Sample], backbone: str) -> None:
    """Convolutions and tokens alike, on a non-square grid."""
    model = make_model(backbone=backbone)
    cache = open_cache(tmp_path / "cache", samples, model)
    cache.fill(model)
    for sample in samples:
        image = torch.from_numpy(resize(read_image(sample.path), SIZE).copy()).permute(2, 0, 1).unsqueeze(0)
        for mirrored in (False, True):
            with torch.inference_mode():
                expected = model.feature_map(image.flip(3) if mirrored else image)[0]  # (K, h, w)
            found = torch.from_numpy(cache.read(sample, mirrored=mirrored)).permute(2, 0, 1).float()
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    plain, mirrored_maps = (cache.read(samples[0], mirrored=which) for which in (False, True))
    assert not np.array_equal(plain, mirrored_maps)


def test_the_same_images_are_mirrored_as_in_training_without_a_cache(tmp_path: Path, samples: list[Sample]) -> None:
    cache = open_cache(tmp_path / "cache", samples)
    cache.fill(make_model())
    cached, plain = TrainingFeatures(cache, samples, 5, True), TrainingImages(samples, 5, True, 1.0)
    seen = set()
    for key in (Key(image, epoch, SIZE) for image in range(len(samples)) for epoch in range(4)):
        whole = resize(read_image(samples[key.image].path), SIZE)
        was_mirrored = np.array_equal(plain[key][0], whole[:, ::-1])
        assert np.array_equal(cached[key][0], cache.read(samples[key.image], mirrored=was_mirrored))
        seen.add(was_mirrored)
    assert seen == {True, False}
    assert cached[Key(2, 0, SIZE)][1] == 2
    assert np.array_equal(EvaluationFeatures(cache, samples)[3][0], cache.read(samples[3]))


@pytest.mark.usefixtures("small_shards")
def test_beside_the_map_of_a_sample_with_boxes_is_its_region(tmp_path: Path, samples: list[Sample]) -> None:
    """The channel is what the head makes of the region that goes through all that is done to the image."""
    boxes = np.array([[3.0, 5.0, 20.0, 33.0], [18.0, 2.0, 41.0, 9.0]])  # of an image of 56 x 40
    boxed = [BoxedSample(**vars(sample), boxes=boxes) for sample in samples]
    cache = open_cache(tmp_path / "cache", boxed)
    assert cache.key == open_cache(tmp_path / "cache", samples).key
    cache.fill(make_model())
    for key in (Key(image, epoch, SIZE) for image in range(3) for epoch in range(4)):
        found, _ = TrainingFeatures(cache, boxed, 5, True)[key]
        image, _ = TrainingImages(boxed, 5, True, 1.0)[key]
        expected = image[..., 3].reshape(4, 8, 6, 8).mean((1, 3)) / 255  # cells of 8 x 8 pixels
        np.testing.assert_allclose(found[..., -1], expected, atol=1e-3)
        assert expected.min() == 0
        assert expected.max() > 0
        assert np.array_equal(found[..., :-1], TrainingFeatures(cache, samples, 5, True)[key][0])


# --- when it is made ---


@pytest.mark.usefixtures("small_shards")
def test_a_second_opening_computes_nothing(tmp_path: Path, samples: list[Sample]) -> None:
    first = open_cache(tmp_path / "cache", samples)
    size = 7 * 2 * 2 * 256 * 6 * 4
    assert first.missing_bytes() == size
    assert "of 7 images and of their mirror images once: 0.2 MB to write" in first.announcement()
    first.fill(make_model())
    written = shards_of(first)
    assert len(written) == 2 * 3
    assert sum((first.folder / name).stat().st_size for name in written) == size + 6 * 128  # numpy's headers
    second = open_cache(tmp_path / "cache", list(reversed(samples)))  # the order of the images does not matter
    assert (second.folder, second.missing(), second.missing_bytes()) == (first.folder, [], 0)
    assert second.announcement().startswith("reading the feature maps of 7 images")
    seen: list[Progress] = []
    second.fill(make_model(), progress=seen.append)
    assert seen == []
    assert shards_of(second) == written


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (32, 48)},
        {"precision": "bf16"},
        {"model": make_model(seed=1)},
        {"model": make_model(backbone="resnet18")},
    ],
    ids=["size", "precision", "weights", "backbone"],
)
def test_what_changes_the_maps_changes_the_cache(
    tmp_path: Path, samples: list[Sample], changes: dict[str, Any]
) -> None:
    first, second = open_cache(tmp_path, samples), open_cache(tmp_path, samples, **changes)
    assert first.key != second.key
    assert first.folder != second.folder


def test_an_edited_or_another_image_changes_the_cache(tmp_path: Path, samples: list[Sample]) -> None:
    first = open_cache(tmp_path, samples)
    assert open_cache(tmp_path, samples[1:]).key != first.key
    edited = samples[0].path
    state = edited.stat()
    os.utime(edited, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000_000))
    assert open_cache(tmp_path, samples).key != first.key
    edited.unlink()
    with pytest.raises(DataError, match=edited.name):
        open_cache(tmp_path, samples)


@pytest.mark.usefixtures("small_shards")
def test_mirrored_maps_are_added_to_a_cache_without(tmp_path: Path, samples: list[Sample]) -> None:
    plain = open_cache(tmp_path / "cache", samples, mirrored=False)
    plain.fill(make_model())
    before = shards_of(plain)
    assert set(before) == {"plain-00000.npy", "plain-00001.npy", "plain-00002.npy"}
    both = open_cache(tmp_path / "cache", samples)
    assert both.folder == plain.folder
    assert both.missing_bytes() == plain.missing_bytes() + 7 * 2 * 256 * 6 * 4
    both.fill(make_model())
    after = shards_of(both)
    assert {name: after[name] for name in before} == before
    assert len(after) == 6


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_cache_is_filled_up(tmp_path: Path, samples: list[Sample]) -> None:
    whole = open_cache(tmp_path / "whole", samples)
    whole.fill(make_model())
    cache = open_cache(tmp_path / "parts", samples)
    calls: list[None] = []
    with pytest.raises(KeyboardInterrupt):
        cache.fill(make_model(), stop=lambda: calls.append(None) or len(calls) == 2)  # type: ignore[func-returns-value]
    kept = shards_of(cache)
    assert set(kept) == {"plain-00000.npy", "mirrored-00000.npy"}  # of the second shard nothing
    (cache.folder / "plain-00000.npy").write_bytes((cache.folder / "plain-00000.npy").read_bytes()[:-10])  # torn
    again = open_cache(tmp_path / "parts", samples)
    assert [(shard, variants) for shard, variants in again.missing()] == [
        (0, ["plain"]),
        (1, ["plain", "mirrored"]),
        (2, ["plain", "mirrored"]),
    ]
    seen: list[Progress] = []
    again.fill(make_model(), progress=seen.append)
    assert [(state.done, state.total) for state in seen] == [(3, 7), (6, 7), (7, 7)]
    assert shards_of(again)["mirrored-00000.npy"] == kept["mirrored-00000.npy"]
    for name in shards_of(whole):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert not list(again.folder.glob(".*"))


def test_workers_do_not_change_a_cache(tmp_path: Path, samples: list[Sample]) -> None:
    for workers in (0, 2):
        open_cache(tmp_path / str(workers), samples).fill(make_model(), workers=workers)
    (first,), (second,) = ([*(tmp_path / name).glob("*/plain-00000.npy")] for name in "02")
    assert first.read_bytes() == second.read_bytes()


def test_a_folder_that_tells_of_other_maps_is_refused(tmp_path: Path, samples: list[Sample]) -> None:
    cache = open_cache(tmp_path, samples)
    cache.fill(make_model())
    path = cache.folder / "cache.json"
    document = json.loads(path.read_text())
    assert (document["backbone"], document["image_size"], document["shape"]) == ("resnet-s", [48, 32], [4, 6, 256])
    path.write_text(json.dumps(document | {"weights": "0" * 16}))
    with pytest.raises(DataError, match=rf"{cache.folder.name}.cache.json tells of other feature maps .* Delete"):
        open_cache(tmp_path, samples)


def test_too_small_a_disk_is_said_before_and_while_writing(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(tmp_path / "cache", samples)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))  # type: ignore[attr-defined]
        with pytest.raises(DataError, match=r"need 0\.2 MB at .*, where 0\.0 MB are free. Choose another disk with"):
            cache.fill(make_model())
    assert not cache.folder.exists()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match=r"plain-00000\.npy: No space left on device"):
        cache.fill(make_model())
    assert [path.name for path in cache.folder.iterdir()] == ["cache.json"]


def test_maps_beyond_float16_are_refused(tmp_path: Path, samples: list[Sample]) -> None:
    model = make_model()
    scale = torch.nn.Conv2d(256, 256, 1)
    torch.nn.init.constant_(scale.weight, 1e6)
    model.backbone = torch.nn.Sequential(model.backbone, scale)
    with pytest.raises(ModelError, match="resnet-s has values beyond float16"):
        open_cache(tmp_path, samples, model)


# --- training from it ---


def start(config: TrainConfig, out: Path, **options: Any) -> Run:
    return start_training(config, out, feature_cache=out.parent / "cache", **options)


LATE: dict[str, Any] = {"freeze_backbone": False, "trained_stages": 2}
LEARNED = ("layers.3", "layers.4", "layers.5", "cam_conv")  # the last two stages of resnet-s


@pytest.mark.parametrize(
    "changes",
    [
        {"flip": False},
        {"flip": True},
        {"backbone": VIT, "ema": 0.9, "accumulate": 2},
        {"head": "gwap-gt"},
        {**LATE, "lr": 0.01, "batch_norm": "train"},
        {**LATE, "cam_conv": True, "ema": 0.9, "batch_norm": "frozen"},
    ],
)
def test_training_from_the_cache_is_training_the_frozen_network(
    voc: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """The same batches, the same loop: losses, scores and weights agree as far as float16 lets them."""
    plain = start(config_for(voc, min_crop=1.0, **changes), tmp_path / "plain")
    cached = start(config_for(voc, cache_features=True, **changes), tmp_path / "cached")
    for one, other in zip(plain.history(), cached.history(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["val_voc_map_area"] == pytest.approx(other["val_voc_map_area"], abs=1.0)
    first, second = weights_of(plain.folder), weights_of(cached.folder)
    assert first.keys() == second.keys()
    learned = ("head.", *(f"backbone.{name}." for name in LEARNED))
    for name, tensor in first.items():
        if name.startswith(learned if changes.get("trained_stages") else "head."):
            torch.testing.assert_close(tensor, second[name], rtol=1e-2, atol=2e-3)
        else:
            assert torch.equal(tensor, second[name]), name
    assert not torch.equal(first["head.classifier.weight"], torch.zeros_like(first["head.classifier.weight"]))
    model = load_classifier(cached.folder)  # an ordinary one, which needs no cache
    region = [torch.ones(1, 1, 64, 32)] if changes.get("head") == "gwap-gt" else []
    assert model(torch.zeros(1, 3, 64, 32), *region).logits.shape == (1, len(model.info.classes))


@pytest.mark.parametrize(
    "extra",
    [{}, {"ema": 0.9, "head_options": {"dropout": 0.3}}, {**LATE, "cam_conv": True, "ema": 0.9}],
    ids=["plain", "ema", "late stages"],
)
def test_a_resumed_run_is_bit_identical(voc: Path, tmp_path: Path, extra: dict[str, Any]) -> None:
    config = config_for(voc, cache_features=True, **extra)
    whole = start(config, tmp_path / "a" / "whole")

    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "b" / "parts", progress=stop_after(5))
    state = torch.load(tmp_path / "b" / "parts" / "state.pt", weights_only=True)
    learned = tuple(f"backbone.{name}" for name in LEARNED) if "trained_stages" in extra else ()
    saved = [name.removeprefix("module.") for name in [*state["model"], *(state["ema"] or {})]]
    assert not [name for name in saved if name.startswith("backbone.") and not name.startswith(learned)]
    assert all(any(name.startswith(part) for name in saved) for part in learned)
    assert any(name.startswith("head.") for name in state["model"])
    shutil.rmtree(tmp_path / "b" / "cache")  # it is made again
    parts = train(config, tmp_path / "b" / "parts", device="cpu", workers=0, resume=True)  # knows where
    assert_same_weights(whole.folder, parts.folder)
    assert [row["loss"] for row in whole.history()][-1] == [row["loss"] for row in parts.history()][-1]


def test_stopped_while_caching_it_goes_on_there(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD_IMAGES", 4)
    config = config_for(voc, cache_features=True)

    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "run", progress=stop_after(8, "images"))
    document = Run.open(tmp_path / "run").document
    assert (document["status"], document["iterations"]) == ("interrupted", 0)
    said: list[str] = []
    run = start(config, tmp_path / "run", resume=True, announce=said.append)
    assert run.finished
    assert any(document["features"]["folder"] in line for line in said)
    assert document["features"]["backbone"] == "resnet-s"


def test_another_seed_holds_out_other_images_and_reads_the_same_cache(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            cv2.imwrite(str(folder / name / f"{number}.png"), generator.integers(0, 256, (32, 40, 3), dtype=np.uint8))
    runs = []
    for seed in (0, 1):
        weights = str(runs[0].folder) if runs else "none"  # so that both have the same backbone
        config = config_for(folder, cache_features=True, val_fraction=0.25, seed=seed, weights=weights, epochs=1)
        runs.append(start(config, tmp_path / f"run{seed}"))
    assert runs[0].document["dataset"]["fingerprint"] != runs[1].document["dataset"]["fingerprint"]
    assert runs[0].document["features"]["key"] == runs[1].document["features"]["key"]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_run_whose_images_were_changed_is_not_resumed(voc: Path, tmp_path: Path) -> None:
    copy = tmp_path / "set"
    shutil.copytree(voc, copy)
    config = config_for(copy, cache_features=True)

    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "run", progress=stop_after(2))
    for path in (copy / "JPEGImages").iterdir():
        os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="its images, or the weights of its backbone, were changed"):
        start(config, tmp_path / "run", resume=True)


def test_settings_that_a_cache_cannot_follow(voc: Path) -> None:
    with pytest.raises(UsageError, match="cache_features needs freeze_backbone or trained_stages"):
        config_for(voc, cache_features=True, freeze_backbone=False)
    with pytest.raises(UsageError, match="freeze_backbone and trained_stages contradict"):
        config_for(voc, trained_stages=2)
    for asked in ({"min_crop": 0.5}, {"train_sizes": (32, 48)}):
        with pytest.raises(UsageError, match="leave out min_crop and train_sizes"):
            config_for(voc, cache_features=True, **asked)
    assert config_for(voc, cache_features=True).min_crop == 1.0  # the default of folders is 0.5
    assert config_for(voc).min_crop == 0.5


def test_no_trained_stages_is_a_frozen_backbone(voc: Path, tmp_path: Path) -> None:
    """Two spellings of one setting: the same document, and the later layer overrules the other spelling."""
    frozen = config_for(voc)
    assert config_for(voc, freeze_backbone=False, trained_stages=0) == frozen
    assert (frozen.learning_stages, config_for(voc, **LATE).learning_stages) == (0, 2)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("freeze_backbone = true\nepochs = 1\n")
    config = build_train_config(str(voc), recipe, {"trained_stages": 1})
    assert isinstance(config, TrainConfig)
    assert (config.freeze_backbone, config.learning_stages) == (False, 1)


def test_caches_of_other_stages_are_others_and_know_only_what_is_frozen(tmp_path: Path, samples: list[Sample]) -> None:
    model = make_model()
    whole, cut = open_cache(tmp_path, samples, model), open_cache(tmp_path, samples, model, last=1)
    assert (whole.shape, cut.shape) == ((4, 6, 256), (4, 6, 96))
    assert whole.key != cut.key
    torch.nn.init.normal_(model.backbone.layers[5][0].weight)  # it learns
    assert open_cache(tmp_path, samples, model, last=1).key == cut.key
    assert open_cache(tmp_path, samples, model).key != whole.key
    torch.nn.init.normal_(model.backbone.layers[0][0].weight)
    assert open_cache(tmp_path, samples, model, last=1).key != cut.key


def test_batch_norm_of_frozen_stages_stands_still(voc: Path, tmp_path: Path) -> None:
    before = ClassificationTask(config_for(voc, **LATE), load_train_data(config_for(voc, **LATE), None), CPU)
    run = start(config_for(voc, **LATE, batch_norm="train", min_crop=1.0), tmp_path / "run")
    first, last = before.model.state_dict(), weights_of(run.folder)
    changed = {name for name in last if not torch.equal(first[name], last[name])}
    statistics = {name for name in last if name.startswith("backbone.") and name.endswith("running_mean")}
    assert statistics & changed == {
        name for name in statistics if name.startswith(("backbone.layers.3", "backbone.layers.4", "backbone.layers.5"))
    }


@pytest.mark.parametrize(
    ("backbone", "stages", "message"),
    [
        (VIT, 1, f"{VIT} is not divided into stages, .* freeze_backbone=True"),
        ("resnet-s", 4, "resnet-s has 4 stages: at most 3 learn behind frozen ones, not 4"),
    ],
)
def test_stages_that_a_backbone_does_not_have(voc: Path, backbone: str, stages: int, message: str) -> None:
    config = config_for(voc, backbone=backbone, freeze_backbone=False, trained_stages=stages)
    with pytest.raises(UsageError, match=message):
        ClassificationTask.check(config)


# --- from the command line ---


def test_the_command_says_what_it_writes_and_reads(voc: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    arguments = ["train", voc, "--backbone", "resnet-s", "--weights", "none", "--freeze-backbone", "--cache-features"]
    arguments += ["--image-size", "32", "--epochs", "1", "--device", "cpu", "--feature-cache", tmp_path / "cache"]
    first = run_cli(*arguments, "--out", tmp_path / "a")
    assert first.code == 0, first.stderr
    assert "computing the feature maps of" in first.stderr
    assert f"MB to write to {tmp_path / 'cache'}" in first.stderr
    second = run_cli(*arguments, "--out", tmp_path / "b")
    assert second.code == 0, second.stderr
    assert "reading the feature maps of" in second.stderr
