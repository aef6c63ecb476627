"""Which images show the same picture, whatever their size, compression or name: a hash of how brightness changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

SIDE = 8  # of the thumbnail whose neighbours are compared: 64 bits across and 64 down
CLOSE = 5  # bits of 128 in which two of the same picture may differ
FLAT = 6.0  # grey levels: a thumbnail that varies less says nothing of its picture


def likeness(image: npt.NDArray[np.uint8]) -> int | None:
    """Return the difference hash (128 bits) of an RGB image ``(H, W, 3)``; None where it is nearly of one colour.

    A bit says whether a cell of the thumbnail is brighter than the one before it, in its row or in its column
    (N. Krawetz, "Kind of like that", hackerfactor.com, 2013, for rows).
    """
    grey = cv2.cvtColor(cv2.resize(image, (SIDE + 1, SIDE + 1), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    if grey.std() < FLAT:
        return None
    values: npt.NDArray[Any] = grey.astype(np.int16)
    across, down = values[:SIDE, 1:] > values[:SIDE, :-1], values[1:, :SIDE] > values[:-1, :SIDE]
    return int.from_bytes(np.packbits(np.concatenate([across.ravel(), down.ravel()])).tobytes())


def alike(hashes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the indices of every two of ``hashes`` that differ in at most ``CLOSE`` bits, the smaller first.

    Two such have one of ``CLOSE + 1`` bands of bits in common, so that only those need to be compared.
    """
    edges = np.linspace(0, 2 * SIDE * SIDE, CLOSE + 2).astype(int).tolist()
    seen: set[tuple[int, int]] = set()
    for low, high in pairwise(edges):
        bands: defaultdict[int, list[int]] = defaultdict(list)
        for index, value in enumerate(hashes):
            bands[(value >> low) & ((1 << (high - low)) - 1)].append(index)
        for members in bands.values():
            for pair in combinations(members, 2):
                if pair not in seen and (hashes[pair[0]] ^ hashes[pair[1]]).bit_count() <= CLOSE:
                    seen.add(pair)
                    yield pair
