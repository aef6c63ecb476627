"""Training a detector from few boxes and many image-level labels, or from boxes that something else found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gwapctl.boxes import Detections, FloatArray
from gwapctl.config import DetectorConfig
from gwapctl.datasets.base import BoxedSample, Sample
from gwapctl.device import to_device
from gwapctl.errors import DataError
from gwapctl.files import write_text
from gwapctl.geometry import Geometry
from gwapctl.images.decode import read_image
from gwapctl.metrics.detection import DetectionAP
from gwapctl.networks.backbones.pretrained import PretrainedWeights
from gwapctl.networks.classifier import read_weights
from gwapctl.networks.rfcn.base import DetectorInfo
from gwapctl.networks.rfcn.inference import DetectorReader, split_trunk_maps
from gwapctl.networks.rfcn.losses import total_loss
from gwapctl.networks.rfcn.rfcn import Detector
from gwapctl.networks.rfcn.store import build_detector, load_trunk, save_detector
from gwapctl.networks.rfcn.trunk import build_trunk, check_trunk, trunk_weights
from gwapctl.networks.transforms import Image, image_labels, read_ahead
from gwapctl.runs import Run
from gwapctl.train.area import choose_area_exponent
from gwapctl.train.composites import SIDE as COMPOSED_SIDE
from gwapctl.train.data import DetectorData, load_detector_data
from gwapctl.train.detector_batches import Batch, DetectorImages, Key, MixedBatches, collate, is_wide
from gwapctl.train.detector_shares import DetectorShares
from gwapctl.train.feature_cache import default_folder
from gwapctl.train.rounds import Find, Rounds
from gwapctl.train.schedule import parameter_groups
from gwapctl.train.task import Listener, Resources, Task
from gwapctl.train.trunk_cache import TrunkCache

SUBSET = "box_labelled.txt"
MOST_BETWEEN_ROWS = 1000  # iterations between two rows of the history, and two saved states; a tenth of short runs


class DetectionTask(Task[Batch, dict[str, Tensor]]):
    """A detector in training. Its run's ``box_labelled.txt`` lists the images whose true boxes were seen.

    With ``boxes_from`` it is none. Then the training has rounds of equal length, each with a schedule of its own: the
    first learns from the boxes of a run or file, each of the others from what the detector found by then and what was
    found at first (``pseudo.next_round``). The run's ``boxes-1.jsonl``, ``boxes-2.jsonl``, ... hold them. With
    ``composites``, images composed of the least doubtful ones of the first round join all of them.

    Regions and anchors are drawn with a generator seeded anew by ``begin_step``: what is drawn is a pure function of
    seed and iteration, and a resumed run needs no generator's state, on any device.
    """

    config: DetectorConfig
    data: DetectorData
    model: Detector
    load_data = staticmethod(load_detector_data)

    def __init__(self, config: DetectorConfig, data: DetectorData, resources: Resources) -> None:
        super().__init__(config, data, resources)
        self.model = _build_model(config, data, self.first_weights)
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.composed: Mapping[int, BoxedSample] = {}
        self._look_at(data.train)
        seen = config.weak != "none" and config.boxes_from is None
        self.processes.require_batch(config.batch_size)
        self.others = [index for index in range(len(data.train)) if index not in data.boxed] if seen else []
        self.boxed: Mapping[int, BoxedSample] = data.boxed
        self.box_weights: Mapping[int, FloatArray] = {}
        self.round = 0  # the round whose boxes are there
        self.keep = "last"  # as the papers do; images held out are judged for the reader alone
        self.total, self.per_epoch = config.iterations, None
        self.row_every = max(1, min(MOST_BETWEEN_ROWS, self.total // 10))
        self.images_per_step = config.batch_size * config.accumulate * (2 if self.others else 1)
        self.one_size = False
        self.cache: TrunkCache | None = None  # what is read in place of the images, if anything
        self.ema: AveragedModel | None = None
        if config.ema:
            average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.shares = DetectorShares(self.processes, self.model) if self.processes.count > 1 else None

    def _look_at(self, samples: Sequence[Sample]) -> None:
        """Take these images, those of the training and behind them the composed ones, and their labels."""
        labels, label_mask = image_labels(samples, len(self.data.dataset.classes))
        self.samples, self.labels = samples, torch.where(label_mask > 0, labels, -1.0)

    @staticmethod
    def check(config: DetectorConfig) -> None:
        """Look up the trunk."""
        check_trunk(config.backbone)

    @staticmethod
    def imagenet_weights(config: DetectorConfig) -> PretrainedWeights | None:
        """Return the trunk's."""
        return trunk_weights(config.backbone)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of the whole detector."""
        return parameter_groups(self.model.parameters(), self.config)

    def describe(self) -> dict[str, Any]:
        """Return which images showed their boxes."""
        return {"box_subset": self.data.describe_subset()}

    def require_same_data(self, run: Run) -> None:
        """Compare the training images, and those of them that show their boxes."""
        super().require_same_data(run)
        if run.document["box_subset"] != self.data.describe_subset():
            name = self.data.dataset.name
            raise DataError(f"the images with boxes of {name} are not those {run.folder} was started with.")

    def prepare(self, run: Run, interrupted: Callable[[], bool], listener: Listener) -> None:
        """List the images that show their boxes; keep what a frozen trunk makes of them; find the first boxes.

        Those are found where they are somebody else's.
        """
        if self.processes.first:
            write_text(run.folder / SUBSET, self.data.listing)
        if self.config.boxes_from is not None:
            self.rounds = Rounds(run, self.data, self.resources.boxes, interrupted, listener)
            self.composed = self.processes.on_first(self._first_boxes)
            self._look_at([*self.data.train, *self.composed.values()])
        if self.config.cache_features:
            self.cache = self._filled_cache(run, interrupted, listener)

    def _first_boxes(self) -> Mapping[int, BoxedSample]:
        """Find the boxes of the first round; return the images that are composed of them."""
        self.rounds.first()
        return self.rounds.composed(max(COMPOSED_SIDE, self.config.long_side), self.workers)

    def _filled_cache(self, run: Run, interrupted: Callable[[], bool], listener: Listener) -> TrunkCache:
        """Return the maps of all training images; those that are not there yet are computed."""
        config, known = self.config, run.document.get("features")
        parent = self.resources.feature_cache or (Path(known["folder"]).parent if known else default_folder())
        one_round = config.boxes_from is not None and config.rounds == 1
        wanted: set[int] | None = None
        if one_round:
            wanted = {*self.processes.on_first(lambda: set(self.rounds.boxes_of(1)[0])), *self.composed}
        cache = TrunkCache(
            parent, self.model, self.samples, precision=config.precision, mirrored=config.flip, wanted=wanted
        )
        if known and (known["key"], known["fingerprint"]) != (cache.key, cache.fingerprint):
            raise DataError(f"{run.folder} cannot be resumed: its images, or the weights of its trunk, were changed.")
        listener.announce(cache.announcement())
        run.update(features=cache.described())
        own = self.processes.part(self.processes.on_first(cache.missing))
        with self.processes.together():
            cache.fill(self.model, own, workers=self.workers, stop=interrupted, progress=listener.progress)
        return cache

    def part(self, iteration: int) -> tuple[int, int]:
        """Return how far the round is, and how long it is: each has a learning rate's schedule of its own."""
        start, stop = self._bounds(self._round_of(iteration))
        return iteration - start, stop - start

    def _bounds(self, number: int) -> tuple[int, int]:
        """Return the first iteration of a round and that behind its last."""
        return (number - 1) * self.total // self.config.rounds, number * self.total // self.config.rounds

    def _round_of(self, iteration: int) -> int:
        return next(n for n in range(1, self.config.rounds + 1) if iteration < self._bounds(n)[1])

    def batches(self, iteration: int) -> Iterator[Batch]:
        """Yield batches of images with boxes, and as many others where there is a weak branch."""
        kept: dict[int, tuple[Image, Geometry]] = {}
        for number in range(self._round_of(iteration), self.config.rounds + 1):
            start, stop = self._bounds(number)
            yield from self._batches(max(start, iteration), stop, kept)

    def _batches(self, first: int, stop: int, kept: dict[int, tuple[Image, Geometry]]) -> Iterator[Batch]:
        """Yield the batches of the iterations from ``first`` on, with the boxes that are there when they begin."""
        config = self.config
        sides = config.short_side, config.long_side
        weights = self.box_weights
        images = DetectorImages(self.samples, self.boxed, config.seed, config.flip, *sides, weights, kept, self.cache)
        boxed, share = sorted(self.boxed), config.accumulate
        wide = {index: is_wide(self.samples[index]) for index in (*boxed, *self.others)}
        keys = MixedBatches(wide, boxed, self.others, config.batch_size, config.seed, first * share, stop * share)
        for pictures in read_ahead(images.__getitem__, map(self._own, keys), self.workers):
            yield collate(pictures)

    def _own(self, keys: Sequence[Key]) -> list[Key]:
        """Return this process's part of a batch: of the images with boxes, and of the others behind them."""
        boxed = self.config.batch_size
        return [*self.processes.part(keys[:boxed]), *self.processes.part(keys[boxed:])]

    def begin_step(self, iteration: int) -> None:
        """Begin a round where it is time, set the model to training and seed torch for this iteration."""
        if self.config.boxes_from is not None and self._round_of(iteration) != self.round:
            self.round = self._round_of(iteration)
            found, self.box_weights = self.processes.on_first(lambda: self.rounds.boxes_of(self.round, self._finder()))
            self.boxed = {**found, **self.composed}
        self._set_training()
        torch.manual_seed(int(np.random.SeedSequence([self.config.seed, iteration]).generate_state(1)[0]))

    def _set_training(self) -> None:
        """Set what learns to training; going through the hundreds of parts of a frozen trunk takes time."""
        if self.cache is None:
            self.model.train()
            return
        for module in self.model.children():
            module.train(module is not self.model.trunk)

    def _finder(self) -> Find:
        """Return what finds objects in training images with the present weights."""
        reader, cache = self.reader(), self.cache
        if cache is not None:
            return lambda index, score: reader.run_trunk_maps(cache.read(index), cache.geometry(index), min_score=score)
        return lambda index, score: reader.run([read_image(self.data.train[index].path)], min_score=score)[0]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch by name."""
        if self.shares is None:
            return self._losses(batch)
        losses = self._losses(self.shares.padded(batch))
        return self.shares.weighed(losses, batch)

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a process's images."""
        objects = [target and target.to(self.device) for target in batch.targets]
        images = to_device(batch.images, self.device)
        if self.cache is None:
            return self.model(images, batch.sizes, objects, self.labels_of(batch))  # type: ignore[no-any-return]
        conv4, conv5 = split_trunk_maps(self.model, images)
        return self.model.losses((conv4, self.model.shared(conv5)), batch.sizes, objects, self.labels_of(batch))

    def labels_of(self, batch: Batch) -> Tensor:
        """Return the labels (B, C) of a batch: 1 present, 0 absent, -1 only as difficult objects."""
        return to_device(self.labels[batch.indices], self.device)

    def loss(self, output: dict[str, Tensor], iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the losses up; each is a part."""
        return total_loss(output, self.config.weak_weight), output

    def end_step(self) -> None:
        """Take the new weights into the moving average."""
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    @property
    def averaged(self) -> Detector:
        """The model that finds, is judged and saved: the moving average where there is one."""
        return self.model if self.ema is None else cast(Detector, self.ema.module)

    def state(self) -> dict[str, Any]:
        """Return the weights, and their moving average."""
        return super().state() | ({} if self.ema is None else {"ema": self.ema.state_dict()})

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        super().load_state(state)
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])

    def validate(self) -> dict[str, float]:
        """Return ``det_map_11pt`` and ``det_map_area`` of the present weights."""
        meter = DetectionAP()
        for sample, found in zip(self.data.val, self.processes.collect(self._val_found()), strict=True):
            meter.update(found.boxes, found.scores, found.labels, sample.boxes, sample.box_labels, sample.difficult)
        return meter.compute()

    def _val_found(self) -> Iterator[Detections]:
        """Yield what is found in the images held out, in order; of several processes each what is in its batches."""
        reader, val = self.reader(), self.data.val
        batches = [val[start : start + reader.batch_size] for start in range(0, len(val), reader.batch_size)]
        for samples in self.processes.part(batches):
            yield from reader.run([read_image(sample.path) for sample in samples])

    def conclude(self, interrupted: Callable[[], bool], listener: Listener) -> None:
        """Let labels choose how much the size of a box counts, where no number is set and a weak branch can tell."""
        if self.config.area_exponent is not None or self.averaged.weak is None:
            return
        boxed = self.data.boxed if self.config.boxes_from is None else self.rounds.boxes_of(1)[0]
        reader, shown = self.reader(), {index: self.data.train[index] for index in boxed}
        seed, progress = self.config.seed, listener.stoppable(interrupted)
        tried = choose_area_exponent(reader, shown, self._finder(), seed, progress)
        info = reader.model.info
        listener.announce(f"a box's score counts its share of the image to the power {info.area_exponent:g}")
        provenance = info.provenance | {"area_exponents": {f"{key:g}": value for key, value in tried.items()}}
        reader.model.info = info.model_copy(update={"provenance": provenance})

    def reader(self) -> DetectorReader:
        """Return what finds objects with the present weights."""
        return DetectorReader(self.averaged, precision=self.config.precision, device=str(self.device))

    def select(self, scores: dict[str, float], best: dict[str, Any]) -> dict[str, Any] | None:
        """Return the present scores: the last weights are kept."""
        return scores

    def save(self, folder: Path) -> None:
        """Write the weights and ``model.json``."""
        save_detector(self.averaged, folder)


def _build_model(config: DetectorConfig, data: DetectorData, weights: Path | None) -> Detector:
    """Build the detector with its first weights; a trunk that was trained before is frozen in part."""
    with torch.device("meta"):  # shapes alone: nothing is allocated or drawn
        trunk = build_trunk(config.backbone)
    seen: dict[str, Any] = {"box_proportion": config.box_proportion, "box_subset": data.describe_subset()["hash"]}
    if config.boxes_from is not None:
        seen = {"boxes_from": config.boxes_from, "rounds": config.rounds}
    info = DetectorInfo(
        backbone=config.backbone,
        classes=data.dataset.classes,
        weak=config.weak,
        pooling=config.pooling,
        short_side=config.short_side,
        long_side=config.long_side,
        candidates=config.candidates,
        proposals=config.proposals,
        image_scores=config.image_scores,
        support=config.support,
        area_exponent=config.area_exponent or 0.0,
        refine=config.refine,
        mean=trunk.mean,
        std=trunk.std,
        provenance={"dataset": data.dataset.name, "recipe": config.recipe, "seed": config.seed, **seen},
    )
    model = build_detector(info, pretrained=config.weights == "imagenet", frozen=config.frozen_stages)
    if weights is not None:
        load_trunk(model, read_weights(weights, config.backbone, ""), weights)
        model.trunk.freeze(config.frozen_stages)
    return model
