"""Backbones: where they are cut, what they declare, and that they equal the networks they come from."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from gwapctl.errors import ModelError, UsageError
from gwapctl.networks.backbones import (
    BACKBONES,
    build_backbone,
    imagenet_classifier,
    pretrained_weights_info,
)
from gwapctl.networks.backbones.base import Backbone
from gwapctl.networks.backbones.caffe_nets import CaffeInception, caffenet
from gwapctl.networks.backbones.pretrained import PretrainedWeights, load_pretrained
from gwapctl.networks.heads import build_head

WEIGHTS = {name: e.weights for name, e in BACKBONES.items() if isinstance(e.weights, PretrainedWeights)}
DECLARED = {
    "alexnet": (256, 16),
    "alexnet-caffe": (256, 16),
    "alexnet-star": (512, 16),
    "caffenet": (256, 16),
    "efficientnet-lite0": (1280, 16),
    "efficientnet-lite2": (1280, 16),
    "googlenet": (832, 16),
    "googlenet-caffe": (832, 16),
    "googlenet-caffe-full": (1024, 32),
    "googlenet-full": (1024, 32),
    "inception-v3-spg": (1024, 8),
    "nin": (1024, 32),
    "resnet-s": (256, 8),
    "resnet18": (512, 32),
    "resnet34": (512, 32),
    "resnet101": (2048, 32),
    "resnet50": (2048, 32),
    "vgg16": (512, 16),
    "vgg16+cam": (1024, 16),
    "googlenet+cam2": (1024, 16),
    "timm:resnet18": (512, 32),
    "timm:vit_tiny_patch16_224": (192, 16),
    "timm:vit_small_patch14_dinov2.lvd142m": (384, 14),
}

SMALL = [
    "alexnet",
    "caffenet",
    "googlenet",
    "resnet-s+cam",
    "resnet18",
    "timm:vit_tiny_patch16_224",
    "timm:convnext_atto",
]


def on_meta(name: str) -> Backbone:
    with torch.device("meta"):
        return build_backbone(name)


def grid(backbone: nn.Module, height: int, width: int) -> tuple[int, ...]:
    """Return (h, w) of the feature map by a forward pass that computes shapes only."""
    return tuple(backbone(torch.zeros(2, 3, height, width, device="meta")).shape[2:])


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """Give torch.hub an empty cache; yield its folder of checkpoints."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


def test_every_backbone_has_a_row_here() -> None:
    assert set(BACKBONES) <= set(DECLARED)


@pytest.mark.parametrize("name", DECLARED)
def test_declared_channels_and_stride_are_true(name: str) -> None:
    backbone = on_meta(name)
    assert (backbone.channels, backbone.stride) == DECLARED[name]
    rng = random.Random(name)
    height, width, rows, columns = rng.randint(64, 300), rng.randint(64, 300), rng.randint(1, 5), rng.randint(1, 5)
    batch, channels, *small = backbone(torch.zeros(2, 3, height, width, device="meta")).shape
    larger = grid(backbone, height + rows * backbone.stride, width + columns * backbone.stride)
    assert (batch, channels) == (2, backbone.channels)
    assert larger == (small[0] + rows, small[1] + columns)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("googlenet", {224: 14, 448: 28, 600: 37, 672: 42}),  # METHODS: grids of the paper's networks
        ("googlenet-caffe", {224: 14, 600: 37}),
        ("googlenet-full", {224: 7}),
        ("googlenet-caffe-full", {224: 7}),
        ("alexnet-caffe", {227: 13}),
        ("alexnet", {224: 13, 600: 36}),
        ("alexnet-star", {227: 11}),
        ("caffenet", {227: 13, 600: 37}),
        ("inception-v3-spg", {224: 28, 324: 40}),
        ("nin", {224: 6}),
        ("vgg16+cam", {224: 14}),
        ("resnet-s", {64: 8}),
        ("timm:vit_tiny_patch16_224", {224: 14, 230: 15}),
        ("timm:vit_small_patch14_reg4_dinov2", {224: 16, 225: 17, 518: 37}),  # trained at 518
    ],
)
def test_grid_sizes(name: str, sizes: dict[int, int]) -> None:
    backbone = on_meta(name)
    for size, cells in sizes.items():
        assert grid(backbone, size, size) == (cells, cells)


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_is_its_images_and_gradients_reach_every_layer(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    images = torch.randn(2, 3, 67, 97)
    together = backbone(images)
    assert together.std() > 0
    torch.testing.assert_close(backbone(images[1:]), together[1:], rtol=0, atol=1e-3 * together.std().item())
    together.square().sum().backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), parameter_name


def features_at(network: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Run all of ``network`` and return what ``layer`` put out, caught by a hook."""
    caught: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(
        lambda _module, _inputs, output: caught.append(output.clone())
    )
    with torch.no_grad():
        network(images)
    hook.remove()
    return caught[0]


def randomise_batch_norm(network: nn.Module) -> None:
    """Give batch norms statistics and scales that are not the neutral ones."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("alexnet", "features.11"),
        ("googlenet", "inception4e"),
        ("googlenet-full", "inception5b"),
        ("resnet18", "layer4"),
    ],
)
def test_features_equal_torchvisions_network(name: str, layer: str) -> None:
    torch.manual_seed(0)
    builder = name.removesuffix("-full")
    options = {"transform_input": True, "init_weights": False} if builder == "googlenet" else {}
    network = torchvision.models.get_model(builder, weights=None, **options).double().eval()
    randomise_batch_norm(network)
    backbone = build_backbone(name).double().eval()
    backbone.load_state_dict(
        {key: value for key, value in network.state_dict().items() if key in backbone.state_dict()}
    )

    pixels = torch.randint(0, 256, (1, 3, 89, 131)).double()  # RGB in 0..255, non-square

    def normalise(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        return (pixels / 255 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(std).double().view(3, 1, 1)

    # torchvision wants ImageNet's mean and std and re-scales by itself (transform_input); ours declares its own
    theirs = features_at(network, layer, normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        ours = backbone(normalise(backbone.mean, backbone.std))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_vgg_is_torchvisions_first_thirty_layers() -> None:
    with torch.device("meta"):  # half a gigabyte of weights: names, shapes and order suffice
        theirs = torchvision.models.vgg16(weights=None).features[:30]
    ours = on_meta("vgg16").get_submodule("features")
    assert [str(layer) for layer in ours] == [str(layer) for layer in theirs]  # type: ignore[union-attr, arg-type]


def test_spgs_inception_is_torchvisions_with_one_reduction_less() -> None:
    torch.manual_seed(0)
    network = torchvision.models.inception_v3(weights=None, transform_input=True, init_weights=False).double().eval()
    randomise_batch_norm(network)
    backbone = build_backbone("inception-v3-spg").double().eval()
    theirs, ours = network.state_dict(), backbone.state_dict()
    backbone.load_state_dict(ours | {key: theirs[key] for key in ours if key in theirs})
    assert {key.split(".")[0] for key in ours if key not in theirs} == {"add2", "add1"}

    def unreduced(x: Tensor) -> list[Tensor]:
        block = network.Mixed_6a
        double = block.branch3x3dbl_3(block.branch3x3dbl_2(block.branch3x3dbl_1(x)))
        return [block.branch3x3(x), double, nn.functional.max_pool2d(x, 3, 1, 1)]

    network.Mixed_6a._forward = unreduced
    for conv in (network.Mixed_6a.branch3x3.conv, network.Mixed_6a.branch3x3dbl_3.conv):
        conv.stride, conv.padding = (1, 1), (1, 1)
    network.Conv2d_1a_3x3.conv.padding = (1, 1)
    network.maxpool1 = network.maxpool2 = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
    images = torch.randn(1, 3, 79, 98).double()  # normalised as ours; undone for theirs, which re-scale by themselves
    mean, std = (torch.tensor(t).double().view(3, 1, 1) for t in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = features_at(network, "Mixed_6e", (images * 0.5 + 0.5 - mean) / std)
    for name in ("add2", "add1"):
        conv = backbone.get_submodule(name)[0]  # type: ignore[index]
        expected = torch.relu(nn.functional.conv2d(expected, conv.weight, conv.bias, padding=1))
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), expected, rtol=1e-6, atol=1e-6)
    assert [str(m) for n, m in backbone.named_children() if n.startswith("drop")] == [
        "Dropout(p=0.5, inplace=False)"
    ] * 3


def test_caffes_inception_block_has_four_branches() -> None:
    torch.manual_seed(0)
    block = CaffeInception(4, (2, 3, 5, 2, 3, 4))
    x = torch.randn(2, 4, 5, 7)

    def branch(name: str, features: Tensor) -> Tensor:
        conv = block.layers[name]
        assert isinstance(conv, nn.Conv2d)
        return torch.relu(nn.functional.conv2d(features, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2))

    pooled = nn.functional.max_pool2d(x, 3, 1, 1)
    branches = [branch("1x1", x), branch("3x3", branch("3x3_reduce", x)), branch("5x5", branch("5x5_reduce", x))]
    torch.testing.assert_close(block(x), torch.cat([*branches, branch("pool_proj", pooled)], 1))
    assert block.layers["5x5"].weight.shape[2:] == (5, 5)  # torchvision's is 3x3


def test_alexnet_star_is_cams() -> None:
    star, plain = build_backbone("alexnet-star"), caffenet()
    convs = {name: layer for name, layer in star.named_children() if isinstance(layer, nn.Conv2d)}
    assert {name: (conv.out_channels, conv.groups) for name, conv in convs.items()} == {
        "conv1": (96, 1),
        "conv2": (256, 2),
        "conv3": (384, 1),
        "conv4": (384, 2),
        "conv5": (384, 2),
        "conv6": (512, 2),
        "conv7": (512, 2),
    }
    assert str(star.get_submodule("pool5")) == str(nn.MaxPool2d(3, stride=1))
    until = list(plain.state_dict()).index("conv5.weight")
    shapes = [(key, value.shape) for key, value in plain.state_dict().items()][:until]
    assert shapes == [(key, value.shape) for key, value in star.state_dict().items()][:until]


def test_caffenet_is_caffes() -> None:
    backbone = caffenet()
    parameters = [
        sum(p.numel() for p in layer.parameters()) for layer in backbone.children() if list(layer.parameters())
    ]
    assert parameters == [34_944, 307_456, 885_120, 663_936, 442_624]  # conv1..conv5 with their groups
    biases = {name: layer.bias[0].item() for name, layer in backbone.named_children() if isinstance(layer, nn.Conv2d)}
    assert biases == {"conv1": 0, "conv2": 1, "conv3": 0, "conv4": 1, "conv5": 1}
    names = [name for name, _ in backbone.named_children()]
    assert names.index("pool1") < names.index("norm1")  # CaffeNet pools first, AlexNet normalises first
    other = build_backbone("alexnet-caffe")
    assert [name for name, _ in other.named_children()][:8] == [
        "conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2",
    ]  # fmt: skip
    assert other.load_state_dict(backbone.state_dict()).missing_keys == []  # so nothing tells their files apart

    x = torch.randn(1, 96, 2, 3).abs() * 100
    c = 40  # Caffe: x_c / (1 + alpha / n * sum of squares over the n = 5 channels around c) ^ beta
    expected = x[:, c] / (1 + 1e-4 / 5 * x[:, c - 2 : c + 3].square().sum(1)) ** 0.75
    torch.testing.assert_close(backbone.get_submodule("norm1")(x)[:, c], expected)


def test_caffe_input_is_unscaled_pixels_minus_the_mean() -> None:
    backbone = caffenet()
    pixel = torch.tensor([200.0, 100.0, 50.0])
    normalised = (pixel / 255 - torch.tensor(backbone.mean)) / torch.tensor(backbone.std)
    torch.testing.assert_close(normalised, pixel - torch.tensor([122.7717, 115.9465, 102.9801]))


def test_cam_conv_follows_any_backbone() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet-s+cam2").eval()
    base = build_backbone("resnet-s")
    assert (backbone.mean, backbone.std, backbone.stride) == (base.mean, base.std, base.stride)
    conv = backbone.get_submodule("cam_conv.0")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.groups, conv.kernel_size, conv.out_channels) == (2, (3, 3), 1024)
    assert conv.weight.std().item() == pytest.approx(0.01, rel=0.02)
    images = torch.randn(1, 3, 40, 56)
    expected = torch.relu(conv(backbone.get_submodule("base")(images)))
    torch.testing.assert_close(backbone(images), expected)
    assert on_meta("resnet-s+cam").get_submodule("cam_conv.0").groups == 1


def test_weights_go_from_a_network_to_itself_with_cam_conv_and_back() -> None:
    torch.manual_seed(0)
    plain, extended = build_backbone("resnet-s").eval(), build_backbone("resnet-s+cam").eval()
    inside = nn.ModuleDict({"backbone": extended})  # as in a classifier
    names = {f"backbone.{key}": value for key, value in plain.state_dict().items()}
    extra = set(inside.state_dict()) - set(names)
    assert extra == {"backbone.cam_conv.0.weight", "backbone.cam_conv.0.bias"}
    assert set(names) < set(inside.state_dict())

    missing, unexpected = inside.load_state_dict(names, strict=False)
    assert ({name.replace("base.", "") for name in missing}, unexpected) == (extra, [])
    images = torch.randn(1, 3, 40, 56)
    torch.testing.assert_close(extended(images), extended.get_submodule("cam_conv")(plain(images)))
    fresh = copy.deepcopy(build_backbone("resnet-s+cam").eval())
    fresh.load_state_dict(extended.state_dict())
    torch.testing.assert_close(fresh(images), extended(images))


def test_unknown_names_say_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown backbone 'googlnet'. Did you mean 'googlenet'\?"):
        build_backbone("googlnet")
    with pytest.raises(UsageError, match=r"Did you mean 'vgg16'"):
        pretrained_weights_info("vgg61+cam")


# --- weights ---


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_torchvisions_first(name: str) -> None:
    theirs = {"googlenet-full": "googlenet", "inception-v3-spg": "inception_v3"}.get(name, name)
    weights = torchvision.models.get_model_weights(theirs).IMAGENET1K_V1  # type: ignore[attr-defined]
    assert pretrained_weights_info(f"{name}+cam") == WEIGHTS[name]
    assert WEIGHTS[name].url == weights.url
    assert WEIGHTS[name].size_mb == pytest.approx(weights.meta["_file_size"] * 2**20 / 1e6, abs=0.1)


@pytest.mark.parametrize("name", ["googlenet", "googlenet-full+cam"])
def test_pretrained_loads_every_layer_before_the_cut(name: str, hub: Path) -> None:
    weights = pretrained_weights_info(name)
    assert weights is not None
    assert not weights.cached
    options = {"init_weights": False} if name.startswith("googlenet") else {}
    network = torchvision.models.get_model(name.partition("+")[0].removesuffix("-full"), weights=None, **options)
    randomise_batch_norm(network)
    hub.mkdir()
    torch.save(network.state_dict(), weights.path)
    assert weights.cached
    backbone = build_backbone(name, pretrained=True)
    theirs = network.state_dict()
    ours = {key: value for key, value in backbone.state_dict().items() if not key.startswith("cam_conv")}
    assert len(ours) > 50
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_the_imagenet_classifier_belongs_to_the_whole_network(hub: Path) -> None:
    hub.mkdir()
    network = torchvision.models.resnet18(weights=None)
    torch.save(network.state_dict(), WEIGHTS["resnet18"].path)
    assert imagenet_classifier("resnet18", "gwap") == {}
    assert imagenet_classifier("googlenet", "gap") == {}  # a cut network: its classifier sees other features
    head = build_head("gap", 512, 1000)
    head.load_state_dict(imagenet_classifier("resnet18", "gap"))
    backbone = build_backbone("resnet18", pretrained=True).eval()
    images = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(head(backbone(images)).logits, network.eval()(images))


@pytest.mark.parametrize(("name", "channels"), [("alexnet", 256), ("vgg16", 512)])
def test_original_head_is_the_end_of_torchvisions_network(name: str, channels: int, hub: Path) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):  # the real ones have 50 and 120 million parameters: names and shapes suffice
        theirs = {key: v for key, v in torchvision.models.get_model(name, weights=None).state_dict().items()}
        ours = build_head("original", channels, 1000).state_dict()
    hub.mkdir()
    torch.save({key: torch.empty(0) for key in theirs}, WEIGHTS[name].path)
    assert list(imagenet_classifier(name, "original")) == list(ours)
    assert {key: value.shape for key, value in ours.items()} == {key: theirs[key].shape for key in ours}


@pytest.mark.parametrize("name", ["resnet-s", "caffenet"])
def test_what_has_no_weights_says_so(name: str) -> None:
    assert pretrained_weights_info(name) is None
    with pytest.raises(UsageError, match=r"no ImageNet weights.*weights='none'"):
        build_backbone(name, pretrained=True)


def test_offline_names_the_manual_way_and_leaves_nothing(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_arguments: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    with pytest.raises(
        ModelError, match=r"cannot download .*googlenet.*52 MB.*resnet-s-gwap-tiny-imagenet.*weights='none'.*by hand"
    ):
        build_backbone("googlenet", pretrained=True)
    assert list(hub.iterdir()) == []


def test_a_download_is_checked_and_whole(hub: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source.pth"
    torch.save({"layer": torch.ones(3)}, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    good = source.rename(tmp_path / f"net-{digest[:8]}.pth")
    assert torch.equal(load_pretrained(PretrainedWeights(good.as_uri(), 0.1, digest))["layer"], torch.ones(3))
    assert [path.name for path in hub.iterdir()] == [good.name]
    assert capfd.readouterr().out == ""  # stdout is for results

    bad = good.rename(tmp_path / "net-00000000.pth")
    with pytest.raises(ModelError, match="invalid hash"):
        load_pretrained(PretrainedWeights(bad.as_uri(), 0.1, "00000000"))
    assert [path.name for path in hub.iterdir()] == [good.name]


def test_a_damaged_cached_file_is_named(hub: Path) -> None:
    hub.mkdir()
    WEIGHTS["resnet18"].path.write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"resnet18-f37072fd.pth is not a readable weights file. Delete it"):
        build_backbone("resnet18", pretrained=True)


# --- timm ---


def test_timm_features_are_its_own() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("timm:resnet18").eval()
    images = torch.randn(1, 3, 70, 101)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), backbone.network.forward_features(images))  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(("name", "prefix"), [("vit_tiny_patch16_224", 1), ("vit_small_patch14_reg4_dinov2", 5)])
def test_timm_tokens_go_back_to_their_grid(name: str, prefix: int) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(f"timm:{name}").eval()
    rows, columns = 3, 5
    images = torch.randn(1, 3, rows * backbone.stride, columns * backbone.stride)
    with torch.no_grad():
        tokens = backbone.network.forward_features(images)  # type: ignore[operator, union-attr]
        features = backbone(images)
    assert tokens.shape[1] == prefix + rows * columns
    for row in range(rows):
        for column in range(columns):
            torch.testing.assert_close(features[0, :, row, column], tokens[0, prefix + row * columns + column])


def test_timm_channels_last_maps_are_turned_around() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("timm:swin_tiny_patch4_window7_224").eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = backbone.network.forward_features(images)  # type: ignore[operator, union-attr]
        torch.testing.assert_close(backbone(images), expected.permute(0, 3, 1, 2))


def test_timm_pads_to_whole_patches_with_the_mean_colour() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("timm:vit_tiny_patch16_224").eval()
    images = torch.randn(1, 3, 48, 80)
    images[:, :, 40:] = 0
    images[:, :, :, 66:] = 0
    with torch.no_grad():
        torch.testing.assert_close(backbone(images[:, :, :40, :66]), backbone(images))


def test_timm_mean_and_std_travel_with_the_network() -> None:
    assert on_meta("timm:vit_tiny_patch16_224").mean == (0.5, 0.5, 0.5)
    assert on_meta("timm:resnet18").std == (0.229, 0.224, 0.225)


def test_timm_names_and_tags() -> None:
    with pytest.raises(UsageError, match=r"timm has no network 'resnet81'. Nearest: .*timm:resnet18"):
        build_backbone("timm:resnet81")
    with pytest.raises(UsageError, match=r"timm has no weights 'nonsense' of resnet18, only: .*a1_in1k"):
        build_backbone("timm:resnet18.nonsense")
    with pytest.raises(UsageError, match=r"timm:mixer_s32_224 does not take images of any size"):
        build_backbone("timm:mixer_s32_224")
    weights = pretrained_weights_info("timm:resnet18.tv_in1k+cam")
    assert weights is not None
    assert "resnet18.tv_in1k" in weights.url
    assert weights.path.name == "resnet18.tv_in1k.safetensors"
    assert not weights.cached
    assert weights.size_mb == pytest.approx(46.8, abs=0.1)


def test_timm_weights_put_by_hand_are_read_without_the_network(hub: Path) -> None:
    """A file under the name that the error message says, as timm's hub has it."""
    name = "timm:test_vit2.r160_in1k"  # with a register token, and made for 160 pixels
    weights = pretrained_weights_info(name)
    assert weights is not None
    assert not weights.cached
    with pytest.raises(ModelError, match=r"cannot download https://huggingface.co/timm/test_vit2.r160_in1k/.* by hand"):
        build_backbone(name, pretrained=True)
    torch.manual_seed(0)
    source = build_backbone(name)
    save_file(source.network.state_dict(), weights.path)  # type: ignore[union-attr, operator]
    assert weights.cached
    torch.manual_seed(1)
    loaded = build_backbone(name, pretrained=True)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), loaded.parameters(), strict=True))
    assert loaded.eval()(torch.zeros(1, 3, 48, 90)).shape == (1, 64, 3, 6)
    weights.path.write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"r160_in1k.safetensors does not hold the weights of timm:test_vit2"):
        build_backbone(name, pretrained=True)


# --- output stride ---


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(
    "name", ["efficientnet-lite0", "resnet18", "resnet50+cam", "timm:resnet18", "timm:convnext_atto"]
)
def test_networks_with_a_choice_of_strides_have_the_one_asked_for(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, output_stride=output_stride)
    assert backbone.stride == output_stride
    assert grid(backbone, 96, 160) == (96 // output_stride, 160 // output_stride)


@pytest.mark.parametrize(("output_stride", "replaced"), [(16, [False, False, True]), (8, [False, True, True])])
def test_dilated_resnets_are_torchvisions(output_stride: int, replaced: list[bool]) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=replaced).eval()
    backbone = build_backbone("resnet50", output_stride=output_stride).eval()
    own = backbone.state_dict()
    backbone.load_state_dict({name: tensor for name, tensor in theirs.state_dict().items() if name in own})
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = nn.Sequential(*list(theirs.children())[:-2])(images)
        torch.testing.assert_close(backbone(images), expected)


def test_dilation_keeps_what_a_network_computes_at_the_places_it_had() -> None:
    """With a kernel of 3 everywhere, every second cell at stride 16 sees the very pixels of a cell at stride 32."""
    torch.manual_seed(0)
    coarse = build_backbone("resnet18").eval()
    fine = build_backbone("resnet18", output_stride=16).eval()
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, 256, 320)
    with torch.no_grad():
        torch.testing.assert_close(fine(images)[:, :, ::2, ::2], coarse(images))


@pytest.mark.parametrize(("name", "stride"), [("googlenet", 16), ("nin", 32), ("resnet-s", 8)])
def test_networks_without_a_choice_say_so(name: str, stride: int) -> None:
    assert build_backbone(name, output_stride=stride).stride == stride
    with pytest.raises(UsageError, match=rf"{name} has stride {stride} and no other.*efficientnet-lite0.*resnet50"):
        build_backbone(name, output_stride=24 - stride if stride != 32 else 8)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "inception_v4"])
def test_timm_networks_without_a_choice_say_so(name: str) -> None:
    with pytest.raises(UsageError, match=rf"timm:{name} cannot have stride 8"):
        build_backbone(f"timm:{name}", output_stride=8)


@pytest.mark.parametrize("name", [*(name for name in BACKBONES if name not in ("resnet101", "vgg16")), "resnet18+cam"])
def test_stages_one_after_the_other_are_the_backbone(name: str) -> None:
    """Cut anywhere, on a non-square image; and every tensor belongs to a stage."""
    backbone = build_backbone(name).eval()
    image = torch.rand(1, 3, 96, 128)
    with torch.inference_mode():
        whole = backbone(image)
        for last in range(1, len(backbone.stages)):
            assert torch.equal(backbone.late(backbone.early(image, last), last), whole), last
    layers = [name for stage in backbone.stages for name in stage]
    assert len(backbone.stages) >= 3
    assert all(key.startswith(tuple(f"{name}." for name in layers)) for key, _ in backbone.named_parameters())
