"""A synthetic data set in VOC layout: photographic-looking scenes with exact boxes and masks, from nothing but a seed.

Six classes of textured, lit things lie on textured grounds with clutter, occlude each other and leave the frame.
Objects that are hard to see are flagged difficult, those that cannot be seen are not annotated, as in VOC.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from gwapctl.boxes import to_voc
from gwapctl.datasets.synthetic_shapes import SHAPES, Field, random_colours, render
from gwapctl.errors import DataError, UsageError
from gwapctl.files import atomic_path
from gwapctl.progress import Progress, ProgressCallback

Mask = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]
Window = tuple[slice, slice]

_VISIBLE = 0.08  # less of an object than this is not annotated
_EASY = 0.5  # less than this is difficult
_FRACTIONS = {1: (0.15, 0.75), 2: (0.15, 0.5), 3: (0.12, 0.35), 4: (0.1, 0.25)}  # side² / image, by number of objects


@dataclass(frozen=True)
class Thing:
    """One annotated object: what of it can be seen."""

    name: str
    mask: Mask  # (H, W), visible pixels
    difficult: bool
    truncated: bool


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
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        _write_all(temporary, images, seed, size, progress)
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        raise DataError(
            f"cannot write {folder}: {error.strerror or error}. Free space or choose another --out."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


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
    noise = _noise_bank(np.random.default_rng(seed))
    for index in range(images):
        rng = np.random.default_rng([seed, index, 1])  # another stream than the scene of the same number
        picture = _photograph(_background(*_random_size(size, rng), noise, rng), noise, rng)
        with atomic_path(folder / f"background-{index:06d}.jpg") as path:
            path.write_bytes(_to_jpeg(picture))
        if progress is not None:
            progress(Progress(index + 1, images, "images"))


def _may_replace(folder: Path, *, overwrite: bool) -> bool:
    return folder.is_dir() and (not any(folder.iterdir()) or (overwrite and (folder / "Annotations").is_dir()))


def _write_all(folder: Path, images: int, seed: int, size: tuple[int, int], progress: ProgressCallback | None) -> None:
    for name in ("JPEGImages", "Annotations", "Masks", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    noise = _noise_bank(np.random.default_rng(seed))
    ids = [f"{index:06d}" for index in range(images)]
    for index, name in enumerate(ids):
        picture, things = make_scene(np.random.default_rng([seed, index]), noise, size, first=index)
        _write_image(folder, name, picture, things)
        if progress is not None:
            progress(Progress(index + 1, images, "images"))
    held = max(1, round(images * 0.2))
    splits = {"train": ids[: -2 * held], "val": ids[-2 * held : -held], "test": ids[-held:]}
    for split, members in splits.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in members))


def make_scene(
    rng: np.random.Generator, noise: Field, size: tuple[int, int], first: int
) -> tuple[npt.NDArray[np.uint8], list[Thing]]:
    """Return one picture ``(H, W, 3)`` uint8 RGB and its annotated objects.

    ``noise`` is the square bank that all textures are cut from; the class of the first object is ``first`` modulo the
    number of classes, so that every class turns up equally often.
    """
    width, height = _random_size(size, rng)
    light = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.9, -0.2), 1.0])
    light /= np.linalg.norm(light)
    picture = _background(width, height, noise, rng)
    count = int(rng.choice(4, p=(0.35, 0.3, 0.2, 0.15))) + 1
    names = rng.permutation([list(SHAPES)[first % len(SHAPES)], *rng.choice(list(SHAPES), count - 1)]).tolist()
    masks: list[Mask] = []
    areas: list[int] = []
    for name in names:
        side = round(np.sqrt(rng.uniform(*_FRACTIONS[count]) * width * height))
        texture, opacity = render(name, side, light, _cut(noise, side, side, rng), rng)
        mask = _paint(picture, texture, opacity, _place(width, height, side, masks, rng), light)
        masks = [other & ~mask for other in masks] + [mask]
        areas.append(int(np.count_nonzero(opacity > 0.5)))
    things = []
    for name, mask, area in zip(names, masks, areas, strict=True):
        seen = int(np.count_nonzero(mask)) / area
        edge = bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())
        if seen >= _VISIBLE:
            things.append(Thing(name, mask, difficult=seen < _EASY, truncated=edge))
    return _photograph(picture, noise, rng), things


def _random_size(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Return (width, height): the longer side within ``size``, two in three lying, the rest upright."""
    long_side = int(rng.integers(size[0], size[1] + 1))
    short_side = round(long_side * rng.uniform(0.66, 1.0))
    return (long_side, short_side) if rng.random() < 0.67 else (short_side, long_side)


def _place(width: int, height: int, side: int, masks: list[Mask], rng: np.random.Generator) -> tuple[int, int]:
    """Return a top left corner: now and then over the edge of the image, now and then over another object."""
    margin = 0.4 * side if rng.random() < 0.2 else -0.04 * side
    best, least = (0, 0), np.inf
    for _ in range(rng.choice((1, 3, 6))):
        x = round(rng.uniform(-margin, max(width - side + margin, 1 - margin)))
        y = round(rng.uniform(-margin, max(height - side + margin, 1 - margin)))
        under = np.s_[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)]
        hidden = max((np.count_nonzero(mask[under]) / (np.count_nonzero(mask) + 1) for mask in masks), default=0.0)
        if hidden < least:
            best, least = (x, y), hidden
    return best


def _paint(picture: Field, texture: Field, opacity: Field, corner: tuple[int, int], light: Vector) -> Mask:
    """Draw a thing with its soft shadow into ``picture``, top left at ``corner``; return the pixels it covers."""
    side, (x, y) = len(opacity), corner
    blur = 0.03 * side + 1
    margin = round(3 * blur)
    shadow = cv2.copyMakeBorder(opacity * 0.55, margin, margin, margin, margin, cv2.BORDER_CONSTANT)
    shadow = cv2.GaussianBlur(shadow, (0, 0), blur)
    shift_x, shift_y = np.round(light[:2] * 0.12 * side).astype(int).tolist()
    _blend(picture, np.zeros((1, 1, 3), np.float32), _as_field(shadow), x - shift_x - margin, y - shift_y - margin)
    mask = np.zeros(picture.shape[:2], np.bool_)
    region, inner = _blend(picture, texture, opacity, x, y)
    mask[region] = opacity[inner] > 0.5
    return mask


def _blend(picture: Field, patch: Field, opacity: Field, x: int, y: int) -> tuple[Window, Window]:
    """Lay ``patch`` (that size, or one pixel) over ``picture`` at ``x, y``; return the windows in picture and patch."""
    height, width = opacity.shape
    left, top = max(x, 0), max(y, 0)
    right, bottom = max(min(x + width, picture.shape[1]), left), max(min(y + height, picture.shape[0]), top)
    region, inner = np.s_[top:bottom, left:right], np.s_[top - y : bottom - y, left - x : right - x]
    part = picture[region]
    part += ((patch[inner] if patch.shape[0] > 1 else patch) - part) * opacity[inner][..., None]
    return region, inner


def _as_field(array: npt.NDArray[Any]) -> Field:
    return np.asarray(array, np.float32)


# --------------------------------------------------------------------------------------------------------- background


def _noise_bank(rng: np.random.Generator, side: int = 768) -> Field:
    """Return fractal noise ``(side, side)`` with values spread evenly over 0..1."""
    total = np.zeros((side, side), np.float32)
    for octave in range(2, 9):
        cells = rng.random((2**octave, 2**octave), dtype=np.float32)
        total += cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC) * 0.62**octave
    ranks = total.ravel().argsort().argsort().reshape(side, side)
    return np.asarray(ranks / np.float32(side * side), np.float32)


def _cut(noise: Field, width: int, height: int, rng: np.random.Generator, stretch: float = 1.0) -> Field:
    """Cut a random, turned window of the bank, scaled at random; ``stretch`` draws it out into streaks."""
    scale, angle = np.exp(rng.uniform(-1.2, 0.7)), rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(
        [scale, scale * stretch]
    )
    matrix = np.concatenate([turn, rng.uniform(0, len(noise), (2, 1))], axis=1).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(noise, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(cut, np.float32)


def _background(width: int, height: int, noise: Field, rng: np.random.Generator) -> Field:
    """Return a ground ``(height, width, 3)`` in 0..1: one material, or two that meet, with clutter and uneven focus."""
    picture = _material(width, height, noise, rng)
    if rng.random() < 0.45:  # a second material behind a slanted horizon
        line = np.linspace(-1, 1, width, dtype=np.float32)[None] * rng.uniform(-0.3, 0.3)
        edge = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - line - rng.uniform(-0.5, 0.2)
        blend = np.clip(edge * (height / rng.uniform(2, 20)) + 0.5, 0, 1)[..., None]
        behind = _material(width, height, noise, rng)
        picture = behind + (picture - behind) * blend
    for _ in range(rng.integers(0, 5)):
        _add_clutter(picture, noise, rng)
    blur = rng.uniform(0, 2.2)
    return _as_field(cv2.GaussianBlur(picture, (0, 0), blur)) if blur > 0.5 else picture


def _material(width: int, height: int, noise: Field, rng: np.random.Generator) -> Field:
    """Return stone, wood, foliage or tiles, more or less: one field through a palette of three colours, and grain."""
    kind = rng.integers(0, 4)
    field = _cut(noise, width, height, rng, stretch=rng.uniform(4, 14) if kind == 1 else 1.0)
    if kind == 2:  # marble, bark, foliage: ridges along level lines
        field = np.abs(np.sin(field * rng.uniform(5, 25)))
    light = 0.8 + 0.4 * _cut(noise, width, height, rng)
    if kind == 3:
        light *= _seams(width, height, rng)
    colours = random_colours(3, rng, vivid=False)
    colours[1:] += (colours[0] - colours[1:]) * rng.uniform(0, 0.75)
    steps = np.linspace(0, 2, 256)
    palette = np.stack([np.interp(steps, (0, 1, 2), channel) for channel in colours.T], axis=1).astype(np.float32)
    return np.take(palette, (field * 255).astype(np.uint8), axis=0) * light[..., None]


def _seams(width: int, height: int, rng: np.random.Generator) -> Field:
    """Return what darkens the seams of planks or tiles, ``(height, width)``."""
    angle, period = rng.uniform(0, math.pi), rng.uniform(0.12, 0.4) * width
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
    seams = np.abs((x * cosine + y * sine) / period % 1 - 0.5)
    if rng.random() < 0.5:
        seams = np.maximum(seams, np.abs((y * cosine - x * sine) / period % 1 - 0.5))
    return _as_field(1 - rng.uniform(0.2, 0.6) * np.clip((seams - 0.46) * 40, 0, 1))


def _add_clutter(picture: Field, noise: Field, rng: np.random.Generator) -> None:
    """Draw a rod or a scrap of some material: something that is there but is no object."""
    height, width = picture.shape[:2]
    side = round(rng.uniform(0.12, 0.45) * width)
    cover = np.zeros((side, side), np.float32)
    corners = rng.uniform(0.15, 0.85, (4, 2)) * side
    if rng.random() < 0.4:
        cv2.polylines(cover, [corners[:2].astype(np.int32)], False, 1.0, int(rng.integers(2, 7)), cv2.LINE_AA)
    else:
        cv2.fillConvexPoly(cover, cv2.convexHull(corners.astype(np.int32)), 1.0, cv2.LINE_AA)
    cover = cv2.GaussianBlur(cover, (0, 0), rng.uniform(0.6, 3))
    texture = random_colours(1, rng)[0] * (0.6 + 0.6 * _cut(noise, side, side, rng))[..., None]
    x, y = rng.integers(-side // 2, width - side // 2), rng.integers(-side // 2, height - side // 2)
    _blend(picture, texture, _as_field(cover), int(x), int(y))


def _photograph(picture: Field, noise: Field, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return what a camera makes of the scene: uneven light, white balance, exposure, lens blur and sensor noise."""
    height, width = picture.shape[:2]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = 1 + rng.uniform(-0.25, 0.25) * across + rng.uniform(-0.25, 0.25) * down
    light -= rng.uniform(0, 0.2) * (across**2 + down**2)
    if rng.random() < 0.3:  # dappled shade
        light *= 0.65 + 0.5 * np.clip((_cut(noise, width, height, rng) - 0.4) * 4, 0, 1)
    picture *= light[..., None]
    picture *= rng.uniform(0.88, 1.12, 3).astype(np.float32) * rng.uniform(0.75, 1.1)
    picture = _as_field(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.8)))
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    exposed = cv2.convertScaleAbs(cv2.addWeighted(picture, 255, grain, 255 * rng.uniform(0.005, 0.03), 0))
    curve = (np.linspace(0, 1, 256) ** rng.uniform(0.8, 1.25) * 255).astype(np.uint8)
    return np.asarray(cv2.LUT(exposed, curve), np.uint8)


# -------------------------------------------------------------------------------------------------------------- files


def _to_jpeg(picture: npt.NDArray[np.uint8]) -> bytes:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, 92))
    return bytes(data)


def _write_image(folder: Path, name: str, picture: npt.NDArray[np.uint8], things: list[Thing]) -> None:
    (folder / "JPEGImages" / f"{name}.jpg").write_bytes(_to_jpeg(picture))
    (folder / "Annotations" / f"{name}.xml").write_text(_to_xml(name, picture, things))
    numbers = np.zeros(picture.shape[:2], np.uint8)
    for number, thing in enumerate(things, start=1):
        numbers[thing.mask] = number
    mask = Image.fromarray(numbers)
    mask.putpalette([0, 0, 0, 230, 90, 70, 80, 180, 90, 80, 120, 230, 230, 190, 60])  # visible in any viewer
    mask.save(folder / "Masks" / f"{name}.png")


def _to_xml(name: str, picture: npt.NDArray[np.uint8], things: list[Thing]) -> str:
    height, width = picture.shape[:2]
    lines = [
        "<annotation>",
        f"  <filename>{escape(name)}.jpg</filename>",
        "  <source><database>gwapctl synthetic</database></source>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>1</segmented>",
    ]
    for thing in things:
        rows, columns = np.flatnonzero(thing.mask.any(axis=1)), np.flatnonzero(thing.mask.any(axis=0))
        (corners,) = to_voc([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).astype(int).tolist()
        tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        lines += [
            f"  <object><name>{escape(thing.name)}</name><truncated>{int(thing.truncated)}</truncated>"
            f"<difficult>{int(thing.difficult)}</difficult>",
            f"    <bndbox>{''.join(f'<{tag}>{value}</{tag}>' for tag, value in tags)}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])
