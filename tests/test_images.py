"""Decoding and finding images: every kind of file comes out upright and whole, or as one clear line."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gwapctl.errors import DataError, UsageError
from gwapctl.images.decode import image_size, read_image
from gwapctl.inputs import ImageInput, find_inputs


def picture(height: int = 37, width: int = 53) -> np.ndarray:
    """A smooth picture (survives JPEG) whose four corners differ."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 90 * np.sin(x / 5) * np.cos(y / 7)], axis=2).astype(
        np.uint8
    )


def save(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def jpeg_bytes(image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def assert_like(actual: np.ndarray, expected: np.ndarray, tolerance: float = 3.0) -> None:
    assert actual.dtype == np.uint8
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(float) - expected).mean() < tolerance


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "gif", "webp", "jpg"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    path = save(tmp_path / f"a.{suffix}", picture(), **options)
    assert_like(read_image(path), picture(), tolerance=8 if suffix == "gif" else 3)
    assert image_size(path) == (53, 37)


def test_postscript_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would have Ghostscript run it, whatever the file is called."""
    path, started = tmp_path / "holiday.png", list[object]()
    header = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\n"
    path.write_bytes(header + b"(%pipe%touch /tmp/x) (w) file\nshowpage\n%%EOF\n")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given, **more: started.append(given))
    with Image.open(path) as image:  # it does
        assert image.format == "EPS"
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"holiday\.png is not an image that can be decoded"):
            read(path)
    assert started == []


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path: Path, suffix: str, orientation: int) -> None:
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),  # stored rotated to the left, to be turned to the right
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", np.ascontiguousarray(undo(picture())), exif=exif)
    assert_like(read_image(path), picture(), tolerance=6)
    assert image_size(path) == (53, 37)


def test_broken_exif_does_not_lose_the_picture(tmp_path: Path) -> None:
    data = jpeg_bytes(picture())
    segment = b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x12" * 9
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:])
    assert_like(read_image(path), picture())


def test_grey_palette_and_bilevel(tmp_path: Path) -> None:
    grey = Image.fromarray(picture()).convert("L")
    expected = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
    assert_like(read_image(save(tmp_path / "grey.jpg", grey, quality=95)), expected)
    assert_like(read_image(save(tmp_path / "grey.png", grey)), expected, tolerance=0.1)
    palette = Image.fromarray(picture()).quantize(256)
    assert_like(read_image(save(tmp_path / "palette.png", palette)), picture(), tolerance=10)
    bilevel = read_image(save(tmp_path / "bilevel.png", grey.convert("1")))
    assert set(np.unique(bilevel)) == {0, 255}


def test_cmyk_keeps_its_colours(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(picture()).convert("CMYK"), quality=95)
    assert_like(read_image(path), picture(), tolerance=6)


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 37 * 53).reshape(37, 53).astype(np.uint16)
    for suffix in ("png", "tif"):
        image = read_image(save(tmp_path / f"a.{suffix}", values))
        np.testing.assert_array_equal(image, np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def test_floating_point_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.random.default_rng(0).random((5, 7), np.float32))
    with pytest.raises(DataError, match="floating-point"):
        read_image(path)


def test_transparent_pixels_lie_over_white(tmp_path: Path) -> None:
    alpha = np.full((37, 53, 1), 255, np.uint8)
    alpha[:10] = 0
    path = save(tmp_path / "a.png", np.concatenate([picture(), alpha], axis=2))
    expected = picture()
    expected[:10] = 255
    np.testing.assert_array_equal(read_image(path), expected)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 6), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "png", "webp"):
        path = save(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
        assert_like(read_image(path), np.full((6, 9, 3), (255, 0, 0)))


def test_truncated_files_are_errors(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 48, 3), np.uint8)
    for suffix in ("jpg", "png", "webp", "gif", "bmp", "tif"):
        data = save(tmp_path / f"whole.{suffix}", noise).read_bytes()
        for part in (0.02, 0.5, 0.9):
            path = tmp_path / f"part.{suffix}"
            path.write_bytes(data[: int(len(data) * part)])
            with pytest.raises(DataError, match=re.escape(str(path))):
                read_image(path)


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg_with_a_thumbnail_is_an_error(tmp_path: Path, progressive: bool) -> None:
    """The end marker of the thumbnail in the EXIF segment must not pass for the picture's."""
    data = jpeg_bytes(picture(), progressive=progressive)
    thumbnail = b"Exif\0\0MM\0*\0\0\0\x08\0\0" + jpeg_bytes(picture(8, 9))
    whole = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    assert_like(read_image(path), picture())
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match="truncated"):
        read_image(path)


@pytest.mark.parametrize("missing", [60, 200, 600])
def test_jpeg_with_an_end_marker_but_without_its_lower_part(tmp_path: Path, missing: int) -> None:
    """OpenCV and Pillow both return grey rows here without a word."""
    data = jpeg_bytes(picture(90, 70))
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: -2 - missing] + b"\xff\xd9")
    with pytest.raises(DataError, match="lower part is missing"):
        read_image(path)


def test_flat_border_is_no_damage(tmp_path: Path) -> None:
    framed = np.full((64, 80, 3), 255, np.uint8)
    framed[8:40, 8:60] = picture()[:32, :52]
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_bytes(framed))
    assert_like(read_image(path), framed)


def test_bytes_after_the_picture_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_bytes(picture()) + b"trailer" * 50)
    assert_like(read_image(path), picture())


def test_not_images(tmp_path: Path) -> None:
    cases = {
        "empty.jpg": b"",
        "page.jpg": b"<html>404</html>",
        "start.jpg": b"\xff\xd8\xff",
        "x.png": b"\x89PNG\r\n\x1a\n",
    }
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        for read in (read_image, image_size):
            with pytest.raises(DataError, match=re.escape(name)) as caught:
                read(path)
            assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="No such file"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(DataError, match="cannot read"):
        image_size(tmp_path / "missing.jpg")


def test_huge_images_are_refused_by_their_header(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    end = b"IEND"
    png += struct.pack(">I", 0) + end + struct.pack(">I", zlib.crc32(end))
    (tmp_path / "a.png").write_bytes(png)
    data = bytearray(jpeg_bytes(picture()))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", 20_000, 20_000)
    (tmp_path / "a.jpg").write_bytes(bytes(data))
    for name in ("a.png", "a.jpg"):
        with pytest.raises(DataError, match="megapixels"):
            read_image(tmp_path / name)


# ------------------------------------------------------------------------------------------------------------- inputs


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b/x.jpg", "a/x.PNG", "a/deep/y.jpeg", "a/.hidden.jpg", "a/notes.md", "top.jpg", ".git/z.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ids(inputs: list[ImageInput]) -> list[str]:
    return [item.id for item in inputs]


def test_folders_are_recursive_and_sorted(tree: Path) -> None:
    found = find_inputs(["."])
    assert ids(found) == ["a/deep/y.jpeg", "a/x.PNG", "b/x.jpg", "top.jpg"]
    assert [item.path for item in found] == [tree / item.id for item in found]
    assert ids(find_inputs([str(tree)], recursive=False)) == ["top.jpg"]
    assert ids(find_inputs(["a"])) == ["deep/y.jpeg", "x.PNG"]


def test_several_inputs_share_the_common_root(tree: Path) -> None:
    assert ids(find_inputs(["b", "a/deep/y.jpeg", "a"])) == ["a/deep/y.jpeg", "a/x.PNG", "b/x.jpg"]
    assert ids(find_inputs(["b/x.jpg"])) == ["x.jpg"]
    assert ids(find_inputs(["b/x.jpg", "b/../b/x.jpg"])) == ["x.jpg"]
    assert ids(find_inputs(["top.jpg", "b/x.jpg"])) == ["b/x.jpg", "top.jpg"]


def test_globs(tree: Path) -> None:
    assert ids(find_inputs(["*/x.*"])) == ["a/x.PNG", "b/x.jpg"]
    assert ids(find_inputs([str(tree / "**" / "*.jp*g")])) == ["a/deep/y.jpeg", "b/x.jpg", "top.jpg"]
    with pytest.raises(UsageError, match="nothing matches"):
        find_inputs(["*/nothing*.jpg"])
    with pytest.raises(DataError, match="no image"):
        find_inputs(["a/*.md"])


def test_a_file_whose_name_looks_like_a_glob(tree: Path) -> None:
    (tree / "b" / "x[1].jpg").touch()
    assert ids(find_inputs(["b/x[1].jpg"])) == ["x[1].jpg"]


def test_list_files(tree: Path) -> None:
    (tree / "lists").mkdir()
    (tree / "lists" / "list.txt").write_text("\n".join(["b/x.jpg", "", "../a", "gone.jpg"]))
    assert ids(find_inputs(["lists/list.txt"])) == ["a/deep/y.jpeg", "a/x.PNG", "b/x.jpg", "gone.jpg"]


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_standard_input(tree: Path, monkeypatch: pytest.MonkeyPatch, separator: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(separator.join(["b/x.jpg", "a/x.PNG", ""])))
    assert ids(find_inputs(["-"])) == ["a/x.PNG", "b/x.jpg"]


def test_a_terminal_is_not_waited_for(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    with pytest.raises(UsageError, match="terminal"):
        find_inputs(["-"])


def test_missing_inputs(tree: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.jpg does not exist"):
        find_inputs(["top.jpg", "nowhere.jpg"])
    (tree / "void").mkdir()
    with pytest.raises(DataError, match="no image in void"):
        find_inputs(["void"])
