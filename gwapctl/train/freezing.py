"""Which layers of a classifier learn, and which stand still."""

from __future__ import annotations

from typing import cast

from torch import nn

from gwapctl.config import TrainConfig
from gwapctl.networks.backbones.base import Backbone
from gwapctl.networks.classifier import Classifier

SMALL_BATCH = 16  # below it, batch statistics are too noisy to replace pretrained ones


def freeze(model: Classifier, config: TrainConfig) -> tuple[list[nn.Module], list[nn.Module]]:
    """Stop what is not to be trained; return the modules that learn, and those of them that stay in eval mode.

    The latter are batch norms whose statistics stand still.
    """
    last = config.learning_stages
    if last == 0:  # in eval mode for good: ``begin_step`` does not touch it
        model.backbone.requires_grad_(False).eval()
        return [model.head], []
    learning: list[nn.Module] = [model]
    if last is not None:
        backbone = cast(Backbone, model.backbone)
        model.eval()
        for layer in backbone.early_layers(last):
            layer.requires_grad_(False)
        learning = [model.head, *backbone.late_layers(last)]
    small = config.weights != "none" and config.batch_size < SMALL_BATCH
    if config.batch_norm == "frozen" or (config.batch_norm == "auto" and small):
        norms: list[nn.Module] = [part for part in model.backbone.modules() if isinstance(part, nn.BatchNorm2d)]
        return learning, [norm.requires_grad_(False) for norm in norms]
    return learning, []
