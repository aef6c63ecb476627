"""``gwapctl merge``: shards of ``localize``, ``boxes`` or ``evaluate`` become what one process writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gwapctl.cli import console, options
from gwapctl.cli.options import argument
from gwapctl.errors import UsageError, counted

if TYPE_CHECKING:
    from gwapctl.predict.shards import ShardRecord

SOME_FAILED = 3

Shards = Annotated[
    list[Path],
    argument("SHARD...", "The folders of all shards of one work, in any order, or the one that they are in."),
]


def merge(shards: Shards, out: options.Out = None, json: options.Json = False) -> None:
    """Join the shards of localize, boxes or evaluate: the bytes that one process would have written.

    Shards of different models, settings or inputs, one that is there twice, and one that is missing are refused.

    Examples:
      gwapctl merge s0 s1 s2 s3 --out all
      gwapctl merge s0 s1 --out boxes.json

    """
    from gwapctl.predict.shards import matching, shards_in

    records = matching([folder for given in shards for folder in shards_in(given)])
    verb = records[0].verb
    if json and verb != "evaluate":
        raise UsageError(f"--json prints an evaluation, and these are shards of {verb}. Leave it out.")
    if verb == "evaluate":
        _merge_evaluations(records, out, json)
    elif out is None:
        raise UsageError("merge writes what one process would have written. Say where with --out.")
    elif verb == "boxes":
        _merge_boxes(records, out)
    else:
        _merge_localized(records, out)


def _merge_localized(records: Sequence[ShardRecord], out: Path) -> None:
    from gwapctl.predict.merging import merge_localized

    with console.progress("merge") as progress:
        failed = merge_localized(records, out, progress)
    done = sum(len(record.images) for record in records) - failed
    console.note(f"{counted(done, 'image')} of {counted(len(records), 'shard')} in {out}")
    if failed:
        console.warn(f"{failed} of {counted(done + failed, 'image')} failed.")
        raise typer.Exit(SOME_FAILED)


def _merge_boxes(records: Sequence[ShardRecord], out: Path) -> None:
    from gwapctl.cli.boxes import Tally, finish
    from gwapctl.formats.destination import check_destination
    from gwapctl.formats.shards import exporter_of, merged_items

    name, exporter, listed = exporter_of(records)
    path = check_destination(name, out, overwrite=False)
    if path is None:
        raise UsageError("merge writes a file. Name it with --out.")
    tally, total = Tally(), sum(len(record.images) for record in records)
    with console.progress("merge") as progress:
        exporter.write(path, tally.watch(merged_items(records), total, progress), listed)
    finish(exporter, tally, path, listed)


def _merge_evaluations(records: Sequence[ShardRecord], out: Path | None, json: bool) -> None:
    from gwapctl.cli.evaluate import print_document
    from gwapctl.evaluate.merging import merge_evaluations

    options.require_suffix(out, ".json")
    document = merge_evaluations(records, out).to_json()
    console.print_json(document) if json else print_document(document)
