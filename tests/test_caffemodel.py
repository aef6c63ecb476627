"""The reader of Caffe's weights, against an encoder of the wire format that shares nothing with it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gwapctl.errors import ModelError, UsageError
from gwapctl.networks.backbones import build_backbone
from gwapctl.networks.backbones.caffemodel import caffe_weights, read_caffemodel
from gwapctl.networks.heads import build_head

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


@pytest.mark.parametrize("name", ["caffenet", "alexnet-star", "nin", "googlenet-caffe"])
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
    with pytest.raises(UsageError, match=r"resnet18 takes no Caffe weights. Networks that do: alexnet-star, caffenet"):
        caffe_weights(path, "resnet18")
