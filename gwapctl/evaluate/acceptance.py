"""Boxes that can be accepted unseen, given images that somebody has checked. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import FloatArray, to_list
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import ClassName
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher
from gwapctl.errors import DataError, option
from gwapctl.formats.decisions import read_decisions
from gwapctl.formats.reading import kind_of, read_boxes
from gwapctl.metrics.acceptance import Acceptance, accept
from gwapctl.metrics.localization import IOU_THRESHOLD, best_iou
from gwapctl.metrics.ranking import clues, learn
from gwapctl.predict.image_index import ImageIndex
from gwapctl.predict.prediction import ClassPrediction, Prediction

LEARNED_FROM = 150  # checked boxes from which on a part of them ranks the others
LEARNING = 1 / 3  # that part


@dataclass(frozen=True)
class JudgedBoxes:
    """All boxes of images, in order: ``doubts`` (N,), and of the ``checked`` ones (N,) which are ``wrong`` (N,).

    ``by`` says what the doubt is: the boxes' own, 1 minus their score where one of them has none, or what was learned
    of others. ``clues`` (N, 11) are those of ``metrics.ranking``, ``images`` (N,) the image that each box is of.
    """

    doubts: FloatArray
    checked: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]
    by: str
    clues: FloatArray
    images: npt.NDArray[np.str_]


def checked_images(spec: str, root: Path | None = None) -> dict[str, Prediction]:
    """Return the true boxes of the images that somebody has checked, by image.

    ``spec`` is a file (decisions of the review page, whose rejected images have no right box, or any file of boxes), or
    a data set's name or folder, of which all images with boxes count.

    Raises:
        UsageError: neither a file nor a data set.
        DataError: it cannot be read.

    """
    file = Path(spec)
    if not file.is_file():
        return dict(_of_dataset(spec, root))
    if kind_of(file) != "decisions":
        return read_boxes(file)
    found = list(read_decisions(file))
    return {one.proposed.id: one.checked or replace(one.proposed, predictions=()) for one in found}


def _of_dataset(spec: str, root: Path | None) -> Iterator[tuple[str, Prediction]]:
    dataset = open_dataset(spec, root)
    for split in dataset.splits():
        for sample in dataset.boxed_samples(split):
            classes = [dataset.classes[label] for label in sample.box_labels]
            boxes = [tuple(to_list(box)) for box in sample.boxes]
            pairs = zip(classes, boxes, strict=True)
            found = tuple(ClassPrediction(one.name, one.id, 1.0, box) for one, box in pairs)  # type: ignore[arg-type]
            if found:
                yield sample.path.as_posix(), Prediction(sample.path.as_posix(), 0, 0, predictions=found, id=sample.id)


def judge_boxes(items: Sequence[Prediction], checked: Mapping[str, Prediction]) -> JudgedBoxes:
    """Tell of every box in ``items`` its doubt, whether its image was ``checked``, and then whether it is wrong.

    Wrong is a box whose IoU with every true box of its class is below 0.5.

    Raises:
        DataError: there is no box, or none of the images was checked.

    """
    index = ImageIndex(checked)
    classes = dict.fromkeys((one.label, one.label_id) for image in checked.values() for one in image.predictions)
    matcher = ClassMatcher([ClassName(*pair) for pair in classes])
    boxes, corners, known, wrong, images = [], [], [], [], []
    for item in items:
        name = index.find(item.id, item.image)
        truth = () if name is None else checked[name].predictions
        for one in item.predictions:
            if one.box is None:
                continue
            corners.append(one.box)
            boxes.append(one)
            images.append(item)
            known.append(name is not None)
            wrong.append(name is not None and not _is_right(one, truth, matcher))
    if not boxes:
        raise DataError(f"there is no box to accept. Localize with another threshold, or lower {option('min_score')}.")
    if not any(known):
        example = next(iter(checked), "none")
        raise DataError(f"none of these images was checked: those that were have names like {example!r}.")
    own = [one.doubt for one in boxes]
    doubts = [1 - one.score for one in boxes] if None in own else own
    by = "1 - score" if None in own else "doubt"
    found, scores = np.array(doubts, np.float64), np.array([one.score for one in boxes], np.float64)
    sizes = np.array([(item.width, item.height) for item in images], np.float64)
    told = clues(corners, sizes, found, scores)
    return JudgedBoxes(found, np.array(known), np.array(wrong), by, told, np.array([item.id for item in images]))


def learned(judged: JudgedBoxes) -> JudgedBoxes:
    """Return the boxes with the chance to be wrong as their doubt, learned from a third of the checked images.

    These are drawn by a hash of their names, and their boxes do not count as checked any more: what ranks boxes must
    not say how good the ranking is. With fewer than ``LEARNED_FROM`` checked boxes all stays as it is.
    """
    if judged.checked.sum() < LEARNED_FROM:
        return judged
    names = sorted(set(judged.images[judged.checked].tolist()), key=lambda name: sha256(name.encode()).digest())
    teachers = judged.checked & np.isin(judged.images, names[: round(LEARNING * len(names))])
    chance = learn(judged.clues[teachers], judged.wrong[teachers]).chance(judged.clues)
    return replace(judged, doubts=chance, checked=judged.checked & ~teachers, by="learned chance to be wrong")


def _is_right(found: ClassPrediction, truth: Sequence[ClassPrediction], matcher: ClassMatcher) -> bool:
    label = matcher.index(found.label, found.label_id)
    same = [one.box for one in truth if one.box is not None and matcher.index(one.label, one.label_id) == label]
    return label != FOREIGN and best_iou(found.box, same) >= IOU_THRESHOLD


def accepted_boxes(
    items: Sequence[Prediction], checked: Mapping[str, Prediction], error: float
) -> tuple[Acceptance, str, list[Prediction]]:
    """Return what is accepted where at most a share ``error`` may be wrong, by what, and those images and boxes.

    An image of which no box is accepted is left out, for it does not show nothing; so is one that failed.
    """
    whole = judge_boxes(items, checked)
    judged = learned(whole)
    found = accept(judged.doubts, judged.checked, judged.wrong, error)
    if found.more:  # of these, too, a part is to learn from
        more = math.ceil(found.more * whole.checked.sum() / judged.checked.sum())
        found = replace(found, more=more if whole.checked.sum() + more <= found.total else None)
    limit = -1.0 if found.cut is None else found.cut
    chosen, kept = iter((judged.doubts <= limit).tolist()), []
    for item in items:
        boxes = tuple(one for one in item.predictions if one.box is not None and next(chosen))
        if boxes:
            kept.append(replace(item, predictions=boxes))
    return found, judged.by, kept
