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
from gwapctl.paper.figures.images import FigureImage
from gwapctl.paper.figures.layout import Caption, Layout, Outline, Panel, Row
from gwapctl.paper.figures.models import FigureModel
from gwapctl.predict.classifier import ClassifierPredictor, scale_warning
from gwapctl.predict.detector import DetectorPredictor
from gwapctl.predict.prediction import Prediction

SURE = 0.5  # a class of a multi-label model is shown above this score
MOST_MAPS = 3  # class maps beside a detection
MOST_SCORES = 3  # scores of a class that are written out


@dataclass(frozen=True)
class Wishes:
    """What can be asked of a figure; None is the figure's own choice."""

    map: str | None = None
    scales: tuple[int, ...] | None = None


Note = Callable[[str], None]


def figure_7(models: Sequence[FigureModel], images: Sequence[FigureImage], wishes: Wishes, note: Note) -> Layout:
    """Lay out the maps of several heads side by side: one row per image, one column per model.

    Of a map per class the one of the most probable class is shown, which its caption names.
    """
    predictors = [_predictor(model, wishes.map or model.map, wishes.scales, note) for model in models]
    pairs = zip(models, predictors, strict=True)
    heads = [_head(model, predictor.localizer.reading.method) for model, predictor in pairs]
    rows = [Row((_input(image), *[_map(image, predictor) for predictor in predictors])) for image in images]
    return Layout(("input", *heads), tuple(rows))


def figure_8(models: Sequence[FigureModel], images: Sequence[FigureImage], wishes: Wishes, note: Note) -> Layout:
    """Lay out one model's maps at several scales and their mean, beside the class map of another one.

    As in the paper the first is the model with a weight map, and the scales are one, two and three times its own input;
    the last column is the most probable class's map of the GAP model at its own input size, else of the second one.
    """
    own, other = _pair(models)
    side = own.classifier.info.input_size[0]
    scales = wishes.scales or (side, 2 * side, 3 * side)
    method = wishes.map or own.map
    single = [_predictor(own, method, (scale,), lambda _: None) for scale in scales]
    mean = _predictor(own, method, scales, note)
    last = _predictor(other, "class", other.classifier.info.input_size[:1], note)
    name = f"{own.name} {MAPS[method].label}"
    heads = [f"{name}\n{scale} px" for scale in scales] + [f"{name}\nmean of {len(scales)}"] * (len(scales) > 1)
    predictors = [*single, *([mean] * (len(scales) > 1)), last]
    rows = [Row((_input(image), *[_map(image, predictor) for predictor in predictors])) for image in images]
    return Layout(("input", *heads, _head(other, "class")), tuple(rows))


def figure_9(models: Sequence[FigureModel], images: Sequence[FigureImage], wishes: Wishes, note: Note) -> Layout:
    """Lay out what is found in each image, every class in a colour of its own, and the maps of these classes.

    A detector's maps are those of its weak branch, if it has one. A classifier has one box per class, cut out of the
    class's map: its weight map where it has one per class.
    """
    shown = models[0]
    if shown.model.detects:
        predictor: DetectorPredictor | ClassifierPredictor = shown.model.predictor()
        method = "weight"
    else:
        predictor = _class_predictor(shown, wishes, note)
        method = predictor.localizer.reading.method
    found = [_sure(_find(predictor, image), shown) for image in images]
    columns = max(min(len(one.maps), MOST_MAPS) for one in found)
    rows = [_detections(image, one, columns) for image, one in zip(images, found, strict=True)]
    heads = ("input", f"{shown.name}\nwhat is found", *[_head(shown, method)] * columns)
    return Layout(heads, tuple(rows), heat=bool(columns))


FIGURES: dict[str, Callable[[Sequence[FigureModel], Sequence[FigureImage], Wishes, Note], Layout]] = {
    "7": figure_7,
    "8": figure_8,
    "9": figure_9,
}


def build_figure(
    name: str, models: Sequence[FigureModel], images: Sequence[FigureImage], wishes: Wishes, note: Note = lambda _: None
) -> Layout:
    """Lay out the figure called ``name``; ``note`` is told what a reader should know.

    Raises:
        UsageError: there is no such figure, or the models cannot give what it shows.
        DataError: an image cannot be read.

    """
    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES)
    return FIGURES[name](models, images, wishes, note)


# ------------------------------------------------------------------------------------------------------------ models


def _pair(models: Sequence[FigureModel]) -> tuple[FigureModel, FigureModel]:
    """Choose the model with the weight map and the one to compare it with: GAP, else the next, else itself."""
    own = next((one for one in models if one.map == "weight"), models[0])
    others = [one for one in models if one is not own]
    gap = [one for one in others if one.classifier.info.head == "gap"]
    return own, [*gap, *others, own][0]


def _predictor(
    model: FigureModel, method: str, scales: tuple[int, ...] | None, note: Note, *, top_k: int = 1
) -> ClassifierPredictor:
    classifier = model.classifier
    predictor = classifier.predictor(map=method, scales=scales, top_k=min(top_k, len(classifier.classes)))
    if warning := scale_warning(classifier.info, predictor.scales):
        note(f"{classifier.name}: {warning}")
    return predictor


def _class_predictor(model: FigureModel, wishes: Wishes, note: Note) -> ClassifierPredictor:
    """Return what finds several classes, each by a map of its own."""
    predictor = _predictor(model, wishes.map or model.map, wishes.scales, note, top_k=MOST_MAPS)
    if predictor.localizer.shared and wishes.map is None:
        predictor = _predictor(model, "class", wishes.scales, note, top_k=MOST_MAPS)
    if predictor.localizer.shared:
        raise UsageError(f"figure 9 needs a map per class, and map {wishes.map} is one for all. Choose --map class.")
    return predictor


def _head(model: FigureModel, method: str) -> str:
    return f"{model.name}\n{MAPS[method].label}"


def _find(predictor: ClassifierPredictor | DetectorPredictor, image: FigureImage) -> Prediction:
    (found,) = predictor.find([image.pixels])
    return found


def _sure(found: Prediction, shown: FigureModel) -> Prediction:
    """Leave the classes that a classifier finds: those above one half of a multi-label model, always the best one."""
    if shown.model.detects:
        return found
    count = max(1, int((found.scores > SURE).sum())) if shown.model.info.multi_label else 1
    return replace(found, predictions=found.predictions[:count], maps=found.maps[:count])


# ------------------------------------------------------------------------------------------------------------ panels


def _input(image: FigureImage) -> Panel:
    """Show an image with its ground truth, and below it the classes it shows."""
    outlines = tuple(Outline(box, truth=True) for box in image.boxes.tolist())
    captions = (Caption(image.names),) if image.classes else ()
    return Panel(draw_overlay(image.pixels, None, []), image.size, outlines, captions)


def _map(image: FigureImage, predictor: ClassifierPredictor) -> Panel:
    """Show the map of the most probable class, or the one for all classes."""
    found = _find(predictor, image)
    captions = () if found.shared else (Caption(_scored(found, found.classes[0])),)
    return Panel(_heated(image, found, 0), image.size, captions=captions)


def _detections(image: FigureImage, found: Prediction, columns: int) -> Row:
    """Show all boxes of an image, and beside them one map per class, the class of the best box first."""
    names = list(dict.fromkeys(found.classes))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    captions = [Caption(_scored(found, name), colours[name]) for name in names]
    outlines = [
        Outline(box, colours[name])
        for name, box in zip(found.classes, found.boxes.tolist(), strict=True)
        if np.isfinite(box).all()
    ]
    nothing = Caption("nothing found")
    first = Panel(draw_overlay(image.pixels, None, []), image.size, tuple(outlines), tuple(captions or [nothing]))
    maps = [
        Panel(_heated(image, found, index), image.size, captions=(caption,))
        for index, caption in enumerate(captions[: min(columns, len(found.maps))])
    ]
    return Row((_input(image), first, *maps, *[None] * (columns - len(maps))))


def _heated(image: FigureImage, found: Prediction, index: int) -> ImageArray:
    return draw_overlay(image.pixels, found.maps[index].astype(np.float32), [])


def _scored(found: Prediction, name: str) -> str:
    """Write a class with the scores of its boxes, the best first."""
    scores = [f"{score:.0%}" for one, score in zip(found.classes, found.scores, strict=True) if one == name]
    more = f" and {len(scores) - MOST_SCORES} more" if len(scores) > MOST_SCORES else ""
    return f"{name} {', '.join(scores[:MOST_SCORES])}{more}"
