"""Shards of ``evaluate``: each writes what it counted, and all together give the result that one process gives.

Nothing is averaged in a shard. What its accumulators gathered goes to ``judged.json``, and ``merge_evaluations`` lets
it follow what the shards before it gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gwapctl.datasets.base import ClassName, Dataset
from gwapctl.errors import DataError
from gwapctl.evaluate.calibration import Accuracy, Calibration
from gwapctl.evaluate.judging import Judged, keep, new_protocol
from gwapctl.evaluate.result import EvaluationResult, GroundTruth
from gwapctl.files import json_text, prepare_output_folder, read_json, write_text
from gwapctl.metrics.box_accuracy import BoxAccuracy
from gwapctl.metrics.merging import decode, encode
from gwapctl.metrics.wsoleval import WsolevalBoxAccuracy
from gwapctl.predict.prediction import SCHEMA_VERSION, check_schema
from gwapctl.predict.shards import ShardRecord, whole_of, write_record
from gwapctl.runs import Run

JUDGED = "judged.json"


class _Classes(Dataset):
    """What results need of a data set that is not there: its classes."""

    def __init__(self, name: str, classes: Sequence[ClassName], multi_label: bool) -> None:
        self.name, self.classes, self.multi_label = name, tuple(classes), multi_label


def write_shard(
    out: Path,
    ground_truth: GroundTruth,
    run: Run | None,
    judged: Judged,
    settings: dict[str, Any],
    closing: Sequence[str],
    seconds: float,
) -> int:
    """Write what was ``judged`` of the shard of ``ground_truth`` to the folder ``out``; return how many images.

    ``settings`` are choices that all shards must share, ``closing`` are the last notes of the result.
    """
    dataset, shard = ground_truth.dataset, ground_truth.shard
    assert shard is not None
    part = [sample.id for sample in ground_truth.judged(int(settings["chunk"]))]
    calibration = judged.calibration
    chosen_on = None if calibration is None or calibration.chosen_on is None else calibration.chosen_on.state()
    document = {
        "schema_version": SCHEMA_VERSION,
        "chosen_on": encode(chosen_on),
        "state": encode(judged.protocol.state()),
        "seconds": seconds,
        "run": None if run is None else str(run.folder),
    }
    prepare_output_folder(out, overwrite=True)
    write_text(out / JUDGED, json_text(document) + "\n")
    settings |= {
        "about": judged.about,
        "classes": [[one.name, one.id] for one in dataset.classes],
        "multi_label": dataset.multi_label,
        "detector": judged.detector,
        "evaluation": judged.options,
        "calibration": None if calibration is None else [calibration.on, calibration.split, calibration.n],
        "notes": judged.notes,
        "closing": [*closing],
    }
    write_record(out, "evaluate", shard, whole_of(sample.id for sample in ground_truth.samples), part, settings)
    return len(part)


def merge_evaluations(records: Sequence[ShardRecord], out: Path | None = None) -> EvaluationResult:
    """Return the result of all shards, as one process gives it; only ``created`` and ``seconds`` are their own.

    It is stored in the run that was judged where that is still there, unless it is of a part of the split.

    Raises:
        DataError: what a shard counted is missing or broken, or no metric can be computed.

    """
    said, documents = records[0].settings, [_read(record.folder / JUDGED) for record in records]
    about = said["about"]
    dataset = _Classes(about["dataset"], [ClassName(*pair) for pair in said["classes"]], said["multi_label"])
    calibration = None
    if said["calibration"] is not None:
        chosen_on: Accuracy | None = None
        if documents[0]["chosen_on"] is not None:
            chosen_on = WsolevalBoxAccuracy() if about["protocol"] == "wsoleval" else BoxAccuracy()
            chosen_on.extend(decode(documents[0]["chosen_on"]))
        on, split, count = said["calibration"]
        calibration = Calibration(on, split, count, chosen_on=chosen_on)
    protocol = new_protocol(dataset, about["protocol"], calibration, detector=said["detector"])
    for record, document in zip(records, documents, strict=True):
        try:
            protocol.extend(decode(document["state"]))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise _broken(record.folder / JUDGED, f"{type(error).__name__} {error}") from error
    result = Judged(protocol, said["detector"], calibration, about, said["evaluation"], said["notes"]).result()
    result.seconds = round(sum(document["seconds"] for document in documents), 3)
    result.notes += said["closing"]
    folder = documents[0]["run"]
    run = Run.open(Path(folder)) if folder is not None and (Path(folder) / "run.json").is_file() else None
    return keep(result, run, out, whole=said["options"]["limit"] == "None")


def _read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = read_json(file)
    check_schema(document, str(file))
    missing = {"chosen_on", "state", "seconds", "run"} - document.keys()
    if missing:
        raise _broken(file, f"it has no {sorted(missing)[0]!r}")
    return document


def _broken(file: Path, why: str) -> DataError:
    return DataError(f"{file} does not hold what a shard counted: {why}. Evaluate that shard again.")
