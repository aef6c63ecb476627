"""Torch as an engine: eager, channels last, batch norms folded (``networks.inference``)."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from gwapctl.device import autocast, used_precision
from gwapctl.engines.base import Engine
from gwapctl.networks.classifier import Classifier

# pixels of images that go through a network together on a CPU: the maps of more fall out of a core's cache, and a pass
# takes up to 1.8 times as long per image (efficientnet-lite0 and googlenet at 224 and 448 pixels)
PIXELS_AT_ONCE = {"fp32": 2**17, "bf16": 2**18}


class TorchEngine(Engine):
    """The network as it is.

    Args:
        model: what ``networks.inference.for_inference`` returned.
        precision: ``fp32``, ``bf16`` or ``auto`` (bf16 where the processor has it).

    """

    def __init__(self, model: Classifier, precision: str = "fp32") -> None:
        self._model, self._device = model, model.scale.device
        self.precision = used_precision(precision, self._device)

    def feature_map(self, images: Tensor) -> Tensor:
        """Map RGB images ``(B, 3, H, W)``, uint8, to the feature map F ``(B, K, h, w)``, float32."""
        at_once = len(images)
        if self._device.type == "cpu":
            at_once = max(1, PIXELS_AT_ONCE[self.precision] // (images.shape[2] * images.shape[3]))
        with torch.inference_mode(), autocast(self._device, self.precision):
            return torch.cat([self._model.feature_map(part).float() for part in torch.split(images, at_once)])

    def instruction_set(self) -> str:
        """Say with which instructions torch was told to run: its own kernels, and oneDNN's convolutions."""
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "all that the processor has")
        return f"{torch.backends.cpu.get_cpu_capability()}, oneDNN: {limit}"
