"""One forward pass of a batch, and what maps are read from afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gwapctl.device import autocast
from gwapctl.engines.base import Engine
from gwapctl.engines.torch import TorchEngine
from gwapctl.maps.layers import Recorder, announce_layers, check_is_map
from gwapctl.networks.backbones.base import Backbone
from gwapctl.networks.classifier import Classifier
from gwapctl.networks.heads.base import Head, HeadOutput
from gwapctl.networks.inference import for_inference
from gwapctl.networks.transforms import split_region

ImageArray = npt.NDArray[np.uint8]
GradientAt = Literal["image", "layer"]
TRIAL_SIZE = (96, 160)  # of an image, not square so that swapped axes show
TRIAL_CELLS = 7  # a side of the feature map of zeros


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """What a batch of B images became.

    Attributes:
        head: what made the output.
        features: the feature map F (B, K, h, w), float32.
        output: logits (B, C) and the head's maps.
        probabilities: (B, C).
        gradient_tensors: what gradients are taken to: the images (B, 3, H, W), RGB in 0..255, or the feature map
            (B, K', h', w') of each layer asked for; nothing where the map method needs no gradient.

    """

    head: Head
    features: Tensor
    output: HeadOutput
    probabilities: Tensor
    gradient_tensors: tuple[Tensor, ...] = ()

    def gradients(self, weights: Tensor) -> list[Tensor]:
        """Return ``d (sum_c weights_c z_c) / dT`` in float32 for every gradient tensor T; z are the logits (B, C).

        Images do not mix in evaluation, so that one backward pass serves the batch. It can be called again.
        """
        found = torch.autograd.grad(self.output.logits, self.gradient_tensors, weights, retain_graph=True)
        return [gradient.float() for gradient in found]


@torch.inference_mode()
def blank_forward(model: Classifier) -> ForwardPass:
    """Run the head alone on a small feature map of zeros, which shows what maps it has."""
    head, backbone = cast(Head, model.head), cast(Backbone, model.backbone)
    features = torch.zeros(1, backbone.channels, TRIAL_CELLS, TRIAL_CELLS, device=next(head.parameters()).device)
    output: HeadOutput = head(features, features[:, :1]) if head.sees_boxes else head(features)
    return ForwardPass(head, features, output, model.probabilities(output.logits))


class Network:
    """A classifier made fast to run. Threads may share it.

    Args:
        model: it is copied, not changed.
        device: where it runs.
        precision: of the backbone: ``fp32``, ``bf16`` or ``auto``. The head runs in float32.
        gradient_at: what gradients will be taken to; None: no graph is built.
        layers: full names of the layers that ``gradient_at="layer"`` means; none: the feature map. One that gives no
            feature map is a ``UsageError``.

    Attributes:
        engine: what runs the backbone where no gradient is taken. The head, and gradients, are torch's.

    """

    def __init__(
        self,
        model: Classifier,
        *,
        device: torch.device,
        precision: str = "fp32",
        gradient_at: GradientAt | None = None,
        layers: Sequence[str] = (),
    ) -> None:
        self.model = for_inference(model, device)
        self.head = cast(Head, self.model.head)
        self.device, self.precision, self.gradient_at = device, precision, gradient_at
        self.layers = tuple(layers)
        self.engine: Engine = TorchEngine(self.model, precision)
        announce_layers(self.model.backbone, self.layers)
        if self.layers:
            with torch.enable_grad():
                _, maps = self._feature_map(torch.zeros(1, 3, *TRIAL_SIZE, dtype=torch.uint8, device=device))
            for name in self.layers:
                check_is_map(name, maps.get(name), *TRIAL_SIZE)

    def __call__(
        self, inputs: Sequence[npt.NDArray[Any]], *, mirrored: bool = False, late: int | None = None
    ) -> ForwardPass:
        """Run images of one size, uint8 ``(h, w, 3)`` or, with a region of 0 and 255 behind, ``(h, w, 4)``.

        Where ``late`` is a number, they are feature maps ``(h, w, K)`` that the backbone's ``late`` last stages read.
        """
        with torch.enable_grad() if self.gradient_at else torch.inference_mode():
            batch = torch.from_numpy(np.stack(inputs)).to(self.device).permute(0, 3, 1, 2)
            images, region = (batch, None) if late is not None else split_region(batch.flip(3) if mirrored else batch)
            if self.gradient_at == "image":
                images = images.float().requires_grad_()
            features, maps = self._feature_map(images, late)
            features = features.float()
            if self.gradient_at == "layer" and not self.layers:
                features.requires_grad_()
            output: HeadOutput = self.head(features) if region is None else self.head(features, region)
            probabilities = self.model.probabilities(output.logits.detach())
        of_layers = tuple(maps[name] for name in self.layers) or (features,)
        gradient_tensors = {"image": (images,), "layer": of_layers, None: ()}[self.gradient_at]
        return ForwardPass(self.head, features, output, probabilities, gradient_tensors)

    def _feature_map(self, images: Tensor, late: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the feature map, and those of the layers by name."""
        if late is None and not self.gradient_at:
            return self.engine.feature_map(images), {}
        recorder = Recorder()
        with recorder if self.layers else nullcontext(), autocast(self.device, self.precision):
            features = self.model.feature_map(images) if late is None else self.model.late_map(images.float(), late)
        return features, recorder.maps
