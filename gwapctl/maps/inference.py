"""Make a trained network fast to run: device, number format, memory layout, batch norm folded into convolutions."""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gwapctl.errors import MissingDependencyError, UsageError

M = TypeVar("M", bound=nn.Module)


def resolve_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is the first GPU where there is one.

    Raises:
        MissingDependencyError: the device is not there.
        UsageError: no such name.

    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}. Choose auto, cpu, cuda, cuda:N or mps.") from error
    there = {"cpu": True, "cuda": (device.index or 0) < torch.cuda.device_count(), "mps": _has_mps()}
    if not there.get(device.type, False):
        raise MissingDependencyError(f"device {name!r} is not there. Use --device cpu, or auto for what there is.")
    return device


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def has_fast_bf16(device: torch.device) -> bool:
    """Tell whether ``device`` computes in bfloat16 natively; emulation would only cost precision and time."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context that runs a network in ``precision``: ``fp32``, ``bf16``, ``auto`` (bf16 where it is native).

    Raises:
        UsageError: no such precision.

    """
    if precision not in ("auto", "fp32", "bf16"):
        raise UsageError(f"unknown precision {precision!r}. Choose auto, fp32 or bf16.")
    enabled = precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def for_inference(model: M, device: torch.device) -> M:
    """Return a copy of ``model`` on ``device`` in eval mode, channels last, batch norm folded: the same function."""
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    for child in fast.children():  # the whole may look at its input, which cannot be traced; a backbone does not
        fold_batch_norms(child)
    fast.to(memory_format=torch.channels_last)
    return fast.to(device)


def fold_batch_norms(model: nn.Module) -> int:
    """Fold each batch norm that alone reads one convolution into it, in place, and return how many there were.

    In eval mode a batch norm is an affine map of each channel, so the folded network computes the same up to rounding.
    What a graph of the network cannot be drawn for stays as it is.
    """
    pairs = _conv_norm_pairs(model)
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        model.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        model.set_submodule(norm_name, nn.Identity())
    return len(pairs)


def _conv_norm_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Return the names of (convolution, batch norm) where nothing but that batch norm sees the convolution's output."""
    try:
        graph = torch.fx.Tracer().trace(model)
    except Exception:  # tracing runs the network's own code on symbols and may fail in any way: then nothing is folded
        return []
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or type(model.get_submodule(node.target)) is not nn.BatchNorm2d:
            continue
        source = node.args[0]
        if source.op != "call_module" or type(model.get_submodule(source.target)) is not nn.Conv2d:
            continue
        if len(source.users) == 1 and calls[source.target] == calls[node.target] == 1:
            pairs.append((source.target, node.target))
    return pairs
