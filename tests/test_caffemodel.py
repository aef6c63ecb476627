"""The reader of Caffe's weights, against an encoder of the wire format that shares nothing with it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gwapctl.config import build_train_config
from gwapctl.errors import ModelError, UsageError
from gwapctl.networks.backbones import build_backbone
from gwapctl.networks.backbones.caffe_releases import RELEASED, find_caffemodel
from gwapctl.networks.backbones.caffemodel import caffe_weights, read_caffemodel
from gwapctl.networks.classifier import load_classifier
from gwapctl.networks.heads import build_head
from gwapctl.networks.zoo import find_recipe, zoo_folder
from gwapctl.train.loop import train
from gwapctl.train.task import Listener
from tests.factories import save_image, write

Blobs = Mapping[str, tuple[np.ndarray, ...]]


def varint(number: int) -> bytes:
    low, rest = number % 128, number // 128
    return bytes([low + 128]) + varint(rest) if rest else bytes([low])


def tagged(field: int, content: bytes) -> bytes:
    return varint(field * 8 + 2) + varint(len(content)) + content


def blob_of(array: np.ndarray, *, old: bool, double: bool = False) -> bytes:
    values = array.ravel()
    data = tagged(8, struct.pack(f"<{len(values)}d", *values)) if double else tagged(5, values.astype("<f4").tobytes())
    if old:  # num, channels, height, width, padded with ones in front
        sizes = (1,) * (4 - array.ndim) + array.shape
        return b"".join(varint(field * 8) + varint(size) for field, size in enumerate(sizes, 1)) + data
    return data + tagged(7, tagged(1, b"".join(varint(size) for size in array.shape)))


def caffemodel(blobs: Blobs, *, old: bool = False, double: bool = False) -> bytes:
    net = tagged(1, "Näme".encode()) + varint(5 * 8) + varint(1)  # name, force_backward
    for name, arrays in {**blobs, "relu": ()}.items():
        name_field, type_field, blob_field = (4, 5, 6) if old else (1, 2, 7)
        kind = varint(type_field * 8) + varint(4) if old else tagged(type_field, b"Convolution")
        layer = tagged(name_field, name.encode()) + kind + tagged(3, b"bottom")
        layer += varint(9 * 8 + 5) + struct.pack("<f", 1.0)  # a 32-bit field that does not matter
        layer += b"".join(tagged(blob_field, blob_of(array, old=old, double=double)) for array in arrays)
        net += tagged(2 if old else 100, layer)
    return net


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_every_blob_is_read(old: bool, double: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    blobs = {"conv1": (rng.normal(size=(4, 3, 5, 2)), rng.normal(size=(4,))), "fc": (rng.normal(size=(200, 7)),)}
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(blobs, old=old, double=double))
    layers = read_caffemodel(path)
    assert list(layers) == ["conv1", "fc"]
    for name, arrays in blobs.items():
        for read, array in zip(layers[name], arrays, strict=True):
            assert read.dtype == np.float32
            assert read.shape == ((1,) * (4 - array.ndim) + array.shape if old else array.shape)
            np.testing.assert_array_equal(read.reshape(array.shape), array.astype(np.float32))


def random_blobs(network: nn.Module, rng: np.random.Generator, names: Mapping[str, str]) -> Blobs:
    """Draw weights in Caffe's names for every layer of ``network``; conv1's channels are BGR, as in Caffe."""
    return {
        caffe: (
            rng.normal(size=network.get_submodule(ours).weight.shape).astype(np.float32),  # type: ignore[union-attr]
            rng.normal(size=network.get_submodule(ours).bias.shape).astype(np.float32),  # type: ignore[union-attr]
        )
        for caffe, ours in names.items()
    }


def conv_names(network: nn.Module) -> dict[str, str]:
    """Return Caffe's name of every convolution of a network that keeps them."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return {name.replace(".layers.", "/"): name for name in names}


@pytest.mark.parametrize(
    "name", ["caffenet", "alexnet-caffe", "alexnet-star", "nin", "googlenet-caffe", "googlenet-caffe-full"]
)
def test_a_network_in_caffes_names_gets_every_weight(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    backbone = build_backbone(name)
    names = conv_names(backbone)
    blobs = random_blobs(backbone, rng, names)
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel({**blobs, "loss1/fc": (np.ones((3, 2)), np.ones(3))}, old=name == "nin"))
    tensors = caffe_weights(path, name)
    ours = {key.removeprefix("backbone."): value for key, value in tensors.items() if "loss1" not in key}
    backbone.load_state_dict(ours)  # strict: every name and shape fits
    for caffe, place in names.items():
        weight = blobs[caffe][0]
        expected = weight[:, ::-1] if weight.shape[1] == 3 else weight  # BGR to RGB where there are three channels
        np.testing.assert_array_equal(backbone.get_parameter(f"{place}.weight").detach(), expected)
        np.testing.assert_array_equal(backbone.get_parameter(f"{place}.bias").detach(), blobs[caffe][1])


def test_googlenet_has_caffes_layer_names() -> None:
    names = list(conv_names(build_backbone("googlenet-caffe")))
    assert names[:4] == ["conv1/7x7_s2", "conv2/3x3_reduce", "conv2/3x3", "inception_3a/1x1"]
    assert names[-6:] == [
        f"inception_4e/{branch}" for branch in ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
    ]
    assert len(names) == 3 + 7 * 6


def test_vgg_sees_the_same_pixels_as_in_caffe(tmp_path: Path, rng: np.random.Generator) -> None:
    backbone = build_backbone("vgg16")
    places = [
        index
        for index, layer in enumerate(backbone.get_submodule("features").children())
        if isinstance(layer, nn.Conv2d)
    ]
    caffe_names = [f"conv{block}_{n}" for block in range(1, 6) for n in range(1, 3 if block < 3 else 4)]
    names = {caffe: f"features.{place}" for caffe, place in zip(caffe_names, places, strict=True)}
    blobs = random_blobs(backbone, rng, names)
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(blobs))
    backbone.load_state_dict({key.removeprefix("backbone."): v for key, v in caffe_weights(path, "vgg16").items()})

    pixels = torch.randint(0, 256, (1, 3, 9, 12)).float()  # RGB
    caffe_input = pixels.flip(1) - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)  # BGR minus VGG's mean
    weight, bias = (torch.from_numpy(array) for array in blobs["conv1_1"])
    expected = nn.functional.conv2d(caffe_input, weight, bias)  # away from the border: no padding
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    conv = backbone.get_submodule("features.0")
    ours = nn.functional.conv2d((pixels / 255 - mean) / std, conv.weight, conv.bias)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(backbone.get_parameter("features.28.weight").detach(), blobs["conv5_3"][0])


@pytest.mark.parametrize("old", [False, True])
def test_heads_get_their_fully_connected_layers(old: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    classes = 10
    head = build_head("original", 256, classes, {"hidden": 8})
    linear = [name for name, module in head.named_modules() if isinstance(module, nn.Linear)]
    names = dict(zip(("fc6", "fc7", "fc8"), linear, strict=True))
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(random_blobs(head, rng, names), old=old))
    tensors = caffe_weights(path, "caffenet")
    head.load_state_dict({key.removeprefix("head."): value for key, value in tensors.items()})

    gap = build_head("gap", 1024, classes)
    scores = rng.normal(size=(classes, 1024, 1, 1)), rng.normal(size=(classes,))  # NIN's are a 1x1 convolution
    path.write_bytes(caffemodel({"cccp8-1024": scores}, old=old))
    gap.load_state_dict({key.removeprefix("head."): value for key, value in caffe_weights(path, "nin").items()})
    np.testing.assert_allclose(gap.get_parameter("classifier.weight").detach(), scores[0][:, :, 0, 0], rtol=1e-6)


def test_cams_own_layers_fit_behind_the_extra_convolution(tmp_path: Path, rng: np.random.Generator) -> None:
    backbone = build_backbone("googlenet-caffe+cam2")
    blobs = {
        "CAM_conv": (rng.normal(size=(1024, 416, 3, 3)), rng.normal(size=(1024,))),
        "CAM_fc": (rng.normal(size=(20, 1024)),),  # without bias
    }
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(blobs))
    tensors = caffe_weights(path, "googlenet-caffe+cam2")
    assert set(tensors) == {"backbone.cam_conv.0.weight", "backbone.cam_conv.0.bias", "head.classifier.weight"}
    own = backbone.state_dict()
    assert all(own[key.removeprefix("backbone.")].shape == v.shape for key, v in tensors.items() if "head" not in key)


def test_what_is_no_caffemodel_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "net.caffemodel"
    with pytest.raises(ModelError, match=r"cannot read .*net.caffemodel: No such file"):
        read_caffemodel(path)
    whole = caffemodel({"conv1": (rng.normal(size=(4, 3, 5, 5)),)})
    wrong_shape = tagged(100, tagged(1, b"conv1") + tagged(7, tagged(5, bytes(8)) + tagged(7, tagged(1, b"\x03"))))
    for content, reason in (
        (b"", "no layer with weights"),
        (b"hello, world", "not a caffemodel|no layer"),
        (b"\x80\x02}q\x00.", "not a caffemodel"),  # a pickle
        (whole[:200], "cut short"),
        (wrong_shape, r"shape \[3\] has 2 values"),
        (b"\xff" * 40, "more than 64 bits"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=reason):
            read_caffemodel(path)
    with pytest.raises(
        UsageError, match=r"resnet18 takes no Caffe weights. Networks that do: alexnet-caffe, alexnet-star, caffenet"
    ):
        caffe_weights(path, "resnet18")


# --- the networks that were released ---


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a cache of our own beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv("GWAPCTL_DATA", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_a_released_file_is_found_in_three_places(elsewhere: Path) -> None:
    name, root = "nin_imagenet.caffemodel", elsewhere / "data"
    places = [elsewhere / "caches" / "gwapctl" / name, root / name, Path(name)]
    with pytest.raises(ModelError, match=r"no nin_imagenet\.caffemodel in") as told:
        find_caffemodel(name, root)
    for part in (str(Path.cwd()), str(root), str(places[0].parent), RELEASED[name], "root=", "weights="):
        assert part in str(told.value)
    for place in places:  # each goes before the one that was there before
        write(place, "")
        assert find_caffemodel(name, root) == place
    with pytest.raises(ModelError, match=r"Bring it and put it into one of them"):
        find_caffemodel("mine.caffemodel")


def released_recipes() -> list[str]:
    return sorted(path.stem for path in (zoo_folder() / "recipes").glob("released-*.toml"))


def test_every_released_file_has_a_recipe() -> None:
    configs = [build_train_config("imagenet", find_recipe(name), {}) for name in released_recipes()]
    assert {config.weights for config in configs} == set(RELEASED)
    assert all((config.epochs, config.keep, config.val_fraction) == (0, "last", 0) for config in configs)


# layers with weights in the order of the released prototxts
ALEXNET = ("conv1", "conv2", "conv3", "conv4", "conv5")
VGG = tuple(f"conv{block}_{n}" for block, count in enumerate((2, 2, 3, 3, 3), 1) for n in range(1, count + 1))
NIN = (
    *("conv1", "cccp1", "cccp2", "conv2", "cccp3", "cccp4", "conv3", "cccp5", "cccp6"),
    *("conv4-1024", "cccp7-1024", "cccp8-1024"),
)
BRANCHES = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
GOOGLENET = (
    *("conv1/7x7_s2", "conv2/3x3_reduce", "conv2/3x3"),
    *(f"inception_{block}/{branch}" for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e") for branch in BRANCHES),
)
RELEASED_LAYERS = {
    "released-alexnet": (*ALEXNET, "fc6", "fc7", "fc8"),
    "released-alexnet-star-gap": (*ALEXNET, "conv6", "conv7", "fc9"),
    "released-caffenet": (*ALEXNET, "fc6", "fc7", "fc8"),
    "released-googlenet": (
        *GOOGLENET,
        *(f"inception_{block}/{branch}" for block in ("5a", "5b") for branch in BRANCHES),
        "loss3/classifier",
    ),
    "released-googlenet-gap": (*GOOGLENET, "CAM_conv", "CAM_fc"),
    "released-nin": NIN,
    "released-vgg16": (*VGG, "fc6", "fc7", "fc8"),
    "released-vgg16-gap": (*VGG, "CAM_conv", "CAM_fc"),
}


@pytest.mark.parametrize("recipe", released_recipes())
def test_a_released_file_fills_its_network(recipe: str, tmp_path: Path) -> None:
    config = build_train_config("imagenet", find_recipe(recipe), {})
    narrow = {"hidden": 8} if config.head == "original" else config.head_options  # 4,096 x 4,096 are many
    with torch.device("meta"):
        backbone = build_backbone(config.network)
        model = nn.ModuleDict({"backbone": backbone, "head": build_head(config.head, backbone.channels, 5, narrow)})
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ours = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    released = RELEASED_LAYERS[recipe]
    blobs = {}
    for layer, name in zip(released, ours, strict=True):
        shapes = model.get_submodule(name).weight.shape, model.get_submodule(name).bias.shape  # type: ignore[union-attr]
        if layer == "cccp8-1024":  # a 1x1 convolution
            shapes = (*shapes[0], 1, 1), shapes[1]
        blobs[layer] = tuple(np.zeros(tuple(shape), np.float32) for shape in shapes)
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(blobs, old="alexnet" not in recipe))
    found = {name: tuple(tensor.shape) for name, tensor in caffe_weights(path, config.network).items()}
    assert found == wanted


def test_a_released_network_is_taken_as_it_is(elsewhere: Path, rng: np.random.Generator) -> None:
    photos, run = elsewhere / "photos", elsewhere / "run"
    for label in ("jay", "owl"):
        save_image(photos / "train" / label / "1.jpg", 60, 40)
    config = build_train_config(str(photos), find_recipe("released-alexnet-star-gap"), {})
    backbone, head = build_backbone("alexnet-star"), build_head("gap", 512, 2)
    blobs = random_blobs(backbone, rng, conv_names(backbone)) | random_blobs(head, rng, {"fc9": "classifier"})
    file = elsewhere / "data" / config.weights
    file.parent.mkdir()
    for content, loaded in ((blobs, True), ({name: blobs[name] for name in blobs if name != "fc9"}, False)):
        file.write_bytes(caffemodel(content))
        warned: list[str] = []
        folder = run / str(loaded)
        train(config, folder, root=elsewhere / "data", device="cpu", listener=Listener(warn=warned.append))
        assert warned == ([] if loaded else [
            "nothing is trained, and alexnetplusCAM_imagenet.caffemodel does not have head.classifier.bias, "
            "head.classifier.weight: random."
        ])  # fmt: skip
        got = load_classifier(folder)
        np.testing.assert_array_equal(got.backbone.get_parameter("conv7.bias").detach(), blobs["conv7"][1])
        assert (got.head.get_parameter("classifier.bias").detach().numpy() == blobs["fc9"][1]).all() == loaded
