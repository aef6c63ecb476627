"""A synthetic data set in VOC layout: shaded, patterned objects with exact boxes and masks, from nothing but a seed.

Six classes lie on textured grounds with clutter, occlude each other and leave the frame; form and pattern tell them
apart, never colour. Objects that are hard to see are flagged difficult, those that cannot be seen are not annotated.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.color import hsv2rgb
from skimage.draw import polygon2mask, random_shapes
from skimage.util import img_as_ubyte, random_noise

from gwapctl.boxes import to_voc
from gwapctl.errors import DataError, UsageError, option
from gwapctl.files import OWN, atomic_path, in_use, remove_below
from gwapctl.lock import locked
from gwapctl.progress import Progress, ProgressCallback

Field = npt.NDArray[Any]  # a value or colour per pixel
Random = np.random.Generator

_QUALITY = 92  # of JPEG
_MADE_BY = "gwapctl synthetic"  # in every annotation, which tells them from others
_VISIBLE, _EASY = 0.08, 0.5  # a smaller share of an object is not annotated, or difficult
_SHARES = {1: (0.15, 0.75), 2: (0.15, 0.5), 3: (0.12, 0.35), 4: (0.1, 0.25)}  # side² / image, by number of objects

_ANGLES = np.linspace(-np.pi, np.pi, 101)[:-1]
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_HANDLE = _CIRCLE[25:76]  # its right half, from the top down
_BRICK = np.array([(-0.9, -0.5), (0.9, -0.5), (0.9, 0.5), (-0.9, 0.5)])
_STAR = _CIRCLE * (0.38 + 0.6 * np.abs(np.cos(2.5 * _ANGLES)) ** 2)[:, None]
_LEAF = _CIRCLE * np.stack([np.ones(100), 0.6 * np.abs(_CIRCLE[:, 1]) * (1 - 0.3 * _CIRCLE[:, 0])], axis=1)
_MUG = np.array([(-0.8, 0.7), (-0.8, -0.7), (0.35, -0.7), *(_HANDLE * (0.5, 0.5) + (0.35, 0)), (0.35, 0.7)])

# By class the outlines, x right and y down in -1..1, a second one being a hole, and where it has its second colour.
SHAPES: dict[str, tuple[list[Field], Callable[[Field, Field], Field]]] = {
    "ball": ([_CIRCLE], lambda x, y: np.sin(8 * x / np.sqrt(np.maximum(1.05 - y * y, 0.05))) > 0),
    "brick": ([_BRICK], lambda x, y: (y % 0.4 < 0.1) | ((x + y // 0.4 * 0.3) % 0.6 < 0.1)),
    "leaf": ([_LEAF], lambda x, y: ((x - np.abs(y)) % 0.26 < 0.1) | (np.abs(y) < 0.05)),
    "mug": ([_MUG, _HANDLE * (0.3, 0.33) + (0.35, 0)], lambda x, y: (np.abs(y) < 0.3) & (x < 0.35)),
    "ring": ([_CIRCLE, _CIRCLE * 0.55], lambda x, y: np.sin(8 * np.arctan2(y, x)) > 0),
    "star": ([_STAR], lambda x, y: np.hypot(x, y) % 0.24 < 0.1),
}


class SyntheticObject(NamedTuple):
    """One annotated object: the pixels ``(H, W)`` of it that can be seen."""

    name: str
    mask: npt.NDArray[np.bool_]
    difficult: bool
    truncated: bool


def pose(side: float, rng: Random) -> Field:
    """Return the matrix ``(2, 2)`` from a shape to pixels: turned, mirrored, stretched and sheared at random."""
    angle = rng.normal(0, 0.35) if rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    across, down = rng.choice([-1, 1]) * rng.uniform(0.8, 1), rng.uniform(0.8, 1)
    return np.asarray(turn @ [[across, rng.uniform(-0.2, 0.2)], [0, down]] * side / 2.2)


def draw(name: str, matrix: Field, x: float, y: float, shape: tuple[int, int]) -> tuple[Field, Field]:
    """Return where an object around ``x, y`` is in an image ``(H, W)``, and where it has its second colour."""
    outlines, pattern = SHAPES[name]
    solid = np.zeros(shape, bool)
    for outline in outlines:
        solid ^= polygon2mask(shape, (outline @ matrix.T + (x, y))[:, ::-1])  # type: ignore[no-untyped-call]
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return solid, pattern(*np.tensordot(np.linalg.inv(matrix), [columns - x, rows - y], 1))


def _mixed(share: Field, rng: Random) -> Field:
    """Return ``(H, W, 3)``: two random RGB colours in 0..1, none too dark or too light, mixed by ``share (H, W)``."""
    hsv = np.stack([rng.random(2), rng.beta(2, 2, 2), rng.uniform(0.35, 0.95, 2)], axis=1)
    first, second = hsv2rgb(hsv)
    return np.asarray(first + (second - first) * share[..., None])


def _texture(width: int, height: int, rng: Random, stretch: float = 1.0) -> Field:
    """Return fractal noise ``(height, width)`` in 0..1; ``stretch`` draws it out into streaks."""
    total, weight, cells = np.zeros((height, width), np.float32), 1.0, rng.uniform(1.5, 9)
    while cells < width / 2:
        grid = rng.random((math.ceil(cells * stretch * height / width) + 1, math.ceil(cells) + 1), dtype=np.float32)
        total += weight * cv2.resize(grid, (width, height))
        weight, cells = weight * 0.62, cells * 2
    return np.asarray(cv2.normalize(total, total, 0, 1, cv2.NORM_MINMAX))


def _ground(width: int, height: int, rng: Random) -> Field:
    """Return a ground ``(height, width, 3)`` in 0..1: one material, or two that meet, with clutter, out of focus."""
    near, far = (
        _mixed(_texture(width, height, rng, rng.choice([1, 9])), rng) * 0.6 + rng.uniform(0, 0.4) for _ in range(2)
    )
    left, right = rng.uniform(-0.7, 0.7, 2) * height  # of the horizon; often above the image
    horizon = np.linspace(left, right, width)
    picture = np.where((np.arange(height)[:, None] < horizon)[..., None], far, near)
    clutter, _ = random_shapes(  # type: ignore[no-untyped-call]  # scraps that are there but are no objects
        (height, width), 4, min_shapes=0, min_size=6, max_size=min(width, height) // 3, allow_overlap=True, rng=rng
    )
    covered = (clutter < 255).any(axis=2)
    picture[covered] = clutter[covered] / 255 * (0.7 + 0.3 * picture[covered])
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 2.2)))


def _photograph(picture: Field, rng: Random) -> Field:
    """Return the picture as a camera takes it, uint8: uneven light, white balance, exposure and sensor noise."""
    down, across = np.mgrid[-1 : 1 : picture.shape[0] * 1j, -1 : 1 : picture.shape[1] * 1j]
    light = 1 + rng.uniform(-0.35, 0.35) * across + rng.uniform(-0.35, 0.35) * down
    seen = picture * light[..., None] * rng.uniform(0.88, 1.12, 3) * rng.uniform(0.75, 1.1)
    noisy = random_noise(np.clip(seen, 0, 1), var=rng.uniform(0.005, 0.03) ** 2, rng=rng)  # type: ignore[no-untyped-call]
    return np.asarray(img_as_ubyte(noisy))  # type: ignore[no-untyped-call]


def _coloured(solid: Field, second: Field, rng: Random) -> Field:
    """Return the picture ``(H, W, 3)`` of an object: two colours, its texture, and darker towards its edge."""
    depth = cv2.distanceTransform(solid.astype(np.uint8), cv2.DIST_L2, 5)
    shade = 0.6 + 0.5 * np.sqrt(depth / (depth.max() + 1))
    shade *= 0.8 + 0.3 * _texture(solid.shape[1], solid.shape[0], rng)
    return np.asarray(_mixed(second, rng) * shade[..., None])


def make_image(rng: Random, size: tuple[int, int], first: int) -> tuple[Field, list[SyntheticObject]]:
    """Return one picture ``(H, W, 3)`` uint8 RGB and its annotated objects.

    The class of the first object is ``first`` modulo the number of classes, so that all turn up equally often.
    """
    width, height = _random_size(size, rng)
    picture = _ground(width, height, rng)
    count = int(rng.choice(4, p=(0.35, 0.3, 0.2, 0.15))) + 1
    names = rng.permutation([list(SHAPES)[first % len(SHAPES)], *rng.choice(list(SHAPES), count - 1)]).tolist()
    placed: list[tuple[str, Field, int]] = []  # name, what is seen of it, its whole area
    for name in names:
        side = math.sqrt(rng.uniform(*_SHARES[count]) * width * height)
        matrix = pose(side, rng)
        inset = min(side * (0.1 if rng.random() < 0.2 else 0.5), height / 2, width / 2)  # now and then over the edge
        for _ in range(rng.choice((1, 3, 6))):  # now and then over another object
            x, y = rng.uniform(inset, (width - inset, height - inset))
            solid, second = draw(name, matrix, x, y, (height, width))
            if not any((mask & solid).any() for _, mask, _ in placed):
                break
        shadow = cv2.GaussianBlur(solid.astype(np.float32), (0, 0), 0.06 * side)[..., None]
        picture = np.where(solid[..., None], _coloured(solid, second, rng), picture * (1 - 0.5 * shadow))
        whole, _ = draw(name, matrix, side, side, (int(2 * side), int(2 * side)))
        placed = [(other, mask & ~solid, area) for other, mask, area in placed] + [(name, solid, int(whole.sum()))]
    objects = []
    for name, mask, area in placed:
        seen = int(mask.sum()) / area
        edge = bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())
        if seen >= _VISIBLE:
            objects.append(SyntheticObject(name, mask, difficult=seen < _EASY, truncated=edge))
    return _photograph(cv2.GaussianBlur(picture, (0, 0), 0.5), rng), objects


def _random_size(size: tuple[int, int], rng: Random) -> tuple[int, int]:
    """Return (width, height): the longer side within ``size``, two in three lying, the rest upright."""
    long_side = int(rng.integers(size[0], size[1] + 1))
    short_side = round(long_side * rng.uniform(0.66, 1.0))
    return (long_side, short_side) if rng.random() < 0.67 else (short_side, long_side)


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
    if (folder.exists() and not folder.is_dir()) or (in_use(folder) and not (overwrite and _is_ours(folder))):
        raise UsageError(
            f"{folder} is in use. Choose another folder, or replace a synthetic one with {option('overwrite', True)}."
        )
    beside = folder.resolve().with_name(f"{OWN}{folder.name}")
    try:
        with locked(beside):
            made = beside / folder.name
            shutil.rmtree(made, ignore_errors=True)  # of one that was killed
            try:
                _make(made, images, seed, size, progress)
                _move(made, folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        with suppress(OSError):  # removed with the lock, unless it was left behind
            beside.rmdir()
    except OSError as error:
        raise DataError(
            f"cannot write {folder}: {error.strerror or error}. Free space or choose another folder."
        ) from error


def _is_ours(folder: Path) -> bool:
    """Tell whether files of ours are below ``folder``, or none at all: their removal, killed, leaves empty folders."""
    return bool(_own_files(folder)) or all(path.is_dir() and not path.is_symlink() for path in folder.rglob("*"))


def _own_files(folder: Path) -> list[str]:
    """Return the names of the files below ``folder`` that ``make_synthetic_voc`` wrote; the annotations come last."""
    ours = [file.stem for file in sorted(folder.glob("Annotations/[0-9]*.xml")) if _MADE_BY in file.read_text("utf-8")]
    pictures = [f"{place}.{suffix}" for place, suffix in (("JPEGImages/{}", "jpg"), ("Masks/{}", "png"))]
    names = [text.format(stem) for stem in ours for text in pictures]
    lists = [f"ImageSets/Main/{split}.txt" for split in ("train", "val", "test")] if ours else []
    return [*names, *lists, *(f"Annotations/{stem}.xml" for stem in ours)]


def _move(made: Path, folder: Path) -> None:
    """Put the data set ``made`` where an earlier one is, if any, whose files go; files of others stay."""
    remove_below(folder, _own_files(folder))
    if not in_use(folder):
        shutil.rmtree(folder, ignore_errors=True)  # empty, but for what is hidden
        made.rename(folder)
        return
    for file in sorted(path for path in made.rglob("*") if path.is_file()):
        place = folder / file.relative_to(made)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)


def _make(folder: Path, images: int, seed: int, size: tuple[int, int], progress: ProgressCallback | None) -> None:
    """Draw the images and write the data set into a folder that is not there yet."""
    for name in ("JPEGImages", "Annotations", "Masks", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for index in range(images):
        rng = np.random.default_rng([seed, index])
        _write_image(folder, f"{index:06d}", *make_image(rng, size, first=index))
        if progress is not None:
            progress(Progress(index + 1, images, "images"))
    held = max(1, round(images * 0.2))
    for split, members in {"train": (0, -2 * held), "val": (-2 * held, -held), "test": (-held, None)}.items():
        ids = (f"{index:06d}\n" for index in range(images)[slice(*members)])
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(ids))


def _write_image(folder: Path, name: str, picture: Field, objects: list[SyntheticObject]) -> None:
    nodes, numbers = "", np.zeros(picture.shape[:2], np.uint8)
    for number, item in enumerate(objects, start=1):
        numbers[item.mask] = number
        x, y, across, down = cv2.boundingRect(item.mask.astype(np.uint8))
        x0, y0, x1, y1 = to_voc([x, y, x + across, y + down])[0].astype(int)
        nodes += (
            f"<object><name>{item.name}</name><truncated>{item.truncated:d}</truncated>"
            f"<difficult>{item.difficult:d}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
            f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>\n"
        )
    height, width = picture.shape[:2]
    (folder / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><filename>{name}.jpg</filename><source><database>{_MADE_BY}</database></source>\n"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size><segmented>1</segmented>\n"
        f"{nodes}</annotation>\n"
    )
    Image.fromarray(picture).save(folder / "JPEGImages" / f"{name}.jpg", quality=_QUALITY)
    mask = Image.fromarray(numbers)
    mask.putpalette([0, 0, 0, 230, 90, 70, 80, 180, 90, 80, 120, 230, 230, 190, 60])  # visible in any viewer
    mask.save(folder / "Masks" / f"{name}.png")


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
