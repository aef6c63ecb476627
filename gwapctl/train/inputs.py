"""What a classifier's batches are made of: images, or cached feature maps in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from torch import Tensor, nn

from gwapctl.config import TrainConfig
from gwapctl.datasets.base import Sample
from gwapctl.networks.classifier import Classifier
from gwapctl.networks.heads import Head
from gwapctl.networks.transforms import EvaluationImages, Items, TrainingImages, split_region
from gwapctl.train.feature_cache import EvaluationFeatures, FeatureCache, OnFeatures, TrainingFeatures


class Inputs(Protocol):
    """What is read of samples, and which part of the model reads it."""

    def training(self, samples: Sequence[Sample]) -> Items:
        """Return what training reads: cropped and mirrored as the settings say."""

    def validation(self, samples: Sequence[Sample]) -> Items:
        """Return what is judged: whole images at the model's input size."""

    def network(self, model: Classifier) -> nn.Module:
        """Return what batches go through."""

    def split(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split a batch into what the network reads and the region of each image, if it has one."""


@dataclass(frozen=True)
class ImageInputs:
    """Images, which go through the whole model."""

    config: TrainConfig

    def training(self, samples: Sequence[Sample]) -> Items:
        """Return images that are cropped, resized and mirrored."""
        return TrainingImages(samples, self.config.seed, self.config.flip, self.config.min_crop)

    def validation(self, samples: Sequence[Sample]) -> Items:
        """Return whole images."""
        return EvaluationImages(samples, self.config.image_size)

    def network(self, model: Classifier) -> nn.Module:
        """Return all of ``model``."""
        return model

    def split(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """Take the fourth channel off, if there is one: it is the region."""
        return split_region(batch)


@dataclass(frozen=True)
class FeatureInputs:
    """Feature maps of a frozen backbone, which go through the head alone."""

    config: TrainConfig
    cache: FeatureCache

    def training(self, samples: Sequence[Sample]) -> Items:
        """Return the feature maps of the same images, mirrored in the same epochs."""
        return TrainingFeatures(self.cache, samples, self.config.seed, self.config.flip)

    def validation(self, samples: Sequence[Sample]) -> Items:
        """Return the feature maps of whole images."""
        return EvaluationFeatures(self.cache, samples)

    def network(self, model: Classifier) -> nn.Module:
        """Return the head of ``model``."""
        return OnFeatures(cast(Head, model.head))

    def split(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the batch as it is: no head that sees boxes reads feature maps."""
        return batch, None
