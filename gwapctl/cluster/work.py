"""What an actor does: shards of ``localize``, ``boxes`` or ``evaluate``, each written into a folder of its own.

What takes long to load, a model or the annotations of a data set, is loaded once and serves all shards of the actor.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from gwapctl.cluster.sources import Source, addresses, fetched
from gwapctl.files import json_text
from gwapctl.formats.shards import write_shard
from gwapctl.formats.stored import confident, open_stored
from gwapctl.predict.predictions import PREDICTIONS
from gwapctl.predict.shards import Part, Shard, Whole, whole_of

if TYPE_CHECKING:
    from gwapctl.evaluate import Options
    from gwapctl.inputs import ImageInput
    from gwapctl.predict.base import Precision, Predictor
    from gwapctl.predict.cut import Cutting
    from gwapctl.predict.prediction import Prediction


class Task(NamedTuple):
    """One shard of the ``whole``; ``sources`` are its images where its number alone does not say which they are."""

    shard: Shard
    whole: Whole
    sources: Sequence[Source] = ()

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """Read what ``row`` wrote."""
        sources = [Source(**source) for source in json.loads(row["sources"])]
        return cls(Shard(int(row["shard"]), int(row["shards"])), (int(row["total"]), row["digest"]), sources)

    @property
    def row(self) -> dict[str, int | str]:
        """The task as Ray sends it."""
        total, digest = self.whole
        numbers = {"shard": self.shard.index, "shards": self.shard.count, "total": total}
        return {**numbers, "digest": digest, "sources": json.dumps([vars(source) for source in self.sources])}


def tasks_for(ids: Sequence[str], size: int, *, sources: Sequence[Source] = (), chunk: int = 1) -> list[Task]:
    """Return the shards of the images called ``ids``, of about ``size`` each, in order.

    ``chunk`` of the ``sources`` go through a network together.
    """
    whole, count = whole_of(ids), max(1, -(-len(ids) // size))
    shards = [Shard(index, count) for index in range(count)]
    return [Task(shard, whole, shard.of(sources, chunk)) for shard in shards]


class Done(NamedTuple):
    """How many images a shard has, and how many of them failed."""

    images: int
    failed: int = 0


Write = Callable[[Task, Path, Path], Done]  # writes a shard into an empty folder; the second is for what is fetched


class Work(Protocol):
    """What every actor is told: all choices of the verb."""

    @property
    def device(self) -> str:
        """Where it runs: ``auto``, ``cpu``, ``cuda`` ..."""

    def start(self, workers: int) -> Write:
        """Load what is needed; a shard is written by so many threads as one process would have."""


@dataclass(frozen=True)
class OfImages(ABC):
    """Work of a network on images anywhere.

    Attributes:
        model: what ``load_model`` takes, on every machine; ``name`` is what results call it.
        device, precision: where and how the network runs.
        options: those of ``predictor``.

    """

    model: str
    name: str
    device: str = "auto"
    precision: Precision = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)

    def predictor(self) -> Predictor:
        """Load the model."""
        from gwapctl.predict.classifier import load_model

        model = load_model(self.model, device=self.device, precision=self.precision)
        return model.predictor(**self.options)

    def start(self, workers: int) -> Write:
        """Load the model."""
        return partial(self._write, self.predictor(), workers)

    @abstractmethod
    def shared(self, predictor: Predictor) -> dict[str, Any]:
        """Return what all shards must agree on."""

    def _write(self, predictor: Predictor, workers: int, task: Task, out: Path, scratch: Path) -> Done:
        images = fetched(task.sources, scratch)
        part = Part(images, task.shard, range(task.whole[0]), task.whole)
        failed = self.find(predictor, part, out, workers)
        _rename_images(out, images, addresses(task.sources))
        return Done(len(images), failed)

    @abstractmethod
    def find(self, predictor: Predictor, part: Part[ImageInput], out: Path, workers: int) -> int:
        """Write a shard with its ``predictions.jsonl``, and return how many images failed."""


@dataclass(frozen=True)
class Localizing(OfImages):
    """``localize``; ``save``: of ``overlay``, ``map`` and ``mask``."""

    save: tuple[str, ...] = ()

    def shared(self, predictor: Predictor) -> dict[str, Any]:
        """Return what all shards must agree on."""
        return {**predictor.settings(self.name), "save": list(self.save)}

    def find(self, predictor: Predictor, part: Part[ImageInput], out: Path, workers: int) -> int:
        """Localize the images."""
        from gwapctl.predict.folder import localize_inputs

        found = localize_inputs(predictor, self.name, part, out=out, save=self.save, workers=workers)
        return sum(one.error is not None for one in found)


@dataclass(frozen=True)
class BoxingImages(OfImages):
    """``boxes`` of images; ``settings`` are what all shards must agree on, the predictor's apart."""

    settings: Mapping[str, Any] = field(default_factory=dict)

    def shared(self, predictor: Predictor) -> dict[str, Any]:
        """Return what all shards must agree on."""
        return {**self.settings, **predictor.settings(self.name)}

    def find(self, predictor: Predictor, part: Part[ImageInput], out: Path, workers: int) -> int:
        """Localize the images, and keep their boxes as they go to the format."""
        from gwapctl.predict.folder import localize_inputs
        from gwapctl.predict.threads import chunk_size

        ids = Part([item.id for item in part], part.shard, part.items, part.whole)
        found = localize_inputs(predictor, self.name, part, workers=workers)
        settings = {**self.shared(predictor), "chunk": chunk_size(len(part.items), predictor.batch_size, workers)}
        return _write_boxes(out, confident(found, self.settings["min_score"]), ids, settings)


@dataclass(frozen=True)
class BoxingStored:
    """``boxes`` of what was found before, in a file or folder that all machines see: no network runs.

    ``cutting`` and ``images`` are those of ``open_stored``, ``settings`` what all shards must agree on.
    """

    input: str
    cutting: Cutting
    images: Path | None
    settings: Mapping[str, Any]
    device: str = "cpu"

    def start(self, workers: int) -> Write:
        """Load nothing."""
        del workers
        return self._write

    def _write(self, task: Task, out: Path, scratch: Path) -> Done:
        del scratch
        found = open_stored(Path(self.input), self.cutting, self.images, task.shard)
        assert found is not None
        assert found.ids is not None
        failed = _write_boxes(out, confident(found.items, self.settings["min_score"]), found.ids, dict(self.settings))
        return Done(len(found.ids), failed)


@dataclass(frozen=True)
class Evaluating:
    """``evaluate`` of ``spec`` by ``options``; data set and what is judged lie where all machines see them."""

    spec: str
    options: Options

    @property
    def device(self) -> str:
        """Where a model runs."""
        return self.options.device

    def start(self, workers: int) -> Write:
        """Open the data set, and load the model where one is judged."""
        from gwapctl.evaluate import Shards

        shards = Shards(self.spec, replace(self.options, workers=workers))
        return lambda task, out, scratch: Done(shards.write(task.shard, out))


def _write_boxes(out: Path, items: Iterable[Prediction], ids: Part[str], settings: dict[str, Any]) -> int:
    """Write a shard of ``boxes``, and return how many images failed."""
    failed = 0

    def counted() -> Iterator[Prediction]:
        nonlocal failed
        for item in items:
            failed += item.error is not None
            yield item

    write_shard(out, counted(), ids, settings, overwrite=True)
    return failed


def _rename_images(out: Path, inputs: Sequence[ImageInput], names: Mapping[str, str]) -> None:
    """Let the results of images that were fetched say where these come from."""
    paths = {item.id: str(item.path) for item in inputs}
    if all(paths[name] == address for name, address in names.items()):
        return
    lines = []
    for line in (out / PREDICTIONS).read_text(encoding="utf-8").splitlines():
        document = json.loads(line)
        path, name = paths[document["id"]], names[document["id"]]
        document["image"] = name
        if document["error"] is not None:
            document["error"]["message"] = document["error"]["message"].replace(path, name)
        lines.append(json_text(document) + "\n")
    (out / PREDICTIONS).write_text("".join(lines), encoding="utf-8")
