"""What the logits of a batch are judged by, whatever head made them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def classification_loss(logits: Tensor, labels: Tensor, counts: Tensor, multi_label: bool) -> Tensor:
    """Return the loss of logits ``(B, C)``.

    Multi-label: sigmoid cross-entropy summed over classes and divided by the batch, as Caffe's layer does; classes with
    count 0 (only difficult objects) are left out. Single-label: softmax cross-entropy, the mean over the batch.
    """
    if not multi_label:
        return functional.cross_entropy(logits, labels.argmax(dim=1))
    loss = functional.binary_cross_entropy_with_logits(logits, labels, weight=counts, reduction="sum")
    return loss / len(logits)
