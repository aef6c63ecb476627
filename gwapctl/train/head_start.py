"""Heads that start from ImageNet's own classifier: each class from those of the 1,000 that its photos look like.

A linear layer that a few hundred photos train from nothing learns what is around objects, too: it has never seen a
person without a fish. ImageNet's classifier, behind the same features, has told 1,000 classes apart in a million
photos. A class starts as a mixture of those classes that it finds in the class's photos more often than in all of them,
and training goes on from there. Starting a classifier from known vectors is Qi et al.'s (weight imprinting, CVPR 2018,
arXiv 1712.07136), who take features of photos for them; mixing the classes of another classifier is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from gwapctl.config import TrainConfig
from gwapctl.errors import UsageError, setting
from gwapctl.networks.backbones import has_classifier, imagenet_classifier
from gwapctl.networks.classifier import Classifier
from gwapctl.networks.heads import build_head
from gwapctl.networks.transforms import Items, load_batches
from gwapctl.progress import Progress, ProgressCallback

SOURCE_HEAD = "gap"  # the pooling in front of ImageNet's classifier
MOST_PHOTOS = 10_000  # that are looked at, however many there are
BATCH = 32
LEAST_SHARE = 0.01  # of photos that show a class, where a class that none or all show has no finite logit


def check_head_start(config: TrainConfig) -> None:
    """Refuse with a ``UsageError`` a network without a linear ImageNet classifier of its own, or a head that has none.

    Nothing but heads that start from it is checked.
    """
    if config.head_start == "random":
        return
    if not has_classifier(config.network, SOURCE_HEAD):
        raise UsageError(
            f"{config.network} has no ImageNet classifier of its own behind it. Use "
            f"{setting('head_start', 'random')}, or a whole network such as efficientnet-lite0 or resnet50."
        )
    channels, classes = 2, 3
    with torch.device("meta"):
        layer = getattr(build_head(config.head, channels, classes, config.head_options), "classifier", None)
    if not isinstance(layer, nn.Linear) or layer.weight.shape != (classes, channels):
        raise UsageError(
            f"head {config.head} has no linear layer with a row per class to start. Use "
            f"{setting('head_start', 'random')}, or choose head gwap."
        )


def photos_to_look_at(count: int, seed: int) -> list[int]:
    """Return the photos of a training that heads start from, in order: all, or as many as are enough."""
    if count <= MOST_PHOTOS:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, MOST_PHOTOS, replace=False).tolist())


@torch.no_grad()
def mean_features(
    feature_map: Callable[[Tensor], Tensor], images: Items, indices: list[int], workers: int, progress: ProgressCallback
) -> Tensor:
    """Return the mean features (n, K), float32, of photos.

    ``feature_map`` makes (B, K, h, w) of what ``images`` hold of a batch; ``progress`` may raise to stop.
    """
    rows = list[Tensor]()
    batches = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]
    for number, (batch, _) in enumerate(load_batches(images, batches, workers), start=1):
        rows.append(feature_map(batch).float().mean(dim=(2, 3)))
        progress(Progress(min(number * BATCH, len(indices)), len(indices), "images", "starting the head"))
    return torch.cat(rows)


def source_mixtures(chances: Tensor, labels: Tensor) -> Tensor:
    """Return how much each source class counts in each class, (C, S): not negative, with a sum of 1, or 0 throughout.

    That is by how much the mean chance of the source class in photos of the class is above that in all photos. A photo
    of several classes counts in each by its share.

    Args:
        chances: of the S source classes in n photos, (n, S), which sum to 1.
        labels: (n, C), above 0 where a photo shows a class.

    >>> chances = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])
    >>> source_mixtures(chances, torch.eye(2)).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

    """
    shown = (labels > 0).to(chances.dtype)
    shares = shown / shown.sum(dim=1, keepdim=True).clamp(min=1)
    of_classes = (shares.T @ chances) / shares.sum(dim=0).clamp(min=torch.finfo(chances.dtype).tiny)[:, None]
    above = torch.where(shown.any(dim=0)[:, None], of_classes - chances.mean(dim=0), 0).clamp(min=0)
    return above / above.sum(dim=1, keepdim=True).clamp(min=torch.finfo(chances.dtype).tiny)


def start_head(
    model: Classifier,
    feature_map: Callable[[Tensor], Tensor],
    images: Items,
    labels: Tensor,
    *,
    seed: int,
    workers: int,
    progress: ProgressCallback,
) -> None:
    """Let the linear layer of a model's head start from the ImageNet classifier of its backbone.

    Args:
        model: the ``classifier`` of its head is changed: a linear layer of a row per class (``check_head_start``).
        feature_map: makes the feature map (B, K, h, w) of a batch of ``images``.
        images: the photos of the training, or what is kept of them.
        labels: (n, C), above 0 where a photo shows a class.
        seed: decides which photos are looked at where there are very many.
        workers: threads that read ahead.
        progress: is told how far it is, and may raise to stop.

    """
    chosen = photos_to_look_at(len(labels), seed)
    pooled = mean_features(feature_map, images, chosen, workers, progress)
    tensors = imagenet_classifier(model.info.backbone, SOURCE_HEAD)
    weight, bias = (tensors[f"classifier.{name}"].to(pooled) for name in ("weight", "bias"))
    layer, shown = cast(nn.Linear, model.head.classifier), labels[chosen].to(pooled)
    set_start(layer, weight, bias, pooled, shown, multi_label=model.info.multi_label)


@torch.no_grad()
def set_start(
    layer: nn.Linear, weight: Tensor, bias: Tensor, pooled: Tensor, labels: Tensor, *, multi_label: bool
) -> None:
    """Set a ``layer`` of C classes to mixtures of the rows of a classifier of S others, ``weight`` (S, K).

    Biases are such that the mean logit over the photos is 0, or where there may be several classes that of the share of
    photos that show one. ``pooled`` (n, K) are mean features of photos, ``labels`` (n, C) what they show.
    """
    chances = torch.softmax(pooled @ weight.T + bias, dim=1)
    rows = source_mixtures(chances, labels) @ weight
    middle, share = (pooled @ rows.T).mean(dim=0), (labels > 0).to(pooled).mean(dim=0)
    prior = torch.logit(share.clamp(LEAST_SHARE, 1 - LEAST_SHARE)) if multi_label else 0
    layer.weight.copy_(rows)
    layer.bias.copy_(prior - middle)
