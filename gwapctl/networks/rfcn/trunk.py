"""Residual networks as a detector's trunk: conv4 for the proposals, conv5 at the same stride for everything else."""

from __future__ import annotations

from pkgutil import resolve_name

import torchvision
from torch import Tensor, nn

from gwapctl.errors import unknown_name
from gwapctl.networks.backbones import BACKBONES, require_weights
from gwapctl.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from gwapctl.networks.backbones.efficientnet_lite import EfficientNetLite
from gwapctl.networks.backbones.pretrained import PretrainedWeights
from gwapctl.networks.backbones.resnet_s import ResNetS
from gwapctl.networks.backbones.torchvision_nets import dilate_stage, up_to


class Trunk(nn.Module):
    """A network without pooling and classifier, cut once more in front of its last stage.

    A backbone's entry names its trunk, which is made from the backbone's name. Layers keep the names that they have in
    a classifier, so that its weights load.

    Attributes:
        stages: the names of the layers of conv1, conv2, ... conv5.
        stride: input pixels per cell, of conv4 and conv5 alike. An input must be a multiple of it.
        conv4_channels, channels: of what ``conv4`` and ``conv5`` return.
        neck_channels, proposal_channels: how wide the detector's shared features and its proposals' layer are unless
            it says otherwise.
        mean, std: of the RGB input in 0..1, as its weights were trained.

    """

    stages: tuple[tuple[str, ...], ...]
    stride: int
    conv4_channels: int
    channels: int
    neck_channels: int
    proposal_channels: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __init__(self) -> None:
        super().__init__()
        self._fixed_norms = False

    def conv4(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to ``(B, conv4_channels, H / stride, W / stride)``."""
        return self._run(self.stages[:-1], images)

    def conv5(self, features: Tensor) -> Tensor:
        """Map what ``conv4`` returns to ``(B, channels, H / stride, W / stride)``."""
        return self._run(self.stages[-1:], features)

    def freeze(self, stages: int = 2) -> None:
        """Fix every batch norm and the first ``stages`` stages, as R-FCN does with its pretrained network.

        Call it after the weights are loaded, and again when a run is resumed: it is not stored. From scratch, leave it
        out. 0: only batch norm, its statistics and affine part.
        """
        self._fixed_norms = True
        for name in (name for stage in self.stages[:stages] for name in stage):
            self.get_submodule(name).requires_grad_(False)
        for norm in self._norms():
            norm.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Trunk:
        """Switch between training and evaluation; a fixed batch norm stays as it is."""
        super().train(mode)
        if self._fixed_norms:
            for norm in self._norms():
                norm.eval()
        return self

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]

    def _run(self, stages: tuple[tuple[str, ...], ...], features: Tensor) -> Tensor:
        for name in (name for stage in stages for name in stage):
            features = self.get_submodule(name)(features)
        return features


class ResNetTrunk(Trunk):
    """A ResNet of torchvision (arXiv 1512.03385) with conv5 at stride 16 and dilated by 2 (R-FCN, section 3).

    R-FCN dilates the 3x3 convolutions of all three blocks of conv5; torchvision's own switch leaves out the first one
    and refuses ResNet-18 and -34. Those have two 3x3 convolutions per block: the one that had stride 2 stays undilated,
    for its input has the resolution that it was trained on, and all behind it are dilated. torchvision has the stride
    of conv3 and conv4 in a block's 3x3 convolution, the released R-FCN in the 1x1 before it.
    """

    stages = (("conv1", "bn1", "relu", "maxpool"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
    stride, neck_channels, proposal_channels = 16, 1024, 512

    def __init__(self, name: str) -> None:
        super().__init__()
        network = torchvision.models.get_model(name, weights=None)
        for child, layer in up_to(network, "layer4").items():
            self.add_module(child, layer)
        self.channels = int(network.fc.in_features)
        self.conv4_channels = self.channels // 2
        bottleneck = isinstance(network.layer4[0], torchvision.models.resnet.Bottleneck)
        dilate_stage(network.layer4, dilation=2, first=2 if bottleneck else 1)


class ResNetSTrunk(Trunk):
    """Our resnet-s for small images, at its stride of 8 and undilated, for it never had a larger one.

    Its last residual block ends conv4, its closing 1x1 convolution to 256 channels is conv5: ours, since a network this
    shallow needs all its blocks to see an object.
    """

    stages = (("layers.0", "layers.1"), ("layers.2",), ("layers.3",), ("layers.4",), ("layers.5",))
    stride, conv4_channels, channels, neck_channels, proposal_channels = 8, 96, 256, 256, 128

    def __init__(self, _name: str) -> None:
        super().__init__()
        self.layers = ResNetS(stride=self.stride).layers


class EfficientNetLiteTrunk(Trunk):
    """EfficientNet-Lite0 at stride 16 throughout: proposals from its stage of 112 channels, the rest from its last.

    What is shared is narrower than R-FCN's 1024 channels, in proportion to a network this small: ours.
    """

    stages = (
        ("network.conv_stem", "network.bn1", "network.blocks.0"),
        ("network.blocks.1",),
        ("network.blocks.2",),
        ("network.blocks.3", "network.blocks.4"),
        ("network.blocks.5", "network.blocks.6", "network.conv_head", "network.bn2"),
    )
    stride, conv4_channels, channels, neck_channels, proposal_channels = 16, 112, 1280, 256, 256

    def __init__(self, _name: str) -> None:
        super().__init__()
        backbone = EfficientNetLite(0, output_stride=self.stride)
        self.mean, self.std = backbone.mean, backbone.std
        self.network = backbone.network


def check_trunk(name: str) -> None:
    """Refuse with a ``UsageError``, which names the nearest, a backbone that serves no detector."""
    trunks = [known for known, entry in BACKBONES.items() if entry.trunk]
    if name not in trunks:
        raise unknown_name("backbone of a detector", name, trunks)


def build_trunk(name: str) -> Trunk:
    """Build the trunk that the backbone ``name`` offers (``check_trunk``), with fresh weights."""
    check_trunk(name)
    return resolve_name(BACKBONES[name].trunk)(name)  # type: ignore[no-any-return]


def trunk_weights(name: str) -> PretrainedWeights | None:
    """Return the download of the ImageNet weights of the trunk ``name``; None: a package holds them."""
    check_trunk(name)
    weights = require_weights(name)
    return weights if isinstance(weights, PretrainedWeights) else None
