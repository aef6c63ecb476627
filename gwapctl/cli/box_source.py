"""Where ``boxes`` has its boxes from: what was found before, or images, which a network sees here or on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwapctl.cli import console, on_ray, options
from gwapctl.cli.inputs import find_images
from gwapctl.engines import AUTO
from gwapctl.errors import UsageError

if TYPE_CHECKING:
    from gwapctl.formats.base import Exporter
    from gwapctl.formats.stored import BoxStream
    from gwapctl.predict.base import Predictor
    from gwapctl.predict.classifier import Model
    from gwapctl.predict.cut import Cutting
    from gwapctl.predict.detector import DetectorModel
    from gwapctl.predict.shards import Shard


def check_unused(text: str, model: str | None, machine: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse options that would have no effect because ``text`` is not images."""
    unused = {"--model": model is not None, "--top-k": asked["top_k"] > 1}
    unused |= {"--engine": machine["engine"] != AUTO, "--precision": machine["precision"] != "auto"}
    given = [*asked["reading"].flags, *(name for name, value in unused.items() if value)]
    if given:
        names, verb = ", ".join(given), "is" if len(given) == 1 else "are"
        raise UsageError(f"{names} {verb} for images; {text} holds what a network found already. Leave it out.")


def from_images(
    text: str,
    exporter: Exporter,
    model: str | None,
    machine: dict[str, Any],
    cutting: Cutting,
    asked: dict[str, Any],
    labels: str | None,
    shard: Shard | None,
    *,
    keep_maps: bool,
) -> BoxStream:
    """Localize images; a classifier's boxes are cut from its maps, a detector has its own."""
    from gwapctl.formats.base import FolderExporter, check_names
    from gwapctl.formats.stored import BoxStream
    from gwapctl.predict.classifier import load_model
    from gwapctl.predict.folder import localize_inputs
    from gwapctl.predict.threads import chunk_size

    inputs, known = find_images([text], labels)
    if isinstance(exporter, FolderExporter):
        check_names(item.id for item in inputs)
    loaded = load_model(options.model_or_default(model), **machine)
    about, cut_by = _cut_by(loaded, cutting)
    predictor: Predictor = loaded.predictor(**cut_by, labels=known, **asked)
    predictor.notice = console.detail
    if shard is None:
        found = localize_inputs(predictor, loaded.name, inputs, keep_maps=keep_maps)
        return BoxStream(found, len(inputs), about, predictor.warning or "")
    chunk = chunk_size(len(inputs), predictor.batch_size, None)
    part, ids = shard.of(inputs, chunk), shard.of([item.id for item in inputs], chunk)
    settings = {**predictor.settings(loaded.name), "chunk": chunk}
    found = localize_inputs(predictor, loaded.name, part)
    return BoxStream(found, len(part), about, predictor.warning or "", ids, settings)


def _cut_by(loaded: Model | DetectorModel, cutting: Cutting) -> tuple[str, dict[str, Any]]:
    """Return what boxes these are, and how its predictor cuts them."""
    if loaded.detects:
        cut_by = {"box_rule" if key == "rule" else key: value for key, value in vars(cutting).items()}
        return f"boxes of detector {loaded.name}", cut_by
    cut = cutting.cut(loaded.info.box_rule)
    cut_by = {"box_rule": cut.rule, "max_boxes": cut.max_boxes, "min_area": cut.min_area, "masks": cut.masks}
    return f"boxes by {cut.rule.name} of model {loaded.name}", cut_by


def start_on_ray(
    way: on_ray.Asked,
    text: str,
    labels: str | None,
    cutting: Cutting,
    images: Path | None,
    said: dict[str, Any],
    model: str | None,
    machine: dict[str, Any],
    asked: dict[str, Any],
) -> None:
    """Do the work in shards on Ray; ``said`` is what all of them must agree on."""
    from gwapctl.cluster.work import BoxingImages, BoxingStored, tasks_for
    from gwapctl.formats.stored import open_stored
    from gwapctl.predict.classifier import load_model
    from gwapctl.predict.shards import Shard

    found = None if labels is not None else open_stored(Path(text), cutting, images, Shard(0, 1))
    if found is not None and found.ids is not None:
        check_unused(text, model, machine, asked)
        stored = BoxingStored(text, cutting, images, said)
        on_ray.start("boxes", way, stored, tasks_for(found.ids.items, way.shard_size), said)
        return
    sources, known = on_ray.images_anywhere([text], labels)
    spec = options.model_or_default(model)
    device, precision = machine["device"], machine["precision"]
    _, cut_by = _cut_by(load_model(spec, device=device, precision=precision), cutting)
    work = BoxingImages(spec, spec, device, precision, {**cut_by, **asked, "labels": known}, said)
    on_ray.of_images("boxes", way, work, sources, None)
