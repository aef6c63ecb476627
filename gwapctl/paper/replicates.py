"""Replicates on file: metrics of each evaluation on resamples of its images, a text per metric, beside the results.

``benchmarks/replicates.csv`` is the second file of ``gwapctl report --record models/results.csv``; it does not ship.
Its key is that of the results, with a hash for the options. ``metric`` is a key of ``METRICS``, or where it stands in
the document: ``per_class/cat/ap_11pt``, ``floors/full_image/f_measure``. A floor that no model can change is kept once
for all runs: its rows have neither run nor options.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from gwapctl.boxes import FloatArray
from gwapctl.errors import DataError
from gwapctl.files import write_text
from gwapctl.metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd

KEY = ("run", "dataset", "split", "protocol", "options", "metric")
COLUMNS = (*KEY, "replicates")
Evaluation = tuple[str, str, str, str, str]  # the key without the metric


def options_hash(options: Mapping[str, Any]) -> str:
    """Return what evaluations share that were run alike."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]


def replicates_file(results: Path) -> Path:
    """Return the file beside ``results``: in ``benchmarks/`` of the checkout, else in the same folder."""
    folder = results.resolve().parent.parent / "benchmarks"
    return folder / "replicates.csv" if folder.is_dir() else results.with_name(f"{results.stem}-replicates.csv")


def record_replicates(rows: pd.DataFrame, file: Path) -> None:
    """Add the replicates of measured ``rows`` to ``file``, in place of earlier ones of the same evaluations.

    Raises:
        DataError: the file is no table of replicates, or cannot be written.

    """
    import pandas as pd

    new = pd.DataFrame([line for row in rows.to_dict("records") for line in _lines(row)], columns=[*COLUMNS])
    if new.empty:
        return
    both = pd.concat([_read(file), new], ignore_index=True)
    both = both.drop_duplicates([*KEY], keep="last").sort_values([*KEY])
    write_text(file, both.to_csv(index=False, lineterminator="\n"))


def _lines(row: Mapping[Any, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the lines of one measured row."""
    found: dict[str, Any] = row["replicates"]
    place = (str(row["dataset"]), str(row["split"]), str(row["protocol"]))
    run, options = PurePath(row["run"]).name, options_hash(row["options"])
    for key, text in found.get("metrics", {}).items():
        yield (run, *place, options, key, text)
    for label, numbers in found.get("per_class", {}).items():
        for key, text in numbers.items():
            yield (run, *place, options, f"per_class/{label}/{key}", text)
    for floor, numbers in found.get("floors", {}).items():
        for key, text in numbers.items():
            own = "ranked classes" in METRICS[key].needs  # its floor has the model's classes
            yield (run if own else "", *place, options if own else "", f"floors/{floor}/{key}", text)


def _read(file: Path) -> pd.DataFrame:
    import pandas as pd

    if not file.is_file():
        return pd.DataFrame(columns=[*COLUMNS], dtype="str")
    try:
        return pd.read_csv(file, dtype="str", keep_default_na=False)[[*COLUMNS]]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot read the replicates in {file}: {error}.") from error


class ReplicatesOnFile:
    """Looks replicates up: deviations (B,) of a metric from its value, on the resamples that all evaluations share."""

    def __init__(self, file: Path) -> None:
        self._texts = dict(_texts(_read(file).itertuples(index=False, name=None)))

    def find(self, evaluation: Evaluation, metric: str) -> FloatArray | None:
        """Return the deviations of ``metric``, as the file calls it; None where they were not recorded."""
        from gwapctl.metrics.replicates import decode

        shared = ("", *evaluation[1:4], "")
        text = self._texts.get((*evaluation, metric)) or self._texts.get((*shared, metric))
        return None if text is None else decode(text)

    def mean_of_classes(self, evaluation: Evaluation, metric: str, classes: Iterable[str]) -> FloatArray | None:
        """Return the deviations of the mean over ``classes`` of a metric that is a mean over classes."""
        found = [self.find(evaluation, f"per_class/{name}/{METRICS[metric].class_key}") for name in classes]
        known = [one for one in found if one is not None]
        return sum(known[1:], known[0]) / len(known) if known and len(known) == len(found) else None


def _texts(rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[tuple[str, ...], str]]:
    for *key, text in rows:
        yield tuple(key), text
