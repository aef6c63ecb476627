"""The detector as a whole: shapes, weights, gradients, the weak branch beside it, files, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from gwapctl.datasets.base import ClassName
from gwapctl.errors import ModelError, UsageError
from gwapctl.metrics.detection import DetectionAP
from gwapctl.networks.backbones import BACKBONES, build_backbone
from gwapctl.networks.classifier import load_classifier
from gwapctl.networks.rfcn.base import BoxTarget, DetectorInfo
from gwapctl.networks.rfcn.losses import total_loss
from gwapctl.networks.rfcn.rfcn import Detector
from gwapctl.networks.rfcn.store import build_detector, load_detector, load_trunk, save_detector
from gwapctl.networks.rfcn.trunk import build_trunk, trunk_weights

CLASSES = tuple(ClassName(name, name) for name in ("red", "green", "blue"))
SIZE = (50, 75)
ZOO_ENTRY = Path(__file__).parent.parent / "models" / "resnet-s-gwap-tiny-imagenet"
DETECTION = {"rpn_objectness", "rpn_box", "roi_class", "roi_box"}
WEAK = ["gap", "gwap", "gwap+gap"]


def make(weak: str = "none", *, seed: int = 0, train: bool = True, **options: Any) -> Detector:
    torch.manual_seed(seed)
    values = {"backbone": "resnet-s", "short_side": 48, "long_side": 80, "k": 3, "neck_channels": 32} | options
    return build_detector(DetectorInfo(classes=CLASSES, weak=weak, **values)).train(train)  # type: ignore[arg-type]


def scenes(count: int, seed: int = 0) -> tuple[Tensor, list[tuple[int, int]], list[BoxTarget], Tensor]:
    """Draw coloured rectangles on grey noise, two an image: images of different sizes, sizes, targets and labels."""
    rng = np.random.default_rng(seed)
    images = torch.zeros(count, 3, *SIZE, dtype=torch.uint8)
    sizes, targets = [], []
    for image in images:
        height, width = int(rng.integers(SIZE[0] - 8, SIZE[0] + 1)), int(rng.integers(SIZE[1] - 15, SIZE[1] + 1))
        pixels = rng.integers(60, 120, (3, height, width))
        boxes, labels = [], rng.permutation(3)[:2]
        for half, label in enumerate(labels):
            side_x, side_y = rng.integers(24, width // 2), rng.integers(24, height - 6)
            x, y = half * (width // 2) + rng.integers(0, width // 2 - side_x + 1), rng.integers(0, height - side_y)
            pixels[label, y : y + side_y, x : x + side_x] += 120
            boxes.append([x, y, x + side_x, y + side_y])
        image[:, :height, :width] = torch.from_numpy(pixels)
        sizes.append((height, width))
        targets.append(BoxTarget(torch.tensor(boxes).float(), torch.tensor(labels), torch.zeros(2, dtype=torch.bool)))
    return images, sizes, targets, torch.stack([torch.zeros(3).index_fill(0, t.labels, 1) for t in targets])


TRUNKS = [name for name, entry in BACKBONES.items() if entry.trunk]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# --- trunks ---


@pytest.mark.parametrize("name", TRUNKS)
def test_conv4_and_conv5_share_a_grid_at_odd_sizes(name: str) -> None:
    with torch.device("meta"):  # shapes only
        model = make(backbone=name, train=False)
        normal = model._normalise(torch.zeros(1, 3, 37, 83), [(37, 83)])
        trunk = model.trunk
        rows, columns = -(-37 // trunk.stride), -(-83 // trunk.stride)
        assert normal.shape == (1, 3, rows * trunk.stride, columns * trunk.stride)
        conv4 = trunk.conv4(normal)
        assert conv4.shape == (1, trunk.conv4_channels, rows, columns)
        assert trunk.conv5(conv4).shape == (1, trunk.channels, rows, columns)


@pytest.mark.parametrize("name", [name for name in TRUNKS if name.startswith("resnet") and name != "resnet-s"])
def test_conv5_is_dilated_in_all_its_blocks(name: str) -> None:
    with torch.device("meta"):
        trunk = build_trunk(name)
    convs = {place: layer for place, layer in trunk.layer4.named_modules() if isinstance(layer, nn.Conv2d)}  # type: ignore[union-attr]
    undilated = {place for place, layer in convs.items() if layer.kernel_size == (3, 3) and layer.dilation == (1, 1)}
    assert undilated == ({"0.conv1"} if name in ("resnet18", "resnet34") else set())
    assert {layer.stride for layer in convs.values()} == {(1, 1)}
    assert len(convs) >= 5


def test_the_dilated_resnet18_is_the_classifier_between_its_cells() -> None:
    """Every second cell of conv5 is what the network at stride 32 computes there."""
    backbone = build_backbone("resnet18").eval()
    model = make(backbone="resnet18", neck_channels=8, train=False)
    load_trunk(model, {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}, "here")
    image = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        dense = model.trunk.conv5(model.trunk.conv4(image))
        torch.testing.assert_close(dense[:, :, ::2, ::2], backbone(image), atol=1e-4, rtol=1e-4)


def test_resnet_s_is_the_classifier_cut_in_two() -> None:
    classifier = load_classifier(ZOO_ENTRY)
    model = make(train=False)
    load_trunk(model, classifier.state_dict(), "here")
    image = torch.randn(1, 3, 40, 64)
    with torch.no_grad():
        both = model.trunk.conv5(model.trunk.conv4(image))
        torch.testing.assert_close(both, classifier.backbone(image))


def test_imagenet_weights_fit_the_trunk_and_are_frozen_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = torchvision.models.resnet18().state_dict()
    theirs = {name: torch.rand_like(t.float()) for name, t in theirs.items() if "num_batches" not in name}
    monkeypatch.setattr("gwapctl.networks.backbones.load_pretrained", lambda _: theirs)
    model = build_detector(DetectorInfo(backbone="resnet18", classes=CLASSES, neck_channels=8), pretrained=True)
    learning = {name for name, parameter in model.trunk.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in learning} == {"layer2", "layer3", "layer4"}
    assert not [name for name in learning if "conv" not in name and "downsample.0" not in name]
    for name, tensor in model.trunk.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(tensor, theirs[name])
    assert trunk_weights("resnet101").url.startswith("https://download.pytorch.org/models/resnet101-")
    assert 150 < trunk_weights("resnet101").size_mb < 200


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ModelError, match=r"other\.safetensors does not fit the trunk resnet-s: \d+ of its"):
        load_trunk(make(), torchvision.models.resnet18().state_dict(), "other.safetensors")
    with pytest.raises(UsageError, match=r"unknown backbone of a detector 'resnet5'.*resnet50"):
        make(backbone="resnet5")
    with pytest.raises(UsageError, match="resnet-s has no ImageNet weights"):
        build_detector(DetectorInfo(backbone="resnet-s", classes=CLASSES), pretrained=True)


@pytest.mark.parametrize("stages", [0, 2])
def test_frozen_parts_stay_as_they_are(stages: int) -> None:
    model = make("gwap")
    model.trunk.freeze(stages=stages)
    model.eval().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images, sizes, targets, labels = scenes(2)
    total_loss(model(images, sizes, targets, labels)).backward()
    torch.optim.SGD([p for p in model.parameters() if p.grad is not None], lr=1.0).step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert not {name for name in changed if name.rsplit(".", 1)[0] in norms}
    fixed = ("trunk.layers.0", "trunk.layers.1", "trunk.layers.2")
    assert any(name.startswith(fixed) for name in changed) == (stages == 0)
    assert {
        "trunk.layers.3.shortcut.1.weight",
        "trunk.layers.5.0.weight",
        "neck.weight",
        "votes.maps.weight",
    } <= changed


# --- the network ---


@pytest.mark.parametrize("pooling", ["ps_roi_pool", "ps_roi_align"])
@pytest.mark.parametrize("weak", ["none", *WEAK])
def test_losses_and_detections(weak: str, pooling: str) -> None:
    model = make(weak, pooling=pooling)
    images, sizes, targets, labels = scenes(3)
    losses = model(images, sizes, targets, labels)
    assert set(losses) == DETECTION | ({"weak_image", "weak_region"} if weak != "none" else set())
    assert all(loss.shape == () and torch.isfinite(loss) and loss > 0 for loss in losses.values())
    assert not any(name.startswith("roi") for name in model(images, sizes, [None] * 3, labels))
    model.eval()
    found = model.detect(model.features(images, sizes), sizes)
    assert len(found) == 3
    for one, (height, width) in zip(found, sizes, strict=True):
        assert len(one["boxes"]) == len(one["scores"]) == len(one["labels"])
        assert 0 < len(one["boxes"]) <= 400
        assert (one["boxes"][:, :2] >= 0).all()
        assert (one["boxes"][:, 2] <= width).all()
        assert (one["boxes"][:, 3] <= height).all()
        assert (one["scores"].diff() <= 0).all()
        assert set(one["labels"].tolist()) <= {0, 1, 2}
        for label in range(3):
            boxes = one["boxes"][one["labels"] == label]
            overlap = torchvision.ops.box_iou(boxes, boxes)
            assert (overlap.fill_diagonal_(0) <= 0.3 + 1e-6).all()
    few = model.detect(model.features(images, sizes), sizes, score_threshold=float(found[0]["scores"][4]))
    assert len(few[0]["boxes"]) == 5
    maps = model.weight_maps(model.features(images, sizes), sizes)
    assert (maps is not None) == ("gwap" in weak)
    if maps is not None:
        assert maps.shape == (3, 3, 7, 10)
        torch.testing.assert_close(maps.sum((2, 3)), torch.ones(3, 3))
        for one_map, (height, width) in zip(maps, sizes, strict=True):
            assert ((one_map > 0).all(0).sum(0) > 0).sum() == -(-width // 8)
            assert ((one_map > 0).all(0).sum(1) > 0).sum() == -(-height // 8)


def test_what_stands_in_the_padding_does_not_matter() -> None:
    model = make("gwap", train=False)
    images, sizes, _, _ = scenes(2)
    noisy = torch.randint_like(images, 256)
    for one, other, (height, width) in zip(images, noisy, sizes, strict=True):
        other[:, :height, :width] = one[:, :height, :width]
    for one, other in zip(
        model.detect(model.features(images, sizes), sizes),
        model.detect(model.features(noisy, sizes), sizes),
        strict=True,
    ):
        torch.testing.assert_close(one["boxes"], other["boxes"])
    assert (images != noisy).any()


def test_difficult_and_tiny_objects_are_not_learned() -> None:
    model = make()
    images, sizes, targets, _ = scenes(1)
    more = BoxTarget(
        torch.cat([targets[0].boxes, torch.tensor([[3.0, 3, 40, 40], [5, 5, 5.5, 30]])]),
        torch.cat([targets[0].labels, torch.tensor([1, 1])]),
        torch.tensor([False, False, True, False]),
    )
    torch.manual_seed(1)
    expected = model(images, sizes, targets)
    torch.manual_seed(1)
    assert model(images, sizes, [more]) == expected


# --- what learns from what ---


@pytest.mark.parametrize("weak", WEAK)
def test_an_image_without_boxes_teaches_detection_nothing(weak: str) -> None:
    """Its gradient reaches trunk, shared features and weak branch; detection's own layers get none, or the others'."""
    model = make(weak)
    model.trunk.freeze()  # batch norm in training would mix the images
    images, sizes, targets, labels = scenes(2)
    losses = model(images, sizes, [None, None], labels)
    assert set(losses) == {"weak_image"}
    losses["weak_image"].backward()
    alone = gradients(model)
    assert not [name for name in alone if name.startswith(("proposals", "votes"))]
    assert {"neck.weight", "trunk.layers.5.0.weight", "weak.head.classifier.weight"} <= set(alone)

    by_batch = []
    for count in (1, 2):
        model.zero_grad()
        torch.manual_seed(7)
        some = [*targets[:1], None][:count]
        losses = model(images[:count], sizes[:count], some, labels[:count])
        total_loss(losses).backward()
        by_batch.append({n: g for n, g in gradients(model).items() if n.startswith(("proposals", "votes"))})
    assert len(by_batch[0]) == 8
    for name, gradient in by_batch[0].items():
        torch.testing.assert_close(by_batch[1][name], gradient, msg=name)


def test_the_weak_branch_leaves_every_other_weight_as_it_starts() -> None:
    plain = make().state_dict()
    state = torch.get_rng_state()
    for weak in WEAK:
        other = make(weak).state_dict()
        assert all(torch.equal(other[name], tensor) for name, tensor in plain.items())
        assert {name.split(".")[0] for name in other if name not in plain} == {"weak"}
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("weak", WEAK)
def test_lambda_zero_is_the_plain_detector_step_for_step(weak: str) -> None:
    images, sizes, targets, labels = scenes(3)
    some: list[BoxTarget | None] = [targets[0], None, targets[2]]
    models = [make("none", seed=4), make(weak, seed=4)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9) for model in models]
    for step in range(3):
        seen = []
        for model, optimizer in zip(models, optimizers, strict=True):
            torch.manual_seed(100 + step)
            losses = model(images, sizes, some, labels)
            optimizer.zero_grad()
            total_loss(losses, 0.0).backward()
            optimizer.step()
            seen.append(losses)
        assert {name: loss.item() for name, loss in seen[1].items() if name in DETECTION} == {
            name: loss.item() for name, loss in seen[0].items()
        }
        shared = models[1].state_dict()
        assert all(torch.equal(shared[name], tensor) for name, tensor in models[0].state_dict().items())


def test_bf16_channels_last_gives_the_same_losses() -> None:
    images, sizes, targets, labels = scenes(2)
    model = make("gwap+gap")
    torch.manual_seed(3)
    expected = model(images, sizes, targets, labels)
    model = make("gwap+gap").to(memory_format=torch.channels_last)
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images.to(memory_format=torch.channels_last), sizes, targets, labels)
        found = model.eval().detect(model.features(images, sizes), sizes)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.2), name
    total_loss(losses).backward()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())
    assert found[0]["boxes"].dtype == found[0]["scores"].dtype == torch.float32


# --- files ---


def test_a_saved_detector_is_the_same(tmp_path: Path) -> None:
    model = make("gwap", mean=(0.4, 0.5, 0.6), train=False)
    save_detector(model, tmp_path)
    again = load_detector(tmp_path)
    assert again.info == model.info
    assert not again.training
    assert json.loads((tmp_path / "model.json").read_text())["task"] == "detection"
    images, sizes, _, _ = scenes(1)
    assert torch.equal(
        again.detect(again.features(images, sizes), sizes)[0]["boxes"],
        model.detect(model.features(images, sizes), sizes)[0]["boxes"],
    )


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no detector"):
        load_detector(tmp_path)
    save_detector(make(train=False), tmp_path)
    info = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(info | {"weak": "gwap"}))
    with pytest.raises(ModelError, match=r"weights do not fit model\.json"):
        load_detector(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(info | {"task": "classification"}))
    with pytest.raises(ModelError, match=r"not a detector description.*task"):
        load_detector(tmp_path)


# --- it learns ---


@pytest.mark.slow
def test_eight_images_are_learned_by_heart() -> None:
    images, sizes, targets, labels = scenes(8)
    model = make("gwap", neck_channels=64, anchor_sizes=(16.0, 32.0))
    load_trunk(model, load_classifier(ZOO_ENTRY).state_dict(), ZOO_ENTRY)
    model.trunk.freeze()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.005)
    steps = 75
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.005 * (1 - step / steps)
        optimizer.zero_grad()
        total_loss(model(images, sizes, targets, labels)).backward()
        optimizer.step()
    meter = DetectionAP()
    for found, target in zip(model.eval().detect(model.features(images, sizes), sizes), targets, strict=True):
        meter.update(found["boxes"], found["scores"], found["labels"], target.boxes, target.labels, target.difficult)
    assert meter.compute()["det_map_area"] > 95
