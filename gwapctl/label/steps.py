"""The steps of ``gwapctl label``: each is what one call of another verb does, and knows how that call is typed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gwapctl.config import DetectorConfig, TrainConfig, build_train_config, stored_config
from gwapctl.config.settings import all_settings
from gwapctl.datasets import open_dataset
from gwapctl.datasets.check import check_dataset
from gwapctl.errors import DataError
from gwapctl.evaluate import Options, evaluate
from gwapctl.evaluate.training_boxes import TrainingBoxes
from gwapctl.files import write_json
from gwapctl.formats import EXPORTERS
from gwapctl.formats.review import PAGE, Review
from gwapctl.formats.stored import maps_of, recorded
from gwapctl.lock import is_left
from gwapctl.networks.zoo import find_recipe
from gwapctl.predict.base import LocalizingModel, Predictor
from gwapctl.predict.classifier import load_model
from gwapctl.predict.cut import Cutting
from gwapctl.predict.folder import localize_inputs
from gwapctl.predict.image_index import ImageFiles
from gwapctl.predict.labelled import Labels, labelled_images
from gwapctl.predict.prediction import Prediction
from gwapctl.predict.predictions import PREDICTIONS, read_predictions
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.regions import parse_box_rule
from gwapctl.regions.rules import DEFAULT_RULE
from gwapctl.runs import Run
from gwapctl.train.pseudo import boxes_file
from gwapctl.train.recipes import with_network_of_weights

SAVED = ("overlay", "map")  # of each image, beside its boxes; the map is the heat on the review page


@dataclass(frozen=True)
class Ears:
    """What hears of the work: ``watch(text)`` opens a progress display, ``say`` and ``warn`` are told a line."""

    watch: Callable[[str], AbstractContextManager[ProgressCallback]]
    say: Callable[[str], None] = lambda _: None
    warn: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Machine:
    """Where and how the work runs: nothing that a result should depend on. None is what the other verbs choose."""

    device: str = "auto"
    workers: int | None = None
    feature_cache: Path | None = None

    def words(self, *names: str) -> list[str]:
        """Return those of its options that a verb has and that were chosen, as they are typed."""
        values = {name: getattr(self, name) for name in names}
        chosen = {name: value for name, value in values.items() if value != getattr(Machine, name)}
        return [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", str(value))]


class Step(ABC):
    """One call of another verb."""

    title: str  # what is done, in a few words

    @property
    @abstractmethod
    def words(self) -> list[str]:
        """The command line that does the same by hand, after ``gwapctl``."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether its result is there and finished."""

    @abstractmethod
    def carry_out(self, ears: Ears) -> None:
        """Do it, or continue it where an earlier call stopped."""


@dataclass(frozen=True)
class Check(Step):
    """Open every image; what is found goes into the file ``out``."""

    folder: str
    out: Path
    title: str = "open every image"

    @property
    def words(self) -> list[str]:
        """``gwapctl data check``."""
        return ["data", "check", self.folder]

    @property
    def done(self) -> bool:
        """Whether the file is there."""
        return self.out.is_file()

    def carry_out(self, ears: Ears) -> None:
        """Say what cannot be read: it is left out from now on."""
        dataset = open_dataset(self.folder)
        with ears.watch("checking") as progress:
            found = check_dataset(dataset, progress)
        for text in dataset.warnings():
            ears.warn(text)
        if found["broken"]:
            more = "" if len(found["broken"]) == 1 else f" ({len(found['broken']) - 1} more like this)"
            ears.warn(f"left out: {found['broken'][0]}{more}")
        write_json(self.out, found)


@dataclass(frozen=True)
class Train(Step):
    """Train a classifier, or a detector from found boxes, into the run folder ``out``."""

    title: str
    folder: str
    out: Path
    settings: Mapping[str, Any]
    machine: Machine
    recipe: str | None = None

    @property
    def words(self) -> list[str]:
        """``gwapctl train``; images that cannot be read are left out, for the check has named them."""
        recipe = [] if self.recipe is None else ["--recipe", self.recipe]
        settings = [word for key, value in self.settings.items() for word in as_typed(key, value)]
        machine = self.machine.words("device", "workers", "feature_cache")
        return ["train", self.folder, *recipe, *settings, "--skip-broken", *machine, "--out", str(self.out)]

    @property
    def config(self) -> TrainConfig | DetectorConfig:
        """The settings as that command line makes them."""
        file = None if self.recipe is None else find_recipe(self.recipe)
        return build_train_config(self.folder, file, with_network_of_weights(self.settings))

    @property
    def is_begun(self) -> bool:
        """Whether there is a run to continue."""
        return (self.out / "run.json").is_file()

    @property
    def done(self) -> bool:
        """Whether the run is finished, and nothing is left of its training."""
        return self._is_finished and not is_left(self.out)

    @property
    def _is_finished(self) -> bool:
        return self.is_begun and Run.open(self.out).finished

    def carry_out(self, ears: Ears) -> None:
        """Train, or continue from the run's state; one that was killed when it was finished is cleared."""
        from gwapctl.train.loop import train_with
        from gwapctl.train.task import Listener, Resources

        if self._is_finished:
            Run.open(self.out).settle()
            return
        resume, machine = self.is_begun, self.machine
        config = stored_config(Run.open(self.out).document["config"]) if resume else self.config
        found = getattr(config, "boxes_from", None)
        source = None
        if found is not None and not boxes_file(self.out, 1).is_file():
            source = TrainingBoxes(found, machine.device, machine.workers)
        resources = Resources.find(machine.device, machine.workers, machine.feature_cache, boxes=source)
        with ears.watch("training") as shown:
            listener = Listener(ears.say, progress=shown, check_progress=shown)  # the check has warned already
            train_with(resources, config, self.out, skip_broken=True, resume=resume, listener=listener)


def as_typed(key: str, value: Any) -> list[str]:
    """Return a setting as it is typed: by its flag where that takes a value, else with ``--set``.

    >>> as_typed("epochs", 20), as_typed("flip", False)
    (['--epochs', '20'], ['--set', 'flip=false'])
    """
    setting = all_settings()[key]
    text = setting.write(value)
    if setting.about.flag and value is not None and not isinstance(value, bool | Mapping):
        return [setting.words[0], text]
    return ["--set", f"{key}={text}"]


@dataclass(frozen=True)
class Box(Step):
    """Box the classes that the labels name with the classifier ``model``, and write JSON lines."""

    title: str
    folder: str
    model: Path
    out: Path
    cutting: Cutting
    machine: Machine

    @property
    def words(self) -> list[str]:
        """``gwapctl boxes`` of images."""
        asked = {"--max-boxes": self.cutting.max_boxes, "--min-area": self.cutting.min_area}
        options = [word for name, value in asked.items() if value is not None for word in (name, str(value))]
        split = {True: ["--split"], False: ["--single"], None: []}[self.cutting.split]
        known = ["--model", str(self.model), "--labels", "from-dataset", *split, *options]
        return ["boxes", self.folder, *known, *self.machine.words("device"), "--out", str(self.out)]

    @property
    def done(self) -> bool:
        """Whether the file is there: it appears whole or not at all."""
        return self.out.is_file()

    def carry_out(self, ears: Ears) -> None:
        """Run the network; what is interrupted here begins anew."""

        def predictor(model: LocalizingModel, known: Labels) -> Predictor:
            cut = self.cutting.cut(getattr(model.info, "box_rule", DEFAULT_RULE))
            return model.predictor(box_rule=cut.rule, max_boxes=cut.max_boxes, min_area=cut.min_area, labels=known)

        with ears.watch("boxes") as progress:
            found = localized(self.folder, self.model, self.machine.device, predictor, progress=progress)
            EXPORTERS["jsonl"].build().write(self.out, found, None)


@dataclass(frozen=True)
class Find(Step):
    """Let the detector ``model`` find the classes that the labels name; ``out`` gets boxes, overlays and heat."""

    title: str
    folder: str
    model: Path
    out: Path
    machine: Machine

    @property
    def words(self) -> list[str]:
        """``gwapctl localize``."""
        known = ["--model", str(self.model), "--labels", "from-dataset", "--save", ",".join(SAVED)]
        machine = self.machine.words("device", "workers")
        return ["localize", self.folder, *known, *machine, "--out", str(self.out)]

    @property
    def done(self) -> bool:
        """Whether every image stands in the file, one that cannot be read with its error, and the rest is written."""
        if is_left(self.out):
            return False
        try:
            listed = {image.id for image in read_predictions(self.out)}
        except DataError:  # none yet, or torn
            return False
        return {item.id for item in labelled_images(open_dataset(self.folder))[0]} <= listed

    def carry_out(self, ears: Ears) -> None:
        """Run the network on the images that are not done yet."""
        with ears.watch("localize") as progress:
            found = localized(
                self.folder,
                self.model,
                self.machine.device,
                lambda model, known: model.predictor(labels=known),
                out=self.out,
                save=SAVED,
                resume=True,
                workers=self.machine.workers,
                progress=progress,
            )
            for image in found:
                if image.error is not None:
                    ears.warn(str(image.error))


def localized(
    folder: str,
    model: Path,
    device: str,
    predictor: Callable[[LocalizingModel, Labels], Predictor],
    **how: Any,
) -> Iterable[Prediction]:
    """Yield what ``model`` finds in the images of a data set; ``how`` is for ``localize_inputs``."""
    inputs, known = labelled_images(open_dataset(folder))
    loaded = load_model(str(model), device=device)
    return localize_inputs(predictor(loaded, known), loaded.name, inputs, **how)


@dataclass(frozen=True)
class Write(Step):
    """Write the boxes of the folder ``found`` in a format, and the page for looking them over where one is asked."""

    title: str
    found: Path
    format: str
    out: Path
    review: Path | None = None

    @property
    def words(self) -> list[str]:
        """``gwapctl boxes`` of what was found."""
        page = [] if self.review is None else ["--review", str(self.review)]
        return ["boxes", str(self.found), "--format", self.format, "--out", str(self.out), *page]

    @property
    def done(self) -> bool:
        """Whether what is written last is there."""
        page_is_there = self.review is None or ((self.review / PAGE).is_file() and not is_left(self.review))
        return self.out.exists() and page_is_there

    def carry_out(self, ears: Ears) -> None:
        """Write all of it."""
        items: Iterable[Prediction] = recorded(self.found / PREDICTIONS)
        page = None
        if self.review is not None:
            maps = maps_of(self.found)
            rule = parse_box_rule(default=(maps and maps.info.box_rule) or DEFAULT_RULE)
            page = Review(self.review, images=ImageFiles(None), maps=maps, rule=rule, overwrite=True)
            items = page.watch(items)
        with ears.watch("writing") as progress:
            EXPORTERS[self.format].build().write(self.out, counting(items, progress), None)
        if page is not None:
            page.finish(f"Review of {self.found.name}")


def counting(items: Iterable[Prediction], progress: ProgressCallback) -> Iterable[Prediction]:
    """Pass ``items`` on and count them."""
    for done, item in enumerate(items, start=1):
        progress(Progress(done, None, "images"))
        yield item


@dataclass(frozen=True)
class Judge(Step):
    """Measure boxes by the true ones of a split, which nothing has learned from; ``whose`` says what made them."""

    whose: str
    folder: str
    split: str
    boxes: Path
    out: Path

    @property
    def title(self) -> str:  # type: ignore[override]
        """Say whose boxes are measured on what."""
        return f"measure the {self.whose}'s boxes on {self.split}"

    @property
    def words(self) -> list[str]:
        """``gwapctl evaluate`` of a file of boxes."""
        return ["evaluate", str(self.boxes), "--dataset", self.folder, "--split", self.split, "--out", str(self.out)]

    @property
    def done(self) -> bool:
        """Whether the document is there."""
        return self.out.is_file()

    def carry_out(self, ears: Ears) -> None:
        """Measure."""
        with ears.watch("evaluate") as progress:
            evaluate(str(self.boxes), Options(dataset=self.folder, split=self.split), out=self.out, progress=progress)
