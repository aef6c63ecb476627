"""Training: exact resume, no boxes, the paper's loss, what is frozen, what is saved."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from gwapctl.config import build_train_config, stored_config
from gwapctl.datasets import open_dataset
from gwapctl.datasets.synthetic import make_synthetic_voc
from gwapctl.errors import DataError, ModelError, UsageError
from gwapctl.networks.backbones import added_layers, build_backbone
from gwapctl.networks.classifier import load_classifier
from gwapctl.networks.heads.base import classification_loss
from gwapctl.networks.transforms import Key, TrainingBatches, TrainingImages, collate, random_crop
from gwapctl.runs import Run
from gwapctl.train.classification import ClassificationTask
from gwapctl.train.data import load_train_data
from gwapctl.train.loop import train
from gwapctl.train.schedule import build_optimizer, learning_rate, parameter_groups
from gwapctl.train.task import Resources
from tests.factories import assert_same_weights, copy_with_other_boxes, start, stop_after, train_config, weights_of

SMALL: dict[str, Any] = {
    "backbone": "resnet-s",
    "weights": "none",
    "image_size": (40, 32),
    "batch_size": 6,
    "epochs": 2,
    "lr": 0.05,
    "schedule": "cosine",
    "warmup": 2,
    "min_crop": 0.6,
    "precision": "fp32",
}
config_for = partial(train_config, **SMALL)


@pytest.mark.parametrize(
    ("stop", "extra"),
    [(8, {}), (5, {}), (5, {"ema": 0.9, "train_sizes": (32, 48), "accumulate": 2})],
    ids=["after epoch 2 of 4", "in mid-epoch", "with ema, sizes and accumulation"],
)
def test_resumed_run_is_bit_identical(voc: Path, tmp_path: Path, stop: int, extra: dict[str, Any]) -> None:
    config = config_for(voc, epochs=4, keep="last", **extra)
    whole = start(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "parts", progress=stop_after(stop))
    assert Run.open(tmp_path / "parts").document["status"] == "interrupted"
    parts = start(config, tmp_path / "parts", resume=True)
    assert_same_weights(whole.folder, parts.folder)
    assert parts.finished
    assert not (parts.folder / "state.pt").exists()
    losses = [[row["loss"] for row in run.history()][-1] for run in (whole, parts)]
    assert losses[0] == losses[1]


def test_loader_threads_do_not_change_the_weights(voc: Path, tmp_path: Path) -> None:
    config = config_for(voc, epochs=1)
    start(config, tmp_path / "a")
    (tmp_path / "b").mkdir()
    train(config, tmp_path / "b", device="cpu", workers=2)
    assert_same_weights(tmp_path / "a", tmp_path / "b")


def test_box_coordinates_never_reach_training(voc: Path, tmp_path: Path) -> None:
    """Random boxes, the same labels: identical weights."""
    scrambled = copy_with_other_boxes(voc, tmp_path / "set")
    original, changed = open_dataset(str(voc)), open_dataset(str(scrambled))
    boxes = [[sample.boxes for sample in data.boxed_samples("train")] for data in (original, changed)]
    assert any(not np.array_equal(a, b) for a, b in zip(*boxes, strict=True))
    start(config_for(voc), tmp_path / "a")
    start(config_for(scrambled), tmp_path / "b")
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    assert not any(hasattr(sample, "boxes") for sample in load_train_data(config_for(voc), None).train)


def test_run_folder_holds_a_model_that_loads(voc: Path, tmp_path: Path) -> None:
    run = start(config_for(voc), tmp_path / "run")
    model = load_classifier(run.folder)
    assert [item.name for item in model.info.classes] == [item["name"] for item in run.document["dataset"]["classes"]]
    assert model.info.input_size == (40, 32)
    assert model.info.multi_label
    assert run.document["config"]["lr"] == 0.05
    assert run.document["dataset"]["val_split"] == "val"
    assert run.document["best"]["voc_map_area"] == max(row["val_voc_map_area"] for row in run.history())
    assert len(run.history()) == 2


def test_same_seed_same_losses_other_seed_other_losses(voc: Path, tmp_path: Path) -> None:
    losses = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = start(config_for(voc, seed=seed, epochs=1), tmp_path / name)
        losses[name] = run.history()[0]["loss"]
    assert losses["a"] == losses["b"] != losses["c"]


def test_multi_label_loss_is_caffes() -> None:
    """Summed over classes, divided by the batch, ignored classes left out; against the formula written out."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 7, generator=generator)
    labels = (torch.rand(5, 7, generator=generator) < 0.3).float()
    counts = (torch.rand(5, 7, generator=generator) < 0.8).float()
    p = torch.sigmoid(logits)
    expected = -(counts * (labels * p.log() + (1 - labels) * (1 - p).log())).sum() / 5
    assert torch.isclose(classification_loss(logits, labels, counts, multi_label=True), expected)


def test_single_label_loss_is_softmax_cross_entropy() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    expected = -math.log(1 / (math.e**2 + 1 + math.exp(-1)))
    assert classification_loss(logits, labels, torch.ones(1, 3), multi_label=False).item() == pytest.approx(expected)


def test_learning_rate_of_the_paper_and_of_the_cosine() -> None:
    paper = build_train_config("voc", None, {})
    rates = [learning_rate(paper, i, 60_000) for i in (0, 19_999, 20_000, 40_000, 59_999)]
    assert rates == pytest.approx([5e-4, 5e-4, 5e-5, 5e-6, 5e-6])
    cosine = paper.model_copy(update={"schedule": "cosine", "warmup": 10, "lr": 1.0})
    assert learning_rate(cosine, 0, 110) == pytest.approx(0.1)
    assert learning_rate(cosine, 60, 110) == pytest.approx(0.5)
    assert learning_rate(cosine, 110, 110) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "frozen"),
    [
        ({"weights": "none", "batch_size": 4}, False),
        ({"weights": "run", "batch_size": 4}, True),
        ({"weights": "run", "batch_size": 16}, False),
        ({"weights": "none", "batch_size": 4, "batch_norm": "frozen"}, True),
        ({"weights": "run", "batch_size": 4, "batch_norm": "train"}, False),
    ],
)
def test_batch_norm_is_frozen_only_where_pretrained_and_small(
    voc: Path, tmp_path: Path, changes: dict[str, Any], frozen: bool
) -> None:
    config = config_for(voc)
    weights = str(start(config, tmp_path / "run").folder) if changes["weights"] == "run" else "none"
    config = config_for(voc, **{**changes, "weights": weights})
    task = ClassificationTask(config, load_train_data(config, None), Resources(torch.device("cpu")))
    norms = [module for module in task.model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.weight.requires_grad != frozen for norm in norms)
    assert (len(task.frozen) == len(norms)) == frozen


def groups_of(config: Any) -> list[tuple[set[str], float, float]]:
    """Return the names of each group of parameters, the factor of its learning rate, and its weight decay."""
    task = ClassificationTask(config, load_train_data(config, None), Resources(torch.device("cpu")))
    names = {id(parameter): name for name, parameter in task.model.named_parameters()}
    return [
        ({names[id(one)] for one in group["params"]}, group["lr_factor"], group["weight_decay"])
        for group in task.parameter_groups()
        if group["params"]
    ]


def test_added_layers_and_the_head_have_factors_of_their_own(voc: Path) -> None:
    asked = {"cam_conv": True, "bias_lr_factor": 2.0, "head_lr_factor": 5.0, "weight_decay": 1e-3}
    backbone, biases, *rest = groups_of(config_for(voc, **asked, added_lr_factor=10.0))
    assert (backbone[1:], biases[1:]) == ((1.0, 1e-3), (2.0, 0.0))
    assert rest[:2] == [
        ({"backbone.cam_conv.0.weight"}, 10.0, 1e-3),
        ({"backbone.cam_conv.0.bias"}, 20.0, 0.0),
    ]
    assert [group[1:] for group in rest[2:]] == [(5.0, 1e-3), (10.0, 0.0)]
    assert not any("cam_conv" in name for name in backbone[0] | biases[0])
    plain = groups_of(config_for(voc, **asked))  # as many groups as the states of older runs have
    assert [group[1] for group in plain] == [1.0, 2.0, 5.0, 10.0]
    assert "backbone.cam_conv.0.weight" in plain[0][0]


def test_layers_that_spg_adds_are_new() -> None:
    backbone = build_backbone("inception-v3-spg")
    new = {name for name, _ in backbone.named_parameters() if name.startswith(added_layers("inception-v3-spg"))}
    assert new == {"add1.0.weight", "add1.0.bias", "add2.0.weight", "add2.0.bias"}
    behind = build_backbone("inception-v3-spg+cam")
    both = {name for name, _ in behind.named_parameters() if name.startswith(added_layers("inception-v3-spg+cam"))}
    assert both == {f"base.{name}" for name in new} | {"cam_conv.0.weight", "cam_conv.0.bias"}
    assert added_layers("timm:resnet10t") == ()


@pytest.mark.parametrize("nesterov", [True, False])
def test_nesterovs_momentum_looks_ahead(voc: Path, nesterov: bool) -> None:
    config = config_for(voc, nesterov=nesterov, momentum=0.5, weight_decay=0.0, lr=0.1)
    parameter = nn.Parameter(torch.zeros(1, 1))
    optimizer = build_optimizer(parameter_groups([parameter], config), config)
    seen = []
    for _ in range(2):
        parameter.grad = torch.ones(1, 1)
        optimizer.step()
        seen.append(round(parameter.item(), 6))
    # v = 1, then 1.5; the plain step is v, Nesterov's 1 + 0.5 v
    assert seen == ([-0.15, -0.325] if nesterov else [-0.1, -0.25])


def test_nesterov_needs_momentum(voc: Path) -> None:
    with pytest.raises(UsageError, match="nesterov needs momentum above 0"):
        config_for(voc, nesterov=True, momentum=0.0)


def test_frozen_backbone_trains_the_head_alone(voc: Path, tmp_path: Path) -> None:
    first = start(config_for(voc), tmp_path / "first")
    second = start(
        config_for(voc, weights=str(first.folder), freeze_backbone=True, seed=5, keep="last"), tmp_path / "second"
    )
    before, after = weights_of(first.folder), weights_of(second.folder)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("backbone."))
    assert not torch.equal(before["head.classifier.weight"], after["head.classifier.weight"])


def test_pretraining_takes_what_fits_and_names_the_rest(voc: Path, tmp_path: Path) -> None:
    first = start(config_for(voc), tmp_path / "first")
    other = tmp_path / "set"
    make_synthetic_voc(other, images=30, seed=4, size=(64, 80))
    merged, into, *_ = [item.name for item in open_dataset(str(other)).classes]
    for xml in (other / "Annotations").glob("*.xml"):  # one class fewer: the classifier no longer fits
        xml.write_text(xml.read_text().replace(f"<name>{merged}</name>", f"<name>{into}</name>"))
    run = start(config_for(other, weights=str(first.folder), epochs=1), tmp_path / "second")
    assert run.document["not_loaded"] == ["head.classifier.bias", "head.classifier.weight"]
    same = start(config_for(voc, weights=str(first.folder), epochs=1, seed=9), tmp_path / "third")
    assert same.document["not_loaded"] == []


def test_weights_of_another_network_are_refused(voc: Path, tmp_path: Path) -> None:
    first = start(config_for(voc), tmp_path / "first")
    config = config_for(voc, backbone="alexnet", weights=str(first.folder), image_size=(80, 80))
    with pytest.raises(ModelError, match="matches"):
        start(config, tmp_path / "second")


def test_accumulating_batches_counts_each_image_once() -> None:
    sampler = TrainingBatches(20, 4, ((32, 32),), seed=1, start=0, stop=5)
    keys = [key.image for batch in sampler for key in batch]
    assert sorted(keys) == list(range(20))


def test_batches_are_a_pure_function_of_the_iteration() -> None:
    sizes = ((32, 32), (48, 48))
    whole = list(TrainingBatches(23, 4, sizes, seed=7, start=0, stop=17))
    tail = list(TrainingBatches(23, 4, sizes, seed=7, start=9, stop=17))
    assert whole[9:] == tail
    assert {key.size for batch in whole for key in batch} == set(sizes)
    assert all(len({key.size for key in batch}) == 1 for batch in whole)


@pytest.mark.parametrize(("aspect", "kept"), [(1.0, True), (4 / 3, False)])
def test_random_crops_keep_the_aspect_unless_asked(aspect: float, kept: bool) -> None:
    image = np.zeros((300, 500, 3), np.uint8)
    crops = [random_crop(image, 0.3, np.random.default_rng(seed), aspect).shape for seed in range(40)]
    ratios = np.array([width / height for height, width, _ in crops]) / (500 / 300)
    assert (np.abs(ratios - 1) < 0.01).all() == kept
    assert (np.abs(np.log(ratios)) < np.log(4 / 3) + 0.01).all()
    shares = np.array([height * width for height, width, _ in crops]) / (300 * 500)
    assert 0.29 < shares.min() < 0.4
    assert 0.9 < shares.max() <= 1


def test_a_run_from_before_the_setting_had_crops_of_any_aspect() -> None:
    config = build_train_config("imagenet", None, {"min_crop": 0.5})
    assert config.crop_aspect == 1.0
    stored = config.model_dump(mode="json")
    assert stored_config(stored) == config
    del stored["crop_aspect"]
    assert stored_config(stored).crop_aspect == 4 / 3  # type: ignore[union-attr]
    assert stored_config(stored | {"min_crop": 1.0}).crop_aspect == 1.0  # type: ignore[union-attr]


def test_training_images_are_a_pure_function_of_their_key(voc: Path) -> None:
    images = TrainingImages(open_dataset(str(voc)).samples("train"), seed=2, flip=True, min_crop=0.5)
    key = Key(3, 1, (37, 29))
    first, _ = images[key]
    again, _ = images[key]
    other, _ = images[Key(3, 2, (37, 29))]
    assert first.shape == (29, 37, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    batch, indices = collate([images[key], images[Key(0, 1, (37, 29))]])
    assert batch.shape == (2, 3, 29, 37)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert indices.tolist() == [3, 0]


def test_a_finished_run_is_not_resumed(voc: Path, tmp_path: Path) -> None:
    run = start(config_for(voc), tmp_path / "run")
    with pytest.raises(UsageError, match="finished"):
        start(config_for(voc), run.folder, resume=True)


def test_resuming_with_other_data_is_refused(voc: Path, tmp_path: Path) -> None:
    copy = tmp_path / "set"
    shutil.copytree(voc, copy)
    config = config_for(copy, epochs=4, val_fraction=0.0, keep="last")
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "run", progress=stop_after(2))
    listing = copy / "ImageSets" / "Main" / "train.txt"
    listing.write_text("\n".join(listing.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(DataError, match="not those"):
        start(config, tmp_path / "run", resume=True)


def test_recipe_mistakes_come_all_at_once(tmp_path: Path) -> None:
    recipe = tmp_path / "bad.toml"
    recipe.write_text('bakbone = "vgg16"\nlr = -1\noptimizer = "lbfgs"\nepochs = 3\n')
    with pytest.raises(UsageError) as caught:
        build_train_config("voc", recipe, {})
    message = str(caught.value)
    assert message.startswith("3 wrong settings")
    assert all(word in message for word in ("bakbone", "'backbone'", "lr", "optimizer"))


def test_flags_win_over_the_recipe_and_the_recipe_over_the_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('backbone = "vgg16"\nlr = 0.5\nepochs = 3\n')
    config = build_train_config("voc", recipe, {"lr": 0.25})
    assert (config.backbone, config.lr, config.epochs, config.iterations) == ("vgg16", 0.25, 3, None)
    assert (config.momentum, config.recipe) == (0.9, "mine")


def test_paper_settings_are_the_defaults_for_voc() -> None:
    config = build_train_config("voc", None, {"backbone": "googlenet"})
    assert (config.image_size, config.batch_size, config.lr, config.iterations) == ((600, 600), 4, 5e-4, 60_000)
    assert (config.step_every, config.step_factor, config.momentum, config.weight_decay) == (20_000, 0.1, 0.9, 5e-4)
    assert (config.flip, config.min_crop, config.keep, config.optimizer) == (True, 1.0, "last", "sgd")


class Scalars:
    """What ``torch.utils.tensorboard.SummaryWriter`` is asked to do."""

    made: ClassVar[list[Scalars]] = []

    def __init__(self, folder: Path, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.rows: dict[int, dict[str, float]] = {}
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.rows.setdefault(step, {})[name] = value

    def __enter__(self) -> Scalars:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


def test_tensorboard_gets_the_history(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Scalars))
    monkeypatch.setattr(Scalars, "made", [])
    config = config_for(voc)
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "run", tensorboard=True, progress=stop_after(8))
    run = start(config, tmp_path / "run", tensorboard=True, resume=True)
    first, second = Scalars.made
    assert first.closed
    assert second.closed
    assert first.folder == second.folder == run.folder / "tensorboard"
    written = [{"iteration": step, **row} for log in (first, second) for step, row in log.rows.items()]
    assert written == run.history()
    assert first.purge_step == 1
    assert second.purge_step > max(first.rows)


def test_missing_tensorboard_is_exit_5_before_anything_is_written(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # what is None there cannot be imported
    result = run_cli("train", voc, "--weights", "none", "--out", tmp_path / "run", "--tensorboard")
    assert (result.code, result.stdout) == (5, "")
    assert result.stderr == (
        "error: --tensorboard needs the package tensorboard. Run: pip install 'gwapctl[tensorboard]'\n"
    )
    assert not (tmp_path / "run").exists()
