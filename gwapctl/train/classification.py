"""Training a classifier from image-level labels: on images, or what is not frozen of it on cached feature maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gwapctl.config import TrainConfig
from gwapctl.datasets.base import Sample
from gwapctl.device import autocast, to_device
from gwapctl.errors import DataError, lookup
from gwapctl.maps import MAPS
from gwapctl.metrics.classification import ClassificationAP, TopKError
from gwapctl.networks.backbones import added_layers, build_backbone, pretrained_weights_info
from gwapctl.networks.backbones.pretrained import PretrainedWeights
from gwapctl.networks.classifier import Classifier, save_model
from gwapctl.networks.heads import check_head, head_class
from gwapctl.networks.heads.base import Head, HeadOutput
from gwapctl.networks.transforms import (
    EvaluationImages,
    Items,
    Source,
    TrainingBatches,
    TrainingImages,
    image_labels,
    largest_asked_for,
    load_batches,
    read_sample,
    split_region,
)
from gwapctl.regions import parse_box_rule
from gwapctl.runs import Run
from gwapctl.train.augmentations import AUGMENTATIONS
from gwapctl.train.class_weights import balancing_weights, weights_remark
from gwapctl.train.classifier_batches import Batch, Labelled
from gwapctl.train.data import TrainData, load_train_data
from gwapctl.train.feature_cache import (
    EvaluationFeatures,
    FeatureCache,
    TrainingFeatures,
    default_folder,
    frozen_part,
)
from gwapctl.train.first_model import build_model
from gwapctl.train.freezing import freeze
from gwapctl.train.head_start import check_head_start, start_head
from gwapctl.train.kept_images import Reader, keep_images
from gwapctl.train.nothing import with_none_threshold
from gwapctl.train.schedule import parameter_groups
from gwapctl.train.task import Listener, Resources, Task

T = TypeVar("T")


AUGMENTING = 2  # ends the seeds of augmentations, so that they are no other's


class ClassificationTask(Task[Batch, Labelled]):
    """A classifier in training."""

    config: TrainConfig
    model: Classifier
    per_epoch: int
    features: FeatureCache | None  # what is read in place of the images, if anything
    network: Callable[..., HeadOutput]  # what batches go through: all of the model, or what is behind its frozen part
    load_data = staticmethod(load_train_data)

    def __init__(self, config: TrainConfig, data: TrainData, resources: Resources) -> None:
        super().__init__(config, data, resources)
        self.model, self.not_loaded = build_model(config, data.dataset, self.first_weights)
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.learning, self.frozen = freeze(self.model, config)
        self.ema: AveragedModel | None = None
        if config.ema:
            average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.head_started = config.head_start == "random"
        self.labels, self.label_mask = image_labels(data.train, len(data.dataset.classes))
        self.class_weights = balancing_weights(self.labels) if config.class_weights == "auto" else None
        if self.class_weights is not None:
            self.label_mask = torch.where(self.labels > 0, self.label_mask * self.class_weights, self.label_mask)
        self.backgrounds_per_batch = self.head.background_images(config.batch_size)
        self.keep = config.keep
        self.per_epoch = self.row_every = max(1, len(data.train) // config.batch_size)
        self.total = config.iterations or (config.epochs or 0) * self.per_epoch
        self.images_per_step = config.batch_size * config.accumulate
        self.one_size = len(config.train_sizes) <= 1
        self.sizes = tuple((size, size) for size in config.train_sizes) or (config.image_size,)
        largest = largest_asked_for(self.sizes, config.min_crop, config.crop_aspect)
        self.readers = Reader([*data.train, *data.background], largest), Reader(data.val, config.image_size, exact=True)
        self.train_source, self.val_source = cast(tuple[Source, Source], self.readers)
        self.read(None)

    @staticmethod
    def check(config: TrainConfig) -> None:
        """Look up backbone, head, augmentation, map and box rule, and try output stride and stages on shapes alone."""
        pretrained_weights_info(config.backbone)
        check_head_start(config)
        if config.output_stride is not None or config.trained_stages:
            with torch.device("meta"):  # nothing is allocated or drawn
                backbone = build_backbone(config.network, output_stride=config.output_stride)
            if config.trained_stages:
                backbone.require_stages(config.trained_stages, config.network)
        check_head(config.head, config.head_options)
        if config.augment is not None:
            lookup("augmentation", config.augment, AUGMENTATIONS)
        if config.map is not None:
            lookup("map method", config.map, MAPS)
        if config.box_rule is not None:
            parse_box_rule(config.box_rule)

    @staticmethod
    def imagenet_weights(config: TrainConfig) -> PretrainedWeights | None:
        """Return the backbone's."""
        return pretrained_weights_info(config.backbone)

    @staticmethod
    def remarks(config: TrainConfig) -> list[str]:
        """Say where a head is no fair rival."""
        sees = "this head sees ground-truth boxes, in training and in use: it is not weakly supervised"
        return [sees] if head_class(config.head).sees_boxes else []

    def read(self, features: FeatureCache | None) -> None:
        """Take batches from images (None), or from their cached feature maps, from now on."""
        self.features = features
        network = self._network_of(self.model)
        self.network = torch.compile(network) if self.config.compile else network

    def _network_of(self, model: Classifier) -> Callable[..., HeadOutput]:
        """Return what batches go through: the model, or its last stages and head with what these take."""
        if self.features is None:
            return model
        head, last = cast(Head, model.head), self.features.last
        return lambda maps, region: head(model.late_map(maps.float(), last), *([] if region is None else [region]))

    def _split(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split a batch into what the network reads and the region of each image, if it has one."""
        if self.features is None:
            return split_region(batch)
        return (batch[:, :-1], batch[:, -1:].float()) if self.head.sees_boxes else (batch, None)

    @property
    def head(self) -> Head:
        """The head in training: it knows the loss."""
        return cast(Head, self.model.head)

    @property
    def averaged(self) -> Classifier:
        """The model that is judged and saved: the moving average where there is one."""
        return self.model if self.ema is None else cast(Classifier, self.ema.module)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of the backbone, of its added layers and of the head, which have factors of their own."""
        config, groups = self.config, {True: list[nn.Parameter](), False: list[nn.Parameter]()}
        # with a factor of 1 there are the groups that states of runs without the setting have
        added = added_layers(config.network) if config.added_lr_factor != 1 else ()
        for name, parameter in self.model.backbone.named_parameters():
            groups[name.startswith(added)].append(parameter)
        return [
            *parameter_groups(groups[False], config),
            *parameter_groups(groups[True], config, config.added_lr_factor),
            *parameter_groups(self.head.parameters(), config, config.head_lr_factor),
        ]

    def describe(self) -> dict[str, Any]:
        """Return which tensors of first weights found no partner, whether the head sees boxes, and class weights."""
        said: dict[str, Any] = {"not_loaded": self.not_loaded, "sees_boxes": self.head.sees_boxes}
        if self.class_weights is not None:
            said["class_weights"] = self.class_weights.tolist()
        return said

    def require_same_data(self, run: Run) -> None:
        """Compare the training images and the background images."""
        super().require_same_data(run)
        background = "background_fingerprint"
        if run.document["dataset"].get(background) != self.data.describe().get(background):
            raise DataError(f"the background images are not those {run.folder} was started with.")

    def prepare(self, run: Run, interrupted: Callable[[], bool], listener: Listener) -> None:
        """Keep what training reads again and again, images or feature maps; start the head where that is due."""
        fresh = [name for name in self.not_loaded if name in self.model.state_dict()]
        if fresh and not self.total:
            listener.warn(f"nothing is trained, and {self.config.weights} does not have {', '.join(fresh)}: random.")
        if self.class_weights is not None:
            listener.announce(weights_remark(self.class_weights, self.data.dataset.classes))
        if self.not_loaded:
            listener.detail(f"no partner in {self.config.weights} or in the network for: {', '.join(self.not_loaded)}")
        if self.config.cache_features:
            self._cache_features(run, interrupted, listener)
        else:
            self.keep_images(interrupted, listener)
        if not self.head_started:
            self.head.load_state_dict(self.processes.on_first(lambda: self._started_head(interrupted, listener)))
            self.head_started = True

    def _cache_features(self, run: Run, interrupted: Callable[[], bool], listener: Listener) -> None:
        """Compute those maps of the backbone's frozen part that are not there yet, and read them from now on."""
        config, data, known = self.config, self.data, run.document.get("features")
        samples = [*data.train, *data.val, *data.background]
        parent = self.resources.feature_cache or (Path(known["folder"]).parent if known else default_folder())
        cache = FeatureCache(
            parent,
            self.model,
            samples,
            size=config.image_size,
            precision=config.precision,
            mirrored=config.flip,
            last=config.trained_stages or 0,
        )
        if known and known["key"] != cache.key:
            raise DataError(
                f"{run.folder} cannot be resumed: its images, or the weights of its backbone, were changed."
            )
        listener.announce(cache.announcement())
        run.update(features={"folder": str(cache.folder.resolve()), "key": cache.key, **cache.description})
        own = self.processes.part(self.processes.on_first(cache.missing))
        with self.processes.together():
            cache.fill(self.model, own, workers=self.workers, stop=interrupted, progress=listener.progress)
        cache.require_all()
        self.read(cache)

    def _started_head(self, interrupted: Callable[[], bool], listener: Listener) -> dict[str, Tensor]:
        """Return the tensors of the head that starts from ImageNet's classifier."""
        images, labels, seed = self._as_judged(self.data.train), self.labels, self.config.seed
        self.model.eval()
        progress = listener.stoppable(interrupted)
        start_head(self.model, self._feature_map, images, labels, seed=seed, workers=self.workers, progress=progress)
        return {name: tensor.cpu() for name, tensor in self.head.state_dict().items()}

    def _as_judged(self, samples: Sequence[Sample], source: Source = read_sample) -> Items:
        """Return samples as they are judged: whole images, which ``source`` reads, or their feature maps."""
        if self.features is not None:
            return EvaluationFeatures(self.features, samples)
        return EvaluationImages(samples, self.config.image_size, source)

    def _feature_map(self, batch: Tensor) -> Tensor:
        """Return the feature map (B, K, h, w) of what the network reads."""
        images, _ = self._split(to_device(batch, self.device))
        with autocast(self.device, self.config.precision):
            if self.features is None:
                return self.model.feature_map(images)
            return self.model.late_map(images.float(), self.features.last)

    def keep_images(self, interrupted: Callable[[], bool], listener: Listener) -> None:
        """Keep decoded images from one epoch to the next, where there are several."""
        if self.total > self.per_epoch:
            parent = self.resources.feature_cache or default_folder()
            with self.processes.in_turn():
                self.train_source, self.val_source = keep_images(
                    self.readers, parent, self.workers, interrupted, listener, self.processes.count
                )

    def batches(self, iteration: int) -> Iterator[Batch]:
        """Yield batches behind whose images are those without labels, if the head learns from such."""
        config, data = self.config, self.data
        samples = self.readers[0].samples
        drawn = config.seed, config.flip, config.min_crop, config.crop_aspect
        images: Items = TrainingImages(samples, *drawn, self.train_source)
        if self.features is not None:
            images = TrainingFeatures(self.features, samples, config.seed, config.flip)
        start, stop = iteration * config.accumulate, self.total * config.accumulate
        behind = len(data.background), self.backgrounds_per_batch
        sampler = TrainingBatches(len(data.train), config.batch_size, self.sizes, config.seed, start, stop, *behind)
        if config.augment is not None:  # it may mix images, so that every process needs all of them
            numbered = enumerate(load_batches(images, sampler, self.workers), start)
            return (self._augmented(number, *batch) for number, batch in numbered)
        loaded = load_batches(images, map(self._own, sampler), self.workers)
        indices = (torch.tensor([key.image for key in keys]) for keys in sampler)
        return (Batch(own, whole) for (own, _), whole in zip(loaded, indices, strict=True))

    def _own(self, rows: Sequence[T]) -> list[T]:
        """Return this process's part of a batch: of the images with labels, and of those behind them."""
        known = len(rows) - self.backgrounds_per_batch
        return [*self.processes.part(rows[:known]), *self.processes.part(rows[known:])]

    def _augmented(self, number: int, images: Tensor, indices: Tensor) -> Batch:
        """Return the batch of that ``number``, which with the seed decides all chance in it."""
        change = AUGMENTATIONS[str(self.config.augment)].load()
        generator = np.random.default_rng([self.config.seed, number, len(self.data.train), 0, AUGMENTING])
        mean = 255 * torch.tensor(self.model.info.mean)
        changed = change(images, len(indices) - self.backgrounds_per_batch, mean, generator)
        own = changed.images[self._own(range(len(indices)))] if self.processes.count > 1 else changed.images
        return Batch(own, indices, changed.partners, changed.share)

    def begin_step(self, iteration: int) -> None:
        """Set what learns to training; going through the hundreds of parts of a frozen network takes time."""
        for module in self.learning:
            module.train()
        for module in self.frozen:
            module.eval()
        self.processes.seed(self.config.seed, iteration)

    def forward(self, batch: Batch) -> Labelled:
        """Run the network on a batch, and look its labels up."""
        known = batch.indices[: len(batch.indices) - self.backgrounds_per_batch]
        labels, mask = (to_device(table[known], self.device) for table in (self.labels, self.label_mask))
        images, region = self._split(to_device(batch.images, self.device))
        output = self.network(images, region)
        if self.processes.count > 1:  # a head without a loss of its own has that of the logits
            read = HeadOutput(output.logits) if type(self.head).loss is Head.loss else output
            rows = len(known), self.backgrounds_per_batch
            output = HeadOutput(*(None if one is None else self.processes.gather(one, *rows) for one in read))  # type: ignore[arg-type]
        return Labelled(output, labels, mask, batch.partners, batch.share)

    def loss(self, output: Labelled, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the head's loss, of mixed labels the mean by their shares; the history shows no parts of it."""
        found, labels, mask, partners, share = output
        how: dict[str, Any] = {"multi_label": self.data.dataset.multi_label, "epoch": iteration / self.per_epoch}
        own = self.head.loss(found, labels, mask, **how)
        if partners is None:
            return own, {}
        return share * own + (1 - share) * self.head.loss(found, labels[partners], mask[partners], **how), {}

    def end_step(self) -> None:
        """Take the new weights into the moving average."""
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    def validate(self) -> dict[str, float]:
        """Return the classification metrics of the present weights, at the model's input size."""
        model, samples = self.averaged, self.data.val
        precision_meter, error_meter = ClassificationAP(len(model.info.classes)), TopKError()
        best: dict[bool, list[float]] = {True: [], False: []}  # scores of images of some class, and of nothing
        for row, sample in zip(self.processes.collect(self._val_scores()), samples, strict=True):
            if sample.labels or not sample.ignored:
                best[bool(sample.labels)].append(float(row.max()))
            if model.info.multi_label:
                precision_meter.update(row, sample.labels, sample.ignored)
            else:
                error_meter.update([int(c) for c in (-row).argsort(kind="stable")[:5]], sample.labels[0])
        model.info = with_none_threshold(model.info, best[True], best[False])
        return precision_meter.compute() if model.info.multi_label else error_meter.compute()

    def _val_scores(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the scores (C,) of the images held out, in order; of several processes each those of its batches."""
        model, samples = self.averaged, self.data.val
        network = self._network_of(model)
        items = self._as_judged(samples, self.val_source)
        step = max(8, self.config.batch_size)
        batches = [range(start, min(start + step, len(samples))) for start in range(0, len(samples), step)]
        model.eval()
        for batch, _ in load_batches(items, self.processes.part(batches), self.workers):
            images, region = self._split(to_device(batch, self.device))
            with torch.inference_mode(), autocast(self.device, self.config.precision):
                scores = model.probabilities(network(images, region).logits.float()).cpu().numpy()
            yield from scores

    def select(self, scores: dict[str, float], best: dict[str, Any]) -> dict[str, Any] | None:
        """Choose by area mAP, or by the top-1 error, where the best weights are kept."""
        selection = scores["voc_map_area"] if "voc_map_area" in scores else -scores["top1_error"]
        if self.keep == "last" or selection <= best.get("selection", -math.inf):
            return None
        return {"selection": selection, **scores}

    def state(self) -> dict[str, Any]:
        """Return the model, its moving average and torch's generator."""
        return {
            "model": self._kept(self.model.state_dict()),
            "ema": self._kept(self.ema.state_dict()) if self.ema else None,
            "head_started": self.head_started,
            "none_threshold": self.averaged.info.none_threshold,  # a run that is resumed behind its last row keeps it
            "rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, which lacks what is frozen of the backbone where its maps are cached."""
        strict = not self.config.cache_features
        self.model.load_state_dict(state["model"], strict=strict)
        if self.ema:
            self.ema.load_state_dict(state["ema"], strict=strict)
        self.head_started = state.get("head_started", True)
        known = {"none_threshold": state.get("none_threshold")}
        self.averaged.info = self.averaged.info.model_copy(update=known)
        torch.set_rng_state(state["rng"].cpu())

    def _kept(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Leave out the part whose feature maps are cached: it never changes, and is there when the run resumes."""
        if not self.config.cache_features:
            return tensors
        frozen = {f"backbone.{name}" for name in frozen_part(self.model, self.config.trained_stages or 0)}
        return {name: tensor for name, tensor in tensors.items() if name.removeprefix("module.") not in frozen}

    def save(self, folder: Path) -> None:
        """Write the weights, averaged where they are, and ``model.json``."""
        save_model(self.averaged, folder)
