"""Maps made of gradients: of the image (saliency), or of any layer's feature map T (Grad-CAM, LayerCAM, DGL).

``g_c = d z_c / d T`` with z_c the logit of class c. Each method takes a ``ForwardPass`` and the classes asked for ``(B,
k)`` and returns, for every gradient tensor of the pass, maps ``(B, k, h, w)``. One forward pass serves all classes;
every class costs a backward pass of the whole batch from the logits down to it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gwapctl.maps.forward import ForwardPass
from gwapctl.maps.reading import BETA

Formula = Callable[[int, Tensor, Tensor], Tensor]  # number of the tensor, tensor T, gradient g_c -> map (B, h, w)


def backprop(forward: ForwardPass, classes: Tensor) -> list[Tensor]:
    """Return ``max over channels of |d z_c / d I|``, of the RGB image I (Simonyan et al., arXiv 1312.6034, 3.1)."""
    return _of_each_class(forward, classes, lambda _, __, gradient: gradient.abs().amax(1))


def gradcam(forward: ForwardPass, classes: Tensor) -> list[Tensor]:
    """Return ``ReLU(sum_k (mean_xy g_ck) T_k)`` (Selvaraju et al., arXiv 1610.02391, eq. 1 and 2)."""
    return _of_each_class(
        forward, classes, lambda _, maps, gradient: (gradient.mean((2, 3), keepdim=True) * maps).sum(1).relu()
    )


def layercam(forward: ForwardPass, classes: Tensor) -> list[Tensor]:
    """Return ``ReLU(sum_k ReLU(g_ck) T_k)`` (Jiang et al., LayerCAM, IEEE TIP 2021)."""
    return _of_each_class(forward, classes, lambda _, maps, gradient: (gradient.relu() * maps).sum(1).relu())


def dgl(forward: ForwardPass, classes: Tensor, beta: float = BETA) -> list[Tensor]:
    """Return DGL's ``sum_k g_ck A_k`` with ``A = T / |T| - g_J / |g_J|`` (Tan et al., ACM MM 2020), without a ReLU.

    ``g_J = dJ / dT`` is the gradient of the cross-entropy J of labels ``beta * one-hot``, as TensorFlow and the
    released code have it: ``dJ / dz = p - beta * one-hot`` although these labels do not sum to 1. (With the gradient of
    the formula itself, beta would cancel.) Norms are over channels and positions of an image. With sigmoids, p are
    theirs: ours. Since gradients are linear in ``dJ / dz``, ``g_J = d(p . z) / dT - beta g_c``: one backward pass for
    all classes and one for each.
    """
    all_classes = forward.gradients(forward.probabilities)

    def select(number: int, maps: Tensor, gradient: Tensor) -> Tensor:
        enhanced = _unit(maps) - _unit(all_classes[number] - beta * gradient)
        return (gradient * enhanced).sum(1)

    return _of_each_class(forward, classes, select)


def _of_each_class(forward: ForwardPass, classes: Tensor, formula: Formula) -> list[Tensor]:
    """Apply ``formula`` to every tensor and every column of ``classes`` (B, k); images have their own classes."""
    tensors = [tensor.detach().float() for tensor in forward.gradient_tensors]
    if not classes.shape[1]:
        return [tensor.new_zeros(len(tensor), 0, *tensor.shape[2:]) for tensor in tensors]
    maps: list[list[Tensor]] = [[] for _ in tensors]
    for column in classes.unbind(1):
        one_hot = torch.zeros_like(forward.probabilities).scatter_(1, column[:, None], 1)
        for number, gradient in enumerate(forward.gradients(one_hot)):
            maps[number].append(formula(number, tensors[number], gradient))
    return [torch.stack(of_tensor, dim=1) for of_tensor in maps]


def _unit(tensor: Tensor) -> Tensor:
    """Divide each image's part of (B, K, h, w) by its L2 norm; zeros stay."""
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=(1, 2, 3), keepdim=True)
    return tensor / norm.clamp_min(torch.finfo(tensor.dtype).tiny)
