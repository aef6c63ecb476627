"""Good images that Pillow's own limits refuse, and ours, which says what it enforces."""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from gwapctl.errors import DataError
from gwapctl.images import decode as images
from gwapctl.images.decode import _our_limits, image_size, read_image

WIDTH, HEIGHT = 80, 60
MEGABYTE = 1 << 20


Chunk = tuple[bytes, bytes]  # kind and data


def png(path: Path, *chunks: Chunk, after: tuple[Chunk, ...] = (), mode: str = "RGB") -> Path:
    """Save a PNG of noise with ``chunks`` before its pixels and ``after`` behind them."""
    values = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, len(mode)), np.uint8)
    Image.fromarray(values.squeeze()).save(path)
    data = path.read_bytes()
    end = data.index(b"IEND") - 4
    parts = (data[:33], *map(_chunk, chunks), data[33:end], *map(_chunk, after), data[end:])
    path.write_bytes(b"".join(parts))
    return path


def _chunk(item: Chunk) -> bytes:
    kind, data = item
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def compressed_text(size: int) -> Chunk:
    return b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * size)


LARGE = {
    "one large text": (compressed_text(5 * MEGABYTE),),
    "international text": ((b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"x" * 2 * MEGABYTE)),),
    "many texts": (compressed_text(MEGABYTE - 1),) * 70,
    "large profile": ((b"iCCP", b"icc\0\0" + zlib.compress(bytes(3 * MEGABYTE))),),
}


@pytest.mark.parametrize("chunks", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_png_is_read_whatever_text_it_carries(
    tmp_path: Path, chunks: tuple[Chunk, ...], place: str, mode: str
) -> None:
    plain = read_image(png(tmp_path / "plain.png", mode=mode))
    path = tmp_path / "text.png"
    png(path, *chunks, mode=mode) if place == "before" else png(path, after=chunks, mode=mode)
    assert image_size(path) == (WIDTH, HEIGHT)
    assert np.array_equal(read_image(path), plain)


def test_the_orientation_of_a_png_stands_beside_its_text(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = png(tmp_path / "a.png", compressed_text(2 * MEGABYTE), (b"eXIf", exif.tobytes()[6:]))
    assert image_size(path) == (HEIGHT, WIDTH)
    assert read_image(path).shape == (WIDTH, HEIGHT, 3)


def test_a_damaged_png_with_text_is_still_refused(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", compressed_text(2 * MEGABYTE))
    path.write_bytes(path.read_bytes()[:-3000])
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"a\.png is truncated or damaged"):
            read(path)


def test_a_picture_too_large_is_not_decoded_to_learn_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(DataError, match=r"a\.png has 80 x 60 pixels: .* at most"):
        image_size(png(tmp_path / "a.png"))


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif", "webp"])
def test_pillows_limit_on_pixels_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses twice as many
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(path) == (WIDTH, HEIGHT)
        assert read_image(path).shape == (HEIGHT, WIDTH, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif"])
def test_our_limit_says_what_it_enforces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (3000, 1000), "red").save(path)
    monkeypatch.setattr(images, "MAX_PIXELS", 3_000_000)
    assert read_image(path).shape == (1000, 3000, 3)  # just as many
    monkeypatch.setattr(images, "MAX_PIXELS", 2_000_000)
    with pytest.raises(DataError, match=rf"a\.{suffix} has 3000 x 1000 pixels: 3\.0 megapixels, and at most 2 "):
        read_image(path)


def test_pillows_limits_are_back_when_the_last_reader_leaves() -> None:
    before = (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    inside, leave = threading.Event(), threading.Event()

    def read() -> None:
        with _our_limits():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=read)
    with _our_limits():
        thread.start()
        assert inside.wait(10)
    assert Image.MAX_IMAGE_PIXELS is None  # the other one still reads
    leave.set()
    thread.join()
    assert before == (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def test_a_png_with_large_text_goes_through_the_command_line(tmp_path: Path, run_cli: Callable) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        png(tmp_path / name / "a.png", compressed_text(2 * MEGABYTE))
    assert run_cli("data", "check", tmp_path).code == 0
    assert run_cli("localize", tmp_path, "--format", "jsonl").code == 0
