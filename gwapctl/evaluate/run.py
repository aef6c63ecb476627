"""The verb: find what is evaluated and on what, gather its predictions, judge them, keep the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwapctl.engines import check_engine
from gwapctl.errors import UsageError, option, unknown_name
from gwapctl.evaluate.calibration import HALVES, Calibration, calibrate_on, choosing_images, halves
from gwapctl.evaluate.from_disk import from_boxes, from_maps
from gwapctl.evaluate.from_model import CachedFeatures, from_detector, from_model, predictions_from_model
from gwapctl.evaluate.gates import require_measurable
from gwapctl.evaluate.judging import PROTOCOLS, Judged, judge, keep
from gwapctl.evaluate.merging import write_shard
from gwapctl.evaluate.predictions import FiveGuesses, Predictions
from gwapctl.evaluate.result import EvaluationResult, GroundTruth
from gwapctl.evaluate.stored_rule import calibrate, undo
from gwapctl.evaluate.subject import (
    HELD_OUT,
    Subject,
    find_checked,
    find_dataset,
    find_samples,
    find_subject,
    seen_in_training,
    trained_split,
)
from gwapctl.maps.reading import AS_STORED, MapReading
from gwapctl.predict.base import Precision
from gwapctl.predict.classifier import Model, load_model
from gwapctl.predict.detector import DetectorModel
from gwapctl.predict.prediction import Prediction
from gwapctl.predict.shards import Shard, weights_digest
from gwapctl.progress import ProgressCallback
from gwapctl.regions import BoxRule, parse_box_rule

if TYPE_CHECKING:
    from gwapctl.maps.localizer import Localizer

GUESSES = ("five",)
MACHINE = ("device", "workers", "root", "feature_cache", "shard")  # options that may differ from shard to shard


@dataclass(frozen=True)
class Options:
    """What can be asked of an evaluation; None is the model's, the run's or the protocol's own choice.

    ``split`` may be ``held-out``: the images that a run kept out of its training. ``boxes``: a file of checked boxes
    (``formats.reading``), the true ones of the images that it has; no other image counts, and these calibrate.
    ``reading``, ``precision``, ``engine``, ``device``, ``batch_size`` and ``workers`` are a model's: see ``Localizer``.
    ``limit``: only the first images. ``refine`` is on top of the box rule: ``grabcut``, or ``none``; with maps it looks
    at the images below ``images``, else at the data set's.
    ``calibrate``: first store the box threshold that a run's held-out images choose, where it is better than the stored
    rule; ``force``: however few they are. ``undo``: first put back what the last such call replaced.
    ``calibrate_on``: box thresholds that other images than the judged ones choose, for further metrics; ``halves``: the
    two halves of the split for each other, else a split, of which at most ``calibrate_limit`` images are looked at.
    ``guesses="five"``: the top-5 localization error by CAM's heuristic, with boxes at the thresholds ``tight`` and
    ``loose`` (a number, or ``otsu``). The paper gives neither: half of the range, and its usual 20 %, are ours.
    ``feature_cache``: the folder of caches that has, or gets, float16 maps of what is frozen of a run's backbone. They
    take the images' place where nothing but the whole image at the run's input size is looked at.
    ``shard``: judge a part of the images, for ``Shards``.
    """

    dataset: str | None = None
    root: Path | None = None
    split: str | None = None
    protocol: str = "paper"
    masks: Path | None = None
    boxes: Path | None = None
    reading: MapReading = AS_STORED
    box_rule: str | BoxRule | None = None
    refine: str | None = None
    images: Path | None = None
    guesses: str | None = None
    tight: str = "0.5"
    loose: str = "0.2"
    calibrate: bool = False
    force: bool = False
    undo: bool = False
    calibrate_on: str | None = None
    calibrate_limit: int = 500
    limit: int | None = None
    precision: Precision = "fp32"
    engine: str = "torch"
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    feature_cache: Path | None = None
    shard: Shard | None = None


def check(spec: str, options: Options) -> None:
    """Raise what ``evaluate`` raises for options and subject, before data is looked for."""
    subject = find_subject(spec)
    _check_options(subject, options)
    if subject.kind == "model":
        from gwapctl.device import resolve_device

        check_engine(options.engine, options.precision, resolve_device(options.device).type)


def evaluate(
    spec: str,
    options: Options,
    *,
    required: Collection[str] = (),
    out: Path | None = None,
    progress: ProgressCallback | None = None,
) -> EvaluationResult:
    """Evaluate a run, model, folder of maps or file of boxes, and return what was measured.

    The result of a finished run is stored in the run as well, unless ``limit`` made it a part of the split. Where a
    metric of ``required`` cannot come of it, nothing is done.

    Raises:
        UsageError: options that do not fit each other or what is evaluated.
        DataError: the data, maps or boxes cannot be used, or do not fit each other.
        ModelError: the model cannot be used.

    """
    asked = _ask(spec, options, required, progress)
    back = f"box rule {undo(asked.subject.path)} is back" if options.undo else ""
    start = time.perf_counter()
    found = _find(asked)
    judged = _judge(asked, found)
    result = judged.result()
    if found.chosen:
        _say_chosen(result, found.chosen, asked.ground_truth.split)
    result.seconds = round(time.perf_counter() - start, 3)
    result.notes += [*asked.ground_truth.dataset.warnings(), *[back] * bool(back), *_seen(asked)]
    return keep(result, asked.subject.run, out, whole=options.limit is None)


class Shards:
    """The shards of an evaluation, whose data set is opened once, as is the model where one is judged.

    ``samples`` are all images; ``settings`` are choices that all shards must share. ``evaluate.merging`` makes the
    result of all shards. Raises what ``evaluate`` raises.
    """

    def __init__(self, spec: str, options: Options, progress: ProgressCallback | None = None) -> None:
        self._asked = _ask(spec, options, (), progress)
        self.samples = self._asked.ground_truth.samples
        self.settings = {"options": {key: str(value) for key, value in vars(options).items() if key not in MACHINE}}

    @cached_property
    def _model(self) -> Model | DetectorModel | None:
        return _load(self._asked) if self._asked.subject.kind == "model" else None

    def write(self, shard: Shard, out: Path) -> int:
        """Judge the images of a shard, write what was counted to the folder ``out``, return how many they are."""
        start, before = time.perf_counter(), self._asked
        truth, options = replace(before.ground_truth, shard=shard), replace(before.options, shard=shard)
        asked = replace(before, ground_truth=truth, options=options, model=self._model)
        found = _find(asked)
        judged = _judge(asked, found)
        settings = {
            "subject": asked.subject.kind,
            "weights": found.weights,
            "chunk": found.predictions.chunk,
            **self.settings,
        }
        closing = [*truth.dataset.warnings(), *_seen(asked)]
        seconds = round(time.perf_counter() - start, 3)
        return write_shard(out, truth, asked.subject.run, judged, settings, closing, seconds)


def _ask(spec: str, options: Options, required: Collection[str], progress: ProgressCallback | None) -> _Asked:
    """Find the subject, the data set and its samples, and check the options."""
    subject = find_subject(spec)
    _check_options(subject, options)
    dataset = find_dataset(subject, options.dataset, options.root, options.masks)
    if options.boxes is None:
        split, samples = find_samples(subject, dataset, options.split)
    else:
        split, samples = find_checked(subject, dataset, options.split, options.boxes)
    if options.guesses and dataset.multi_label:
        raise UsageError(f"{option('guesses')} is for one class per image, and images of {dataset.name} have several.")
    judged_on = samples[: options.limit]
    ground_truth = GroundTruth(dataset, split, judged_on, options.protocol, options.masks, options.shard)
    require_measurable(required, subject, ground_truth, options.calibrate_on is not None)
    return _Asked(subject, ground_truth, options, progress)


def _seen(asked: _Asked) -> list[str]:
    """Say how many of the images training saw."""
    subject, truth = asked.subject, asked.ground_truth
    seen = seen_in_training(subject, truth.dataset, truth.split, truth.samples)
    return [f"training saw {seen:,} of these {len(truth.samples):,} images, so they flatter"] * bool(seen)


def _refuse_unused(subject: Subject, kind: str, options: Options) -> None:
    """Refuse options that a ``kind`` of subject cannot follow, rather than ignore them."""
    asked: dict[str, Any] = dict.fromkeys(options.reading.flags, True)
    if kind != "maps":
        names = ("box_rule", "images", "guesses", "calibrate_on", "masks")
        asked |= {option(name): getattr(options, name) for name in names}
        asked[option("refine")] = kind == "boxes" and options.refine
        asked[option("protocol", "wsoleval")] = options.protocol == "wsoleval"
    asked[option("calibrate")] = options.calibrate
    asked[option("feature_cache")] = kind in ("maps", "boxes") and options.feature_cache
    given = [name for name, value in asked.items() if value]
    if given and kind != "model":
        raise UsageError(f"{', '.join(given)} cannot be used on {kind}: {subject.name} is not a classifier.")


def _check_options(subject: Subject, options: Options) -> None:
    """Refuse options that do not fit each other, or the subject."""
    _refuse_unused(subject, subject.kind, options)
    if options.images is not None and subject.kind == "model":
        why = "is for maps from disk: a model reads the images of the data set"
        raise UsageError(f"{option('images')} {why}. Leave it out.")
    if options.protocol not in PROTOCOLS:
        raise unknown_name("protocol", options.protocol, PROTOCOLS)
    if options.guesses is not None and options.guesses not in GUESSES:
        raise unknown_name("kind of guesses", options.guesses, GUESSES)
    if options.protocol == "wsoleval" and (options.box_rule or options.refine or options.calibrate or options.guesses):
        raise UsageError(
            f"protocol wsoleval has its own box rule, at every threshold. Drop {option('box_rule')}, "
            f"{option('refine')}, {option('calibrate')} and {option('guesses')}."
        )
    if options.guesses is None and (options.tight, options.loose) != (Options.tight, Options.loose):
        pair = f"{option('tight')} and {option('loose')}"
        raise UsageError(f"{pair} are the boxes of {option('guesses', 'five')}. Add it, or leave them out.")
    _guesses(options)
    if options.calibrate and (subject.run is None or options.box_rule or options.limit):
        others = f"{option('box_rule')} and {option('limit')}"
        raise UsageError(f"{option('calibrate')} chooses a run's own box rule: give it a run, without {others}.")
    if options.calibrate and options.calibrate_on:
        pair = f"{option('calibrate')} stores a threshold, {option('calibrate_on')} reports one"
        raise UsageError(f"{pair}. Give one of them.")
    if options.engine != "torch" and (options.calibrate or options.feature_cache):
        raise UsageError(f"{option('calibrate')} and {option('feature_cache')} need {option('engine', 'torch')}.")
    if options.undo and (subject.run is None or options.calibrate):
        pair = f"{option('undo')} puts a run's own box rule back that {option('calibrate')} replaced"
        raise UsageError(f"{pair}. Give a run, and one of both.")
    if options.shard is not None and (options.calibrate or options.undo):
        pair = f"{option('calibrate')} and {option('undo')}"
        raise UsageError(f"{pair} change the run, so they do not go with {option('shard')}. Calibrate first.")
    if options.force and not options.calibrate:
        why = f"lets fewer images choose for {option('calibrate')}"
        raise UsageError(f"{option('force')} {why}. Add it, or leave it out.")
    if options.calibrate and (options.reading.crops, options.reading.backprop_seg) != ("none", "none"):
        pair = f"{option('crops')} and {option('backprop_seg')}"
        raise UsageError(f"a model does not store {pair}, so {option('calibrate')} cannot choose for them.")


@dataclass(frozen=True)
class _Asked:
    """What is evaluated, on what, by which options; ``model`` where it is loaded already."""

    subject: Subject
    ground_truth: GroundTruth
    options: Options
    progress: ProgressCallback | None
    model: Model | DetectorModel | None = None


@dataclass(frozen=True)
class _Found:
    """What is judged, and the images that choose further thresholds; ``chosen`` says which rule a run stores now.

    ``weights`` is the hash of the model's, where there is one, for the shards of one work.
    """

    predictions: Predictions
    calibration: Calibration | None = None
    chosen: dict[str, Any] = field(default_factory=dict)
    weights: str = ""


def _find(asked: _Asked) -> _Found:
    return {"boxes": _in_boxes, "maps": _in_maps, "model": _by_model}[asked.subject.kind](asked)


def _judge(asked: _Asked, found: _Found) -> Judged:
    guesses, calibration = _guesses(asked.options), found.calibration
    judged = judge(
        found.predictions, asked.ground_truth, guesses=guesses, calibration=calibration, progress=asked.progress
    )
    if calibration is not None and calibration.split == trained_split(asked.subject):
        judged.notes.append(f"training saw the images of {calibration.split} that calibrated thresholds were chosen on")
    return judged


def _say_chosen(result: EvaluationResult, chosen: dict[str, Any], split: str) -> None:
    """Add what ``--calibrate`` chose."""
    metrics = result.metrics
    figures = {"transferred": 100 - metrics["gt_known_error"], "oracle": metrics["max_box_acc"]}
    result.calibration = {**chosen, **figures, "oracle_threshold": metrics["max_box_acc_threshold"]}
    if chosen["stored"] and chosen["split"] == split:
        result.notes.append("the threshold was chosen on the very images that it is measured on")


def _in_boxes(asked: _Asked) -> _Found:
    return _Found(from_boxes(asked.subject.path, asked.ground_truth))


def _in_maps(asked: _Asked) -> _Found:
    folder, options = asked.subject.path, asked.options
    found = from_maps(
        folder, asked.ground_truth, box_rule=options.box_rule, refine=options.refine, images=options.images
    )
    return _Found(found, _calibration(asked, lambda choosing: from_maps(folder, choosing, box_rule="otsu").items))


def _by_model(asked: _Asked) -> _Found:
    subject, options = asked.subject, asked.options
    model = asked.model or _load(asked)
    if not model.detects:
        return _by_classifier(model, asked)
    _refuse_unused(subject, "detector", options)
    predictor = model.predictor(batch_size=options.batch_size, refine=options.refine)
    found = from_detector(predictor, asked.ground_truth, name=subject.name, workers=options.workers)
    return _Found(found, weights=weights_digest(model.reader.model) if options.shard else "")


def _load(asked: _Asked) -> Model | DetectorModel:
    options = asked.options
    return load_model(asked.subject.path, device=options.device, precision=options.precision, engine=options.engine)


def _by_classifier(model: Model, asked: _Asked) -> _Found:
    subject, options = asked.subject, asked.options
    predictor = model.predictor(reading=options.reading, batch_size=options.batch_size)
    predictor.settle([sample.path for sample in asked.ground_truth.samples])
    localizer = predictor.localizer
    chosen = _choose_rule(model, localizer, asked) if options.calibrate else {}
    features, late = None, subject.learning_stages  # of a run whose backbone is frozen, up to those
    if options.feature_cache is not None and late is not None:
        features = CachedFeatures(options.feature_cache, model.classifier, late, options.workers, asked.progress)

    def read(choosing: GroundTruth) -> Iterable[Prediction]:
        cache = None if features is None else features.of(choosing.samples, localizer)
        return predictions_from_model(
            localizer, choosing, None, name=subject.name, cache=cache, workers=options.workers
        )

    calibration = _calibration(asked, read)
    found = from_model(
        localizer,
        asked.ground_truth,
        name=subject.name,
        box_rule=chosen.get("box_rule") or options.box_rule,
        refine=options.refine,
        features=features,
        workers=options.workers,
    )
    return _Found(found, calibration, chosen, weights_digest(model.classifier) if options.shard else "")


def _choose_rule(model: Model, localizer: Localizer, asked: _Asked) -> dict[str, Any]:
    """Do what ``--calibrate`` asks, on the images that a run held out or that a person checked."""
    subject, options, choosing = asked.subject, asked.options, asked.ground_truth
    if options.boxes is None:
        split, held_out = find_samples(subject, choosing.dataset, HELD_OUT)
        choosing = replace(choosing, split=split, samples=held_out)
    return calibrate(
        localizer,
        choosing,
        subject.path,
        stored=model.predictor(batch_size=options.batch_size).localizer if options.reading.flags else None,
        refine=options.refine,
        force=options.force,
        progress=asked.progress,
    )


def _calibration(asked: _Asked, read: Callable[[GroundTruth], Iterable[Prediction]]) -> Calibration | None:
    """Return what ``--calibrate-on`` asks, None where it is not asked; ``read`` yields the maps of other images."""
    ground_truth, on = asked.ground_truth, asked.options.calibrate_on
    if on is None:
        return None
    if on == HALVES:
        return halves(ground_truth)
    choosing = choosing_images(asked.subject, ground_truth, on, asked.options.calibrate_limit)
    return calibrate_on(on, choosing, read, asked.progress)


def _guesses(options: Options) -> FiveGuesses | None:
    if options.guesses is None:
        return None
    return FiveGuesses(parse_box_rule(threshold=options.tight), parse_box_rule(threshold=options.loose))
