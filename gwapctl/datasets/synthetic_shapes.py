"""The things in the synthetic data set: shapes with relief and a pattern, lit from one side.

Each shape maps coordinates ``x, y`` in [-1, 1] (any equal array shape, y down) to a ``Relief``. Colours are drawn
without regard to the class, so that only form, relief and pattern tell the classes apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.floating[Any]]  # float32 wherever speed counts


class Relief(NamedTuple):
    """A shape as fields of one array shape, in units of half its side."""

    inside: Field  # about the distance to the outline, positive inside
    height: Field  # towards the viewer
    pattern: Field  # 0..1: how much of the second colour


def ball(x: Field, y: Field, rng: np.random.Generator) -> Relief:
    """Shape a sphere with bands or panels that follow its curvature."""
    radius = np.hypot(x, y)
    height = np.sqrt(np.clip(1 - radius**2, 0, None))
    axis = rng.normal(size=(2, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    first, second = (a[0] * x + a[1] * y + a[2] * height for a in axis)
    bands = np.sin(rng.uniform(4, 7) * first + rng.uniform(0, 6))
    if rng.random() < 0.5:
        bands *= np.sin(rng.uniform(4, 7) * second)
    return Relief(1 - radius, height, _step(bands, 0.15))


def leaf(x: Field, y: Field, rng: np.random.Generator) -> Relief:
    """Shape a pointed blade with a toothed edge, a midrib, side veins and a short stalk."""
    teeth = 1 + 0.07 * np.abs(np.sin(rng.uniform(9, 14) * x))
    width = rng.uniform(0.42, 0.6) * np.clip(1 - x**2, 0, None) ** rng.uniform(0.7, 1) * teeth * (1 - 0.35 * x)
    blade = width - np.abs(y) - 0.015
    stalk = np.minimum(0.035 - np.abs(y), np.minimum(-0.8 - x, x + 1.05))
    rib = np.exp(-((y / 0.03) ** 2))
    across = (x - 0.75 * np.abs(y)) * rng.uniform(4, 6)
    veins = np.exp(-(((across - np.round(across)) / 0.09) ** 2)) * 0.7
    lines = np.maximum(rib, veins)
    height = 0.35 * np.sqrt(np.clip(blade, 0, None)) - 0.04 * lines
    return Relief(np.maximum(blade, stalk), height, np.clip(0.1 + 0.9 * lines, 0, 1))


def mug(x: Field, y: Field, rng: np.random.Generator) -> Relief:
    """Shape a cylinder seen from above: rim, dark opening, band around the belly, and a handle."""
    centre, half = -0.2, 0.62
    u = (x - centre) / half  # -1..1 across the body
    bow = 0.16 * np.sqrt(np.clip(1 - u**2, 0, None))  # how far the round rim and foot come forward
    body = np.minimum(half - np.abs(x - centre), np.minimum(y + 0.78 + bow, 0.8 + bow - y))
    ring = np.hypot(x - 0.42, (y - 0.02) / 1.15)
    handle = np.where(x > 0.3, 0.1 - np.abs(ring - 0.44), -1)
    on_body = body >= handle
    height = np.where(on_body, 0.6 * np.sqrt(np.clip(1 - u**2, 0, None)), np.sqrt(np.clip(handle, 0, None)) * 0.5)
    opening = 1 - np.hypot(u / 0.9, (y + 0.78) / 0.125)
    low, high = np.sort(rng.uniform(-0.45, 0.6, 2))
    level = y - bow
    band = _step(np.minimum(level - low, high + 0.12 - level), 0.03) * on_body
    if rng.random() < 0.5:
        band *= _step(np.sin(rng.uniform(6, 12) * np.arcsin(np.clip(u, -1, 1))), 0.2)
    height = np.where(opening > 0, height - 2.2 * np.clip(opening, 0, 0.3), height)
    return Relief(np.maximum(body, handle), height, np.where(opening > 0.05, 0, band))


def brick(x: Field, y: Field, rng: np.random.Generator) -> Relief:
    """Shape a box in oblique view with three faces, grooves along the front and pits."""
    depth_x, depth_y = rng.uniform(0.22, 0.38), rng.uniform(0.2, 0.34)
    left, right, top, bottom = -0.95, 0.95 - depth_x, -0.55 + depth_y, 0.55
    front = np.minimum(np.minimum(x - left, right - x), np.minimum(y - top, bottom - y))
    over = (top - y) / depth_y  # 0..1 up the top face
    lid = np.minimum(
        np.minimum(over, 1 - over) * depth_y, np.minimum(x - over * depth_x - left, right - x + over * depth_x)
    )
    along = (x - right) / depth_x  # 0..1 along the side face
    flank_y = y + along * depth_y
    flank = np.minimum(np.minimum(along, 1 - along) * depth_x, np.minimum(flank_y - top, bottom - flank_y))
    faces = np.stack([front, lid, flank])
    face = faces.argmax(axis=0)
    height = np.select(
        [face == 1, face == 2], [-1.1 * np.clip(top - y, 0, None), -1.1 * np.clip(x - right, 0, None)], 0
    )
    rows = int(rng.integers(2, 4))
    groove = np.abs((((y - top) / (bottom - top)) * rows) % 1 - 0.5)
    column = (x - left) * rng.uniform(1.2, 2) + np.where(((y - top) / (bottom - top) * rows) % 2 < 1, 0.5, 0)
    lines = np.maximum(_step(groove - 0.44, 0.02), _step(np.abs(column % 1 - 0.5) - 0.46, 0.02)) * (face == 0)
    inside = faces.max(axis=0)
    edges = _step(0.03 - np.abs(np.sort(faces, axis=0)[-2]), 0.02) * 0.4
    return Relief(np.where(inside > -0.02, inside + 0.02, inside), height - 0.03 * lines, np.maximum(lines, edges))


def ring(x: Field, y: Field, rng: np.random.Generator) -> Relief:
    """Shape a torus, striped around; the background shows through its hole."""
    thickness = rng.uniform(0.17, 0.28)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    across = (radius - (1 - thickness)) / thickness
    height = thickness * np.sqrt(np.clip(1 - across**2, 0, None))
    stripes = np.sin(int(rng.integers(5, 12)) * angle + rng.uniform(-3, 3) * across)
    return Relief((1 - np.abs(across)) * thickness, height, _step(stripes - rng.uniform(-0.3, 0.6), 0.2))


def star(x: Field, y: Field, rng: np.random.Generator) -> Relief:
    """Shape a starfish: five rounded arms with ridges and rows of bumps."""
    angle = np.arctan2(y, x)
    radius = np.hypot(x, y)
    wave = np.abs(np.cos(2.5 * angle))
    reach = rng.uniform(0.34, 0.44) + 0.58 * wave ** rng.uniform(1.6, 2.6)
    inside = (reach - radius) * 0.6
    off_axis = radius * np.sqrt(np.clip(1 - wave**2, 0, None))
    ridge = np.clip(1 - off_axis / 0.3, 0, 1)
    bumps = np.clip(np.sin(rng.uniform(18, 26) * radius) * np.cos(rng.uniform(12, 20) * off_axis), 0, 1)
    height = 0.4 * np.sqrt(np.clip(inside, 0, None)) + 0.15 * ridge + 0.02 * bumps
    return Relief(inside, height, np.clip(bumps * ridge * 1.4, 0, 1))


SHAPES: dict[str, Callable[[Field, Field, np.random.Generator], Relief]] = {
    "ball": ball,
    "brick": brick,
    "leaf": leaf,
    "mug": mug,
    "ring": ring,
    "star": star,
}


def render(
    name: str, side: int, light: npt.NDArray[np.float64], noise: Field, rng: np.random.Generator
) -> tuple[Field, Field]:
    """Return the picture ``(side, side, 3)`` in 0..1 and the opacity ``(side, side)`` of one thing of class ``name``.

    ``light`` is the unit vector towards the light (x right, y down, z to the viewer); ``noise`` (side, side) in 0..1
    roughens the surface.
    """
    x, y = _coordinates(side, rng)
    inside, relief, pattern = (np.asarray(field, np.float32) for field in SHAPES[name](x, y, rng))
    pixel = 2.3 / side  # in the units of x and y
    height = relief + rng.uniform(0.01, 0.05) * noise
    slope_x = cv2.Scharr(height, cv2.CV_32F, 1, 0, scale=1 / (32 * pixel))
    slope_y = cv2.Scharr(height, cv2.CV_32F, 0, 1, scale=1 / (32 * pixel))
    length = np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    halfway = light + np.array([0, 0, 1])  # between light and viewer: Blinn's highlight
    diffuse, gloss = (
        np.clip((direction[2] - slope_x * direction[0] - slope_y * direction[1]) / length, 0, 1)
        for direction in (light.tolist(), (halfway / np.linalg.norm(halfway)).tolist())
    )
    colours = random_colours(2, rng)
    picture = colours[0] + (colours[1] - colours[0]) * pattern[..., None]
    picture *= ((0.3 + 0.8 * diffuse) * (0.85 + 0.3 * noise))[..., None]
    picture += (rng.uniform(0, 0.5) * gloss ** rng.uniform(8, 40))[..., None]
    return np.clip(picture, 0, 1), np.clip(inside / pixel + 0.5, 0, 1)


def random_colours(count: int, rng: np.random.Generator, *, vivid: bool = True) -> Field:
    """Return ``(count, 3)`` RGB colours in 0..1, none too dark or too light; pale ones mostly if not ``vivid``."""
    saturation = rng.beta(2, 2, count) if vivid else rng.beta(1.2, 3, count)
    hue, value = rng.uniform(0, 360, count), rng.uniform(0.35, 0.95, count)
    hsv = np.stack([hue, saturation, value], axis=1).astype(np.float32)[None]
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0], np.float32)


def _coordinates(side: int, rng: np.random.Generator) -> tuple[Field, Field]:
    """Return ``x, y`` of a pixel grid, randomly turned, mirrored, stretched and sheared; the shape stays within."""
    angle = rng.normal(0, 0.35) if rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
    stretch = np.exp(rng.uniform(-0.25, 0.25))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    bend = np.array([[rng.choice([-1, 1]) * max(stretch, 1), rng.uniform(-0.2, 0.2)], [0, max(1 / stretch, 1)]])
    matrix = (bend @ turn * 1.15).astype(np.float32)
    line = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    across, down = np.meshgrid(line, line)
    return matrix[0, 0] * across + matrix[0, 1] * down, matrix[1, 0] * across + matrix[1, 1] * down


def _step(values: Field, softness: float) -> Field:
    """Return 0 where ``values`` are negative, 1 where positive, with a soft edge."""
    return np.asarray(np.clip(values / softness + 0.5, 0, 1))
