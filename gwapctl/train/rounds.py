"""The rounds of a training from boxes that something else found: where the boxes of each come from, and are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from gwapctl.boxes import Detections, FloatArray
from gwapctl.datasets.base import BoxedSample
from gwapctl.errors import DataError, UsageError
from gwapctl.progress import Progress
from gwapctl.runs import Run
from gwapctl.train.composites import Composites, how_many, write_composites
from gwapctl.train.data import DetectorData
from gwapctl.train.pseudo import (
    LIKELY,
    BoxSource,
    PseudoBoxes,
    boxes_file,
    judge,
    next_round,
    read_boxes,
    with_boxes,
    write_boxes,
)
from gwapctl.train.task import Listener

COMPOSITES = "composites"  # the folder of composed images in a run's

Find = Callable[[int, float], Detections]  # what a detector finds in a training image, from a score on


class Rounds:
    """The boxes of every round, each made once and kept in the run's folder: a resumed run reads the same.

    Args:
        run: where they are kept, and what says how many they are.
        data: the images of the training; their true boxes, where they have any, judge what was found and no more.
        source: finds the boxes of the first round.
        interrupted: tells of Ctrl-C.
        listener: hears how good the boxes of a round are.

    """

    def __init__(
        self,
        run: Run,
        data: DetectorData,
        source: BoxSource | None,
        interrupted: Callable[[], bool],
        listener: Listener,
    ) -> None:
        self.run, self.data, self.source = run, data, source
        self.listener, self.progress = listener, listener.stoppable(interrupted)

    def first(self) -> list[PseudoBoxes]:
        """Return the boxes of the first round, one value per image.

        Raises:
            UsageError: there is nothing that finds them.
            DataError: there is no box at all.

        """
        return self._kept(1, self._from_source)

    def boxes_of(
        self, number: int, find: Find | None = None
    ) -> tuple[Mapping[int, BoxedSample], Mapping[int, FloatArray]]:
        """Return the images that have boxes in a round, by index, and how much each box counts.

        An image without any label has none, and is learned from as one that holds nothing. ``find`` finds objects
        with the weights at the begin of the round, and is not needed for the first.
        """
        found = self.first() if number == 1 else self._kept(number, partial(self._from_detector, find))
        pairs = zip(self.data.train, found, strict=True)
        samples = {i: with_boxes(sample, one) for i, (sample, one) in enumerate(pairs) if len(one) or not sample.labels}
        return samples, {index: found[index].weights for index in samples}

    @property
    def _composites(self) -> float:
        """How many images are composed for each that has boxes."""
        return float(self.run.document["config"].get("composites", 0.0))

    def composed(self, side: int, workers: int) -> dict[int, BoxedSample]:
        """Return the images that are composed of the first round's boxes, by index behind those of the training.

        Their longer side has at most ``side`` pixels. They are made once and kept in the run's folder.
        """
        found, train = self.first(), self.data.train
        count = how_many(self._composites, sum(len(one) > 0 for one in found))
        if not count:
            return {}
        folder, seed = self.run.folder / COMPOSITES, int(self.run.document["config"]["seed"])
        composites = Composites(train, found, seed=seed, side=side)
        names = self.data.dataset.classes
        made = write_composites(folder, composites, count, names, workers=workers, progress=self.progress)
        objects = sum(map(len, composites.sources.values()))
        self.listener.announce(f"{count:,} images composed of the {objects:,} least doubtful boxes: {folder}")
        return dict(enumerate(made, start=len(train)))

    def _kept(self, number: int, make: Callable[[], Sequence[PseudoBoxes]]) -> list[PseudoBoxes]:
        """Return the boxes of a round from its file, which is written at the first time."""
        file, classes = boxes_file(self.run.folder, number), self.data.dataset.classes
        if not file.is_file():
            write_boxes(file, self.data.train, make(), classes)
        found = read_boxes(file, self.data.train, classes)
        if len(self.run.document.get("rounds", [])) < number:  # also after a kill between the file and its row
            self._report(number, found)
        return found

    def _from_source(self) -> Sequence[PseudoBoxes]:
        if self.source is None:
            raise UsageError("boxes_from needs what finds the boxes: train with gwapctl train.")
        found = self.source(self.data.dataset, self.data.train, self.progress)
        if not any(map(len, found)):
            said = self.run.document["config"]["boxes_from"]
            raise DataError(f"{said} has no box of a class that the labels of the training images name.")
        return found

    def _from_detector(self, find: Find | None) -> Sequence[PseudoBoxes]:
        assert find is not None
        found = []
        for index, (sample, first) in enumerate(zip(self.data.train, self.first(), strict=True)):
            found.append(next_round(first, find(index, LIKELY), sample.labels))
            self.progress(Progress(index + 1, len(self.data.train), "images"))
        return found

    def _report(self, number: int, found: Sequence[PseudoBoxes]) -> None:
        """Say, also in ``run.json``, how many boxes a round has, and how good they are where true boxes tell."""
        boxes, images, scores = sum(map(len, found)), sum(len(one) > 0 for one in found), judge(found, self.data.judged)
        row = {"round": number, "n_boxes": boxes, "n_images": images, **scores}
        self.run.update(rounds=[*self.run.document.get("rounds", [])[: number - 1], row])
        judged = f"; their AP on the true ones is {scores['det_map_area']:.1f}" if scores else ""
        self.listener.announce(f"round {number}: {boxes:,} boxes in {images:,} of {len(found):,} images{judged}")
