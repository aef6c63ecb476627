"""The head that learns from background images: its losses against slow references, its batches, its runs."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gwapctl.config import TrainConfig
from gwapctl.datasets import open_dataset
from gwapctl.datasets.subset import ClassSubset, background_samples, without_classes
from gwapctl.datasets.synthetic import make_backgrounds, make_synthetic_voc
from gwapctl.errors import DataError, UsageError
from gwapctl.maps.localizer import Localizer
from gwapctl.maps.reading import MapReading
from gwapctl.networks.classifier import load_classifier, load_info
from gwapctl.networks.heads import build_head
from gwapctl.networks.heads.background import SMALLEST_SPAN, Background
from gwapctl.networks.heads.base import HeadOutput, classification_loss
from gwapctl.networks.transforms import TrainingBatches, TrainingImages, load_batches
from gwapctl.regions import normalise
from gwapctl.runs import Run
from gwapctl.train.checkpoint import Training
from gwapctl.train.classification import ClassificationTask
from gwapctl.train.data import load_train_data
from gwapctl.train.loop import train_step
from gwapctl.train.task import Resources
from tests.factories import assert_same_weights, copy_with_other_boxes, start, stop_after, train_config

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from background_images import copy_without

CHANNELS, CLASSES, GRID = 7, 5, (3, 4)
NARROW = {"hidden": 6, "foreground_hidden": 4}
SMALL: dict[str, Any] = {
    "backbone": "resnet-s",
    "weights": "none",
    "head": "background",
    "head_options": {"hidden": 16, "foreground_hidden": 8},
    "image_size": (40, 32),
    "batch_size": 6,
    "epochs": 3,
    "lr": 0.05,
    "min_crop": 0.6,
    "precision": "fp32",
    "keep": "last",
}
config_for = partial(train_config, **SMALL)


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grounds")
    make_backgrounds(folder, images=3, seed=1, size=(64, 70))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make class folders with ten images of each of four colours, two of them scenery, in train and val."""
    folder = tmp_path_factory.mktemp("colours")
    generator = np.random.default_rng(0)
    for place, name in enumerate(("cat", "cliff", "dog", "shore")):
        for split in ("train", "val"):
            (folder / split / name).mkdir(parents=True)
            for number in range(10):
                picture = generator.integers(0, 80, (36, 44, 3)).astype(np.uint8)
                picture[..., place % 3] += np.uint8(60 * place)
                assert cv2.imwrite(str(folder / split / name / f"{number}.png"), picture)
    return folder


def head_of(**options: float) -> Background:
    """Build a head in float64 whose parameters are drawn wide, not near zero as at the start of training."""
    torch.manual_seed(3)
    head = build_head("background", CHANNELS, CLASSES, {**NARROW, **options}).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    assert isinstance(head, Background)
    return head


def features(batch: int, seed: int = 11) -> Tensor:
    return torch.randn(batch, CHANNELS, *GRID, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def task_of(config: TrainConfig) -> ClassificationTask:
    return ClassificationTask(config, load_train_data(config, None), Resources(torch.device("cpu")))


def loss_of(head: Background, output: HeadOutput, labels: Tensor, *, epoch: float, multi_label: bool = True) -> Tensor:
    return head.loss(output, labels, torch.ones_like(labels), multi_label=multi_label, epoch=epoch)


# --- the head ---


def test_both_branches_position_by_position() -> None:
    head, feature_map = head_of(), features(2)
    output = head(feature_map)
    assert output.score_map is not None
    assert output.weight_map is not None
    assert output.presence is not None
    padded = nn.functional.pad(feature_map, (1, 1, 1, 1))
    for conv, linear, found in (
        (head.class_conv, head.classifier, output.score_map),
        (head.foreground_conv, head.foreground, output.weight_map),
    ):
        assert conv.bias is not None
        assert linear.bias is not None
        for y in range(GRID[0]):
            for x in range(GRID[1]):
                window = padded[:, :, y : y + 3, x : x + 3].flatten(1)
                hidden = (window @ conv.weight.flatten(1).T + conv.bias).clamp(min=0)
                scores = hidden @ linear.weight.flatten(1).T + linear.bias
                expected = scores.clamp(min=0) if found is output.weight_map else scores
                torch.testing.assert_close(found[:, :, y, x], expected)
    torch.testing.assert_close(output.logits, output.score_map.mean((2, 3)))
    assert output.presence.shape == (2,)
    classes = torch.tensor([[4, 0, 4], [1, 2, 3]])
    maps = head.class_map(feature_map, classes)
    for image in range(2):
        torch.testing.assert_close(maps[image], output.score_map[image, classes[image]].clamp(min=0))


@pytest.mark.parametrize("bce", [0, 1])
def test_the_loss_against_its_formula_written_out(bce: int) -> None:
    """Multi-label: L_mask is the mean over an image's classes; background images count in L_fb alone."""
    head = head_of(l1=0.7, l2=1.3, bce=bce)
    output = head(features(4))
    labels = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]], dtype=torch.float64)
    assert output.presence is not None
    assert output.score_map is not None
    assert output.weight_map is not None

    def stretch(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (array - array.min()) / max(array.max() - array.min(), SMALLEST_SPAN)

    foreground, scores, a = (t.detach().numpy() for t in (output.weight_map, output.score_map, output.presence))
    right = 1 / (1 + np.exp(-a))
    presence = -(np.log(right[:3]).sum() + np.log(1 - right[3])) / 4
    mask = 0.0
    for image in (0, 2):
        region = stretch(foreground[image, 0])
        present = labels[image].nonzero().flatten().tolist()
        for label in present:
            s = scores[image, label]
            p = 1 / (1 + np.exp(-s))
            error = -(region * np.log(p) + (1 - region) * np.log(1 - p)) if bce else (stretch(s.clip(0)) - region) ** 2
            mask += error.mean() / len(present) / 3
    assert mask > 0.01
    plain = classification_loss(output.logits[:3], labels, torch.ones_like(labels), multi_label=True).item()
    for epoch, ramp in ((0.0, 0), (1.0, 0), (1.25, 0.25), (2.0, 1), (7.5, 1)):
        expected = plain + 0.7 * presence + 1.3 * ramp * mask
        assert loss_of(head, output, labels, epoch=epoch).item() == pytest.approx(expected, rel=1e-9)


def test_the_gradient_is_the_numerical_one() -> None:
    head = head_of()
    labels = torch.eye(CLASSES, dtype=torch.float64)[[2, 4]]

    def whole_loss(feature_map: Tensor) -> Tensor:
        return loss_of(head, head(feature_map), labels, epoch=1.5, multi_label=False)

    # R takes no gradient, so the loss as a function of F is not what autograd differentiates: hold R still
    frozen = head(features(3))
    region, scores_of = frozen.weight_map, head.class_conv
    assert region is not None

    def mask_alone(feature_map: Tensor) -> Tensor:
        return head.mask_loss(head.classifier(scores_of(feature_map).relu())[:2], region[:2], labels)

    assert torch.autograd.gradcheck(mask_alone, (features(3).requires_grad_(),))
    assert torch.isfinite(whole_loss(features(3)))


def test_mask_loss_has_no_gradient_into_the_foreground_module() -> None:
    head = head_of(l1=0)
    labels = torch.eye(CLASSES, dtype=torch.float64)[[2, 4]]
    loss_of(head, head(features(2)), labels, epoch=9).backward()
    own = [*head.foreground_conv.parameters(), *head.foreground.parameters()]
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in own)
    assert head.class_conv.weight.grad is not None
    assert head.class_conv.weight.grad.any()
    before = head_of(l1=0, l2=0)
    loss_of(before, before(features(2)), labels, epoch=9).backward()
    assert before.class_conv.weight.grad is not None
    assert not torch.allclose(before.class_conv.weight.grad, head.class_conv.weight.grad)


def test_background_images_drive_the_presence_down() -> None:
    head = head_of()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.02)
    feature_map = features(4)
    labels = torch.eye(CLASSES, dtype=torch.float64)[[2, 4]]
    first = head(feature_map).presence
    for _ in range(40):
        optimizer.zero_grad()
        loss_of(head, head(feature_map), labels, epoch=0).backward()
        optimizer.step()
    last = head(feature_map).presence
    assert first is not None
    assert last is not None
    assert (last[2:] < first[2:]).all()
    assert last[2:].max() < 0 < last[:2].min()


def test_a_map_without_evidence_is_not_blown_up() -> None:
    head = head_of()
    labels = torch.eye(CLASSES, dtype=torch.float64)[[2, 4]]
    scores = (torch.rand(2, CLASSES, *GRID, dtype=torch.float64) * 1e-9).requires_grad_()
    head.mask_loss(scores, torch.rand(2, 1, *GRID, dtype=torch.float64), labels).backward()
    assert scores.grad is not None
    assert scores.grad.abs().max() < 10
    for constant in (0.0, 2.0, -2.0):
        maps = torch.full((2, CLASSES, *GRID), constant, dtype=torch.float64, requires_grad=True)
        head.mask_loss(maps, torch.zeros(2, 1, *GRID, dtype=torch.float64), labels).backward()
        assert maps.grad is not None
        assert maps.grad.isfinite().all()


@pytest.mark.parametrize("options", [{"hidden": 0}, {"foreground_hidden": -1}, {"l1": -1}, {"l2": math.nan}])
def test_senseless_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"head background: .* not"):
        build_head("background", CHANNELS, CLASSES, options)


# --- batches ---


def test_background_batches_leave_everything_else_as_it_is() -> None:
    sizes = ((32, 32), (48, 40))
    plain = list(TrainingBatches(23, 4, sizes, seed=7, start=0, stop=60))
    mixed = list(TrainingBatches(23, 4, sizes, seed=7, start=0, stop=60, backgrounds=3, backgrounds_per_batch=2))
    assert [keys[:4] for keys in mixed] == plain
    behind = [keys[4:] for keys in mixed]
    assert all(len(keys) == 2 and {key.size for key in keys} == {mixed[i][0].size} for i, keys in enumerate(behind))
    drawn = [key.image for keys in behind for key in keys]
    assert set(drawn) == {23, 24, 25}
    assert any(len({key.image for key in keys}) == 1 for keys in behind)  # with replacement
    tail = TrainingBatches(23, 4, sizes, seed=7, start=33, stop=60, backgrounds=3, backgrounds_per_batch=2)
    assert list(tail) == mixed[33:]


def test_an_eighth_of_the_batch_and_at_least_one() -> None:
    assert [head_of().background_images(size) for size in (1, 4, 8, 31, 128)] == [1, 1, 1, 3, 16]
    assert head_of(l1=0).background_images(128) == 0


def test_a_background_drawn_twice_is_cut_twice(voc: Path, grounds: Path) -> None:
    config = config_for(voc, background=str(grounds), batch_size=16)
    task = task_of(config)
    assert task.backgrounds_per_batch == 2
    images = TrainingImages([*task.data.train, *task.data.background], config.seed, flip=True, min_crop=0.6)
    keys = [key for batch in TrainingBatches(18, 16, ((40, 32),), 0, 0, 9, 3, 2) for key in batch[16:]]
    batch, _ = next(iter(load_batches(images, [keys], 0)))
    assert len(batch.flatten(1).unique(dim=0)) == len(set(keys)) > 3


# --- training ---


def test_without_both_losses_it_is_cam_step_for_step(voc: Path) -> None:
    """Same branch layout as ``--cam-conv`` and head ``gap``, l1 = l2 = 0: the same losses and weights."""
    cam = config_for(voc, head="gap", head_options={}, cam_conv=True, batch_size=4)
    ours = config_for(voc, head_options={"l1": 0, "l2": 0, "foreground_hidden": 4}, batch_size=4)
    a, b = task_of(cam), task_of(ours)
    names = {"backbone.cam_conv.0.weight": "head.class_conv.weight", "backbone.cam_conv.0.bias": "head.class_conv.bias"}
    state = b.model.state_dict()
    for name, value in a.model.state_dict().items():
        own = names.get(name, name)
        state[own] = value.reshape(state[own].shape)
    b.model.load_state_dict(state)
    steps = [(Training(task), task.batches(0)) for task in (a, b)]
    for iteration in range(2 * a.per_epoch + 2):  # L_mask would have begun
        losses = []
        for training, batches in steps:
            training.iteration = iteration
            losses.append(train_step(training, batches, 2e-3)[0].item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    trained = b.model.state_dict()
    for name, value in a.model.state_dict().items():
        own = trained[names.get(name, name)]
        torch.testing.assert_close(own, value.reshape(own.shape), rtol=1e-3, atol=1e-4)


def test_a_resumed_run_with_backgrounds_is_bit_identical(voc: Path, grounds: Path, tmp_path: Path) -> None:
    config = config_for(voc, background=str(grounds), train_sizes=(32, 48), accumulate=2)
    whole = start(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "parts", progress=stop_after(7))
    parts = start(config, tmp_path / "parts", resume=True)
    assert_same_weights(whole.folder, parts.folder)
    assert whole.document["dataset"]["n_background"] == 3
    assert load_info(whole.folder).map == "class"


def test_resuming_with_other_backgrounds_is_refused(voc: Path, grounds: Path, tmp_path: Path) -> None:
    copy = tmp_path / "grounds"
    shutil.copytree(grounds, copy)
    config = config_for(voc, background=str(copy))
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "run", progress=stop_after(1))
    next(copy.glob("*.jpg")).unlink()
    with pytest.raises(DataError, match="the background images are not those"):
        start(config, tmp_path / "run", resume=True)


def test_boxes_do_not_matter(voc: Path, grounds: Path, tmp_path: Path) -> None:
    scrambled = copy_with_other_boxes(voc, tmp_path / "set")
    for name, folder in (("a", voc), ("b", scrambled)):
        start(config_for(folder, background=str(grounds)), tmp_path / name)
    assert_same_weights(tmp_path / "a", tmp_path / "b")


def test_maps_of_a_trained_model(voc: Path, grounds: Path, tmp_path: Path) -> None:
    """``class`` is ReLU(S_c), ``foreground`` ReLU(A), ``fused`` the mean of both, stretched."""
    run = start(config_for(voc, background=str(grounds), epochs=1), tmp_path / "run")
    model = load_classifier(run.folder)
    assert Localizer(model, device="cpu").reading.method == "class"
    picture = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    with torch.inference_mode():
        output = model(torch.from_numpy(picture).permute(2, 0, 1)[None])
    assert output.score_map is not None
    assert output.weight_map is not None
    label = int(output.logits.argmax())
    sources = {"class": output.score_map[0, label].clamp(min=0), "foreground": output.weight_map[0, 0]}
    assert all(source.max() > source.min() for source in sources.values())
    for method, expected in sources.items():
        (found,) = Localizer(model, MapReading(method=method), device="cpu").run([picture])
        stretched = cv2.resize(expected.numpy(), (40, 32), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(found.heatmap(0), stretched, rtol=2e-3, atol=1e-3 * float(stretched.max()) + 1e-6)
    (fused,) = Localizer(model, MapReading(method="fused"), device="cpu").run([picture])
    halves = [(source - source.min()) / (source.max() - source.min()) for source in sources.values()]
    expected = cv2.resize(((halves[0] + halves[1]) / 2).numpy(), (40, 32))
    np.testing.assert_allclose(normalise(fused.heatmap(0)), normalise(expected), atol=3e-3)


# --- classes of the data set as background ---


def test_background_classes_are_no_targets(folders: Path) -> None:
    dataset = open_dataset(str(folders))
    kept = without_classes(dataset, ["cliff", "shore"])
    assert [item.name for item in kept.classes] == ["cat", "dog"]
    assert kept.name == f"{dataset.name}-without-2"
    scenery = background_samples(dataset, ["cliff", "shore"], "train")
    assert {sample.path.parent.name for sample in scenery} == {"cliff", "shore"}
    assert len(scenery) == 20
    assert not any(sample.labels for sample in scenery)
    assert {sample.path.parent.name: sample.labels for sample in kept.samples("val")} == {"cat": (0,), "dog": (1,)}
    with pytest.raises(UsageError, match=r"has no class 'clif'. Did you mean 'cliff'\?"):
        without_classes(dataset, ["clif"])
    with pytest.raises(UsageError, match="leaves 1 classes"):
        without_classes(dataset, ["cliff", "shore", "cat"])


def test_background_classes_of_a_part_come_from_the_whole_data_set(folders: Path) -> None:
    part = ClassSubset(open_dataset(str(folders)), [0, 2], "part")
    assert [item.name for item in part.classes] == ["cat", "dog"]
    kept = without_classes(part, ["cliff"])
    assert [item.name for item in kept.classes] == ["cat", "dog"]
    assert kept.name == "part-without-1"
    assert {sample.path.parent.name for sample in background_samples(part, ["cliff"], "train")} == {"cliff"}
    with pytest.raises(UsageError, match="leaves 1 classes of part"):
        without_classes(part, ["dog"])


def test_a_run_with_background_classes_is_evaluated_without_them(
    folders: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    run = start(config_for(folders, background_classes=("cliff", "shore"), epochs=1), tmp_path / "run")
    assert [item.name for item in load_classifier(run.folder).info.classes] == ["cat", "dog"]
    assert run.document["dataset"]["n_train"] + run.document["dataset"]["n_val"] == 20
    assert run.document["dataset"]["n_background"] == 20
    result = run_cli("evaluate", run.folder, "--device", "cpu", "--json")
    assert result.code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["dataset"], document["n"]) == (f"{folders.name}-without-2", 20)
    assert document["metrics"]["top1_error"] <= 100


# --- the command line ---


def test_one_line_for_every_mistake(voc: Path, grounds: Path, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    mistakes: list[tuple[Path, dict[str, Any], str]] = [
        (voc, {}, "head background needs images without objects"),
        (voc, {"head": "gap", "head_options": {}, "background": str(grounds)}, "background= is of no use to head gap"),
        (
            folders,
            {"head": "gwap", "head_options": {}, "background_classes": ("cliff",)},
            "background_classes= is of no use to head gwap",
        ),
        (voc, {"background": str(grounds), "background_classes": ("cat",)}, "Give one"),
        (voc, {"background": str(tmp_path / "empty")}, "background images: no image in .*empty"),
        (voc, {"background": str(tmp_path / "nowhere")}, "background images: .*nowhere does not exist"),
        (folders, {"background_classes": ("beach",)}, "has no class 'beach'"),
    ]
    for folder, changes, text in mistakes:
        with pytest.raises((UsageError, DataError), match=text) as caught:
            load_train_data(config_for(folder, **changes), None)
        assert "\n" not in str(caught.value)


def test_from_textures_to_a_run(voc: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    synth = ("data", "synth", "--background", "--images", "4", "--image-size", "64", "--out", tmp_path / "bg")
    result = run_cli(*synth)
    assert result.code == 0, result.stderr
    assert "--head background --background" in result.stdout
    assert run_cli(*synth).code == 2
    assert run_cli(*synth[:4], "2", *synth[5:], "--overwrite").code == 0
    assert len(list((tmp_path / "bg").iterdir())) == 2
    flags = "--head background --backbone resnet18 --weights none --iterations 2 --batch-size 4 --image-size 64"
    options = (
        "--set",
        "head_options=hidden=8",
        "--set",
        "head_options=foreground_hidden=8",
        "--workers",
        "0",
        "--device",
        "cpu",
    )
    place = ("--background", tmp_path / "bg", "--out", tmp_path / "run")
    result = run_cli("train", voc, *flags.split(), *options, *place)
    assert result.code == 0, result.stderr
    assert load_info(tmp_path / "run").head == "background"
    stored = Run.open(tmp_path / "run").document["config"]
    assert (stored["background"], stored["background_classes"]) == (str(tmp_path / "bg"), [])


# --- photos of another data set ---


def test_photos_without_some_classes_become_a_folder(tmp_path: Path) -> None:
    make_synthetic_voc(tmp_path / "scenes", images=12, seed=0, size=(64, 80))
    dataset = open_dataset(str(tmp_path / "scenes"))
    samples, removed = dataset.samples("train"), dataset.classes[0].name
    count = copy_without(tmp_path / "scenes", tmp_path / "out", [removed])
    assert 0 < count < len(samples)
    expected = {sample.path.name for sample in samples if 0 not in (*sample.labels, *sample.ignored)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    with pytest.raises(UsageError, match="has no class yeti"):
        copy_without(tmp_path / "scenes", tmp_path / "out", ["yeti"])
