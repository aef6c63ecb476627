"""What describes a detector, and what it learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from gwapctl.datasets.base import ClassName
from gwapctl.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD

SCHEMA_VERSION = 1
PAPER_SHORT_SIDE = 600  # R-FCN's input; what is stated there in pixels scales with ours


class DetectorInfo(BaseModel):
    """All that is needed to build a detector again and to use it as it was meant.

    ``short_side`` and ``long_side`` are the input: the shorter side is resized to the first unless the longer one then
    exceeds the second. ``k`` is the grid of R-FCN's position-sensitive maps. ``neck_channels`` is the width of the
    shared features, None: the trunk's own choice (1024 as published, 256 for resnet-s). ``anchor_sizes`` are the sides
    of square anchors in input pixels, empty: 128, 256 and 512 at a short side of 600, scaled with it. ``candidates``
    are the proposals of an image before NMS, ``proposals`` those after it, at most. ``region_loss`` is the form of the
    weak branch's local region regularisation. With ``image_scores`` a box's score is multiplied by the chance that the
    weak branch gives its class in the whole image. With ``support`` boxes around a box add to its score. A score is
    multiplied by the box's share of the image to the power ``area_exponent``. With ``refine`` boxes are moved to the
    edges that GrabCut finds in the image (``regions.edges.move_to_edges``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    task: Literal["detection"] = "detection"
    kind: Literal["rfcn"] = "rfcn"
    backbone: str
    classes: tuple[ClassName, ...] = Field(min_length=1)
    weak: Literal["none", "gap", "gwap", "gwap+gap"] = "none"
    region_loss: Literal["softplus", "hinge"] = "softplus"
    pooling: Literal["ps_roi_pool", "ps_roi_align"] = "ps_roi_pool"
    k: int = Field(default=7, ge=1)
    neck_channels: int | None = Field(default=None, ge=1)
    anchor_sizes: tuple[float, ...] = ()
    candidates: int = Field(default=6000, ge=1)
    proposals: int = Field(default=300, ge=1)
    image_scores: bool = False
    support: bool = False
    area_exponent: float = Field(default=0.0, ge=0, le=4)
    refine: Literal["none", "grabcut"] = "none"
    short_side: int = Field(default=PAPER_SHORT_SIDE, ge=16)
    long_side: int = Field(default=1000, ge=16)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    provenance: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> DetectorInfo:
        if self.long_side < self.short_side:
            raise ValueError("long_side must not be below short_side")
        if self.image_scores and self.weak == "none":
            raise ValueError("image_scores are the weak branch's: there must be one")
        if any(size <= 0 for size in self.anchor_sizes):
            raise ValueError("anchor_sizes must be above 0")
        return self

    @property
    def scale(self) -> float:
        """How large an input is beside the paper's."""
        return self.short_side / PAPER_SHORT_SIDE

    @property
    def anchors(self) -> tuple[float, ...]:
        """The anchors' sides in input pixels."""
        return self.anchor_sizes or tuple(side * self.scale for side in (128, 256, 512))


@dataclass(frozen=True)
class BoxTarget:
    """The objects of one image: ``boxes`` (N, 4) half-open in input pixels, ``labels`` (N,) 0..C-1, ``difficult`` (N,).

    N may be 0: an image that is known to hold nothing. ``weights`` (N,) in 0..1 say how much each counts; None: fully.
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    weights: Tensor | None = None

    def to(self, device: torch.device | str) -> BoxTarget:
        """Return the same objects on ``device``."""
        weights = None if self.weights is None else self.weights.to(device)
        return BoxTarget(self.boxes.to(device), self.labels.to(device), self.difficult.to(device), weights)

    def usable(self) -> BoxTarget:
        """Return the objects that a detector learns from: not difficult, and at least a pixel wide and high.

        Difficult objects stay out of R-FCN's training; their pixels count as background then, as published.
        """
        width, height = self.boxes[:, 2] - self.boxes[:, 0], self.boxes[:, 3] - self.boxes[:, 1]
        keep = ~self.difficult.bool() & (width >= 1) & (height >= 1)
        weights = None if self.weights is None else self.weights[keep]
        return BoxTarget(self.boxes[keep].float(), self.labels[keep], self.difficult[keep], weights)
