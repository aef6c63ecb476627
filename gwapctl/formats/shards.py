"""Shards of ``boxes``: each keeps its images as they go to the format, which is written once, when all are there.

Class numbers, the ids of COCO and which images share a name depend on all images, so no shard can know them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gwapctl.errors import DataError
from gwapctl.files import atomic_path, json_text, prepare_output_folder
from gwapctl.formats import EXPORTERS
from gwapctl.formats.base import Exporter
from gwapctl.predict.prediction import Prediction
from gwapctl.predict.predictions import PREDICTIONS, read_predictions
from gwapctl.predict.shards import Part, ShardRecord, whole_of, write_record


def write_shard(
    out: Path, items: Iterable[Prediction], part: Part[str], settings: dict[str, Any], *, overwrite: bool
) -> None:
    """Write the images of one shard to the folder ``out``; ``settings`` are what all shards must agree on.

    Raises:
        UsageError: ``out`` is not empty, and nobody said to overwrite.

    """
    prepare_output_folder(out, overwrite=overwrite)
    with atomic_path(out / PREDICTIONS) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json_text(item.to_json()) + "\n" for item in items)
    write_record(out, "boxes", part.shard, part.whole or whole_of(part.items), part, settings)


def exporter_of(records: Sequence[ShardRecord]) -> tuple[str, Exporter, list[str] | None]:
    """Return the name of the format that the shards are for, what writes it, and the list of classes if there is one.

    Raises:
        DataError: there is no such format.

    """
    said = records[0].settings
    if said["format"] not in EXPORTERS:
        raise DataError(f"{records[0].folder} is for the format {said['format']!r}, which is not known here.")
    return said["format"], EXPORTERS[said["format"]].build(**said["exporter"]), said["classes"]


def merged_items(records: Sequence[ShardRecord]) -> Iterator[Prediction]:
    """Yield the images of all shards in order.

    Raises:
        DataError: a shard has more or fewer than it says.

    """
    for record in records:
        count = 0
        for item in read_predictions(record.folder) if record.images else ():
            count += 1
            yield item
        if count != len(record.images):
            raise DataError(
                f"shard {record.shard} in {record.folder} is not whole: {count:,} images are there of "
                f"{len(record.images):,}. Make it again."
            )
