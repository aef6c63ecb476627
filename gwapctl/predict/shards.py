"""One work shared by several processes that know nothing of each other: which images are whose, and what each leaves.

Shard I of N has the I-th of N ranges of the images, in their order, so that its results follow those of shard I - 1.
A range ends where a batch of the whole work ends: what a network says of an image depends in its last bits on the
images beside it. ``shard.json`` in the folder of a finished shard says which images it had and by which settings. No
torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from gwapctl.errors import DataError, UsageError, option
from gwapctl.files import read_json, write_json
from gwapctl.predict.prediction import SCHEMA_VERSION, check_schema, first_problem

if TYPE_CHECKING:
    from torch import nn

SHARD = "shard.json"
SHOWN = 60  # characters of a setting in a message

T = TypeVar("T")
Whole = tuple[int, str]  # the number of all images, and the hash of their ids in order


class Part(list[T]):
    """Those of ``items`` that are one ``shard``'s, or those of these that are still to be worked on.

    ``whole`` is the number of all items and the hash of their names, for somebody who does not have all of them.
    """

    def __init__(self, own: Iterable[T], shard: Shard, items: Sequence[Any], whole: Whole | None = None) -> None:
        super().__init__(own)
        self.shard = shard
        self.items = items
        self.whole = whole


@dataclass(frozen=True)
class Shard:
    """Shard ``index`` of ``count``, counted from 0.

    >>> [Shard(index, 3).of(list("abcdefgh"), 2) for index in range(3)]
    [['a', 'b'], ['c', 'd'], ['e', 'f', 'g', 'h']]
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``I/N``; a ``UsageError`` says that it is none."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if found is None or int(found[1]) >= int(found[2]):
            write = f"Write {option('shard', '0/4')} to {option('shard', '3/4')} for four shards"
            raise UsageError(f"{option('shard', text)} is not I/N with I from 0 to N - 1. {write}.")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        """Write it as it is read."""
        return f"{self.index}/{self.count}"

    def span(self, total: int, chunk: int = 1) -> slice:
        """Return which of ``total`` items are this shard's; ``chunk`` of them are worked on together."""
        chunks = -(-total // chunk)
        ends = [min(chunk * (chunks * index // self.count), total) for index in (self.index, self.index + 1)]
        return slice(*ends)

    def of(self, items: Sequence[T], chunk: int = 1) -> Part[T]:
        """Return those of ``items`` that are this shard's; ``chunk`` of them are worked on together."""
        return Part(items[self.span(len(items), chunk)], self, items)


@dataclass(frozen=True)
class ShardRecord:
    """What ``shard.json`` says of a shard in ``folder``: its images by id in order, and what all shards must agree on.

    ``whole`` are all images; ``settings`` are all choices, the model's weights
    (``weights_digest``) among them.
    """

    verb: str
    shard: Shard
    whole: Whole
    settings: dict[str, Any]
    images: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION
    folder: Path = Path()


_RECORD = TypeAdapter(ShardRecord)


def write_record(folder: Path, verb: str, shard: Shard, whole: Whole, part: Iterable[str], settings: Any) -> None:
    """Write ``shard.json``, which says that the shard is finished; ``part`` are its images by id."""
    record = ShardRecord(verb, shard, whole, settings, tuple(part))
    write_json(folder / SHARD, _RECORD.dump_python(record, mode="json", exclude={"folder"}))


def read_record(folder: Path) -> ShardRecord:
    """Return what a finished shard says of itself.

    Raises:
        DataError: there is no such file, or it is broken.

    """
    file = folder / SHARD
    if not file.is_file():
        finish = f"Finish it with the command that began it and {option('resume', True)}, or make one with"
        raise DataError(f"{folder} has no {SHARD}: it is no shard, or not finished. {finish} {option('shard', '0/2')}.")
    document = read_json(file)
    check_schema(document, str(file))
    try:
        return _RECORD.validate_python({**document, "folder": folder})
    except ValidationError as error:
        raise DataError(f"{file}: {first_problem(error)}. Make the shard again.") from error


def shards_in(folder: Path) -> list[Path]:
    """Return the folders of the finished shards in ``folder``, or itself where it is one, or where there are none."""
    below = [] if (folder / SHARD).is_file() else sorted(file.parent for file in folder.glob(f"[!.]*/{SHARD}"))
    return below or [folder]


def matching(folders: Sequence[Path]) -> list[ShardRecord]:
    """Return the shards in ``folders`` in their order, once it is certain that they are one work, whole and once.

    Raises:
        DataError: they are not; the message says which and why.

    """
    records = [read_record(folder) for folder in folders]
    first = records[0]
    for other in records[1:]:
        _require_same(first, other)
    by_index: dict[int, ShardRecord] = {}
    for record in records:
        twice = by_index.setdefault(record.shard.index, record)
        if twice is not record:
            both = f"{twice.folder} and {record.folder}"
            raise DataError(f"{both} overlap: both are shard {record.shard}. Give each once.")
    missing = [str(Shard(index, first.shard.count)) for index in range(first.shard.count) if index not in by_index]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"of the shards, {', '.join(missing[:3])}{more} is missing: there is a gap. Give all of them.")
    ordered = [record for _, record in sorted(by_index.items())]
    ids = [image for record in ordered for image in record.images]
    if whole_of(ids) != first.whole:
        raise DataError(
            f"the shards have {len(ids):,} images that are not the {first.whole[0]:,} of the inputs: some are twice or "
            f"missing. Make all shards with one version and the same {option('workers')}."
        )
    return ordered


def _require_same(first: ShardRecord, other: ShardRecord) -> None:
    """Raise ``DataError`` where two shards are not of one work."""
    pair = f"{first.folder} and {other.folder}"
    if first.verb != other.verb:
        raise DataError(f"{pair} are of different verbs: {first.verb} and {other.verb}. Give shards of one.")
    if first.shard.count != other.shard.count:
        raise DataError(f"{pair} are shards {first.shard} and {other.shard}. Give shards of one division.")
    if first.whole != other.whole:
        raise DataError(
            f"{pair} are of different inputs: {first.whole[0]:,} and {other.whole[0]:,} images, and the names are not "
            "the same. Make all shards of the same inputs."
        )
    for name in sorted(first.settings.keys() | other.settings.keys()):
        values = first.settings.get(name), other.settings.get(name)
        if values[0] != values[1]:
            here, there = (_difference(*pair) for pair in (values, values[::-1]))
            raise DataError(f"{pair} differ in {name}: {here} and {there}. Make one of them again.")


def _difference(value: Any, other: Any) -> str:
    """Write ``value``, or what of it is not in ``other``."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        value = {key: item for key, item in value.items() if item != other.get(key)}
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def whole_of(ids: Iterable[str]) -> Whole:
    """Return the number of names, and their hash in their order."""
    digest, count = hashlib.sha256(), 0
    for name in ids:
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
        count += 1
    return count, digest.hexdigest()


def weights_digest(network: nn.Module) -> str:
    """Return the hash of all that a network has learned."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().double().numpy().tobytes())  # numpy has no bfloat16; a double holds all
    return digest.hexdigest()
