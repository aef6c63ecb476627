"""``timm:NAME``: any network of timm that takes free image sizes, convolutional or transformer, before its pooling."""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from gwapctl.errors import ModelError, UsageError, option
from gwapctl.networks.backbones.base import Backbone
from gwapctl.networks.backbones.pretrained import TIMM, PretrainedWeights, fetch

# how timm's transformers are told to take any size: ViT and EVA by the first, Swin by the second; the rest take neither
_FREE_SIZE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
_TRIAL_SIZE = (128, 192)


class TimmBackbone(Backbone):
    """``forward_features`` of a timm network, as a feature map whatever its layout is.

    Tokens ``(B, P + h w, K)`` lose their P prefix tokens (class, distillation, registers) and go back to their grid;
    channels-last maps are turned around. Networks that cut an image into patches get it padded at the right and the
    bottom with the mean colour to whole patches, so that every size works.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        net: Any = network
        self.network = net
        self.channels, self.stride = int(net.num_features), int(net.feature_info[-1]["reduction"])
        self.mean, self.std = tuple(net.default_cfg["mean"]), tuple(net.default_cfg["std"])
        self._prefix_tokens = int(getattr(net, "num_prefix_tokens", 0))
        self._channels_last = getattr(net, "output_fmt", "NCHW") == "NHWC"
        self._cuts_patches = hasattr(net, "patch_embed")

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to a feature map ``(B, K, h, w)``."""
        height, width = images.shape[2:]
        if self._cuts_patches:
            images = functional.pad(images, (0, -width % self.stride, 0, -height % self.stride))
        features: Tensor = self.network.forward_features(images)
        if features.ndim == 3:  # (B, P + h w, K)
            # not -(-height // stride): ONNX rounds negative quotients towards zero
            rows, columns = ((side + self.stride - 1) // self.stride for side in (height, width))
            features = features[:, self._prefix_tokens :].transpose(1, 2)  # (B, K, h w)
            return features.reshape(len(images), self.channels, rows, columns)
        return features.permute(0, 3, 1, 2) if self._channels_last else features


def timm_backbone(name: str, *, pretrained: bool = False, output_stride: int | None = None) -> Backbone:
    """Build the timm network ``name``, with timm's weights (safetensors of its hub) where ``pretrained``.

    Raises:
        UsageError: timm has no such network, or no weights of it, or it takes one image size only, or has another
            stride than ``output_stride`` and no choice.
        ModelError: its weights cannot be fetched or read.

    """
    _check_name(name)
    backbone = TimmBackbone(create_timm(name, pretrained=pretrained, output_stride=output_stride))
    backbone.output_stride = output_stride
    _try_out(name, backbone)
    return backbone


def timm_weights(name: str) -> PretrainedWeights | None:
    """Return where the weights of the timm network ``name`` come from and how large they are, None without any.

    A network that timm does not have is a ``UsageError``.
    """
    timm = _timm()
    _check_name(name)
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        return None
    url = config.url
    if config.hf_hub_id:  # safetensors alone: timm would also take a pickle
        repository, _, revision = config.hf_hub_id.partition("@")
        own = config.hf_hub_filename or ""
        file = own if own.endswith(".safetensors") else "model.safetensors"
        url = f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{file}"
    with torch.device("meta"):  # shapes only: nothing is allocated or drawn
        parameters = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    return PretrainedWeights(url, parameters * 4 / 1e6)


def _timm() -> ModuleType:
    """Import timm, which costs a second: only who needs one of its networks waits for it."""
    return importlib.import_module("timm")


def _check_name(name: str) -> None:
    timm = _timm()
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        nearest = difflib.get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.5)
        hint = f" Nearest: {', '.join(TIMM + other for other in nearest)}." if nearest else ""
        raise UsageError(f'timm has no network {name!r}.{hint} All: python -c "import timm; print(timm.list_models())"')
    tags = [other.partition(".")[2] for other in timm.list_pretrained(architecture)]
    if tag and tag not in tags:
        raise UsageError(f"timm has no weights {tag!r} of {architecture}, only: {', '.join(tags) or 'none'}.")


def create_timm(name: str, *, pretrained: bool = False, output_stride: int | None = None) -> nn.Module:
    """Make timm's network ``name`` without its classifier, for images of any size where it can."""
    weights = timm_weights(name) if pretrained else None
    if pretrained and weights is None:
        none = option("weights", "none")
        raise UsageError(f"timm:{name} has no weights to download. Use {none}, a run or a zoo entry of ours.")
    chosen: dict[str, Any] = {"pretrained_cfg_overlay": {"file": str(fetch(weights))}} if weights else {}
    if output_stride is not None:
        chosen["output_stride"] = output_stride
    for options in _FREE_SIZE:
        try:
            network: nn.Module = _timm().create_model(name, pretrained=pretrained, num_classes=0, **options, **chosen)
        except TypeError:  # this network does not know the option
            continue
        except (AssertionError, NotImplementedError) as error:  # networks that know the option, and not this value
            if output_stride is None:
                raise
            raise _no_choice(name, output_stride) from error
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            if not pretrained:
                raise
            file = chosen["pretrained_cfg_overlay"]["file"]
            raise ModelError(f"{file} does not hold the weights of timm:{name}: {_first_line(error)}.") from error
        return network
    assert output_stride is not None, "the last options are empty, which every network takes"
    raise _no_choice(name, output_stride)


def _no_choice(name: str, output_stride: int) -> UsageError:
    why = f"timm:{name} cannot have stride {output_stride}: timm offers no choice"
    return UsageError(f"{why}. Drop {option('output_stride')}.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")


def _try_out(name: str, backbone: Backbone) -> None:
    """Run one small non-square image, so that a network of one fixed size is refused here and not in mid-training.

    What the feature map does not depend on (a norm that timm keeps with the classifier) is then not trained either.
    """
    try:
        features = backbone.eval()(torch.zeros(1, 3, *_TRIAL_SIZE))
    except Exception as error:  # each network complains in its own way
        raise UsageError(
            f"timm:{name} does not take images of any size ({_first_line(error)}). Try timm:vit_small_patch16_224 or a "
            "CNN."
        ) from error
    if features.shape[1] != backbone.channels:
        raise UsageError(f"timm:{name} does not say how many channels it has. Try timm:vit_small_patch16_224 or a CNN.")
    features.sum().backward()
    for parameter in backbone.parameters():
        parameter.requires_grad_(parameter.grad is not None)
    backbone.zero_grad()
    backbone.train()
