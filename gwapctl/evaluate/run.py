"""The verb: find what is evaluated and on what, gather the evidence, judge it, write the document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwapctl.datasets.base import Dataset
from gwapctl.errors import DataError, UsageError, unknown_name
from gwapctl.evaluate.cost import measure_cost
from gwapctl.evaluate.document import Document, Ground, JudgingProtocol, build_document, judge
from gwapctl.evaluate.from_detector import evaluate_detector, open_detector
from gwapctl.evaluate.from_disk import evidence_from_boxes, evidence_from_maps
from gwapctl.evaluate.from_model import evidence_from_model, sees_boxes
from gwapctl.evaluate.ground_truth import Masks, true_boxes
from gwapctl.evaluate.paper import PaperProtocol
from gwapctl.evaluate.predictions import Evidence, FiveGuesses
from gwapctl.evaluate.subject import HELD_OUT, Target, find_dataset, find_samples, find_target
from gwapctl.evaluate.wsoleval import WsolevalProtocol
from gwapctl.files import write_json
from gwapctl.maps.reading import AS_STORED, MapReading, ResolvedReading, store_reading
from gwapctl.metrics.box_accuracy import BoxAccuracy
from gwapctl.predict.classifier import scale_warning
from gwapctl.predict.map_folder import MapFolder
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.regions import BoxRule, parse_box_rule
from gwapctl.regions.rules import DEFAULT_RULE
from gwapctl.runs import Run

if TYPE_CHECKING:
    from gwapctl.maps.localizer import Localizer

PROTOCOLS: dict[str, Callable[[Dataset, Masks], JudgingProtocol]] = {
    "paper": PaperProtocol,
    "wsoleval": WsolevalProtocol,
}
GUESSES = ("five",)


@dataclass(frozen=True)
class Options:
    """What can be asked of an evaluation; None is the model's, the run's or the protocol's own choice.

    ``split`` may be ``held-out``: the images that a run kept out of its training. ``reading``, ``precision``,
    ``device``, ``batch_size`` and ``workers`` are a model's: see ``Localizer``. ``limit``: only the first images.
    ``refine`` is on top of the box rule: ``grabcut``, or ``none``; with maps it looks at the images below ``images``,
    else at the data set's. ``timing`` adds what reading the maps costs (``evaluate.cost``).
    ``guesses="five"``: the top-5 localization error by CAM's heuristic, with boxes at the thresholds ``tight`` and
    ``loose`` (a number, or ``otsu``). The paper gives neither: half of the range, and its usual 20 %, are ours.
    """

    dataset: str | None = None
    root: Path | None = None
    split: str | None = None
    protocol: str = "paper"
    masks: Path | None = None
    reading: MapReading = AS_STORED
    box_rule: str | BoxRule | None = None
    refine: str | None = None
    images: Path | None = None
    guesses: str | None = None
    tight: str = "0.5"
    loose: str = "0.2"
    calibrate: bool = False
    limit: int | None = None
    timing: bool = False
    precision: str = "fp32"
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None


def evaluate(
    spec: str, options: Options, *, out: Path | None = None, progress: ProgressCallback | None = None
) -> Document:
    """Evaluate a run, model, folder of maps or file of boxes, and return the document of ``evaluate --json``.

    The result of a finished run is stored in the run as well, unless ``limit`` made it a part of the split.

    Raises:
        UsageError: options that do not fit each other or what is evaluated.
        DataError: the data, maps or boxes cannot be used, or do not fit each other.
        ModelError: the model cannot be used.

    """
    target = find_target(spec)
    _check_options(target, options)
    dataset = find_dataset(target, options.dataset, options.root, options.masks)
    split, samples = find_samples(target, dataset, options.split)
    if options.guesses and dataset.multi_label:
        raise UsageError(f"--guesses is for one class per image, and images of {dataset.name} have several.")
    ground = Ground(dataset, split, samples[: options.limit], options.protocol, options.masks)
    document = _evaluate_on(ground, target, options, progress)
    document["notes"] += dataset.warnings()
    if target.run is not None:
        document |= {"run": target.run.name, "seed": target.run.document.get("seed")}
        _store(document, target.run, whole=options.limit is None)
    if out is not None:
        write_json(out, document)
    return document


def _store(document: Document, run: Run, *, whole: bool) -> None:
    """Keep a result in its run where tables will find it; not what would be wrong there later."""
    if whole and run.finished:
        run.save_evaluation(document)
    elif not run.finished:
        document["notes"].append(f"not stored in the run: its training is {run.document['status']}")


def _check_options(target: Target, options: Options) -> None:
    """Refuse options that the target cannot follow, rather than ignore them."""
    reading = {**dict.fromkeys(options.reading.flags, True), "--timing": options.timing}
    cutting = {
        "--box-rule": options.box_rule,
        "--refine": options.refine,
        "--images": options.images,
        "--guesses": options.guesses,
        "--protocol wsoleval": options.protocol == "wsoleval",
    }
    by_kind: dict[str, dict[str, Any]] = {
        "model": {},
        "detector": {
            **reading,
            **cutting,
            "--calibrate": options.calibrate,
            "--masks": options.masks,
        },
        "maps": {**reading, "--calibrate": options.calibrate},
        "boxes": {**reading, **cutting, "--calibrate": options.calibrate, "--masks": options.masks},
    }
    given = [name for name, value in by_kind[target.kind].items() if value]
    if given:
        raise UsageError(f"{', '.join(given)} cannot be used on {target.kind}: {target.name} is not a classifier.")
    if options.images is not None and target.kind == "model":
        raise UsageError("--images is for maps from disk: a model reads the images of the data set. Leave it out.")
    if options.protocol not in PROTOCOLS:
        raise unknown_name("protocol", options.protocol, PROTOCOLS)
    if options.guesses is not None and options.guesses not in GUESSES:
        raise unknown_name("kind of guesses", options.guesses, GUESSES)
    if options.protocol == "wsoleval" and (options.box_rule or options.refine or options.calibrate or options.guesses):
        raise UsageError(
            "protocol wsoleval has its own box rule, at every threshold. Drop --box-rule, --refine, --calibrate and "
            "--guesses."
        )
    if options.guesses is None and (options.tight, options.loose) != (Options.tight, Options.loose):
        raise UsageError("--tight and --loose are the boxes of --guesses five. Add it, or leave them out.")
    _guesses(options)
    if options.calibrate and (target.run is None or options.box_rule or options.limit):
        raise UsageError("--calibrate chooses a run's own box rule: give it a run, without --box-rule and --limit.")
    if options.calibrate and not {"--crops", "--backprop-seg"}.isdisjoint(options.reading.flags):
        raise UsageError("a model does not store --crops and --backprop-seg, so --calibrate cannot choose for them.")


def _evaluate_on(ground: Ground, target: Target, options: Options, progress: ProgressCallback | None) -> Document:
    if target.kind == "boxes":
        return evaluate_boxes(target.path, ground, progress=progress)
    if target.kind == "maps":
        return evaluate_maps(
            target.path,
            ground,
            box_rule=options.box_rule,
            refine=options.refine,
            images=options.images,
            guesses=_guesses(options),
            progress=progress,
        )
    if target.kind == "detector":
        reader = open_detector(
            target.path, precision=options.precision, device=options.device, batch_size=options.batch_size
        )
        return evaluate_detector(reader, ground, name=target.name, workers=options.workers, progress=progress)
    localizer = _open_localizer(target, options)
    chosen: Document = {}
    if options.calibrate:
        split, held_out = find_samples(target, ground.dataset, HELD_OUT)
        asked = replace(ground, split=split, samples=held_out)
        chosen = calibrate(localizer, asked, target.path, refine=options.refine, progress=progress)
    document = evaluate_model(
        localizer,
        ground,
        name=target.name,
        box_rule=chosen.get("box_rule") or options.box_rule,
        refine=options.refine,
        guesses=_guesses(options),
        workers=options.workers,
        progress=progress,
    )
    if options.timing:
        cost, how = measure_cost(localizer, ground.samples)
        document["metrics"] |= cost
        document["timing"] = how
    if chosen:
        metrics = document["metrics"]
        figures = {"transferred": 100 - metrics["gt_known_error"], "oracle": metrics["max_box_acc"]}
        document["calibration"] = {**chosen, **figures, "oracle_threshold": metrics["max_box_acc_threshold"]}
        if chosen["split"] == ground.split:
            document["notes"].append("the threshold was chosen on the very images that it is measured on")
    return document


def _guesses(options: Options) -> FiveGuesses | None:
    if options.guesses is None:
        return None
    return FiveGuesses(parse_box_rule(threshold=options.tight), parse_box_rule(threshold=options.loose))


def _open_localizer(target: Target, options: Options) -> Localizer:
    from gwapctl.maps.localizer import Localizer
    from gwapctl.networks.classifier import load_classifier

    return Localizer(
        load_classifier(target.path),
        options.reading,
        precision=options.precision,
        device=options.device,
        batch_size=options.batch_size,
    )


def evaluate_model(
    localizer: Localizer,
    ground: Ground,
    *,
    name: str,
    box_rule: str | BoxRule | None = None,
    refine: str | None = None,
    guesses: FiveGuesses | None = None,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> Document:
    """Evaluate a model as ``localizer`` reads it; ``name`` is what the document calls it.

    None for ``box_rule`` is the rule that the model stores.

    Raises:
        DataError: model and data set share no classes, or an image cannot be read.

    """
    rule = _rule(ground, box_rule, refine, localizer.model.info.box_rule)
    evidence = evidence_from_model(localizer, ground.dataset, ground.samples, rule, name=name, workers=workers)
    settings = {
        **_settings(localizer.reading, rule),
        "scales": list(localizer.reading.scales),
        "resize": localizer.reading.resize,
        "precision": localizer.precision,
    }
    info = localizer.model.info
    warning = scale_warning(info, localizer.reading.scales)
    notes = [f"head {info.head} sees ground-truth boxes at test time"] if sees_boxes(localizer) else []
    notes += [warning] if warning else []
    return _document(name, ground, evidence, settings, progress, notes, guesses)


def calibrate(
    localizer: Localizer,
    ground: Ground,
    folder: Path,
    *,
    refine: str | None = None,
    progress: ProgressCallback | None = None,
) -> Document:
    """Choose the box threshold with the best accuracy (IoU >= 0.5, class given) on ``ground``; store it in the model.

    ``model.json`` in ``folder`` gets it as ``box_rule``, along with the reading that it was chosen for: a threshold is
    good for that alone. It is chosen on plain maps; a refinement, the model's or the one to ``refine`` by, is put on
    top. Returns the rule, where it was chosen, and the accuracy of the threshold there in percent.

    Raises:
        DataError: there is no box to choose by.

    """
    from gwapctl.networks.classifier import save_info

    accuracy = BoxAccuracy()
    evidence = evidence_from_model(localizer, ground.dataset, ground.samples, None)
    for done, (sample, found) in enumerate(zip(ground.samples, evidence, strict=True), start=1):
        for label, objects in true_boxes(sample).items():
            heatmap = found.map_of(label)
            if heatmap is not None:
                accuracy.update(heatmap, objects, found.width, found.height)
        if progress is not None:
            progress(Progress(done, len(ground.samples), "images", "choosing the threshold"))
    if not accuracy.curve.n:
        raise DataError(f"{ground.split} of {ground.dataset.name} has no boxes to choose a threshold by.")
    kept = parse_box_rule(localizer.model.info.box_rule, refine=refine).refinement
    rule = parse_box_rule(f"fixed:{accuracy.curve.best_threshold():.3f}", refine=kept).name
    chosen = {
        "box_rule": rule,
        "split": ground.split,
        "n": len(ground.samples),
        "accuracy": accuracy.compute()["max_box_acc"],
    }
    info = store_reading(localizer.model.info, localizer.reading)
    provenance = {**info.provenance, "calibration": chosen}
    save_info(info.model_copy(update={"box_rule": rule, "provenance": provenance}), folder)
    return chosen


def evaluate_maps(
    folder: Path,
    ground: Ground,
    *,
    box_rule: str | BoxRule | None = None,
    refine: str | None = None,
    images: Path | None = None,
    guesses: FiveGuesses | None = None,
    progress: ProgressCallback | None = None,
) -> Document:
    """Evaluate a folder of maps, with the predicted classes that ``localize`` recorded beside them, if it did.

    None for ``box_rule`` is the rule that ``localize`` recorded, else ``paper20``.

    Raises:
        DataError: a map is missing or cannot be used.
        UsageError: the box rule looks at the images, and they are not there.

    """
    notes: list[str] = []
    info = MapFolder(folder).info
    rule = _rule(ground, box_rule, refine, info.box_rule or DEFAULT_RULE)
    evidence = evidence_from_maps(folder, ground.dataset, ground.samples, rule, notes, images)
    settings = _settings(info.reading, rule)
    return _document(info.model or str(folder), ground, evidence, settings, progress, notes, guesses)


def _settings(reading: ResolvedReading, rule: BoxRule | None) -> dict[str, Any]:
    """Return how maps were made and cut, for the document; None where there is nothing to say."""
    return {
        "map": reading.method,
        "box_rule": rule and rule.name,
        "scales": list(reading.scales) or None,
        "resize": reading.resize if reading.scales else None,
        "flip": reading.flip or None,
        "layer": list(reading.layer) or None,
        "fuse": reading.fuse if len(reading.layer) > 1 else None,
        "close": reading.close or None,
        "crops": None if reading.crops == "none" else reading.crops,
        "backprop_seg": None if reading.backprop_seg == "none" else reading.backprop_seg,
    }


def evaluate_boxes(file: Path, ground: Ground, *, progress: ProgressCallback | None = None) -> Document:
    """Evaluate predicted boxes: what ``localize`` or ``boxes`` wrote as JSON lines or CSV.

    Raises:
        DataError: the file is broken, or is about other images.

    """
    notes: list[str] = []
    evidence = evidence_from_boxes(file, ground.dataset, ground.samples, notes)
    return _document(str(file), ground, evidence, {}, progress, notes)


def _rule(ground: Ground, asked: str | BoxRule | None, refine: str | None, default: str) -> BoxRule | None:
    """Return the rule that is asked for, or None where the protocol finds its own boxes."""
    return None if ground.protocol == "wsoleval" else parse_box_rule(asked, refine=refine, default=default)


def _document(
    name: str,
    ground: Ground,
    evidence: Iterable[Evidence],
    settings: dict[str, Any],
    progress: ProgressCallback | None,
    notes: Sequence[str] = (),
    guesses: FiveGuesses | None = None,
) -> Document:
    added: list[str] = []
    if guesses is not None:
        tight, loose = guesses.tight.name, guesses.loose.name
        evidence, settings = guesses.added(evidence), {**settings, "guesses": "five", "tight": tight, "loose": loose}
        added = [f"top5_loc_error is of five guesses, {tight} and {loose}: thresholds of ours, not the paper's"]
    protocol = PROTOCOLS[ground.protocol](ground.dataset, Masks(ground.masks))
    verdict = judge(protocol, ground.samples, evidence, progress)
    verdict.notes.extend([*notes, *added, *ground.dataset.notes(ground.split)])
    if verdict.threshold_curve and settings.get("box_rule"):
        threshold = getattr(parse_box_rule(settings["box_rule"]), "threshold", None)  # Otsu's is each map's own
        verdict.threshold_curve |= {} if threshold is None else {"chosen": threshold}
    return build_document(
        verdict, model=name, dataset=ground.dataset, split=ground.split, protocol=ground.protocol, options=settings
    )
