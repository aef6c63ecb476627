"""Which class of a data set somebody else means: a model, a file of boxes, a list of classes, a folder of maps.

Ids that are names (a wnid, a text) decide first where both sides have them, for ILSVRC has two classes called crane.
Then the class's name decides. A bare number decides only where a side has no names, for everybody numbers as they
like: Label Studio from 0, CVAT from 1. Numbers compare as what they mean: ``1``, ``"1"`` and ``1.0`` are one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TypeVar

from gwapctl.datasets.base import ClassName, Problems
from gwapctl.datasets.folders import read_lines
from gwapctl.images.files import nfc

Key = TypeVar("Key")

FOREIGN = -2  # a class that the data set does not have: always wrong
MOST_DIGITS = 18  # of a class's number; Python reads no more than 4,300
_NUMBER = re.compile(r"\s*([+-]?[0-9]+)(?:\.0*)?\s*")
_WNID = re.compile(r"n[0-9]{8}")  # everybody's ids of the classes of ImageNet


class ClassMatcher:
    """Finds the class of ``classes`` that others call by an id or a name, written as they like.

    Example:
        >>> matcher = ClassMatcher([ClassName("crane", "n02012849"), ClassName("tabby cat", "n02123045")])
        >>> matcher.index("Tabby_Cat"), matcher.index("bird", "n02012849"), matcher.index("dog") == FOREIGN
        (1, 0, True)

    """

    def __init__(self, classes: Sequence[ClassName]) -> None:
        numbered = list(enumerate(classes))
        self._ids = [item.id for item in classes]
        self._by_id = _unambiguous((nfc(item.id), index) for index, item in numbered if is_name(item.id))
        self._by_name = _unambiguous((nfc(item.name), index) for index, item in numbered)
        self._by_plain = _unambiguous((_plain(item.name), index) for index, item in numbered)
        self._by_both = _unambiguous((nfc(f"{item.name} ({item.id})"), index) for index, item in numbered)
        self._by_number = _unambiguous(_numbers(numbered))
        self._nameless = _unambiguous(_numbers((i, item) for i, item in numbered if not is_name(item.name)))

    def index(self, name: str, class_id: str = "") -> int:
        """Return the index of the class called ``name``, or by an id, or ``FOREIGN``."""
        if is_name(class_id) and nfc(class_id) in self._by_id:
            return self._by_id[nfc(class_id)]
        found = self._named(name)
        if found == FOREIGN and class_id:  # written so where two classes share a name
            found = self._named(f"{name} ({class_id})")
        if found == FOREIGN and is_name(class_id):
            found = self._named(class_id)
        if found != FOREIGN and _WNID.fullmatch(class_id) and _WNID.fullmatch(self._ids[found]):
            return FOREIGN  # the other crane
        return self._numbered(name, class_id) if found == FOREIGN else found

    def _named(self, name: str) -> int:
        text = nfc(name)
        if not text.strip():
            return FOREIGN
        tables = (self._by_name, self._by_both, self._by_id)
        found = next((table[text] for table in tables if text in table), None)
        return self._by_plain.get(_plain(name), FOREIGN) if found is None else found

    def _numbered(self, name: str, class_id: str) -> int:
        value = _number(class_id)
        if value is None:
            value = _number(name)
        table = self._nameless if is_name(name) else self._by_number
        return FOREIGN if value is None else table.get(str(value), FOREIGN)


def is_name(text: str) -> bool:
    """Tell whether an id or a class's name says what it is: it is neither empty nor a bare number."""
    return bool(text.strip()) and _number(text) is None


def _number(text: str) -> int | None:
    match = _NUMBER.fullmatch(text)
    return None if match is None or len(match[1]) > MOST_DIGITS else int(match[1])


def _numbers(classes: Iterable[tuple[int, ClassName]]) -> Iterable[tuple[str, int]]:
    """Yield the number of each class that has one, and its index: its id, or else a name that is a number."""
    for index, item in classes:
        value = _number(item.name) if _number(item.id) is None else _number(item.id)
        if value is not None:
            yield str(value), index


def _unambiguous(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Build a table without the keys that stand for two classes (ImageNet has two cranes)."""
    table: dict[str, int] = {}
    twice: set[str] = set()
    for key, value in pairs:
        if table.setdefault(key, value) != value:
            twice.add(key)
    return {key: value for key, value in table.items() if key not in twice}


def _plain(name: str) -> str:
    """Return a name as people compare it: upper and lower case, underscores and the ways to write a number are one."""
    value = _number(name)
    return str(value) if value is not None else " ".join(nfc(name).casefold().replace("_", " ").split())


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
    return tuple(ClassName(name, wnid) for wnid, name in distinct(names).items())


def used_names(names: Mapping[Key, str], used: Set[Key], problems: Problems, text: str) -> dict[Key, str]:
    """Return the names by number that some object uses, each distinct; warn of the others by ``text`` and their count.

    Tools list more classes than there are.
    """
    unused = [name for number, name in names.items() if number not in used]
    if unused:
        listed = ", ".join(unused[:5]) + (" ..." if len(unused) > 5 else "")
        problems.warn(f"{text.format(f'{len(unused)} of {len(names)}')} and are left out: {listed}.")
    return distinct({number: name for number, name in names.items() if number in used})


def distinct(names: Mapping[Key, str]) -> dict[Key, str]:
    """Return the names by key; one that two keys share gets its key behind it, as in ``crane (n02012849)``."""
    count = Counter(names.values())
    return {key: name if count[name] == 1 else f"{name} ({key})" for key, name in names.items()}
