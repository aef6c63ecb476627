"""Figures 7, 8 and 9 of the GWAP paper (arXiv 1809.08264), from anyone's runs and images.

The maps lie over their images as everywhere in this program; the paper shows them bare. Which images are shown is the
user's choice or the first ones of the data set, never the best ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gwapctl.draw import COLOURS, draw_overlay
from gwapctl.errors import UsageError, unknown_name
from gwapctl.images.decode import ImageArray
from gwapctl.maps import MAPS
from gwapctl.paper.figures.images import Scene
from gwapctl.paper.figures.layout import Caption, Outline, Panel, Plate, PlateRow
from gwapctl.paper.figures.models import Subject
from gwapctl.predict.classifier import Predictor, scale_warning
from gwapctl.predict.detector import DetectorModel, DetectorPredictor
from gwapctl.predict.result import Localization

SURE = 0.5  # a class of a multi-label model is shown above this score
MOST_MAPS = 3  # class maps beside a detection
MOST_SCORES = 3  # scores of a class that are written out


@dataclass(frozen=True)
class Wishes:
    """What can be asked of a figure; None is the figure's own choice."""

    map: str | None = None
    scales: tuple[int, ...] | None = None


Note = Callable[[str], None]


def figure_7(subjects: Sequence[Subject], scenes: Sequence[Scene], wishes: Wishes, note: Note) -> Plate:
    """Lay out the maps of several heads side by side: one row per image, one column per model.

    Of a map per class the one of the most probable class is shown, which its caption names.
    """
    predictors = [_predictor(subject, wishes.map or subject.map, wishes.scales, note) for subject in subjects]
    pairs = zip(subjects, predictors, strict=True)
    heads = [_head(subject, predictor.localizer.reading.method) for subject, predictor in pairs]
    rows = [PlateRow((_input(scene), *[_map(scene, predictor) for predictor in predictors])) for scene in scenes]
    return Plate(("input", *heads), tuple(rows))


def figure_8(subjects: Sequence[Subject], scenes: Sequence[Scene], wishes: Wishes, note: Note) -> Plate:
    """Lay out one model's maps at several scales and their mean, beside the class map of another one.

    As in the paper the first is the model with a weight map, and the scales are one, two and three times its own input;
    the last column is the most probable class's map of the GAP model at its own input size, else of the second one.
    """
    own, other = _pair(subjects)
    side = own.classifier.info.input_size[0]
    scales = wishes.scales or (side, 2 * side, 3 * side)
    method = wishes.map or own.map
    single = [_predictor(own, method, (scale,), lambda _: None) for scale in scales]
    mean = _predictor(own, method, scales, note)
    last = _predictor(other, "class", other.classifier.info.input_size[:1], note)
    name = f"{own.name} {MAPS[method].label}"
    heads = [f"{name}\n{scale} px" for scale in scales] + [f"{name}\nmean of {len(scales)}"] * (len(scales) > 1)
    predictors = [*single, *([mean] * (len(scales) > 1)), last]
    rows = [PlateRow((_input(scene), *[_map(scene, predictor) for predictor in predictors])) for scene in scenes]
    return Plate(("input", *heads, _head(other, "class")), tuple(rows))


def figure_9(subjects: Sequence[Subject], scenes: Sequence[Scene], wishes: Wishes, note: Note) -> Plate:
    """Lay out what is found in each image, every class in a colour of its own, and the maps of these classes.

    A detector's maps are those of its weak branch, if it has one. A classifier has one box per class, cut out of the
    class's map: its weight map where it has one per class.
    """
    subject = subjects[0]
    if isinstance(subject.model, DetectorModel):
        predictor: DetectorPredictor | Predictor = subject.model.predictor()
        method = "weight"
    else:
        predictor = _class_predictor(subject, wishes, note)
        method = predictor.localizer.reading.method
    found = [_sure(_find(predictor, scene), subject) for scene in scenes]
    columns = max(min(len(one.maps), MOST_MAPS) for one in found)
    rows = [_detections(scene, one, columns) for scene, one in zip(scenes, found, strict=True)]
    heads = ("input", f"{subject.name}\nwhat is found", *[_head(subject, method)] * columns)
    return Plate(heads, tuple(rows), heat=bool(columns))


FIGURES: dict[str, Callable[[Sequence[Subject], Sequence[Scene], Wishes, Note], Plate]] = {
    "7": figure_7,
    "8": figure_8,
    "9": figure_9,
}


def build_figure(
    name: str, subjects: Sequence[Subject], scenes: Sequence[Scene], wishes: Wishes, note: Note = lambda _: None
) -> Plate:
    """Lay out the figure called ``name``; ``note`` is told what a reader should know.

    Raises:
        UsageError: there is no such figure, or the models cannot give what it shows.
        DataError: an image cannot be read.

    """
    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES)
    return FIGURES[name](subjects, scenes, wishes, note)


# ------------------------------------------------------------------------------------------------------------ models


def _pair(subjects: Sequence[Subject]) -> tuple[Subject, Subject]:
    """Choose the model with the weight map and the one to compare it with: GAP, else the next, else itself."""
    own = next((one for one in subjects if one.map == "weight"), subjects[0])
    others = [one for one in subjects if one is not own]
    gap = [one for one in others if one.classifier.info.head == "gap"]
    return own, [*gap, *others, own][0]


def _predictor(
    subject: Subject, method: str, scales: tuple[int, ...] | None, note: Note, *, top_k: int = 1
) -> Predictor:
    model = subject.classifier
    predictor = model.predictor(map=method, scales=scales, top_k=min(top_k, len(model.classes)))
    if warning := scale_warning(model.info, predictor.scales):
        note(f"{model.name}: {warning}")
    return predictor


def _class_predictor(subject: Subject, wishes: Wishes, note: Note) -> Predictor:
    """Return what finds several classes, each by a map of its own."""
    predictor = _predictor(subject, wishes.map or subject.map, wishes.scales, note, top_k=MOST_MAPS)
    if predictor.localizer.shared and wishes.map is None:
        predictor = _predictor(subject, "class", wishes.scales, note, top_k=MOST_MAPS)
    if predictor.localizer.shared:
        raise UsageError(f"figure 9 needs a map per class, and map {wishes.map} is one for all. Choose --map class.")
    return predictor


def _head(subject: Subject, method: str) -> str:
    return f"{subject.name}\n{MAPS[method].label}"


def _find(predictor: Predictor | DetectorPredictor, scene: Scene) -> Localization:
    (found,) = predictor.find([scene.pixels])
    return found


def _sure(found: Localization, subject: Subject) -> Localization:
    """Leave the classes that a classifier finds: those above one half of a multi-label model, always the best one."""
    if isinstance(subject.model, DetectorModel):
        return found
    count = max(1, int((found.scores > SURE).sum())) if subject.model.info.multi_label else 1
    return replace(
        found,
        classes=found.classes[:count],
        scores=found.scores[:count],
        boxes=found.boxes[:count],
        maps=found.maps[:count],
    )


# ------------------------------------------------------------------------------------------------------------ panels


def _input(scene: Scene) -> Panel:
    """Show an image with its ground truth, and below it the classes it shows."""
    outlines = tuple(Outline(box, truth=True) for box in scene.boxes.tolist())
    captions = (Caption(scene.names),) if scene.classes else ()
    return Panel(draw_overlay(scene.pixels, None, []), scene.size, outlines, captions)


def _map(scene: Scene, predictor: Predictor) -> Panel:
    """Show the map of the most probable class, or the one for all classes."""
    found = _find(predictor, scene)
    captions = () if found.shared else (Caption(_scored(found, found.classes[0])),)
    return Panel(_heated(scene, found, 0), scene.size, captions=captions)


def _detections(scene: Scene, found: Localization, columns: int) -> PlateRow:
    """Show all boxes of an image, and beside them one map per class, the class of the best box first."""
    names = list(dict.fromkeys(found.classes))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    captions = [Caption(_scored(found, name), colours[name]) for name in names]
    outlines = [
        Outline(box, colours[name])
        for name, box in zip(found.classes, found.boxes.tolist(), strict=True)
        if np.isfinite(box).all()
    ]
    nothing = Caption("nothing found")
    first = Panel(draw_overlay(scene.pixels, None, []), scene.size, tuple(outlines), tuple(captions or [nothing]))
    maps = [
        Panel(_heated(scene, found, place), scene.size, captions=(caption,))
        for place, caption in enumerate(captions[: min(columns, len(found.maps))])
    ]
    return PlateRow((_input(scene), first, *maps, *[None] * (columns - len(maps))))


def _heated(scene: Scene, found: Localization, place: int) -> ImageArray:
    return draw_overlay(scene.pixels, found.maps[place].astype(np.float32), [])


def _scored(found: Localization, name: str) -> str:
    """Write a class with the scores of its boxes, the best first."""
    scores = [f"{score:.0%}" for one, score in zip(found.classes, found.scores, strict=True) if one == name]
    more = f" and {len(scores) - MOST_SCORES} more" if len(scores) > MOST_SCORES else ""
    return f"{name} {', '.join(scores[:MOST_SCORES])}{more}"
