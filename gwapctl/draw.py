"""Pictures for people: the heatmap over the image, boxes with a halo, labels on chips. Legible on any photo.

Small images are enlarged and large ones shrunk, so that lines and letters always have the same size in the picture.
Predictions are solid, ground truth is dashed and green: never told apart by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, cycle
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from gwapctl.files import atomic_path
from gwapctl.geometry import Geometry
from gwapctl.regions import normalise, resize_map

ImageArray = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Corners = tuple[int, int, int, int]

SMALLEST, LARGEST = 480, 1024  # pixels on the long side of a picture
HEAT_OPACITY = 0.64  # where the map is hottest
BACKGROUND_DIMMING = 0.25  # where it is coldest
LETTER_HEIGHT = 0.028  # of the long side
LINE_WIDTH = 0.0055
COLOURS: tuple[Colour, ...] = ((0, 229, 255), (255, 94, 180), (255, 196, 0), (170, 140, 255), (255, 122, 69))
TRUTH: Colour = (61, 220, 80)
DARK: Colour = (16, 16, 20)


@dataclass(frozen=True)
class Mark:
    """A box to draw: corners in original pixels, the text on its chip (or none), and whether it is ground truth."""

    box: Sequence[float]
    text: str = ""
    ground_truth: bool = False


def frame(image: ImageArray) -> ImageArray:
    """Return the image ``(H, W, 3)`` at the size of a picture: 480 to 1024 pixels on the long side."""
    height, width = image.shape[:2]
    longest = max(width, height)
    picture = Geometry.scaled(width, height, min(max(longest, SMALLEST), LARGEST) / longest)
    size = (picture.input_width, picture.input_height)
    if size == (width, height):
        return image
    way = cv2.INTER_AREA if size[0] < width else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)


def draw_overlay(
    image: ImageArray,
    heatmap: npt.NDArray[np.floating] | None,
    marks: Sequence[Mark],
    *,
    size: tuple[int, int] | None = None,
) -> ImageArray:
    """Return the picture ``(H', W', 3)`` uint8 RGB of an image ``(H, W, 3)`` with its heatmap ``(h, w)`` and boxes.

    The heatmap covers the whole image at any resolution and is min-max normalised here; None leaves the image as it is.
    ``size`` (W, H) is the original size where ``image`` was shrunk before.
    """
    width, height = size or (image.shape[1], image.shape[0])
    picture = frame(image)
    if heatmap is not None:
        picture = _lay_heat(picture, heatmap)
    geometry = Geometry.warp(width, height, picture.shape[1], picture.shape[0])
    drawing = Image.fromarray(picture)
    _draw_marks(drawing, geometry, marks)
    return np.asarray(drawing)


def write_jpeg(path: Path, picture: ImageArray, quality: int = 92) -> None:
    """Write an RGB picture as JPEG, whole or not at all."""
    options = (cv2.IMWRITE_JPEG_QUALITY, quality)
    _write(path, ".jpg", np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8), options)


def write_png(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write a mask ``(H, W)`` uint8, an RGB or an RGBA picture ``(H, W, 3 or 4)`` as PNG, whole or not at all."""
    channels = [2, 1, 0, 3][: picture.shape[-1]]  # OpenCV's order
    _write(path, ".png", picture if picture.ndim == 2 else picture[:, :, channels], ())


def _write(path: Path, suffix: str, pixels: npt.NDArray[np.uint8], options: Sequence[int]) -> None:
    _, encoded = cv2.imencode(suffix, pixels, options)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


# ------------------------------------------------------------------------------------------------------------- heat


def _lay_heat(picture: ImageArray, heatmap: npt.NDArray[np.floating]) -> ImageArray:
    """Blend the heat over the picture: the hotter the more opaque; cold parts show the dimmed photo."""
    height, width = picture.shape[:2]
    heat = normalise(resize_map(np.asarray(heatmap, np.float32), (width, height)))
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    colours = cv2.cvtColor(colours, cv2.COLOR_BGR2RGB).astype(np.float32)
    opacity = (HEAT_OPACITY * heat**1.5)[..., None]  # a power above 1 keeps lukewarm parts clear
    dimmed = picture * (1 - BACKGROUND_DIMMING * (1 - heat))[..., None]
    return np.asarray(dimmed * (1 - opacity) + colours * opacity, np.uint8)


# ------------------------------------------------------------------------------------------------------------ marks


def _draw_marks(drawing: Image.Image, geometry: Geometry, marks: Sequence[Mark]) -> None:
    """Draw ground truth first, predictions over it, and all chips last, where they hide each other least."""
    draw = ImageDraw.Draw(drawing)
    long_side = max(drawing.size)
    line = max(2, round(LINE_WIDTH * long_side))
    real = [(mark, TRUTH) for mark in marks if mark.ground_truth]
    predicted = [mark for mark in marks if not mark.ground_truth]
    coloured = real + list(zip(predicted, cycle(COLOURS), strict=False))[::-1]  # the best prediction on top
    corners = {}
    for mark, colour in coloured:
        corners[id(mark)] = box = _visible_corners(geometry, mark.box, drawing.size, line)
        _draw_box(draw, box, colour, line, dashed=mark.ground_truth)
    font = _font(max(12, round(LETTER_HEIGHT * long_side)))
    taken: list[Corners] = []
    for mark, colour in reversed(coloured):  # the best prediction chooses first
        if mark.text:
            taken.append(_draw_chip(draw, corners[id(mark)], mark.text, colour, font, drawing.size, taken))


def _visible_corners(geometry: Geometry, box: Sequence[float], size: tuple[int, int], line: int) -> Corners:
    """Return the box in picture pixels, drawn inwards so that no edge is cut off at the border; inclusive corners."""
    x0, y0, x1, y1 = (round(value) for value in geometry.to_input([list(box)])[0])
    x0, y0 = min(max(x0, 0), size[0] - 1), min(max(y0, 0), size[1] - 1)
    x1, y1 = min(max(x1 - 1, x0 + 2 * line), size[0] - 1), min(max(y1 - 1, y0 + 2 * line), size[1] - 1)
    return x0, y0, x1, y1


def _draw_box(draw: ImageDraw.ImageDraw, box: Corners, colour: Colour, line: int, *, dashed: bool) -> None:
    """Draw a box with a dark halo on both sides of the line."""
    halo = max(1, line // 2)
    x0, y0, x1, y1 = box
    draw.rectangle((x0 - halo, y0 - halo, x1 + halo, y1 + halo), outline=DARK, width=line + 2 * halo)
    if not dashed:
        draw.rectangle(box, outline=colour, width=line)
        return
    dash, gap = 6 * line, 3 * line
    for start in range(x0, x1 + 1, dash + gap):
        end = min(start + dash, x1)
        draw.rectangle((start, y0, end, y0 + line - 1), fill=colour)
        draw.rectangle((start, y1 - line + 1, end, y1), fill=colour)
    for start in range(y0, y1 + 1, dash + gap):
        end = min(start + dash, y1)
        draw.rectangle((x0, start, x0 + line - 1, end), fill=colour)
        draw.rectangle((x1 - line + 1, start, x1, end), fill=colour)


def _draw_chip(
    draw: ImageDraw.ImageDraw,
    box: Corners,
    text: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    taken: Sequence[Corners],
) -> Corners:
    """Draw the label near the box, whole inside the picture, and return where it is."""
    pad = max(3, round(font.size * 0.3))
    text = _shortened(" ".join(text.split()), font, size[0] - 2 * pad - 2)
    width = round(font.getlength(text)) + 2 * pad
    ascent, descent = font.getmetrics()
    height = ascent + descent + pad
    chip = _chip_corners(box, width, height, size, taken)
    draw.rounded_rectangle(chip, radius=pad, fill=colour, outline=DARK, width=max(1, pad // 5))
    draw.text((chip[0] + pad, chip[1] + pad // 2), text, font=font, fill=DARK)
    return chip


def _chip_corners(box: Corners, width: int, height: int, size: tuple[int, int], taken: Sequence[Corners]) -> Corners:
    """Choose what is free first: above the box, below it, inside at the top or bottom; else the first, moved down."""
    x0, y0, x1, y1 = box
    wishes = [
        (x0, y0 - height - 1),
        (x0, y1 + 2),
        (x0, y0),
        (x0, y1 - height),
        (x1 - width, y0),
        (x1 - width, y1 - height),
    ]
    inside = [_moved_inside(x, y, width, height, size) for x, y in wishes]
    stays = [chip for chip, wish in zip(inside, wishes, strict=True) if chip[1] == wish[1]]
    rows = (_moved_inside(x0, y, width, height, size) for y in range(0, size[1], height))
    tried = chain(stays, inside, rows)
    return next((chip for chip in tried if not any(_overlap(chip, other) for other in taken)), inside[0])


def _moved_inside(x: int, y: int, width: int, height: int, size: tuple[int, int]) -> Corners:
    x, y = max(0, min(x, size[0] - 1 - width)), max(0, min(y, size[1] - 1 - height))
    return x, y, x + width, y + height


def _overlap(first: Corners, second: Corners) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cut the middle of a text that is wider than ``width`` pixels: both the class and the score matter."""
    if font.getlength(text) <= width:
        return text
    head, _, tail = text.rpartition(" ")
    while head and font.getlength(f"{head}… {tail}") > width:
        head = head[:-1]
    return f"{head}… {tail}" if head else text


@cache
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans (Latin, Greek, Cyrillic), which comes with matplotlib."""
    import matplotlib  # only where its font lies; pyplot stays out

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", pixels)
