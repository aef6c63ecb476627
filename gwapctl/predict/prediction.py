"""What is known of one image: the classes found in it, their scores and boxes, and where their maps are. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Lt
from PIL import Image
from pydantic import ConfigDict, FiniteFloat, TypeAdapter, ValidationError, field_serializer, field_validator
from pydantic.dataclasses import dataclass

from gwapctl.boxes import Detections, FloatArray
from gwapctl.errors import DataError, GwapctlError

SCHEMA_VERSION = 1
LONGEST = 2**31  # no image is as wide or high
RECORDED = (
    "image",
    "width",
    "height",
    "model",
    "scales",
    "predictions",
    "error",
    "id",
    "none",
    "engine",
    "precision",
)  # a line of predictions.jsonl
SHOWN = 3  # classes in a line about an image
NOWHERE = (np.nan,) * 4
NO_MAPS = np.zeros((0, 1, 1), np.float16)
NO_RANGES = np.zeros((0, 2), np.float32)
ANY = -1  # in place of a class: a map or box that stands for every class (the weight map)

Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
ImageArray = npt.NDArray[np.uint8]
Heatmap = npt.NDArray[np.floating]
Source = str | Path | ImageArray | Image.Image


@dataclass(frozen=True)
class Rle:
    """A mask of the whole image as COCO's compressed RLE: ``size`` (height, width), ``counts`` (``regions.masks``)."""

    size: tuple[int, int]
    counts: str


@dataclass(frozen=True, config=ConfigDict(coerce_numbers_to_str=True))
class ClassPrediction:
    """One class in one image: ``score`` in 0..1, ``box`` in original pixels (or none), ``map`` file below OUT.

    A ``label_id`` that is a number may stand in a document as one. ``map_range``: the values that 0 and 1 stand for in
    that file; None: it holds the map's values themselves. ``doubt`` in 0..1: how much the box moves where its map is
    cut or seen otherwise (``regions.doubt``); None: not known. ``mask``: its pixels, where they were asked for.
    """

    label: str
    label_id: str
    score: FiniteFloat
    box: Box | None = None
    map: str | None = None
    map_range: tuple[FiniteFloat, FiniteFloat] | None = None
    doubt: FiniteFloat | None = None
    mask: Rle | None = None


class PredictionError(DataError):
    """Why an image has no predictions, as a document says it: the ``type`` of the error and its ``message``."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type, self.message = type, str(self)

    def __eq__(self, other: object) -> bool:
        """Compare what is said."""
        return isinstance(other, PredictionError) and (self.type, self.message) == (other.type, other.message)

    def __hash__(self) -> int:
        """Agree with ``==``."""
        return hash((self.type, self.message))


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class Prediction:
    """Everything said about one image: what a model returns, a line of ``predictions.jsonl``, what is judged.

    >>> found = Prediction("a.jpg", 80, 60, predictions=(ClassPrediction("cat", "n02123045", 0.75, (8, 4, 40, 30)),))
    >>> found.classes, found.scores.tolist(), found.boxes.tolist()
    (('cat',), [0.75], [[8.0, 4.0, 40.0, 30.0]])
    >>> Prediction.from_json(found.to_json()) == found
    True

    The last five fields are for evaluation. Their classes are indices of the data set's, ``ANY`` or ``FOREIGN``.

    Attributes:
        image: the path as given; empty for an array or an image of Pillow.
        width, height: of the upright image, in pixels; 0 where it could not be read.
        model, scales: what found it; only in documents.
        engine, precision: what that ran in, as ``engines.Choice`` has it; only in documents of ``localize``.
        predictions: the k classes found, from a model the most probable first, each with its score and box.
        error: why the image could not be read, or None.
        none: whether the answer is that it shows none of the classes; then there are no predictions.
        id: its name below the inputs' common root; the same as ``image`` where nothing says it.
        maps: (k, h, w) float16, the original's shape, at most 512 pixels long; the same one k times where ``shared``.
            A detector's: one per class among the boxes, in the order of their best; (0, 1, 1) without a weight map, or
            where the maps are on disk. They are in [0, 1]; ``heatmap`` gives their own values.
        ranges: (k, 2) float32, the values that 0 and 1 stand for in ``maps``.
        shared: one map, and so one box, stands for all classes (the weight map of a class-agnostic head).
        mask: (h, w), the best class's object where a refined box rule found it in the image; None: the map's own.
        source: the image, as it was given.
        probabilities: (C,) one score per class of the data set, or None where one of them is not known.
        ranked: the predicted classes, best first; None where nothing is said.
        maps_by_class: maps (h, w) that cover the whole image at any resolution.
        terms_by_class: the maps (h, w) of several scales or flips that each of these is the mean of.
        boxes_by_class: boxes (N, 4) in original pixels, best first; an empty array means that the map gave no box.
        detections: several boxes, each with its score and class.

    """

    image: str
    width: Annotated[int, Lt(LONGEST)]
    height: Annotated[int, Lt(LONGEST)]
    model: str = ""
    scales: tuple[int, ...] = ()
    predictions: tuple[ClassPrediction, ...] = ()
    error: GwapctlError | None = None
    id: str = ""
    none: bool = False
    engine: str = ""
    precision: str = ""
    maps: npt.NDArray[np.float16] = field(default_factory=lambda: NO_MAPS, repr=False, compare=False)
    ranges: npt.NDArray[np.float32] = field(default_factory=lambda: NO_RANGES, repr=False, compare=False)
    shared: bool = field(default=False, compare=False)
    mask: npt.NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)
    source: Source = field(default="", repr=False, compare=False)
    probabilities: FloatArray | None = field(default=None, repr=False, compare=False)
    ranked: tuple[int, ...] | None = field(default=None, repr=False, compare=False)
    maps_by_class: Mapping[int, Heatmap] = field(default_factory=dict, repr=False, compare=False)
    terms_by_class: Mapping[int, Sequence[Heatmap]] = field(default_factory=dict, repr=False, compare=False)
    boxes_by_class: Mapping[int, FloatArray] = field(default_factory=dict, repr=False, compare=False)
    detections: Detections | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Fall back to the path where there is no id."""
        if not self.id:
            object.__setattr__(self, "id", self.image)

    def __repr__(self) -> str:
        """Say in a line what was found: the best few classes with their scores."""
        if self.error is not None:
            return f"Prediction({self.image!r}: {self.error})"
        found = [f"{item.label} {item.score:.2f}" for item in self.predictions[:SHOWN]]
        more = [f"{len(self.predictions) - SHOWN} more"] * (len(self.predictions) > SHOWN)
        words = ", ".join([*found, *more]) or ("none of the classes" if self.none else "nothing")
        return f"Prediction({self.image!r}, {self.width} x {self.height}: {words})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the picture that ``plot`` draws, where the image can be read, and a table."""
        from gwapctl.predict.notebook import as_html

        title = f"{self.image or 'image'}, {self.width} x {self.height}"
        if self.error is not None:
            return as_html(self.image or "image", [(self.error,)])
        corners = ["" if item.box is None else ", ".join(f"{x:.0f}" for x in item.box) for item in self.predictions]
        found = zip(self.predictions, corners, strict=True)
        rows = [(item.label, f"{item.score:.3f}", box) for item, box in found]
        try:
            picture = self.plot()
        except DataError:  # the image is gone
            picture = None
        return as_html(title, rows, heads=("class", "score", "box"), picture=picture)

    @property
    def classes(self) -> tuple[str, ...]:
        """The k readable names."""
        return tuple(item.label for item in self.predictions)

    @property
    def class_ids(self) -> tuple[str, ...]:
        """The data set's own ids of the k classes."""
        return tuple(item.label_id for item in self.predictions)

    @property
    def scores(self) -> FloatArray:
        """The scores ``(k,)``."""
        return np.array([item.score for item in self.predictions], np.float64)

    @property
    def boxes(self) -> FloatArray:
        """The boxes ``(k, 4)``: ``x0, y0, x1, y1``, half-open, in original pixels; NaN where the map shows nothing."""
        return np.array([item.box or NOWHERE for item in self.predictions], np.float64).reshape(-1, 4)

    def heatmap(self, index: int) -> Heatmap:
        """Return ``maps[index]`` (h, w) in float32, with its own values: α, or a score, of one scale."""
        from gwapctl.regions import unstretch  # reading predictions needs no OpenCV

        return unstretch(self.maps[index], self.ranges[index])

    def map_of(self, label: int) -> Heatmap | None:
        """Return the map of a class, or the one for every class; None where there is neither."""
        return self.maps_by_class.get(label, self.maps_by_class.get(ANY))

    def terms_of(self, label: int) -> Sequence[Heatmap]:
        """Return the maps that ``map_of`` a class is the mean of; none where it is of one, or nobody knows."""
        return self.terms_by_class.get(label, self.terms_by_class.get(ANY, ()))

    def boxes_of(self, label: int) -> FloatArray | None:
        """Return the boxes ``(N, 4)`` of a class, or those for every class; None where nothing is known."""
        return self.boxes_by_class.get(label, self.boxes_by_class.get(ANY))

    def plot(self, *, heat: bool = True) -> ImageArray:
        """Draw the image, the heatmap of the best class, boxes and labels: uint8 RGB ``(H', W', 3)``.

        Show it with ``matplotlib.pyplot.imshow`` or ``PIL.Image.fromarray``. The image is read again from its path.

        Raises:
            DataError: the image cannot be read.

        """
        from gwapctl.draw import Mark, draw_overlay  # reading predictions needs no OpenCV

        found = ((item.box, f"{item.label} {item.score:.0%}") for item in self.predictions)
        marks = [Mark(box, text) for box, text in found if box is not None]
        if self.shared:  # one box, one chip
            texts = {mark.box: ", ".join(same.text for same in marks if same.box == mark.box) for mark in marks}
            marks = [Mark(box, text) for box, text in texts.items()]
        return draw_overlay(load(self.source), self.maps[0] if heat and len(self.maps) else None, marks)

    def recorded(self, **said: Any) -> Prediction:
        """Return it as a document has it, without the arrays, which would fill the memory; ``said`` replaces fields."""
        return Prediction(**{name: getattr(self, name) for name in RECORDED} | said)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document (plain dicts and lists): all but the arrays."""
        return {"schema_version": SCHEMA_VERSION, **_PREDICTION.dump_python(self, mode="json", include=set(RECORDED))}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], file: str = "prediction") -> Prediction:
        """Read a document; fields that this version does not know are ignored. ``file`` names it in errors.

        Raises:
            DataError: a newer schema, a missing field or a value of the wrong type.

        """
        check_schema(document, file)
        try:
            return _PREDICTION.validate_python({key: document[key] for key in RECORDED if key in document})
        except ValidationError as error:
            raise DataError(f"{file}: {first_problem(error)}.") from error

    @field_validator("error", mode="before")
    @classmethod
    def _read_error(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        kind, message = value.get("type"), value.get("message")
        if not (isinstance(kind, str) and isinstance(message, str)):
            raise ValueError("an error has a type and a message")
        return PredictionError(kind, message)

    @field_serializer("error")
    def _write_error(self, error: GwapctlError | None) -> dict[str, str] | None:
        if error is None:
            return None
        kind = error.type if isinstance(error, PredictionError) else type(error).__name__
        return {"type": kind, "message": str(error)}


_PREDICTION = TypeAdapter(Prediction)


def load(source: Source) -> ImageArray:
    """Return the pixels of ``source``: an array as it is, an image of Pillow converted, a path decoded."""
    from gwapctl.images.decode import pillow_pixels, read_image

    if isinstance(source, Image.Image):
        return pillow_pixels(source)
    return source if isinstance(source, np.ndarray) else read_image(Path(source))


def merge(parts: Sequence[Prediction], file: str) -> Prediction:
    """Return what ``file`` says about one image in several places, each prediction once.

    Of an image that failed and of another try of it, the one that worked counts.

    Raises:
        DataError: the parts differ in the image's size.

    """
    worked = [part for part in parts if part.error is None] or [*parts[-1:]]
    sizes = dict.fromkeys((part.width, part.height) for part in worked if part.width and part.height)
    if len(sizes) > 1:
        stated = " and ".join(f"{width} x {height}" for width, height in sizes)
        raise DataError(f"{file} says of {parts[0].image} that it is {stated}. Correct its size.")
    width, height = next(iter(sizes), (0, 0))
    predictions = dict.fromkeys(prediction for part in worked for prediction in part.predictions)
    return replace(worked[0], width=width, height=height, predictions=tuple(predictions))


def check_schema(document: object, file: str) -> None:
    """Raise ``DataError`` unless ``document`` is a JSON object of a schema version that we read."""
    if not isinstance(document, Mapping):
        raise DataError(f"{file}: expected a JSON object, found {type(document).__name__}.")
    version = document.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise DataError(f"{file}: schema_version {version!r} is not {SCHEMA_VERSION}. Update gwapctl to read it.")


def first_problem(error: ValidationError) -> str:
    """Return the first of the problems, with the field that has it."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    return f"field {name!r}: {first['msg']}"
