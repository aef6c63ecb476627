"""A synthetic data set in VOC layout: textured, lit things with exact boxes and masks, from nothing but a seed.

Six classes lie on textured grounds with clutter, occlude each other and leave the frame; form and pattern tell them
apart, never colour. Objects that are hard to see are flagged difficult, those that cannot be seen are not annotated.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.draw import polygon

from gwapctl.boxes import to_voc
from gwapctl.errors import DataError, UsageError
from gwapctl.files import atomic_path
from gwapctl.progress import Progress, ProgressCallback

Field = npt.NDArray[Any]  # float32, a value or colour per pixel
Points = npt.NDArray[np.float64]  # (N, 2) corners of a polygon: x, y in [-1, 1], y down
Shape = tuple[list[Points], list[tuple[Points, float]]]  # what is covered; what is painted on it: colour, or -shade
Random = np.random.Generator

_QUALITY = 92  # of JPEG
_VISIBLE, _EASY = 0.08, 0.5  # a smaller share of an object is not annotated, or difficult
_SHARES = {1: (0.15, 0.75), 2: (0.15, 0.5), 3: (0.12, 0.35), 4: (0.1, 0.25)}  # side² / image, by number of objects


class Thing(NamedTuple):
    """One annotated object: the pixels ``(H, W)`` of it that can be seen."""

    name: str
    mask: npt.NDArray[np.bool_]
    difficult: bool
    truncated: bool


def _arc(x: float, y: float, across: float, down: float, start: float = 0.0, stop: float = 1.0) -> Points:
    """Return points of an ellipse from ``start`` to ``stop``, in turns."""
    angle = 2 * np.pi * np.linspace(start, stop, 24)
    return np.stack([x + across * np.cos(angle), y + down * np.sin(angle)], axis=1)


def _between(first: Points, second: Points) -> Points:
    return np.concatenate([first, second[::-1]])


def _line(x0: float, y0: float, x1: float, y1: float, width: float = 0.05) -> Points:
    side = np.array([y0 - y1, x1 - x0]) * width / 2 / math.hypot(x1 - x0, y1 - y0)
    return _between(np.array([(x0, y0), (x1, y1)]) + side, np.array([(x0, y0), (x1, y1)]) - side)


def _inside(points: Points, width: int, height: int) -> Any:
    """Return the rows and columns of the pixels in a polygon, which index a picture."""
    return polygon(points[:, 1], points[:, 0], (height, width))  # type: ignore[no-untyped-call]


def _ball(rng: Random) -> Shape:
    edges = np.clip(np.cumsum(rng.uniform(0.15, 0.5, 8)) - 1.1, -1, 1)  # of panels from pole to pole
    halves = [_arc(0, 0, edge, 1, -0.25, 0.25) for edge in edges]
    return [_arc(0, 0, 1, 1)], [(_between(*halves[k : k + 2]), 1.0) for k in (0, 2, 4, 6)]


def _brick(rng: Random) -> Shape:
    right, top, rows = 0.95 - rng.uniform(0.22, 0.38), rng.uniform(0.2, 0.34) - 0.55, int(rng.integers(2, 4))
    front = np.array([(-0.95, top), (right, top), (right, 0.55), (-0.95, 0.55)])
    back, step = front + np.array([0.95 - right, -0.55 - top]), (0.55 - top) / rows
    lid, flank = _between(front[:2], back[:2]), _between(front[1:3], back[1:3])
    levels = [top + row * step for row in range(rows)]
    joints = [_line(-0.95, y, right, y) for y in levels[1:]]
    joints += [_line(x, y, x, y + step) for k, y in enumerate(levels) for x in np.arange(k % 2 * 0.3 - 0.6, right, 0.6)]
    return [front, lid, flank], [*((joint, 1.0) for joint in joints), (lid, -0.2), (flank, -0.5)]


def _leaf(rng: Random) -> Shape:
    x = np.linspace(-1, 1, 64)
    width = rng.uniform(0.42, 0.6) * (1 - x**2) ** rng.uniform(0.7, 1) * (1 - 0.35 * x)
    width *= 1 + 0.15 * np.abs(np.sin(rng.uniform(9, 14) * x))
    starts, rib = np.arange(-0.8, 0.6, 1 / rng.uniform(4, 6)), _line(-1.05, 0, 0.95, 0, 0.07)
    veins = [_line(start, 0, start + 0.4, 0.5 * side) for start in starts for side in (-1, 1)]
    return [_between(np.stack([x, width], 1), np.stack([x, -width], 1)), rib], [(line, 0.8) for line in (rib, *veins)]


def _mug(rng: Random) -> Shape:
    def front(y: float) -> Points:
        return _arc(-0.2, y, 0.56, 0.14, 0, 0.5)

    body = np.concatenate([front(0.7), _arc(-0.2, -0.72, 0.56, 0.14, 0.5, 1)])
    handle = _between(_arc(0.34, 0, 0.5, 0.55, -0.25, 0.25), _arc(0.34, 0, 0.33, 0.38, -0.25, 0.25))
    low, high = sorted(rng.uniform(-0.5, 0.6, 2))
    return [body, handle], [(_between(front(low), front(high + 0.1)), 1.0), (_arc(-0.2, -0.72, 0.49, 0.1), -0.7)]


def _ring(rng: Random) -> Shape:
    inner, count, twist = 1 - 2 * rng.uniform(0.17, 0.28), int(rng.integers(5, 12)), rng.uniform(-0.08, 0.08)
    spans = [(at, at + rng.uniform(0.3, 0.6) / count) for at in np.arange(count) / count]
    stripes = [_between(_arc(0, 0, 1, 1, a, b), _arc(0, 0, inner, inner, a + twist, b + twist)) for a, b in spans]
    return [_between(_arc(0, 0, 1, 1), _arc(0, 0, inner, inner))], [(stripe, 1.0) for stripe in stripes]


def _star(rng: Random) -> Shape:
    angle = np.linspace(0, 2 * np.pi, 100)
    reach = rng.uniform(0.32, 0.42) + 0.58 * np.abs(np.cos(2.5 * angle)) ** rng.uniform(1.6, 2.6)
    size, steps = rng.uniform(0.04, 0.07), np.arange(0.15, 0.9, rng.uniform(0.14, 0.2))
    bumps = [_arc(r * math.cos(k), r * math.sin(k), size, size) for k in np.arange(5) * 0.4 * np.pi for r in steps]
    return [np.stack([reach * np.cos(angle), reach * np.sin(angle)], 1)], [(bump, 0.9) for bump in bumps]


SHAPES: dict[str, tuple[Callable[[Random], Shape], float]] = {  # and how round they are
    "ball": (_ball, 1.0),
    "brick": (_brick, 0.15),
    "leaf": (_leaf, 0.35),
    "mug": (_mug, 0.8),
    "ring": (_ring, 1.0),
    "star": (_star, 0.7),
}


def render(name: str, side: int, light: Points, rng: Random) -> tuple[Field, Field]:
    """Return the picture ``(side, side, 3)`` in 0..1 and the opacity ``(side, side)`` of one thing of class ``name``.

    It is turned, mirrored, stretched and sheared at random, and lit from ``light`` (x right, y down, z to the viewer).
    """
    shape, relief = SHAPES[name]
    solids, marks = shape(rng)
    angle = rng.normal(0, 0.35) if rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
    stretch = np.exp(rng.uniform(-0.25, 0.25))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    bend = np.array([[rng.choice([-1, 1]) * max(stretch, 1), rng.uniform(-0.2, 0.2)], [0, max(1 / stretch, 1)]])
    to_pixels = np.linalg.inv(bend @ turn * 1.15).T * side / 2
    drawn = np.zeros((side, side, 3), np.float32)  # what is covered, paint, shade
    layers = [(0, one, 1.0) for one in solids] + [(1 if value > 0 else 2, one, value) for one, value in marks]
    for channel, points, value in layers:
        drawn[(*_inside(points @ to_pixels + side / 2, side, side), channel)] = value
    opacity, paint, shade = cv2.split(cv2.GaussianBlur(drawn, (0, 0), 0.6))
    depth = cv2.distanceTransform(np.asarray(opacity > 0.5, np.uint8), cv2.DIST_L2, 5) * (2 / side)
    height = cv2.GaussianBlur(np.sqrt(depth * (2 * depth.max() - depth)), (0, 0), 0.02 * side + 0.3) * relief
    noise = _texture(side, side, rng)
    height += rng.uniform(0.01, 0.05) * noise - 0.03 * paint
    right, down = (cv2.Scharr(height, cv2.CV_32F, *axis, scale=side / 64) for axis in ((1, 0), (0, 1)))
    x, y, z = light.tolist()
    diffuse = np.clip((z - right * x - down * y) / np.sqrt(right * right + down * down + 1), 0, 1)
    first, second = _colours(2, rng)
    picture = first + (second - first) * paint[..., None]
    picture *= ((0.3 + 0.8 * diffuse) * (0.85 + 0.3 * noise) * (1 + shade))[..., None]
    picture += (rng.uniform(0, 0.5) * diffuse ** rng.uniform(8, 40))[..., None]  # gloss
    return np.minimum(picture, 1), np.asarray(opacity)


def _colours(count: int, rng: Random) -> Field:
    """Return ``(count, 3)`` RGB colours in 0..1, none too dark or too light."""
    hsv = np.stack([rng.uniform(0, 360, count), rng.beta(2, 2, count), rng.uniform(0.35, 0.95, count)], axis=1)
    return np.asarray(cv2.cvtColor(hsv.astype(np.float32)[None], cv2.COLOR_HSV2RGB)[0])


def _texture(width: int, height: int, rng: Random, stretch: float = 1.0) -> Field:
    """Return fractal noise ``(height, width)`` in 0..1; ``stretch`` draws it out into streaks."""
    total, weight, cells = np.zeros((height, width), np.float32), 1.0, math.exp(rng.uniform(0.4, 2.2))
    while cells < width / 2:
        grid = rng.random((math.ceil(cells * stretch * height / width) + 1, math.ceil(cells) + 1), dtype=np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
        weight, cells = weight * 0.62, cells * 2
    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) * (1 / (high - low)))


def _material(width: int, height: int, rng: Random) -> Field:
    """Return stone, wood, foliage or tiles, more or less: ``(height, width, 3)``, pale colours in 0..1."""
    kind = rng.integers(0, 4)
    field = _texture(width, height, rng, stretch=rng.uniform(4, 14) if kind == 1 else 1.0)
    if kind == 2:  # ridges along level lines
        field = np.abs(np.sin(field * rng.uniform(5, 25)))
    light = 0.8 + 0.4 * _texture(width, height, rng)
    if kind == 3:  # seams
        step = rng.uniform(0.12, 0.4) * width
        for lines in (light, light.T):
            lines[(np.arange(len(lines)) + rng.uniform(0, step)) % step < 0.06 * step] *= rng.uniform(0.4, 0.8)
    first, second = _colours(2, rng) * 0.6 + rng.uniform(0, 0.4)
    return np.asarray((first + (second - first) * rng.uniform(0.3, 1) * field[..., None]) * light[..., None])


def _ground(width: int, height: int, rng: Random) -> Field:
    """Return a ground ``(height, width, 3)`` in 0..1: one material, or two that meet, with clutter and uneven focus."""
    picture = _material(width, height, rng)
    if rng.random() < 0.45:  # a second material above a slanted horizon
        horizon = rng.uniform(0.2, 0.7, 2) * height
        above = _inside(np.array([(0, 0), (0, horizon[0]), (width, horizon[1]), (width, 0)]), width, height)
        picture[above] = _material(width, height, rng)[above]
    for _ in range(rng.integers(0, 5)):  # rods and scraps that are there but are no objects
        corners = rng.uniform(0, 1, 2) + rng.uniform(-0.2, 0.2, (4, 2))
        if rng.random() < 0.4:
            corners[2:] = corners[1::-1] + rng.uniform(0.01, 0.03)
        inside = _inside(corners * (width, height), width, height)
        picture[inside] = _colours(1, rng) * rng.uniform(0.6, 1.2) * (0.7 + 0.3 * picture[inside])
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 2.2)))


def _photograph(picture: Field, rng: Random) -> Field:
    """Return what a camera makes of the scene, uint8: uneven light, white balance, exposure and sensor noise."""
    height, width = picture.shape[:2]
    across, down = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = 1 + rng.uniform(-0.35, 0.35) * across + rng.uniform(-0.35, 0.35) * down
    if rng.random() < 0.3:  # dappled shade
        light *= 0.65 + 0.5 * np.clip((_texture(width, height, rng) - 0.4) * 4, 0, 1)
    picture = picture * light[..., None] * (rng.uniform(0.88, 1.12, 3) * rng.uniform(0.75, 1.1)).astype(np.float32)
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.03))
    return np.asarray(np.clip(picture * 255, 0, 255), np.uint8)


def make_scene(rng: Random, size: tuple[int, int], first: int) -> tuple[Field, list[Thing]]:
    """Return one picture ``(H, W, 3)`` uint8 RGB and its annotated objects.

    The class of the first object is ``first`` modulo the number of classes, so that all turn up equally often.
    """
    width, height = _random_size(size, rng)
    light = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.9, -0.2), 1.0])
    light /= np.linalg.norm(light)
    picture = _ground(width, height, rng)
    count = int(rng.choice(4, p=(0.35, 0.3, 0.2, 0.15))) + 1
    names = rng.permutation([list(SHAPES)[first % len(SHAPES)], *rng.choice(list(SHAPES), count - 1)]).tolist()
    masks: list[npt.NDArray[np.bool_]] = []
    areas: list[int] = []
    for name in names:
        side = round(math.sqrt(rng.uniform(*_SHARES[count]) * width * height))
        thing, opacity = render(name, side, light, rng)
        margin = 0.4 * side if rng.random() < 0.2 else -0.04 * side  # now and then over the edge of the image
        ends = [max(length - side + margin, 1 - margin) for length in (width, height)]
        for _ in range(rng.choice((1, 3, 6))):  # now and then over another object
            x, y = np.round(rng.uniform(-margin, ends)).tolist()
            cover = _moved(opacity, x, y, width, height)
            if not any((mask & (cover > 0.5)).any() for mask in masks):
                break
        shift = np.round(light[:2] * 0.12 * side).tolist()
        shadow = cv2.GaussianBlur(_moved(opacity, x - shift[0], y - shift[1], width, height), (0, 0), 0.03 * side + 1)
        picture *= 1 - np.float32(0.55) * shadow[..., None]
        picture += (_moved(thing, x, y, width, height) - picture) * cover[..., None]
        masks = [other & (cover <= 0.5) for other in masks] + [cover > 0.5]
        areas.append(int(np.count_nonzero(opacity > 0.5)))
    things = []
    for name, mask, area in zip(names, masks, areas, strict=True):
        seen = int(np.count_nonzero(mask)) / area
        edge = bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())
        things += [Thing(name, mask, difficult=seen < _EASY, truncated=edge)] * (seen >= _VISIBLE)
    return _photograph(picture, rng), things


def _random_size(size: tuple[int, int], rng: Random) -> tuple[int, int]:
    """Return (width, height): the longer side within ``size``, two in three lying, the rest upright."""
    long_side = int(rng.integers(size[0], size[1] + 1))
    short_side = round(long_side * rng.uniform(0.66, 1.0))
    return (long_side, short_side) if rng.random() < 0.67 else (short_side, long_side)


def _moved(patch: Field, x: float, y: float, width: int, height: int) -> Field:
    """Return ``patch`` with its top left corner at ``x, y`` of an empty picture of that size."""
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
    return np.asarray(cv2.warpAffine(patch, matrix, (width, height), flags=cv2.INTER_NEAREST))


# -------------------------------------------------------------------------------------------------------------- files


def make_synthetic_voc(
    folder: Path,
    *,
    images: int,
    seed: int,
    size: tuple[int, int] = (160, 256),
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> None:
    """Write ``images`` scenes to ``folder``: ``JPEGImages``, ``Annotations``, ``Masks``, ``ImageSets/Main``.

    60 % are ``train``, 20 % ``val``, 20 % ``test``. ``size`` is the range of the longer side in pixels. The masks
    number the objects from 1 (0 is background). The same arguments give the same bytes; image ``i`` is the same for
    any ``images``.

    Raises:
        UsageError: fewer than 5 images, sizes below 64, or the folder is in use.
        DataError: the folder cannot be written.

    """
    if images < 5 or not 64 <= size[0] <= size[1]:
        raise UsageError("a synthetic data set needs at least 5 images and sizes from 64 pixels up.")
    if folder.exists() and not _may_replace(folder, overwrite=overwrite):
        raise UsageError(f"{folder} is in use. Choose another --out, or replace a VOC folder with --overwrite.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            made = Path(temporary) / folder.name
            _write_all(made, images, seed, size, progress)
            if folder.exists():
                shutil.rmtree(folder)
            made.rename(folder)
    except OSError as error:
        raise DataError(
            f"cannot write {folder}: {error.strerror or error}. Free space or choose another --out."
        ) from error


def make_backgrounds(
    folder: Path,
    *,
    images: int,
    seed: int,
    size: tuple[int, int] = (160, 256),
    progress: ProgressCallback | None = None,
) -> None:
    """Write ``images`` scenes without any object straight into ``folder``, for methods that learn from backgrounds.

    Those of an earlier call go away, other files stay.

    Raises:
        UsageError: no images, or sizes below 64.
        DataError: the folder cannot be written.

    """
    if images < 1 or not 64 <= size[0] <= size[1]:
        raise UsageError("a folder of backgrounds needs at least 1 image and sizes from 64 pixels up.")
    for stale in folder.glob("background-??????.jpg"):
        stale.unlink()
    for index in range(images):
        rng = np.random.default_rng([seed, index, 1])  # another stream than the scene of the same number
        picture = _photograph(_ground(*_random_size(size, rng), rng), rng)
        with atomic_path(folder / f"background-{index:06d}.jpg") as path:
            Image.fromarray(picture).save(path, quality=_QUALITY)
        if progress is not None:
            progress(Progress(index + 1, images, "images"))


def _may_replace(folder: Path, *, overwrite: bool) -> bool:
    return folder.is_dir() and (not any(folder.iterdir()) or (overwrite and (folder / "Annotations").is_dir()))


def _write_all(folder: Path, images: int, seed: int, size: tuple[int, int], progress: ProgressCallback | None) -> None:
    for name in ("JPEGImages", "Annotations", "Masks", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    ids = [f"{index:06d}" for index in range(images)]
    for index, name in enumerate(ids):
        picture, things = make_scene(np.random.default_rng([seed, index]), size, first=index)
        Image.fromarray(picture).save(folder / "JPEGImages" / f"{name}.jpg", quality=_QUALITY)
        (folder / "Annotations" / f"{name}.xml").write_text(_to_xml(name, picture, things))
        numbers = np.zeros(picture.shape[:2], np.uint8)
        for number, thing in enumerate(things, start=1):
            numbers[thing.mask] = number
        mask = Image.fromarray(numbers)
        mask.putpalette([0, 0, 0, 230, 90, 70, 80, 180, 90, 80, 120, 230, 230, 190, 60])  # visible in any viewer
        mask.save(folder / "Masks" / f"{name}.png")
        if progress is not None:
            progress(Progress(index + 1, images, "images"))
    held = max(1, round(images * 0.2))
    for split, members in {"train": ids[: -2 * held], "val": ids[-2 * held : -held], "test": ids[-held:]}.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in members))


def _to_xml(name: str, picture: Field, things: list[Thing]) -> str:
    height, width = picture.shape[:2]
    objects = ""
    for thing in things:
        x, y, across, down = cv2.boundingRect(thing.mask.astype(np.uint8))
        x0, y0, x1, y1 = to_voc([x, y, x + across, y + down])[0].astype(int).tolist()
        objects += f"""  <object><name>{thing.name}</name><truncated>{thing.truncated:d}</truncated>
    <difficult>{thing.difficult:d}</difficult>
    <bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>
  </object>
"""
    return f"""<annotation>
  <filename>{name}.jpg</filename>
  <source><database>gwapctl synthetic</database></source>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
  <segmented>1</segmented>
{objects}</annotation>
"""
