"""A synthetic data set in VOC layout: textured, lit objects with exact boxes and masks, from nothing but a seed.

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
from skimage.draw import polygon, random_shapes

from gwapctl.boxes import to_voc
from gwapctl.errors import DataError, UsageError
from gwapctl.files import atomic_path
from gwapctl.progress import Progress, ProgressCallback

Field = npt.NDArray[Any]  # a value or colour per pixel
Random = np.random.Generator
Shape = tuple[Field, Field, Field | float]  # per pixel: whether it is covered, whether painted, how much it is shaded

_QUALITY = 92  # of JPEG
_VISIBLE, _EASY = 0.08, 0.5  # a smaller share of an object is not annotated, or difficult
_SHARES = {1: (0.15, 0.75), 2: (0.15, 0.5), 3: (0.12, 0.35), 4: (0.1, 0.25)}  # side² / image, by number of objects


class SyntheticObject(NamedTuple):
    """One annotated object: the pixels ``(H, W)`` of it that can be seen."""

    name: str
    mask: npt.NDArray[np.bool_]
    difficult: bool
    truncated: bool


def _ellipse(x: Field, y: Field, across: float = 1.0, down: float = 1.0) -> Field:
    """Tell which positions lie in an ellipse; those of a shape run from -1 to 1, y down."""
    return np.asarray((x / across) ** 2 + (y / down) ** 2 < 1)


def _half_height(x: Field) -> Field:
    """Return the height of the upper half of the unit circle over each ``x``, 0 beside it."""
    return np.asarray(np.sqrt(np.maximum(1 - x * x, 1e-6)))


def _ball(x: Field, y: Field, rng: Random) -> Shape:
    edges = np.cumsum(rng.uniform(0.15, 0.5, 8)) - 1.1  # of panels from pole to pole
    return _ellipse(x, y), np.searchsorted(edges, x / _half_height(y)) % 2 == 1, 0.0


def _brick(x: Field, y: Field, rng: Random) -> Shape:
    right, top, rows = 0.95 - rng.uniform(0.22, 0.38), rng.uniform(0.2, 0.34) - 0.55, int(rng.integers(2, 4))
    back_x, back_y = (x - right) / (0.95 - right), (top - y) / (top + 0.55)  # 0 at the front, 1 at the back
    level = (y - top) / (0.55 - top) * rows
    front = (np.abs(x + 0.475 - right / 2) < 0.475 + right / 2) & (np.abs(level - rows / 2) < rows / 2)
    lid = (np.abs(back_y - 0.5) <= 0.5) & (np.abs(x - back_y * (0.95 - right) + 0.475 - right / 2) < 0.475 + right / 2)
    flank = (np.abs(back_x - 0.5) <= 0.5) & (np.abs(y + back_x * (top + 0.55) - top / 2 - 0.275) < 0.275 - top / 2)
    joints = (level % 1 < 0.05 * rows / (0.55 - top)) | ((x + 0.6 - np.floor(level) % 2 * 0.3) % 0.6 < 0.05)
    return front | lid | flank, front & joints, -0.2 * lid - 0.5 * flank


def _leaf(x: Field, y: Field, rng: Random) -> Shape:
    width = rng.uniform(0.42, 0.6) * _half_height(x) ** rng.uniform(1.4, 2) * (1 - 0.35 * x)
    width *= 1 + 0.15 * np.abs(np.sin(rng.uniform(9, 14) * x))
    rib = (np.abs(y) < 0.035) & (np.abs(x + 0.05) < 1)
    veins = (x - 0.8 * np.abs(y) + 0.8) % (1 / rng.uniform(4, 6)) < 0.06
    return (np.abs(y) < width) | rib, rib | veins, 0.0


def _mug(x: Field, y: Field, rng: Random) -> Shape:
    curve = 0.14 * _half_height((x + 0.2) / 0.56)
    body = (np.abs(x + 0.2) < 0.56) & (y > -0.72 - curve) & (y < 0.7 + curve)
    handle = (x > 0.34) & _ellipse(x - 0.34, y, 0.5, 0.55) & ~_ellipse(x - 0.34, y, 0.33, 0.38)
    low, high = sorted(rng.uniform(-0.5, 0.6, 2))
    band = body & (y > low + curve) & (y < high + 0.1 + curve)
    return body | handle, band, -0.7 * _ellipse(x + 0.2, y + 0.72, 0.49, 0.1)


def _ring(x: Field, y: Field, rng: Random) -> Shape:
    inner, count = 1 - 2 * rng.uniform(0.17, 0.28), int(rng.integers(5, 12))
    turns = (np.arctan2(y, x) / (2 * np.pi) + rng.uniform(-0.08, 0.08) * (1 - np.hypot(x, y)) / (1 - inner)) % 1 * count
    shares = rng.uniform(0.3, 0.6, count)
    return _ellipse(x, y) & ~_ellipse(x, y, inner, inner), turns % 1 < shares[turns.astype(int) % count], 0.0


def _star(x: Field, y: Field, rng: Random) -> Shape:
    angle, far = np.arctan2(y, x), np.hypot(x, y)
    reach = rng.uniform(0.32, 0.42) + 0.58 * np.abs(np.cos(2.5 * angle)) ** rng.uniform(1.6, 2.6)
    size, step = rng.uniform(0.04, 0.07), rng.uniform(0.14, 0.2)
    off = (angle + 0.2 * np.pi) % (0.4 * np.pi) - 0.2 * np.pi  # from the nearest arm, which carries bumps
    bumps = np.hypot(far * np.cos(off) % step - step / 2, far * np.sin(off)) < size
    return far < reach, bumps & (far > 0.1) & (far < 0.95), 0.0


SHAPES: dict[str, tuple[Callable[[Field, Field, Random], Shape], float]] = {  # and how round they are
    "ball": (_ball, 1.0),
    "brick": (_brick, 0.15),
    "leaf": (_leaf, 0.35),
    "mug": (_mug, 0.8),
    "ring": (_ring, 1.0),
    "star": (_star, 0.7),
}


def render(name: str, side: int, light: Field, rng: Random) -> tuple[Field, Field]:
    """Return the picture ``(side, side, 3)`` in 0..1 and the opacity ``(side, side)`` of one object of class ``name``.

    It is turned, mirrored, stretched and sheared at random, and lit from ``light`` (x right, y down, z to the viewer).
    """
    shape, relief = SHAPES[name]
    angle = rng.normal(0, 0.35) if rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
    stretch = np.exp(rng.uniform(-0.25, 0.25))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    bend = np.array([[rng.choice([-1, 1]) * max(stretch, 1), rng.uniform(-0.2, 0.2)], [0, max(1 / stretch, 1)]])
    positions = (np.mgrid[:side, :side][::-1] + 0.5) * (2 / side) - 1
    x, y = np.tensordot(bend @ turn * 1.2, positions, 1)
    solid, painted, shaded = shape(x, y, rng)
    drawn = np.stack([solid, painted & solid, shaded * solid], axis=2).astype(np.float32)
    opacity, paint, shade = cv2.split(cv2.GaussianBlur(drawn, (0, 0), 0.6))
    depth = cv2.distanceTransform(np.asarray(opacity > 0.5, np.uint8), cv2.DIST_L2, 5) * (2 / side)
    height = cv2.GaussianBlur(np.sqrt(depth * (2 * depth.max() - depth)), (0, 0), 0.02 * side + 0.3) * relief
    noise = _texture(side, side, rng)
    height += rng.uniform(0.01, 0.05) * noise - 0.03 * paint
    right, down = (cv2.Scharr(height, cv2.CV_32F, *axis, scale=side / 64) for axis in ((1, 0), (0, 1)))
    diffuse = np.clip((light[2] - right * light[0] - down * light[1]) / np.sqrt(right**2 + down**2 + 1), 0, 1)
    picture = _mixed(paint, rng)
    picture *= ((0.3 + 0.8 * diffuse) * (0.85 + 0.3 * noise) * (1 + shade))[..., None]
    picture += (rng.uniform(0, 0.5) * diffuse ** rng.uniform(8, 40))[..., None]  # gloss
    return np.clip(picture, 0, 1).astype(np.float32), np.asarray(opacity)


def _mixed(share: Field, rng: Random) -> Field:
    """Return ``(H, W, 3)``: two random RGB colours in 0..1, none too dark or too light, mixed by ``share (H, W)``."""
    hsv = np.stack([rng.uniform(0, 360, 2), rng.beta(2, 2, 2), rng.uniform(0.35, 0.95, 2)], axis=1)
    first, second = cv2.cvtColor(hsv.astype(np.float32)[None], cv2.COLOR_HSV2RGB)[0]
    return np.asarray(first + (second - first) * share[..., None])


def _texture(width: int, height: int, rng: Random, stretch: float = 1.0) -> Field:
    """Return fractal noise ``(height, width)`` in 0..1; ``stretch`` draws it out into streaks."""
    total, weight, cells = np.zeros((height, width), np.float32), 1.0, math.exp(rng.uniform(0.4, 2.2))
    while cells < width / 2:
        grid = rng.random((math.ceil(cells * stretch * height / width) + 1, math.ceil(cells) + 1), dtype=np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
        weight, cells = weight * 0.62, cells * 2
    return np.asarray(cv2.normalize(total, total, 0, 1, cv2.NORM_MINMAX))


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
    pale = _mixed(rng.uniform(0.3, 1) * field, rng) * 0.6 + rng.uniform(0, 0.4)
    return np.asarray(pale * light[..., None], np.float32)


def _ground(width: int, height: int, rng: Random) -> Field:
    """Return a ground ``(height, width, 3)`` in 0..1: one material, or two that meet, with clutter and uneven focus."""
    picture = _material(width, height, rng)
    if rng.random() < 0.45:  # a second material above a slanted horizon
        left, right = rng.uniform(0.2, 0.7, 2) * height
        above = polygon([0, left, right, 0], [0, 0, width, width], (height, width))  # type: ignore[no-untyped-call]
        picture[above] = _material(width, height, rng)[above]
    clutter, _ = random_shapes(  # type: ignore[no-untyped-call]  # scraps that are there but are no objects
        (height, width), 4, min_shapes=0, min_size=6, max_size=min(width, height) // 3, allow_overlap=True, rng=rng
    )
    covered = (clutter < 255).any(axis=2)
    picture[covered] = clutter[covered] / 255 * (0.7 + 0.3 * picture[covered])
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 2.2)))


def _photograph(picture: Field, rng: Random) -> Field:
    """Return the picture as a camera takes it, uint8: uneven light, white balance, exposure and sensor noise."""
    height, width = picture.shape[:2]
    across, down = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = 1 + rng.uniform(-0.35, 0.35) * across + rng.uniform(-0.35, 0.35) * down
    if rng.random() < 0.3:  # dappled shade
        light *= 0.65 + 0.5 * np.clip((_texture(width, height, rng) - 0.4) * 4, 0, 1)
    picture = picture * light[..., None] * (rng.uniform(0.88, 1.12, 3) * rng.uniform(0.75, 1.1)).astype(np.float32)
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.03))
    return np.asarray(np.clip(picture * 255, 0, 255), np.uint8)


def make_image(rng: Random, size: tuple[int, int], first: int) -> tuple[Field, list[SyntheticObject]]:
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
        drawn, opacity = render(name, side, light, rng)
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
        picture += (_moved(drawn, x, y, width, height) - picture) * cover[..., None]
        masks = [other & (cover <= 0.5) for other in masks] + [cover > 0.5]
        areas.append(int(np.count_nonzero(opacity > 0.5)))
    objects = []
    for name, mask, area in zip(names, masks, areas, strict=True):
        seen = int(np.count_nonzero(mask)) / area
        edge = bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())
        objects += [SyntheticObject(name, mask, difficult=seen < _EASY, truncated=edge)] * (seen >= _VISIBLE)
    return _photograph(picture, rng), objects


def _random_size(size: tuple[int, int], rng: Random) -> tuple[int, int]:
    """Return (width, height): the longer side within ``size``, two in three lying, the rest upright."""
    long_side = int(rng.integers(size[0], size[1] + 1))
    short_side = round(long_side * rng.uniform(0.66, 1.0))
    return (long_side, short_side) if rng.random() < 0.67 else (short_side, long_side)


def _moved(patch: Field, x: float, y: float, width: int, height: int) -> Field:
    """Return ``patch`` with its top left corner at ``x, y`` of an empty picture of that size."""
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
    return np.asarray(cv2.warpAffine(patch, matrix, (width, height), flags=cv2.INTER_NEAREST))


def make_synthetic_voc(
    folder: Path,
    *,
    images: int,
    seed: int,
    size: tuple[int, int] = (160, 256),
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> None:
    """Write ``images`` pictures to ``folder``: ``JPEGImages``, ``Annotations``, ``Masks``, ``ImageSets/Main``.

    60 % are ``train``, 20 % ``val``, 20 % ``test``. ``size`` is the range of the longer side in pixels. The masks
    number the objects from 1 (0 is background). The same arguments give the same bytes; image ``i`` is the same for
    any ``images``.

    Raises:
        UsageError: fewer than 5 images, sizes below 64, or the folder is in use.
        DataError: the folder cannot be written.

    """
    if images < 5 or not 64 <= size[0] <= size[1]:
        raise UsageError("a synthetic data set needs at least 5 images and sizes from 64 pixels up.")
    replaceable = folder.is_dir() and (not any(folder.iterdir()) or (overwrite and (folder / "Annotations").is_dir()))
    if folder.exists() and not replaceable:
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
    """Write ``images`` pictures without any object straight into ``folder``, for methods that learn from backgrounds.

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
        rng = np.random.default_rng([seed, index, 1])  # another stream than the image of the same number
        picture = _photograph(_ground(*_random_size(size, rng), rng), rng)
        with atomic_path(folder / f"background-{index:06d}.jpg") as path:
            Image.fromarray(picture).save(path, quality=_QUALITY)
        if progress is not None:
            progress(Progress(index + 1, images, "images"))


def _write_all(folder: Path, images: int, seed: int, size: tuple[int, int], progress: ProgressCallback | None) -> None:
    for name in ("JPEGImages", "Annotations", "Masks", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    ids = [f"{index:06d}" for index in range(images)]
    for index, name in enumerate(ids):
        picture, objects = make_image(np.random.default_rng([seed, index]), size, first=index)
        Image.fromarray(picture).save(folder / "JPEGImages" / f"{name}.jpg", quality=_QUALITY)
        (folder / "Annotations" / f"{name}.xml").write_text(_to_xml(name, picture, objects))
        numbers = np.zeros(picture.shape[:2], np.uint8)
        for number, item in enumerate(objects, start=1):
            numbers[item.mask] = number
        mask = Image.fromarray(numbers)
        mask.putpalette([0, 0, 0, 230, 90, 70, 80, 180, 90, 80, 120, 230, 230, 190, 60])  # visible in any viewer
        mask.save(folder / "Masks" / f"{name}.png")
        if progress is not None:
            progress(Progress(index + 1, images, "images"))
    held = max(1, round(images * 0.2))
    for split, members in {"train": ids[: -2 * held], "val": ids[-2 * held : -held], "test": ids[-held:]}.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in members))


def _to_xml(name: str, picture: Field, objects: list[SyntheticObject]) -> str:
    height, width = picture.shape[:2]
    nodes = ""
    for item in objects:
        x, y, across, down = cv2.boundingRect(item.mask.astype(np.uint8))
        x0, y0, x1, y1 = to_voc([x, y, x + across, y + down])[0].astype(int).tolist()
        nodes += f"""  <object><name>{item.name}</name><truncated>{item.truncated:d}</truncated>
    <difficult>{item.difficult:d}</difficult>
    <bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>
  </object>
"""
    return f"""<annotation>
  <filename>{name}.jpg</filename>
  <source><database>gwapctl synthetic</database></source>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
  <segmented>1</segmented>
{nodes}</annotation>
"""
