"""What every engine is, and what a network looks like to those that are not torch."""

from __future__ import annotations

import importlib
import os
import sys
from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gwapctl.errors import MissingDependencyError, ModelError
from gwapctl.networks.classifier import Classifier

TRACED_SHAPE = (2, 128, 192, 3)
CHECKED_SHAPES = ((1, 96, 160, 3), (3, 161, 128, 3))  # neither is square, nor what was traced
TOLERANCE = 1e-3  # largest difference from torch in fp32, as a share of the largest value; rounding stays far below
OPENVINO_TELEMETRY = "openvino_telemetry"  # the package through which OpenVINO and NNCF report
ONNX_TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"  # read once, when onnxruntime is loaded (its Privacy.md)

Images = npt.NDArray[np.uint8]


class Engine(ABC):
    """Runs the backbone of a classifier; its head, in torch and float32, reads what comes out. Threads share it.

    Attributes:
        precision: the number format it computes in: ``fp32``, ``bf16`` or ``int8``.

    """

    precision: str

    @abstractmethod
    def feature_map(self, images: Tensor) -> Tensor:
        """Map RGB images ``(B, 3, H, W)``, uint8, to the feature map F ``(B, K, h, w)``, float32."""

    @abstractmethod
    def instruction_set(self) -> str:
        """Say with which instructions of the processor the convolutions run, as far as the engine tells."""


class NetworkFile(nn.Module):
    """What the file of another engine computes: uint8 RGB images ``(B, H, W, 3)`` to F ``(B, K, h, w)``.

    Colours come last because images lie so in memory, and nothing needs to be copied.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map images to feature maps."""
        return self.model.feature_map(images.permute(0, 3, 1, 2))


def colours_last(images: Tensor) -> Images:
    """Return images ``(B, 3, H, W)`` as an array ``(B, H, W, 3)``; nothing is copied where they lie so in memory."""
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def check_against_torch(engine: Engine, model: Classifier) -> None:
    """Compare an engine that computes in fp32 with torch, on noise of two sizes.

    Raises:
        ModelError: the engine fails, or its feature maps are others.

    """
    generator = torch.Generator().manual_seed(0)
    for shape in CHECKED_SHAPES:
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
        with torch.inference_mode():
            wanted = model.feature_map(images).float()
        size = f"{shape[2]} x {shape[1]} pixels"
        try:
            found = engine.feature_map(images)
        except Exception as error:  # each runtime raises its own
            raise ModelError(f"{type(engine).__name__} cannot run images of {size}: {first_line(error)}") from error
        same = found.shape == wanted.shape
        difference = float((found - wanted).abs().max() / wanted.abs().max()) if same else float("nan")
        if not difference <= TOLERANCE:  # NaN, too
            raise ModelError(
                f"{type(engine).__name__} gives other feature maps than torch for images of {size}: they differ by "
                f"{difference:.2g} of the largest value."
            )


def first_line(error: BaseException) -> str:
    """Return the first line of what another package says."""
    return str(error.__cause__ or error).strip().partition("\n")[0]


def import_runtime(package: str, what: str, extra: str) -> ModuleType:
    """Import a package of an extra that reports nothing to its makers.

    OpenVINO and NNCF send what they do, being imported included, through a package that they can do without: ``None``
    in its place has Python say that it is not there. ONNX Runtime keeps quiet, and writes no number that names the
    machine, where a variable is set before it is loaded.

    Raises:
        MissingDependencyError: it is not installed; ``what`` needs it.

    """
    sys.modules.setdefault(OPENVINO_TELEMETRY, cast(Any, None))
    os.environ.setdefault(ONNX_TELEMETRY_OFF, "1")
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} needs the package {package}. Run: pip install 'gwapctl[{extra}]'"
        ) from error
