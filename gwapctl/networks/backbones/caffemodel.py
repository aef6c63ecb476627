"""Weights out of a ``.caffemodel``, without Caffe: a reader of the few protobuf fields that hold them.

Field numbers are those of BVLC's caffe.proto: ``NetParameter.layer`` 100 (and ``layers`` 2, the format before),
``LayerParameter.name`` 1 and ``blobs`` 7 (before: 4 and 6), ``BlobProto.data`` 5, ``double_data`` 8 and ``shape`` 7
(before: num, channels, height, width in 1 to 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gwapctl.errors import ModelError, UsageError, reading
from gwapctl.networks.backbones import BACKBONES
from gwapctl.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD

FloatArray = npt.NDArray[np.float32]

_VGG_CONVS = [f"conv{block}_{n}" for block, count in enumerate((2, 2, 3, 3, 3), 1) for n in range(1, count + 1)]
_VGG_NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_VGG_LAYERS = {name: f"features.{number}" for name, number in zip(_VGG_CONVS, _VGG_NUMBERS, strict=True)}
_CAM = {"CAM_conv": "backbone.cam_conv.0", "CAM_fc": "head.classifier"}
_FIRST = {"conv1", "conv1_1", "conv1/7x7_s2"}
_VGG_MEAN = (123.68, 116.779, 103.939)  # RGB


def caffe_weights(path: Path, backbone: str) -> dict[str, Tensor]:
    """Read the weights of ``backbone`` from a ``.caffemodel``, under the names that a classifier of ours has.

    The channels of the first convolution go from BGR to RGB. VGG's is also rescaled from 0..255 minus a mean to the
    ImageNet mean and std that our vgg16 wants; the two differ by less than one grey level, and only at the border.
    Layers that the file has beyond our cut keep their names and match nothing.

    Raises:
        UsageError: no network of that name has Caffe weights.
        ModelError: the file is missing or no caffemodel.

    """
    network = backbone.partition("+")[0]
    entry = BACKBONES.get(network)
    if entry is None or entry.caffe is None:
        able = sorted(name for name, known in BACKBONES.items() if known.caffe is not None)
        raise UsageError(f"{backbone} takes no Caffe weights. Networks that do: {', '.join(able)}.")
    tensors: dict[str, Tensor] = {}
    for layer, blobs in read_caffemodel(path).items():
        name = {**_CAM, **entry.caffe}.get(layer) or "backbone." + _own_name(layer)
        with reading(path, ModelError, "Fetch it again."):  # the first layer may have another shape than ours
            blobs = _for_our_input(network, *blobs) if layer in _FIRST else blobs
        for kind, blob in zip(("weight", "bias"), blobs, strict=False):
            # older files have (1, 1, 1, C) for biases and (1, 1, C, K) for fully connected weights
            array = blob.reshape(-1) if kind == "bias" else blob.squeeze() if name.startswith("head.") else blob
            tensors[f"{name}.{kind}"] = torch.from_numpy(array)
    return tensors


def read_caffemodel(path: Path) -> dict[str, list[FloatArray]]:
    """Return the blobs (weights, then bias) of every layer that has some, by the layer's name."""
    with reading(path, ModelError, "Fetch it again."):
        try:
            layers = dict(_layers(memoryview(path.read_bytes())))
        except (ValueError, IndexError) as error:
            raise ModelError(f"{path} is not a caffemodel, or it is cut short ({error}). Fetch it again.") from error
    if not layers:
        raise ModelError(f"{path} holds no layer with weights. Is it a .caffemodel?")
    return layers


def _own_name(layer: str) -> str:
    """Name a layer as our backbones do: inception blocks are modules of their own, VGG's layers have numbers."""
    if layer in _VGG_LAYERS:
        return _VGG_LAYERS[layer]
    return layer.replace("/", ".layers.", 1) if layer.startswith("inception_") else layer


def _for_our_input(network: str, weight: FloatArray, bias: FloatArray) -> list[FloatArray]:
    """Turn the first convolution (K, 3, n, n) around from BGR to RGB, and for VGG to our normalisation."""
    weight = weight[:, ::-1].copy()
    if network == "vgg16":
        shift = torch.tensor(IMAGENET_MEAN) * 255 - torch.tensor(_VGG_MEAN)
        bias = bias.reshape(-1) + (torch.from_numpy(weight).sum((2, 3)) @ shift).numpy()
        weight *= (torch.tensor(IMAGENET_STD) * 255).view(3, 1, 1).numpy()
    return [weight, bias]


def _layers(net: memoryview) -> Iterator[tuple[str, list[FloatArray]]]:
    for number, layer in _fields(net):
        if number not in (2, 100) or isinstance(layer, int):
            continue
        name_field, blob_field = (1, 7) if number == 100 else (4, 6)
        fields = [(field, value) for field, value in _fields(layer) if not isinstance(value, int)]
        blobs = [_blob(value) for field, value in fields if field == blob_field]
        if blobs:
            yield [bytes(value).decode() for field, value in fields if field == name_field][-1], blobs


def _blob(message: memoryview) -> FloatArray:
    """Decode a BlobProto to an array of its shape."""
    legacy, shape = [0, 0, 0, 0], None
    data: list[npt.NDArray[np.float32 | np.float64]] = []
    for number, value in _fields(message):
        if isinstance(value, int):
            if number <= 4:
                legacy[number - 1] = value
        elif number == 5:
            data.append(np.frombuffer(value, "<f4"))
        elif number == 8:
            data.append(np.frombuffer(value, "<f8"))
        elif number == 7:
            shape = [size for _, packed in _fields(value) for size in _sizes(packed)]
    values = np.concatenate(data) if data else np.empty(0)
    shape = legacy if shape is None else shape
    if math.prod(shape) != values.size:
        raise ValueError(f"a blob of shape {shape} has {values.size} values")
    return values.astype(np.float32).reshape(shape)


def _sizes(packed: int | memoryview) -> Iterator[int]:
    """Return the sizes in a BlobShape, packed or one by one."""
    if isinstance(packed, int):
        yield packed
        return
    at = 0
    while at < len(packed):
        size, at = _varint(packed, at)
        yield size


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk over a protobuf message: field number, and a number or the bytes of the field."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(message):
            raise ValueError("a field reaches beyond its message")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Decode a base-128 number, least significant group first; return it and the position behind it."""
    value, shift = 0, 0
    while shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number of more than 64 bits")
