"""How fast a training learns: the optimizer, its groups of parameters, and the learning rate of every iteration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from gwapctl.config import RunConfig


def parameter_groups(
    parameters: Iterable[nn.Parameter], config: RunConfig, factor: float = 1.0
) -> list[dict[str, Any]]:
    """Group those of ``parameters`` that are trained: weights decay, biases and norms do not (as in CAM's prototxt).

    ``lr_factor`` of a group scales its rate.
    """
    trained = [one for one in parameters if one.requires_grad]
    weights = [one for one in trained if one.ndim > 1]
    biases = [one for one in trained if one.ndim <= 1]
    return [
        {"params": weights, "lr_factor": factor, "weight_decay": config.weight_decay},
        {"params": biases, "lr_factor": factor * config.bias_lr_factor, "weight_decay": 0.0},
    ]


def build_optimizer(groups: Sequence[dict[str, Any]], config: RunConfig) -> torch.optim.Optimizer:
    """Return the optimizer of the parameter groups that are not empty."""
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def learning_rate(config: RunConfig, iteration: int, total: int) -> float:
    """Return the learning rate of ``iteration``: linear warm-up, then steps, half a cosine, or constant.

    Example:
        >>> from gwapctl.config import build_train_config
        >>> config = build_train_config("photos", None, {"schedule": "cosine", "lr": 0.1, "warmup": 0})
        >>> [round(learning_rate(config, iteration, 10), 3) for iteration in (0, 5, 10)]
        [0.1, 0.05, 0.0]

    """
    if iteration < config.warmup:
        return config.lr * (iteration + 1) / config.warmup
    if config.schedule == "step":
        return config.lr * config.step_factor ** (iteration // config.step_every)
    if config.schedule == "cosine":
        share = (iteration - config.warmup) / max(1, total - config.warmup)
        return config.lr * 0.5 * (1 + math.cos(math.pi * share))
    return config.lr
