"""``--shard``: a part of the work of ``localize``, ``boxes`` or ``evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gwapctl.cli.options import OUTPUT, option
from gwapctl.errors import UsageError

if TYPE_CHECKING:
    from gwapctl.predict.shards import Shard as Part

Shard = Annotated[
    str | None,
    option(
        "--shard",
        "Do part I of N alone, such as 0/4: processes and machines share the work. gwapctl merge joins the parts.",
        OUTPUT,
        metavar="I/N",
    ),
]


def parse_shard(text: str | None) -> Part | None:
    """Read ``--shard``: ``"0/4"``."""
    from gwapctl.predict.shards import Shard

    return None if text is None else Shard.parse(text)


def of_boxes(shard: str | None, out: Path | None, of_all: Mapping[str, Any]) -> Part | None:
    """Read ``--shard``, which needs a folder, and cannot go with ``of_all``, what looks at all images."""
    if shard is None:
        return None
    for words, given in of_all.items():
        if given is not None:
            raise UsageError(f"{words} is for all images, not for a shard. Use it on what gwapctl merge writes.")
    if out is None or out.suffix:
        raise UsageError("--shard writes a folder, which gwapctl merge makes the file of. Name one with --out s0.")
    return parse_shard(shard)
