"""What ``boxes`` and ``merge`` count while boxes go through, and what they say at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gwapctl.cli import console
from gwapctl.errors import counted
from gwapctl.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from gwapctl.formats.base import Exporter
    from gwapctl.predict.prediction import Prediction


@dataclass
class Tally:
    """What went through: boxes and ids of images written, their classes (label, label id), images that failed."""

    boxes: int = 0
    failed: int = 0
    again: int = 0
    ids: set[str] = field(default_factory=set)
    classes: set[tuple[str, str]] = field(default_factory=set)

    def watch(self, items: Iterable[Prediction], total: int | None, progress: ProgressCallback) -> Iterator[Prediction]:
        """Pass ``items`` on, count them, and name those that failed."""
        for done, item in enumerate(items, start=1):
            if item.error is None:
                self.again += item.id in self.ids
                self.ids.add(item.id)
                self.boxes += sum(prediction.box is not None for prediction in item.predictions)
                self.classes.update((prediction.label, prediction.label_id) for prediction in item.predictions)
            else:
                self.failed += 1
                console.warn(f"{item.image}: {item.error}")
            progress(Progress(done, total, "images"))
            yield item


def finish(exporter: Exporter, tally: Tally, path: Path | None, listed: list[str] | None) -> None:
    """Say what was written and what the reading tool needs, and leave with 3 if images failed."""
    from gwapctl.formats.base import class_table

    setup = exporter.setup(class_table(tally.classes, listed))
    if setup:
        console.note(f"Set the project up with these labels:\n{setup}")
    if path is not None:
        console.note(f"{tally.boxes} box{'es' * (tally.boxes != 1)} of {counted(len(tally.ids), 'image')} in {path}")
    if tally.again:
        lines = f"{tally.again} image{'s stand' if tally.again > 1 else ' stands'}"
        console.warn(f"{lines} in the input again: what it says of one image goes together, each box once.")
    if tally.failed:
        console.warn(f"{counted(tally.failed, 'image')} failed and {'is' if tally.failed == 1 else 'are'} left out.")
        raise typer.Exit(3)
