"""Localization with background images: a foreground map learnt from images without objects teaches the class maps.

What is published of it (Kou, Zhao, Cui and Wang, arXiv 1909.03619) is an abstract: an additional module extracts
foreground regions without classifying them; normalised, they are unrestricted pixel-level supervision of the maps of
the classification task; a small set of background images is collected from the Internet; all is trained end to end.
Layers, losses and their weights are not public: those below are ours, made of these sentences and nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gwapctl.errors import UsageError
from gwapctl.networks.backbones.base import start_gaussian
from gwapctl.networks.heads.base import Head, HeadOutput, at_least_float32, classification_loss, without_autocast

SHARE = 8  # images with objects to one without
MASK_FREE = 1.0  # epochs before L_mask begins; over the next one it grows to its full weight
SMALLEST_SPAN = 0.1  # a weaker map says nothing: stretching it to [0, 1] would blow up its gradient


class Background(Head):
    """CAM with a second, class-free branch that supervises it (after Kou et al., arXiv 1909.03619; details ours).

    Foreground branch: ``A = conv1x1(ReLU(conv3x3(F)))`` and ``a = mean A(x, y)``, with
    ``L_fb = BCE(sigmoid(a), t)``: t = 1 for images with objects, 0 for background images. Image-level labels, no more.
    Class branch: ``S = conv1x1(ReLU(conv3x3(F)))`` and ``s_c = mean S_c(x, y)``, with the usual classification loss
    ``L_cls``: CAM with its extra convolution. The region ``R = minmax(ReLU(A))``, which takes no gradient, supervises
    every pixel of the map ``Q = minmax(ReLU(S_y))`` of the true class y: ``L_mask = mean (Q - R)^2``.

    ``L = L_cls + l1 L_fb + l2 L_mask``. ``L_mask`` waits for an epoch and grows linearly over the next. In multi-label
    data it is the mean over the classes present. Background images take part in ``L_fb`` alone; with ``l1 = 0`` there
    are none, and with ``l2 = 0`` as well this is CAM.

    Its class map is ``ReLU(S_c)``, its ``weight_map`` is ``ReLU(A)``, its ``presence`` is a.

    Args:
        channels: K.
        classes: C.
        hidden: channels of the class branch's 3x3 convolution; CAM's number.
        foreground_hidden: channels of the foreground branch's.
        l1, l2: weights of ``L_fb`` and ``L_mask``.
        bce: 1: ``L_mask`` is the binary cross-entropy of ``sigmoid(S_y)`` against R instead.

    Raises:
        UsageError: a width below 1, or a weight below 0.

    """

    learns_from_background = True
    map = "class"

    def __init__(
        self,
        channels: int,
        classes: int,
        hidden: int = 1024,
        foreground_hidden: int = 512,
        l1: float = 1.0,
        l2: float = 1.0,
        bce: int = 0,
    ) -> None:
        super().__init__()
        for name, width in (("hidden", hidden), ("foreground_hidden", foreground_hidden)):
            if width < 1:
                raise UsageError(f"head background: {name} must be at least 1, not {width}.")
        if not (l1 >= 0 and l2 >= 0):
            raise UsageError(f"head background: l1 and l2 must not be below 0, not {l1} and {l2}.")
        self.l1, self.l2, self.bce = l1, l2, bool(bce)
        self.class_conv, self.classifier = _new_branch(channels, hidden, classes)
        self.foreground_conv, self.foreground = _new_branch(channels, foreground_hidden, 1)

    def background_images(self, batch_size: int) -> int:
        """Return an eighth of ``batch_size``, at least one; none where no loss looks at them."""
        return max(1, batch_size // SHARE) if self.l1 else 0

    def forward(self, feature_map: Tensor) -> HeadOutput:
        """Map ``(B, K, h, w)`` to logits ``(B, C)``, ReLU(A) ``(B, 1, h, w)``, S ``(B, C, h, w)`` and a ``(B,)``."""
        class_features = functional.relu(self.class_conv(feature_map))
        foreground_features = functional.relu(self.foreground_conv(feature_map))
        with without_autocast(feature_map):
            scores = self.classifier(at_least_float32(class_features))
            foreground = self.foreground(at_least_float32(foreground_features))
            logits, presence = scores.mean(dim=(2, 3)), foreground.mean(dim=(1, 2, 3))
            return HeadOutput(logits, functional.relu(foreground), scores, presence)

    def loss(
        self, output: HeadOutput, labels: Tensor, label_mask: Tensor, *, multi_label: bool, epoch: float
    ) -> Tensor:
        """Return ``L_cls + l1 L_fb + l2 L_mask``; images behind the n of ``labels`` are background images."""
        assert output.weight_map is not None
        assert output.score_map is not None
        assert output.presence is not None
        n = len(labels)
        loss = classification_loss(output.logits[:n], labels, label_mask, multi_label)
        if self.l1:
            has_object = (torch.arange(len(output.presence), device=labels.device) < n).to(output.presence.dtype)
            loss = loss + self.l1 * functional.binary_cross_entropy_with_logits(output.presence, has_object)
        ramp = min(1.0, epoch - MASK_FREE)
        if self.l2 and ramp > 0:
            loss = loss + ramp * self.l2 * self.mask_loss(output.score_map[:n], output.weight_map[:n], labels)
        return loss

    def mask_loss(self, scores: Tensor, foreground: Tensor, labels: Tensor) -> Tensor:
        """Return ``L_mask`` of S ``(n, C, h, w)`` and ReLU(A) ``(n, 1, h, w)``: the mean over images and their classes.

        ``labels`` (n, C) say which classes are present; an image without any counts as 0.
        """
        region = _minmax(foreground.detach())
        rows, classes = labels.nonzero(as_tuple=True)
        maps = scores[rows, classes].unsqueeze(1)  # (pairs of image and class, 1, h, w)
        if self.bce:
            error = functional.binary_cross_entropy_with_logits(maps, region[rows], reduction="none")
        else:
            error = (_minmax(functional.relu(maps)) - region[rows]).square()
        share = 1 / labels.sum(1)[rows]
        return (error.mean(dim=(1, 2, 3)) * share).sum() / len(labels)

    def class_weights(self) -> Tensor:
        """Return the weights of S ``(C, hidden)``: of the class branch's own features, not of the feature map."""
        return self.classifier.weight.flatten(1)

    def class_map(self, feature_map: Tensor, classes: Tensor) -> Tensor:
        """Return ``ReLU(S_c)``, (B, k, h, w), of each image's own ``classes`` (B, k)."""
        features = functional.relu(self.class_conv(feature_map))
        maps = super().class_map(features, classes)
        assert self.classifier.bias is not None
        return functional.relu(maps + self.classifier.bias[classes][:, :, None, None])


def _new_branch(channels: int, hidden: int, outputs: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Make a 3x3 and a 1x1 convolution."""
    first, second = nn.Conv2d(channels, hidden, 3, padding=1), nn.Conv2d(hidden, outputs, 1)
    return start_gaussian(first), start_gaussian(second)


def _minmax(maps: Tensor) -> Tensor:
    """Stretch each map of ``(n, 1, h, w)`` to [0, 1]; one that is nearly constant stays low."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp(min=SMALLEST_SPAN)
