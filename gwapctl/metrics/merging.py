"""Numbers of many images, gathered in parts: what one process saw goes through a file, and follows what another saw.

Counts add up, rows follow each other; nothing is averaged before all is there. So parts in the order of the images give
the very numbers of one process. A file holds numbers and lists alone, no code.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from gwapctl.errors import DataError

State = dict[str, Any]
ARRAY, STACK = "array", "stack"  # one array; a list of arrays of one shape
_PLAIN = "biuf"  # kinds of numbers that an array in a file may hold


class Mergeable:
    """What gathers numbers, and says which of its attributes it gathers them in.

    Attributes:
        SUMS: counts, arrays of counts and counters, which add up.
        ROWS: lists with one entry per image or unit, which follow each other.
        PARTS: others of this kind, or a list or dict of them.

    """

    SUMS: ClassVar[tuple[str, ...]] = ()
    ROWS: ClassVar[tuple[str, ...]] = ()
    PARTS: ClassVar[tuple[str, ...]] = ()

    def state(self) -> State:
        """Return all that was gathered, as ``encode`` takes it."""
        of_parts = {name: [part.state() for part in _each(getattr(self, name))] for name in self.PARTS}
        return {name: getattr(self, name) for name in (*self.SUMS, *self.ROWS)} | of_parts

    def extend(self, state: State) -> Self:
        """Add what another one gathered of the images that follow."""
        for name in self.SUMS:
            here, there = getattr(self, name), state[name]
            setattr(self, name, here + (Counter(there) if isinstance(here, Counter) else there))
        for name in self.ROWS:
            getattr(self, name).extend(state[name])
        for name in self.PARTS:
            for part, gathered in zip(_each(getattr(self, name)), state[name], strict=True):
                part.extend(gathered)
        return self


def _each(parts: Any) -> Iterable[Mergeable]:
    return [parts] if isinstance(parts, Mergeable) else parts.values() if isinstance(parts, Mapping) else parts


def encode(value: Any) -> Any:
    """Return ``value``, made of numbers, texts, arrays, lists and dicts, as JSON can hold it: floats to the last bit.

    >>> decode(encode({"a": [np.arange(3), np.arange(3)], "b": (0.1, True)}))
    {'a': [array([0, 1, 2]), array([0, 1, 2])], 'b': [0.1, True]}
    """
    if isinstance(value, np.ndarray):
        return {ARRAY: _packed(value)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        arrays = all(isinstance(one, np.ndarray) for one in value)
        if arrays and len({(one.dtype, one.shape) for one in value}) == 1:
            return {STACK: _packed(np.stack(value))}
        return [encode(item) for item in value]
    return value


def decode(value: Any) -> Any:
    """Return what ``encode`` was given; a tuple comes back as a list.

    Raises:
        DataError: it holds no such array.

    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {ARRAY}:
        return _unpacked(value[ARRAY])
    if value.keys() == {STACK}:
        return list(_unpacked(value[STACK]))
    return {key: decode(item) for key, item in value.items()}


def _packed(array: np.ndarray) -> list[Any]:
    array = np.ascontiguousarray(array)
    return [array.dtype.str, list(array.shape), base64.b64encode(zlib.compress(array.tobytes(), 6)).decode()]


def _unpacked(packed: Any) -> np.ndarray:
    try:
        kind, shape, text = packed
        dtype = np.dtype(kind)
        if dtype.kind not in _PLAIN:
            raise ValueError(f"an array of {kind}")
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), count + 1)
        return np.frombuffer(data, dtype).reshape(shape).copy()
    except (TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise DataError(f"the counts of a shard are broken: {error}. Evaluate that shard again.") from error
