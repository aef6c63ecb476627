"""What every head is and returns. Words: ``feature_map`` F ``(B, K, h, w)``, N = h w positions, C classes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class HeadOutput(NamedTuple):
    """What a head returns. A map that the head does not have, or does not compute in forward, is None.

    ``logits`` (B, C); ``weight_map`` alpha (B, 1 | C, h, w), sums to 1 over positions (head ``background``: its map of
    the foreground, which does not); ``score_map`` s_c(x, y) (B, C, h, w); ``presence`` (B,), the logit of there being
    any object at all.
    """

    logits: Tensor
    weight_map: Tensor | None = None
    score_map: Tensor | None = None
    presence: Tensor | None = None


class Head(nn.Module):
    """Pooling and classifier on a feature map.

    Attributes:
        sees_boxes: forward also takes ``region``, a mask made from ground-truth boxes. Such a model is not weakly
            supervised, and every output of it must say so.
        learns_from_background: training also shows images without any object (``background_images``).
        map: the map method that localization uses unless another is asked for; None: the weight map, if there is one.

    """

    sees_boxes: bool = False
    learns_from_background: bool = False
    map: str | None = None

    def forward(self, feature_map: Tensor) -> HeadOutput:
        """Map ``(B, K, h, w)`` to logits ``(B, C)`` and the maps that the head has."""
        raise NotImplementedError

    def background_images(self, batch_size: int) -> int:
        """Return how many images without objects are put behind ``batch_size`` images in training."""
        del batch_size
        return 0

    def loss(
        self, output: HeadOutput, labels: Tensor, label_mask: Tensor, *, multi_label: bool, epoch: float
    ) -> Tensor:
        """Return the training loss of a batch of n images, behind which there may be background images.

        ``output`` is that of forward in training; ``labels`` (n, C) are in {0, 1}; ``label_mask`` (n, C) says how
        much each counts, 0 for classes that are neither right nor wrong; ``epoch``: how often all images were seen.
        """
        del epoch
        return classification_loss(output.logits.float(), labels, label_mask, multi_label)

    def class_weights(self) -> Tensor:
        """Return the weights w_k^c of the linear classifier, ``(C, K)``."""
        raise NotImplementedError

    def class_map(self, feature_map: Tensor, classes: Tensor) -> Tensor:
        """Return the class activation maps ``sum_k w_k^c f_k(x, y)`` (CAM, arXiv 1512.04150, eq. 2), without bias.

        F is (B, K, h, w), ``classes`` (B, k) are each image's own; the maps are (B, k, h, w) in float32. Pooled as the
        head pools, plus the bias, a map is the logit of a head that pools linearly.
        """
        with without_autocast(feature_map):
            weights = at_least_float32(self.class_weights())[classes]  # (B, k, K)
            return torch.einsum("bck,bkhw->bchw", weights, at_least_float32(feature_map))


def at_least_float32(tensor: Tensor) -> Tensor:
    """Lift half precision to float32; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context in which pooling runs in the precision of its input: sums of 1,400 fp16 numbers lose digits."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def classification_loss(logits: Tensor, labels: Tensor, label_mask: Tensor, multi_label: bool) -> Tensor:
    """Return the loss of logits ``(B, C)``.

    Multi-label: sigmoid cross-entropy summed over classes and divided by the batch, as Caffe's layer does; classes that
    ``label_mask`` has 0 for (only difficult objects) are left out. Single-label: softmax cross-entropy, its mean. A
    label counts as much as ``label_mask`` says, usually 1.
    """
    if not multi_label:
        true = labels.argmax(dim=1)
        losses = functional.cross_entropy(logits, true, reduction="none")
        return (losses * label_mask.gather(1, true[:, None])[:, 0]).mean()
    loss = functional.binary_cross_entropy_with_logits(logits, labels, weight=label_mask, reduction="sum")
    return loss / len(logits)
