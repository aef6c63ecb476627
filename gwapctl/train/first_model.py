"""The classifier that a training starts with: its network, and the weights that it has before the first step."""

from __future__ import annotations

from pathlib import Path

from gwapctl.config import TrainConfig
from gwapctl.datasets.base import Dataset
from gwapctl.maps.resolve import require_map
from gwapctl.networks.backbones import build_backbone, imagenet_classifier
from gwapctl.networks.classifier import Classifier, ModelInfo, build_classifier, load_matching, read_weights
from gwapctl.networks.heads import head_class

ILSVRC, ILSVRC_CLASSES = ("imagenet", "lid"), 1000  # data sets whose classes are sorted wnids, as torchvision's


def build_model(config: TrainConfig, dataset: Dataset, weights: Path | None) -> tuple[Classifier, list[str]]:
    """Build the model with its first weights; return it and the names of layers that ``weights`` did not fill."""
    backbone = build_backbone(config.network, output_stride=config.output_stride)
    sizes, head = config.train_sizes or config.image_size, head_class(config.head)
    provenance = {"dataset": dataset.name, "recipe": config.recipe, "seed": config.seed}
    info = ModelInfo(
        backbone=config.network,
        output_stride=backbone.output_stride,
        head=config.head,
        head_options=config.head_options,
        classes=dataset.classes,
        multi_label=dataset.multi_label,
        input_size=config.image_size,
        train_sizes=(min(sizes), max(sizes)),
        mean=backbone.mean,
        std=backbone.std,
        map=config.map or head.map,
        scales=config.scales,
        box_rule=config.box_rule or "paper20",
        provenance=provenance | ({"sees_boxes": True} if head.sees_boxes else {}),
    )
    model = build_classifier(info, pretrained=config.weights == "imagenet")
    if config.map is not None:
        require_map(model, config.map)
    of_ilsvrc = dataset.name in ILSVRC and len(dataset.classes) == ILSVRC_CLASSES
    if config.weights == "imagenet" and of_ilsvrc and not config.new_head:  # an unmodified network keeps its classifier
        model.head.load_state_dict(imagenet_classifier(config.network, config.head) or model.head.state_dict())
    if weights is None:
        return model, []
    tensors = read_weights(weights, config.network, config.head)
    if config.new_head:  # another head's scores would be an advantage where heads are compared
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    return model, load_matching(model, tensors, weights)
