"""Make a trained network fast to run: memory layout, batch norm folded into convolutions."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


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
        conv = node.args[0]
        if conv.op != "call_module" or type(model.get_submodule(conv.target)) is not nn.Conv2d:
            continue
        if len(conv.users) == 1 and calls[conv.target] == calls[node.target] == 1:
            pairs.append((conv.target, node.target))
    return pairs
