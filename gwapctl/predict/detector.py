"""A detector as Python sees it: the same three lines as a classifier's, with as many boxes as it finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import numpy.typing as npt

from gwapctl.boxes import Detections
from gwapctl.engines import Choice
from gwapctl.errors import UsageError, option, unknown_name
from gwapctl.maps.reading import AS_STORED, MapReading, ReadingOptions, ResolvedReading, split_options
from gwapctl.predict.base import LocalizingModel, Predictor, checked_score, require_whole, source_name
from gwapctl.predict.labelled import Labels, indices_of
from gwapctl.predict.map_folder import MapsInfo
from gwapctl.predict.prediction import NO_MAPS, NO_RANGES, ClassPrediction, ImageArray, Prediction, Source
from gwapctl.predict.shards import weights_digest
from gwapctl.regions import BoxRule, parse_box_rule, resize_map, stretch

if TYPE_CHECKING:
    from gwapctl.images.decode import ImageArray
    from gwapctl.networks.rfcn.base import DetectorInfo
    from gwapctl.networks.rfcn.inference import DetectorReader

REFINEMENTS = ("none", "grabcut")
MIN_SCORE = 0.3  # what people want to see; measuring takes every box
MASK_RULE = parse_box_rule()


class OfMaps(ReadingOptions, total=False):
    """What a detector is asked along with classifiers and cannot follow: its boxes do not come from maps."""

    box_rule: str | BoxRule | None
    max_boxes: int | None
    min_area: float | None
    masks: bool


class DetectorModel(LocalizingModel):
    """A trained detector. Made by ``gwapctl.load_model``, as ``Model`` is; results have one class per box."""

    detects: Literal[True] = True

    def __init__(self, reader: DetectorReader, name: str) -> None:
        self.reader = reader
        self.name = name

    @property
    def info(self) -> DetectorInfo:
        """Classes, input size and weak branch."""
        return self.reader.info

    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know of the detector; ``layers`` are its trunk's convolutions in order."""
        from gwapctl.networks.classifier import describe_network

        return describe_network(self.reader.model, self.info, self.reader.model.trunk)

    def facts(self) -> dict[str, object]:
        """Return the network, its classes and input."""
        info = self.info
        return {
            "network": f"{info.backbone} + {info.kind}",
            "weak branch": info.weak,
            "classes": f"{len(info.classes):,}",
            "input": f"sides {info.short_side} to {info.long_side}",
        }

    def predictor(
        self,
        *,
        min_score: float | None = None,
        batch_size: int | None = None,
        reading: MapReading = AS_STORED,
        labels: Labels | None = None,
        top_k: int = 1,
        refine: str | None = None,
        **cutting: Unpack[OfMaps],
    ) -> DetectorPredictor:
        """Return the object that does the work: boxes that score below ``min_score`` are left out.

        ``refine``: ``grabcut`` (boxes follow the image's edges), ``none``, or None: what the model stores.

        ``labels``, the classes of each image by its path, leave out boxes of all others; a class that they name keeps
        its best box, however low that scores.

        Raises:
            UsageError: ``min_score`` is no score; or something else is given, by which a classifier's maps are read.

        """
        reading, others = split_options(cutting, reading)
        given = {**others, "top_k": top_k != 1}
        wrong = [
            *reading.flags,
            *(option(name) for name, value in given.items() if value),
        ]
        if wrong:
            raise UsageError(f"{', '.join(wrong)} cannot be used with a detector: its boxes do not come from maps.")
        min_score = MIN_SCORE if min_score is None else checked_score(min_score)
        require_whole("batch_size", batch_size, 1)
        known = None if labels is None else indices_of(labels, self.info.classes, self.name)
        if refine not in (None, *REFINEMENTS):
            raise unknown_name("refinement", str(refine), REFINEMENTS)
        refine = refine or self.info.refine
        return DetectorPredictor(self.reader, min_score, batch_size or self.reader.batch_size, known, refine)


class DetectorPredictor(Predictor):
    """From images to boxes of at least ``min_score``, and the weak branch's maps beside them."""

    def __init__(
        self,
        reader: DetectorReader,
        min_score: float,
        batch_size: int,
        known: Mapping[str, tuple[int, ...]] | None = None,
        refine: str = "none",
    ) -> None:
        super().__init__(batch_size, (reader.info.short_side,), reader.device)
        self.reader = reader
        self.min_score = min_score
        self.known = known
        self.refine = refine

    @property
    def choice(self) -> Choice:
        """Torch, in the reader's number format."""
        from gwapctl.device import used_precision

        return Choice("torch", used_precision(self.reader.precision, self.device))

    def summary(self, model_name: str) -> str:
        """Say in a few words how objects are found."""
        info = self.reader.info
        edges = ", boxes refined by grabcut" if self.refine != "none" else ""
        sides = f"sides {info.short_side} to {info.long_side}"
        return f"detector {model_name}, {sides}, scores from {self.min_score:g}{edges}"

    def describe(self, model_name: str) -> MapsInfo:
        """Say how the maps are made: the class-specific weight maps (arXiv 1809.08264, eq. 8 and Fig. 9)."""
        reading = ResolvedReading("weight", self.scales, resize="keep")
        return MapsInfo(
            reading,
            model_name,
            "minmax",
            class_agnostic=False,
            min_score=self.min_score,
            refine=self.refine,
            engine=self.choice.engine,
            precision=self.choice.recorded_precision,
        )

    def settings(self, model_name: str) -> dict[str, Any]:
        """Return all that processes which share one work must agree on."""
        known = {"labels": None if self.known is None else "from-dataset", "precision": self.reader.precision}
        return {**super().settings(model_name), **known, "weights": weights_digest(self.reader.model)}

    def mask(self, found: Prediction) -> npt.NDArray[np.bool_]:
        """Return the foreground of the best class's map: above 20 % of its range."""
        return MASK_RULE.mask(found.heatmap(0))

    def _prepare(self, image: ImageArray) -> ImageArray:
        return image

    def _predict(self, images: Sequence[tuple[Source, ImageArray]]) -> Iterable[Prediction]:
        pixels = [image for _, image in images]
        least = self.min_score if self.known is None else 0.0
        results = self.reader.run(pixels, min_score=least, maps=True, batch_size=self.batch_size, refine="none")
        return [
            self._named(source, self._kept(source, image, found))
            for (source, image), found in zip(images, results, strict=True)
        ]

    def _kept(self, source: Source, image: ImageArray, found: Detections) -> Detections:
        """Return the boxes that are wanted, at the edges of the image where that is asked."""
        from gwapctl.networks.rfcn.inference import refined  # needs torch

        found = self._of_known(source, found)
        return found if self.refine == "none" else refined(image, found, self.reader.info)

    def _of_known(self, source: Source, found: Detections) -> Detections:
        """Return the boxes of the classes that the image is known to show; all where nothing is known.

        Of each such class the best box stays, for it is there, and others from ``min_score`` on.
        """
        if self.known is None:
            return found
        kept = np.isin(found.labels, self.known.get(source_name(source), ()))
        best = [np.flatnonzero(found.labels == label)[0] for label in np.unique(found.labels)]  # the best come first
        kept &= (found.scores >= self.min_score) | np.isin(np.arange(len(kept)), best)
        return replace(found, boxes=found.boxes[kept], scores=found.scores[kept], labels=found.labels[kept])

    def _named(self, source: Source, found: Detections) -> Prediction:
        """Put names to what was found; the maps are of the classes found, each once, the best first."""
        distinct = list(dict.fromkeys(found.labels.tolist()))
        maps, ranges = NO_MAPS, NO_RANGES
        if found.weight_maps is not None and distinct:
            maps, ranges = _as_heatmaps(found.weight_maps[distinct], found.width, found.height)
        classes = self.reader.info.classes
        rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
        return Prediction(
            source_name(source),
            found.width,
            found.height,
            predictions=tuple(
                ClassPrediction(classes[label].name, classes[label].id, score, tuple(box)) for label, score, box in rows
            ),
            maps=maps,
            ranges=ranges,
            source=source,
        )


def _as_heatmaps(
    maps: npt.NDArray[np.float32], width: int, height: int
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float32]]:
    """Resize maps ``(k, h, w)`` to the original's shape, at most 512 pixels long, as a classifier's maps are.

    Return them in [0, 1], and the values that 0 and 1 stand for ``(k, 2)``.
    """
    from gwapctl.maps.heatmap import heatmap_size

    size = heatmap_size(width, height)
    stretched, ranges = zip(*(stretch(resize_map(one, size)) for one in maps), strict=True)
    return np.stack(stretched).astype(np.float16), np.array(ranges, np.float32)
