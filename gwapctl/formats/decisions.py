"""What a person decided on the review page: ``decisions.json``, one entry per image that was looked at.

An entry is a line of ``predictions.jsonl`` whose ``predictions`` are the boxes as they stand now, with the ``decision``
(``accepted``, ``corrected`` or ``rejected``) and the boxes that were ``proposed`` beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gwapctl.errors import DataError, any_of
from gwapctl.files import read_json
from gwapctl.predict.prediction import Prediction, check_schema

REJECTED = "rejected"  # its boxes are wrong, and nobody drew better ones
DECISIONS = ("accepted", "corrected", REJECTED)


@dataclass(frozen=True)
class Decision:
    """One image: ``proposed`` is what was shown, ``checked`` what is true of it, None where it was rejected."""

    decision: str
    proposed: Prediction
    checked: Prediction | None


def read_decisions(file: Path) -> Iterator[Decision]:
    """Yield the images that were decided, in the order of the file.

    Raises:
        DataError: it is no such file, or an entry is broken.

    """
    document = read_json(file)
    check_schema(document, str(file))
    if "review" not in document or not isinstance(document.get("images"), list):
        raise DataError(f"{file} is no decisions.json. Download it on the page that gwapctl boxes --review writes.")
    for index, entry in enumerate(document["images"]):
        yield _decision(entry, f"{file}, image {index}")


def _decision(entry: Mapping[str, Any], name: str) -> Decision:
    checked = Prediction.from_json(entry, name)
    decision = entry.get("decision")
    if decision not in DECISIONS:
        raise DataError(f"{name}: decision {decision!r} is not {any_of(DECISIONS)}.")
    proposed = Prediction.from_json({**entry, "predictions": entry.get("proposed") or []}, name)
    return Decision(decision, proposed, None if decision == REJECTED else checked)


def read_checked(file: Path) -> Iterator[Prediction]:
    """Yield the images whose boxes were accepted or corrected, with the boxes as they are now."""
    for one in read_decisions(file):
        if one.checked is not None:
            yield one.checked


def rejected_images(file: Path) -> list[str]:
    """Return the ids of the images that were rejected: nothing is known of what they show."""
    return [one.proposed.id for one in read_decisions(file) if one.checked is None]
