"""A classifier is a backbone and a head; on disk it is ``weights.safetensors`` and ``model.json``, never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gwapctl.datasets.base import ClassName
from gwapctl.errors import ModelError, UsageError, option, reading
from gwapctl.files import atomic_path, read_json, write_json
from gwapctl.networks.backbones import build_backbone, imagenet_weights, own_names, packaged_weights
from gwapctl.networks.backbones.base import Backbone
from gwapctl.networks.backbones.caffe_releases import CAFFE
from gwapctl.networks.backbones.caffemodel import caffe_weights
from gwapctl.networks.backbones.efficientnet_lite import read_package_file, timm_names
from gwapctl.networks.heads import build_head
from gwapctl.networks.heads.base import HeadOutput
from gwapctl.networks.weights_packages import package_file

SCHEMA_VERSION = 1

M = TypeVar("M", bound=nn.Module)
Info = TypeVar("Info", bound=BaseModel)


class ModelInfo(BaseModel):
    """All that is needed to build a classifier again and to use it as it was meant.

    ``input_size`` (width, height) decides the class, and an image whose best class scores below ``none_threshold``
    shows none of them; ``train_sizes`` are the smallest and largest sides of training; ``map`` (read at ``layer``,
    several by ``fuse``, DGL's with ``beta``), ``box_rule``, ``scales``, ``resize`` and ``close`` are what `localize`
    uses when nothing else is asked for. ``output_stride`` was chosen where a network has several. ``weights_package``
    is the distribution that holds the weights of a model that has no file of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    backbone: str
    output_stride: int | None = None
    head: str
    head_options: dict[str, int | float] = {}
    classes: tuple[ClassName, ...] = Field(min_length=1)
    multi_label: bool
    input_size: tuple[int, int]
    train_sizes: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    map: str | None = None
    layer: tuple[str, ...] = ()
    fuse: Literal["mean", "max", "product"] | None = None
    box_rule: str = "paper20"
    scales: tuple[int, ...] = ()
    resize: Literal["warp", "keep"] = "warp"
    close: float = Field(default=0.0, ge=0, lt=1)
    beta: float | None = Field(default=None, ge=0)
    none_threshold: float | None = Field(default=None, ge=0, le=1)
    weights_package: str | None = None
    provenance: dict[str, Any] = {}


class Classifier(nn.Module):
    """A backbone and a head under one roof, with the normalisation of the input.

    Images go in as RGB in 0..255 (uint8 or float), so that nothing outside needs to know mean and std.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, info: ModelInfo, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.info = info
        self.backbone = backbone
        self.head = head
        mean, std = torch.tensor(info.mean), torch.tensor(info.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1), persistent=False)

    def feature_map(self, images: Tensor) -> Tensor:
        """Map RGB images ``(B, 3, H, W)`` in 0..255 to the feature map ``(B, K, h, w)``."""
        return self.backbone(self._normalised(images))  # type: ignore[no-any-return]

    def early_map(self, images: Tensor, last: int) -> Tensor:
        """Map RGB images to what the backbone's ``last`` stages read; 0: to the feature map."""
        if not last:
            return self.feature_map(images)
        return cast(Backbone, self.backbone).early(self._normalised(images), last)

    def late_map(self, features: Tensor, last: int) -> Tensor:
        """Map what ``early_map`` returns to the feature map ``(B, K, h, w)``."""
        return cast(Backbone, self.backbone).late(features, last) if last else features

    def _normalised(self, images: Tensor) -> Tensor:
        return images.float() * self.scale + self.shift

    def forward(self, images: Tensor, region: Tensor | None = None) -> HeadOutput:
        """Map RGB images ``(B, 3, H, W)`` in 0..255 to logits ``(B, C)`` and the head's maps.

        ``region`` (B, 1, H, W) in 0..1 covers the boxes of all objects; a head that ``sees_boxes`` takes it.
        """
        features = self.feature_map(images)
        return self.head(features) if region is None else self.head(features, region)  # type: ignore[no-any-return]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits ``(B, C)`` into scores in 0..1: one sigmoid per class, or a softmax over classes."""
        return torch.sigmoid(logits) if self.info.multi_label else torch.softmax(logits, dim=1)


def build_classifier(info: ModelInfo, *, pretrained: bool = False) -> Classifier:
    """Build the classifier that ``info`` describes, with fresh weights (backbone: ImageNet's where ``pretrained``)."""
    backbone = build_backbone(info.backbone, pretrained=pretrained, output_stride=info.output_stride)
    return Classifier(info, backbone, build_head(info.head, backbone.channels, len(info.classes), info.head_options))


def save_model(model: Classifier, folder: Path, *, half: bool = False) -> None:
    """Write ``weights.safetensors`` and ``model.json`` into ``folder``; ``half`` stores float16."""
    save_tensors(model, folder, half=half)
    save_info(model.info.model_copy(update={"weights_package": None}), folder)


def save_tensors(model: nn.Module, folder: Path, *, half: bool = False) -> None:
    """Write ``weights.safetensors`` of any network into ``folder``; ``half`` stores float16."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    with atomic_path(folder / "weights.safetensors") as temporary:
        save_file(tensors, temporary)


def save_info(info: BaseModel, folder: Path) -> None:
    """Write ``model.json`` alone: after calibration the weights are the same."""
    write_json(folder / "model.json", info.model_dump(mode="json"))


def load_info(folder: Path) -> ModelInfo:
    """Read the ``model.json`` of a classifier; one of a detector is a ``ModelError``."""
    document = read_json(folder / "model.json") if (folder / "model.json").is_file() else None
    if isinstance(document, dict) and document.get("task") == "detection":
        raise ModelError(f"{folder} holds a detector, and what was asked for needs a classifier.")
    return read_info(folder, ModelInfo, "model")


def read_info(folder: Path, kind: type[Info], what: str) -> Info:
    """Read ``model.json`` as ``kind``; ``what`` is what messages call it.

    Raises:
        ModelError: it is missing or not such a description.

    """
    path = folder / "model.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no {what} (no model.json). Give a run folder or a name from `gwapctl models list`."
        )
    with reading(path, ModelError):
        try:
            return kind.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            raise ModelError(f"{path} is not a {what} description: {first['loc']}: {first['msg']}.") from None


def load_classifier(folder: Path) -> Classifier:
    """Load a saved model in eval mode, on the CPU, in float32.

    Raises:
        ModelError: files are missing, broken, pickled, or do not fit each other.

    Example:
        >>> from gwapctl.networks.zoo import resolve_model
        >>> model = load_classifier(resolve_model("resnet-s-gwap-tiny-imagenet"))
        >>> model.info.head, len(model.info.classes)
        ('gwap', 200)

    """
    info = load_info(folder)
    try:
        with reading(folder / "model.json", ModelError):  # a network may fail to be built of what it says
            model = build_classifier(info)
    except UsageError as error:  # it is the file that says so, and nobody who typed it
        raise ModelError(f"{folder / 'model.json'}: {error}") from None
    if info.weights_package is None:
        return load_saved(model, folder)
    package = packaged_weights().get(info.backbone)
    if package is None or package.distribution != info.weights_package:
        raise ModelError(f"{folder / 'model.json'}: {info.weights_package!r} holds no weights of {info.backbone}.")
    return load_saved(model, folder, imagenet_weights(info.backbone, info.head))


def load_saved(model: M, folder: Path, tensors: Mapping[str, Tensor] | None = None) -> M:
    """Fill any network with ``tensors``, or with the file of ``folder``, and return it in eval mode."""
    try:
        model.load_state_dict(load_tensors(folder / "weights.safetensors") if tensors is None else tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        file = folder / "weights.safetensors" if tensors is None else folder
        raise ModelError(f"{file}: weights do not fit model.json: {reason}") from None
    return model.eval()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file as float32. One that is missing, broken or a pickle is a ``ModelError``."""
    if not path.is_file():
        raise ModelError(f"weights file {path} does not exist.")
    with path.open("rb") as file:
        start = file.read(9)
    # a zip as torch.save writes it, or a bare pickle; safetensors begins with a length of 8 bytes, any of them, and "{"
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:] != b"{"):
        raise ModelError(
            f"{path} is a pickle, and loading one can run anything: refused. Convert it to safetensors "
            "(safetensors.torch.save_file) where you trust it."
        )
    with reading(path, ModelError, "Fetch it again."):
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is not a readable safetensors file: {error}.") from error
        plain = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    require_finite_tensors(plain, path)
    return plain


def require_finite_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise ``ModelError`` where a tensor of the weights ``path`` holds NaN or infinity: every answer would be NaN."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(
                f"{path} holds weights that are not finite ({name}): such a model finds nothing. Fetch it again, or "
                f"train it again with a lower {option('lr')}."
            )


def read_weights(path: Path, network: str, head: str) -> dict[str, Tensor]:
    """Read first weights for a classifier of ``network`` and ``head``, whoever wrote them, under our names.

    A safetensors file may hold a model of ours, or the network's plain state dict as torchvision, timm or its hub write
    it. A ``.caffemodel`` is read without Caffe. Of pickles only the files of ``packaged_weights`` are read.

    Raises:
        ModelError: the file is missing, broken, or another pickle.

    """
    if path.suffix == CAFFE:
        tensors = caffe_weights(path, network)
        require_finite_tensors(tensors, path)
        return tensors
    data = package_file(path, packaged_weights().values()) if path.is_file() else None
    tensors = load_tensors(path) if data is None else read_package_file(data)
    if "_conv_stem.weight" in tensors:  # that file's tensors, converted to safetensors by someone
        tensors = timm_names(tensors)
    return own_names(tensors, network, head)


def load_matching(model: Classifier, tensors: Mapping[str, Tensor], origin: Path) -> list[str]:
    """Copy the layers of ``tensors`` whose name and shape match into ``model``; return the names that did not.

    The classifier of another class list stays behind this way, everything that fits is taken.

    Raises:
        ModelError: most of the backbone finds nothing that matches: it is another network.

    """
    own = model.state_dict()
    matching = {name: t for name, t in tensors.items() if name in own and own[name].shape == t.shape}
    of_backbone = [name for name in own if name.startswith("backbone.")]
    if 2 * sum(name in matching for name in of_backbone) < len(of_backbone):
        raise ModelError(f"{origin} matches too few layers of {model.info.backbone}: it is another network.")
    model.load_state_dict(matching, strict=False)
    return sorted((set(own) | set(tensors)) - set(matching))


def describe_network(model: nn.Module, info: BaseModel, layered: nn.Module) -> dict[str, Any]:
    """Return ``info`` with its class list cut short, how many parameters ``model`` has, and its ``layers``.

    These are the convolutions of ``layered`` in order, by name.
    """
    document = info.model_dump(mode="json")
    names = [item["name"] for item in document.pop("classes")]
    return {
        **document,
        "classes": len(names),
        "class_names": names[:10] + (["..."] if len(names) > 10 else []),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": list(convolutions(layered)),
    }


def convolutions(backbone: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the convolutions of a backbone by name, in the order in which ``--layer`` counts them."""
    return {name: module for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)}
