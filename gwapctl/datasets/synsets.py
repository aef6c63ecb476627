"""Readable names for WordNet ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from gwapctl.datasets.base import ClassName
from gwapctl.files import read_text


def read_synonyms(file: Path) -> dict[str, str]:
    """Read lines ``wnid name, synonym, ...`` (space or tab) into wnid -> synonyms.

    Raises:
        DataError: the file cannot be read.

    """
    rows = (line.split(None, 1) for line in read_lines(file))
    return {row[0]: row[1].strip() for row in rows if len(row) == 2}


def name_classes(wnids: Iterable[str], synonyms: Mapping[str, str]) -> tuple[ClassName, ...]:
    """Name each wnid by its first synonym, or itself; a name used twice gets its wnid behind it."""
    names = {wnid: synonyms.get(wnid, wnid).split(",")[0].strip() for wnid in wnids}
    count = Counter(names.values())
    return tuple(ClassName(name if count[name] == 1 else f"{name} ({wnid})", wnid) for wnid, name in names.items())


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file that are not blank.

    Raises:
        DataError: the file cannot be read.

    """
    return [line for line in read_text(file).splitlines() if line.strip()]
