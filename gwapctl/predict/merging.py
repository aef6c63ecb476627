"""Shards of ``localize`` become the folder that one process would have written, to the byte. No torch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gwapctl.errors import DataError, UsageError, option
from gwapctl.predict.folder import MASKS, OVERLAYS, map_images
from gwapctl.predict.map_folder import MAPS, MapFolder, map_path, write_maps_info
from gwapctl.predict.predictions import PREDICTIONS, read_predictions
from gwapctl.predict.shards import ShardRecord
from gwapctl.progress import Progress, ProgressCallback


def merge_localized(records: Sequence[ShardRecord], out: Path, progress: ProgressCallback | None = None) -> int:
    """Write the results of all shards to the new folder ``out``, which appears whole; return how many images failed.

    Maps, overlays and masks are linked where the file system can, else copied: the shards stay as they are.

    Raises:
        UsageError: there is something at ``out``.
        DataError: a shard lacks a line or file of one of its images, or has others.

    """
    total, failed, done = sum(len(record.images) for record in records), 0, 0
    with new_folder(out) as folder:
        with (folder / PREDICTIONS).open("wb") as merged:
            for record in records:
                masked: set[bool] = set()  # all images where something was found have a mask, or none has
                for line, document in _lines_in_order(record):
                    merged.write(line)
                    failed += document["error"] is not None
                    _take_files(record, document, folder)
                    if "mask" in record.settings["save"]:
                        masked |= _take_mask(record, document, folder)
                    if len(masked) > 1:
                        raise _not_whole(record, f"{MASKS} has files of some images, and of others none")
                    done += 1
                    if progress:
                        progress(Progress(done, total, "images"))
            os.fsync(_flushed(merged))
        if "map" in records[0].settings["save"]:
            info = MapFolder(records[0].folder / MAPS).info
            images = map_images(read_predictions(folder), shared=info.class_agnostic)
            write_maps_info(folder / MAPS, info, images)
    return failed


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write into, which becomes ``out`` at the end; one that a killed process left is cleared.

    Raises:
        UsageError: there is something at ``out``.

    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is there already. Give merge a new folder with {option('out')}.")
    folder = out.absolute().parent / f".{out.absolute().name}.merging"
    if folder.is_dir():
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True)
        yield folder
        if out.is_dir():
            out.rmdir()
        folder.rename(out.absolute())
    except OSError as error:
        raise DataError(
            f"cannot write {out}: {error.strerror or error}. Free space or choose another place."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lines_in_order(record: ShardRecord) -> Iterator[tuple[bytes, dict[str, object]]]:
    """Yield the line of each image of a shard, and what it says, in the order of the images.

    A shard that was resumed has images that failed at first behind the others.
    """
    file = record.folder / PREDICTIONS
    if not file.is_file():
        raise _not_whole(record, f"{PREDICTIONS} is missing")
    waiting: dict[str, tuple[bytes, dict[str, object]]] = {}
    due = iter(record.images)
    name, own = next(due, None), set(record.images)
    with file.open("rb") as lines:
        for line in lines:
            try:
                document = json.loads(line)
                image_id = document["id"]
                document["error"], document["predictions"]
            except (ValueError, TypeError, KeyError) as error:
                raise _not_whole(record, f"a line of {PREDICTIONS} is broken") from error
            if image_id in waiting or image_id not in own:
                raise _not_whole(record, f"{PREDICTIONS} has {image_id!r} twice, or it is another shard's")
            own.discard(image_id)
            waiting[image_id] = line, document
            while name in waiting:
                yield waiting.pop(str(name))
                name = next(due, None)
    if name is not None:
        raise _not_whole(record, f"{PREDICTIONS} lacks {name!r}")


def _take_files(record: ShardRecord, document: dict[str, object], folder: Path) -> None:
    """Link or copy the files of one image."""
    if document["error"] is not None:
        return
    image_id, save = str(document["id"]), record.settings["save"]
    items = document["predictions"]
    has_map = isinstance(items, list) and any(item.get("map") for item in items)
    names = [Path(MAPS) / map_path(Path(), image_id)] * has_map
    names += [Path(OVERLAYS) / f"{image_id}.jpg"] * ("overlay" in save)
    for name in names:
        if not _linked(record.folder / name, folder / name):
            raise _not_whole(record, f"{name} is missing")


def _take_mask(record: ShardRecord, document: dict[str, object], folder: Path) -> set[bool]:
    """Link or copy the mask of one image; return whether it is there, nothing where there is none to expect."""
    name = Path(MASKS) / f"{document['id']}.png"
    there = _linked(record.folder / name, folder / name)
    return {there} if document["predictions"] and document["error"] is None else set()


def _linked(file: Path, name: Path) -> bool:
    """Make ``file`` appear as ``name``, too; return whether it is there."""
    if not file.is_file():
        return False
    name.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, name)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, name)
    return True


def _flushed(file: BinaryIO) -> int:
    file.flush()
    return file.fileno()


def _not_whole(record: ShardRecord, why: str) -> DataError:
    advice = f"Repeat its command with {option('resume', True)}, or make the shard again"
    return DataError(f"shard {record.shard} in {record.folder} is not whole: {why}. {advice}.")
