"""Figures 7, 8 and 9 of the GWAP paper (arXiv 1809.08264), from anyone's runs and images.

The maps lie over their images as everywhere in this program; the paper shows them bare. Which images are shown is the
user's choice or the first ones of the data set, never the best ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np

from gwapctl.draw import COLOURS, draw_overlay
from gwapctl.errors import UsageError, file_exists, unknown_name
from gwapctl.images.decode import ImageArray
from gwapctl.maps import MAPS
from gwapctl.paper.figures.inputs import FigureImage, FigureModel
from gwapctl.paper.figures.layout import FORMATS, Caption, Layout, Outline, Panel, Row
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
    return _side_by_side(images, [(_head(one, found.localizer.reading.method), found) for one, found in pairs])


def figure_8(models: Sequence[FigureModel], images: Sequence[FigureImage], wishes: Wishes, note: Note) -> Layout:
    """Lay out one model's maps at several scales and their mean, beside the class map of another one.

    As in the paper the first is the model with a weight map, and the scales are one, two and three times its own input;
    the last column is the most probable class's map of the GAP model at its own input size, else of the second one.
    """
    own = next((one for one in models if one.map == "weight"), models[0])
    others = [one for one in models if one is not own]
    (other, *_) = [*(one for one in others if one.classifier.info.head == "gap"), *others, own]
    side = own.classifier.info.input_size[0]
    scales = wishes.scales or (side, 2 * side, 3 * side)
    method = wishes.map or own.map
    columns = [
        (f"{_head(own, method, ' ')}\n{scale} px", _predictor(own, method, (scale,), lambda _: None))
        for scale in scales
    ]
    mean = _predictor(own, method, scales, note)
    if len(scales) > 1:
        columns.append((f"{_head(own, method, ' ')}\nmean of {len(scales)}", mean))
    last = _predictor(other, "class", other.classifier.info.input_size[:1], note)
    return _side_by_side(images, [*columns, (_head(other, "class"), last)])


def _side_by_side(images: Sequence[FigureImage], columns: Sequence[tuple[str, ClassifierPredictor]]) -> Layout:
    rows = [Row((_input(image), *[_map(image, predictor) for _, predictor in columns])) for image in images]
    return Layout(("input", *(head for head, _ in columns)), tuple(rows))


def figure_9(models: Sequence[FigureModel], images: Sequence[FigureImage], wishes: Wishes, note: Note) -> Layout:
    """Lay out what is found in each image, every class in a colour of its own, and the maps of these classes.

    The boxes are those that ``localize`` gives. A detector's maps are those of its weak branch, if it has one. A
    classifier has one box per class, cut out of the map that it stores; of a map for all classes it is one box.
    """
    shown = models[0]
    predictor: DetectorPredictor | ClassifierPredictor
    if shown.model.detects:
        predictor, method = shown.model.predictor(), "weight"
    else:
        predictor = _predictor(shown, wishes.map, wishes.scales, note, top_k=MOST_MAPS)
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


def check_figure(name: str, out: Path, *, overwrite: bool) -> None:
    """Find out before any work whether figure ``name`` can be written to ``out``.

    Raises:
        UsageError: there is no such figure or format, or ``out`` exists.

    """
    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES)
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"{out.name} is no figure: a figure's name ends in one of {', '.join(FORMATS)}.")
    if out.exists() and not overwrite:
        raise file_exists(out)


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


def _predictor(
    model: FigureModel, method: str | None, scales: tuple[int, ...] | None, note: Note, *, top_k: int = 1
) -> ClassifierPredictor:
    classifier = model.classifier
    predictor = classifier.predictor(map=method, scales=scales, top_k=min(top_k, len(classifier.classes)))
    if warning := scale_warning(classifier.info, predictor.scales):
        note(f"{classifier.name}: {warning}")
    return predictor


def _head(model: FigureModel, method: str, between: str = "\n") -> str:
    return f"{model.name}{between}{MAPS[method].label}"


def _find(predictor: ClassifierPredictor | DetectorPredictor, image: FigureImage) -> Prediction:
    (found,) = predictor.find([image.pixels])
    return found


def _sure(found: Prediction, shown: FigureModel) -> Prediction:
    """Leave the classes that a classifier finds: those above one half of a multi-label model, always the best one."""
    if shown.model.detects:
        return found
    count = max(1, int((found.scores > SURE).sum())) if shown.model.info.multi_label else 1
    maps = found.maps[: 1 if found.shared else count]
    return replace(found, predictions=found.predictions[:count], maps=maps)


# ------------------------------------------------------------------------------------------------------------ panels


def _input(image: FigureImage) -> Panel:
    """Show an image with its ground truth, and below it the classes it shows."""
    outlines = tuple(Outline(box, ground_truth=True) for box in image.boxes.tolist())
    captions = (Caption(image.names),) if image.classes else ()
    return Panel(draw_overlay(image.pixels, None, []), image.size, outlines, captions)


def _map(image: FigureImage, predictor: ClassifierPredictor) -> Panel:
    """Show the map of the most probable class, or the one for all classes."""
    found = _find(predictor, image)
    captions = () if found.shared else (Caption(_scored(found, found.classes[0])),)
    return Panel(_heated(image, found, 0), image.size, captions=captions)


def _detections(image: FigureImage, found: Prediction, columns: int) -> Row:
    """Show all boxes of an image, and beside them one map per class, the class of the best box first."""
    distinct = dict.fromkeys(found.classes)
    colours = dict(zip(distinct, cycle(COLOURS[:1] if found.shared else COLOURS), strict=False))
    captions = [Caption(_scored(found, name), colour) for name, colour in colours.items()]
    outlines = [
        Outline(box, colours[name])
        for name, box in zip(found.classes, found.boxes.tolist(), strict=True)
        if np.isfinite(box).all()
    ]
    outlines = outlines[:1] if found.shared else outlines  # one box stands for all classes
    below = tuple(captions) or (Caption("nothing found"),)
    first = Panel(draw_overlay(image.pixels, None, []), image.size, tuple(outlines), below)
    maps = [
        Panel(_heated(image, found, index), image.size, captions=() if found.shared else (caption,))
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
