"""Masks as text and numbers: COCO's RLE, Label Studio's brush, CVAT's runs, all exact, and outlines.

A mask is a boolean array (H, W) of the whole upright image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.regions.components import BoolMask

Runs = npt.NDArray[np.int64]
Polygon = list[float]

ASTRAY = 1 / 500
BRUSH_SIZES = (3, 4, 8, 16)  # bits in which a brush writes the length of a run
BRUSH_CHANNELS = 4  # red, green, blue and alpha of a pixel are the same


def enlarged(mask: BoolMask, width: int, height: int) -> BoolMask:
    """Return a ``mask`` (h, w) of any resolution at that of its image, the edge where half of a pixel is inside."""
    if mask.shape == (height, width):
        return mask
    way = cv2.INTER_AREA if mask.size > width * height else cv2.INTER_LINEAR
    smooth = cv2.resize(mask.astype(np.float32), (width, height), interpolation=way)
    return np.asarray(smooth >= 0.5)


# ------------------------------------------------------------------------------------------------------------ COCO


def encode(mask: BoolMask) -> str:
    """Return a mask as the ``counts`` of COCO's compressed RLE (pycocotools, ``rleToString``).

    Runs go down the columns and begin with background; from the fourth on each is the difference to the last but one.

    >>> encode(np.array([[0, 1, 1], [0, 1, 0]], bool))
    '231'
    """
    runs = _runs(mask.ravel(order="F")).tolist()
    deltas = [run - runs[index - 2] if index > 2 else run for index, run in enumerate(runs)]
    return "".join(_letters(delta) for delta in deltas)


def _letters(value: int) -> str:
    """Return a number in groups of five bits, the lowest first, each a letter; the sixth bit says that more follow."""
    text = ""
    while True:
        group, value = value & 31, value >> 5
        more = value != (-1 if group & 16 else 0)
        text += chr(48 + (group | 32 if more else group))
        if not more:
            return text


def decode(counts: str, width: int, height: int) -> BoolMask:
    """Return the mask (H, W) that ``encode`` wrote.

    >>> decode("231", 3, 2).astype(int).tolist()
    [[0, 1, 1], [0, 1, 0]]
    """
    runs: list[int] = []
    value = shift = 0
    for letter in counts:
        group = ord(letter) - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        value -= (group & 16) << (shift - 4)  # the sign
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return _from_runs(np.array(runs, np.int64)).reshape(height, width, order="F")


def _runs(pixels: npt.NDArray[np.bool_]) -> Runs:
    """Return the lengths of equal stretches, of background first (0 where the first pixel is none)."""
    changes = np.flatnonzero(np.diff(pixels)) + 1
    starts = np.concatenate([[0], changes, [len(pixels)]])
    lengths = np.diff(starts)
    return np.concatenate([[0], lengths]) if pixels[0] else lengths


def _from_runs(runs: Runs) -> npt.NDArray[np.bool_]:
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def polygons(mask: BoolMask) -> list[Polygon]:
    """Return the outlines of a mask as COCO has them: ``x, y, x, y, ...`` along the pixels' outer borders.

    Holes are filled, and every part has its own outline, which strays by at most half a pixel, or ``ASTRAY`` of the
    longer side where that is more: maps have fewer pixels than large images.
    """
    # twice as large, so that the contour through pixel centres runs a quarter of a pixel inside the border
    doubled = np.repeat(np.repeat(mask.view(np.uint8), 2, axis=0), 2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    astray = 2 * max(0.5, ASTRAY * max(mask.shape))
    smooth = (cv2.approxPolyDP(contour, astray, True) for contour in contours)
    return [((points.reshape(-1) + 0.5) / 2).tolist() for points in smooth if len(points) > 2]


# ------------------------------------------------------------------------------------------- Label Studio and CVAT


def brush(mask: BoolMask) -> list[int]:
    """Return a mask as Label Studio's brush: the bytes of thi.ng's rle-pack, four channels of 0 or 255 a pixel.

    32 bits say how many values there are, 5 the bits of a value less one, 4 each of the ``BRUSH_SIZES`` less one. A run
    is a 1, two bits that choose a size, its length less one in so many bits, and the value.
    """
    runs = _runs(mask.ravel()) * BRUSH_CHANNELS
    bits = [f"{mask.size * BRUSH_CHANNELS:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in BRUSH_SIZES)]
    for index, run in enumerate(runs.tolist()):
        bits += [f"{part}{255 * (index % 2):08b}" for part in _pieces(run)]
    text = "".join(bits)
    return [int(text[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(text), 8)]


def _pieces(run: int) -> Iterator[str]:
    """Yield the bits before the value for each of the runs that a run is written as."""
    while run > 0:
        choice = next((index for index, size in enumerate(BRUSH_SIZES) if run <= 2**size), len(BRUSH_SIZES) - 1)
        part = min(run, 2 ** BRUSH_SIZES[choice])
        yield f"1{choice:02b}{part - 1:0{BRUSH_SIZES[choice]}b}"
        run -= part


def from_brush(packed: Sequence[int], width: int, height: int) -> BoolMask:
    """Return the mask (H, W) of Label Studio's brush: where alpha is not 0."""
    text = "".join(f"{byte:08b}" for byte in packed)
    place = 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int(text[place - size : place], 2)

    count, word = read(32), read(5) + 1
    if count != width * height * BRUSH_CHANNELS:
        raise ValueError(f"a brush of {count} values is no mask of {width} x {height}")
    sizes = [read(4) + 1 for _ in BRUSH_SIZES]
    values: list[npt.NDArray[np.uint8]] = []
    done = 0
    while done < count:
        same = read(1)
        length = read(sizes[read(2)]) + 1
        values.append(np.full(length, read(word)) if same else np.array([read(word) for _ in range(length)]))
        done += length
    return np.concatenate(values).reshape(height, width, BRUSH_CHANNELS)[..., -1] > 0


def cropped_runs(mask: BoolMask) -> tuple[Runs, tuple[int, int, int, int]]:
    """Return CVAT's runs along the rows of the box around a mask, background first, and left, top, width, height."""
    left, top, width, height = (int(side) for side in cv2.boundingRect(mask.view(np.uint8)))
    return _runs(mask[top : top + height, left : left + width].ravel()), (left, top, width, height)


def from_cropped_runs(runs: Sequence[int], box: Sequence[int], width: int, height: int) -> BoolMask:
    """Return the mask (H, W) of CVAT's runs in the ``box`` left, top, width, height."""
    left, top, across, down = box
    mask = np.zeros((height, width), np.bool_)
    mask[top : top + down, left : left + across] = _from_runs(np.asarray(runs, np.int64)).reshape(down, across)
    return mask
