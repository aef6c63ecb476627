"""Images in: decoded once, upright and complete, or refused with one clear line (``inputs`` finds them).

JPEG goes through OpenCV (the fastest decoder at hand), everything else through Pillow (the strictest one), HEIC with
the plug-in of the extra ``heic``. What becomes RGB how: grey is repeated, CMYK converted, 16 bits keep their upper 8,
transparent pixels are laid over white, and of an animation the first frame counts. The limits are ours, not Pillow's.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from gwapctl.errors import DataError, MissingReaderError, reading
from gwapctl.images.files import HEIC_ADVICE
from gwapctl.images.jpeg import AGAIN, ORIENTATION, BadImageError, StoredSize, not_an_image, read_jpeg_header

ImageArray = npt.NDArray[np.uint8]
_Read = TypeVar("_Read")

MAX_PIXELS = 100_000_000  # decoding holds at most nine bytes of each: 0.9 GB
_LARGE = 100_000_000  # bytes of pixels that are not held while the file is decoded once more
_ROWS = 256  # that are converted at a time: a whole image would be held several times over

# what Pillow may take a file for, whatever it is called: it would have Ghostscript run PostScript
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")

_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_READING = {  # OpenCV's modes by what they divide the size by
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks that say nothing about pixels, as we read them
_HEIC_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_AVIF_BRANDS = frozenset({b"avif", b"avis"})  # in the same container; Pillow reads these itself
_LONGEST_FTYP = 256  # bytes of the box that names the brands


class _NoHeicError(BadImageError):
    """A HEIC photo cannot be read here."""


@contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """Turn what goes wrong with the image at ``path``, or with what is called so, into an error that names it."""
    with reading(path, advice=f"{AGAIN}."):
        try:
            yield
        except (OSError, ValueError) as error:  # the latter: a name with a zero byte
            raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error
        except _NoHeicError as error:
            raise MissingReaderError(f"{path} {error}.") from error
        except BadImageError as error:
            raise DataError(f"{path} {error}.") from error


def read_image(path: Path) -> ImageArray:
    """Return the image as ``(H, W, 3)`` uint8 RGB, upright (EXIF orientation applied once).

    Raises:
        DataError: the file is missing, empty, not an image, truncated or larger than 100 megapixels.
        MissingReaderError: it is a HEIC photo, and the extra that reads these is not installed.

    """
    with _naming(path):
        return _decode(path.read_bytes())


def read_reduced(path: Path, least: tuple[int, int]) -> tuple[ImageArray, tuple[int, int]]:
    """Return the image as ``read_image`` does, perhaps smaller, and the (width, height) of the upright original.

    A JPEG is decoded at a half, a quarter or an eighth of its size where that leaves at least ``least`` (width,
    height), which takes a fraction of the time: for who shrinks it to that anyway. All else is read whole.
    """
    with _naming(path):
        data = path.read_bytes()
        image = _decode(data, least)
        size = read_jpeg_header(data).size.upright if data.startswith(_JPEG_START) else image.shape[1::-1]
        return image, size


def pillow_pixels(image: Image.Image) -> ImageArray:
    """Return an image of Pillow, of any mode, as ``read_image`` returns a file; errors are the same."""
    with _naming("the image of Pillow"), _our_limits():
        try:
            return _pixels(image)
        except (BadImageError, OSError):
            raise
        except Exception as error:  # Pillow's format plug-ins raise whatever their parser does
            raise BadImageError(f"is truncated or damaged ({str(error).partition(chr(10))[0]}). {AGAIN}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of the upright image; raises as ``stored_size`` does."""
    return stored_size(path).upright


def stored_size(path: Path) -> StoredSize:
    """Return the size as stored and the orientation from the header, without decoding pixels.

    Raises:
        DataError: the file is missing, empty or not an image.
        MissingReaderError: it is a HEIC photo, and the extra that reads these is not installed.

    """
    with _naming(path), path.open("rb") as file:
        _refuse_empty(os.fstat(file.fileno()).st_size)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read_jpeg_header(data).size if data[:3] == _JPEG_START else _with_pillow(file, _stored_size)


# ---------------------------------------------------------------------------------------------------------- decoding


def _decode(data: bytes, least: tuple[int, int] | None = None) -> ImageArray:
    _refuse_empty(len(data))
    if not data.startswith(_JPEG_START):
        return _decode_with_pillow(data)
    header = read_jpeg_header(data)
    _check_pixels(header.size.width, header.size.height)
    end = data.find(_JPEG_END, header.scan)
    if end < 0:
        raise BadImageError(f"is truncated: the JPEG data ends early. {AGAIN}")
    if header.components not in (1, 3):  # CMYK: OpenCV's conversion ignores the Adobe marker
        return _decode_with_pillow(data)
    factor = 1 if least is None else _reduction(header.size, least)
    bgr = _decode_with_opencv(data, header.size, factor)
    if _may_be_incomplete(bgr, 4 if factor == 1 else 2):
        large = bgr.nbytes > _LARGE
        if large:  # to look closer takes more memory than that: one after the other
            del bgr
        if _is_incomplete(data, end):
            raise BadImageError(f"is damaged: the JPEG data of its lower part is missing. {AGAIN}")
        if large:
            bgr = _decode_with_opencv(data, header.size, factor)
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)  # in its place
    return _upright(np.asarray(rgb, np.uint8), header.size.orientation)


def _decode_with_opencv(data: bytes, size: StoredSize, factor: int) -> npt.NDArray[Any]:
    """Return the BGR pixels of a JPEG of that size, which is divided by ``factor``."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), _READING[factor] | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        raise not_an_image()
    # a last row or column of a reduced one may stand for less than half of its pixels
    return bgr[: round(size.height / factor), : round(size.width / factor)]


def _reduction(size: StoredSize, least: tuple[int, int]) -> int:
    """Return by what an image of this size can be divided so that ``least`` (width, height) pixels are left."""
    width, height = size.upright
    return next((by for by in (8, 4, 2) if width // by >= least[0] and height // by >= least[1]), 1)


def _refuse_empty(size: int) -> None:
    if not size:
        raise BadImageError(f"is empty (0 bytes). {AGAIN}")


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        said = f"{width * height / 1e6:.1f} megapixels, and at most {MAX_PIXELS / 1e6:g} are decoded"
        raise BadImageError(f"has {width} x {height} pixels: {said}. Shrink it first")


def _may_be_incomplete(image: npt.NDArray[Any], side: int) -> bool:
    """Tell whether the last pixels are equal: so the decoder leaves them where data is missing; so are borders.

    ``side`` 4 is within the last block of 8x8, and so is 2 where the image is reduced.
    """
    corner = image[-side:, -side:]
    return bool((corner == image[-1, -1]).all())


def _is_incomplete(data: bytes, end: int) -> bool:
    """Tell whether a decoder still wants data where the end marker is: then stray bytes put there become pixels.

    Decoders fill a missing rest with flat grey and say nothing; after a complete image they skip stray bytes.
    """
    padded = data[:end] + b"\xa5\x5a\x3c\xc3" * 256 + _JPEG_END
    return _with_pillow(BytesIO(data), _digest) != _with_pillow(BytesIO(padded), _digest)


def _digest(image: Image.Image) -> bytes:
    """Return a hash of the pixels, so that two images need not be held to be compared; of a large one at half its size.

    What is missing shows there, too, and a progressive JPEG takes much memory besides its pixels.
    """
    if 3 * image.width * image.height > _LARGE:
        image.draft(None, (image.width // 2, image.height // 2))
    image.load()
    digest = hashlib.blake2b()
    for top in range(0, image.height, _ROWS):
        digest.update(image.crop((0, top, image.width, min(top + _ROWS, image.height))).tobytes())
    return digest.digest()


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that is still to be applied; the HEIC plug-in turns images itself, and says 1."""
    return int(image.getexif().get(ORIENTATION, 1))


def _to_rgb(image: Image.Image) -> ImageArray:
    """Convert the loaded frame of any Pillow mode to ``(H, W, 3)``."""
    if image.mode == "F":
        raise BadImageError("has floating-point pixels, whose range is unknown. Convert it to 8 or 16 bits first")
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _ROWS):
        bottom = min(top + _ROWS, height)
        pixels[top:bottom] = _rows_to_rgb(image.crop((0, top, width, bottom)))
    return pixels


def _rows_to_rgb(rows: Image.Image) -> npt.NDArray[np.uint8]:
    """Convert some rows of an image to ``(h, W, 3)``, or to ``(h, W, 1)`` where they are grey."""
    if rows.mode.startswith("I"):  # 16-bit grey, which older Pillow calls 32-bit
        return (np.clip(np.asarray(rows).astype(np.int64), 0, 65535) >> 8).astype(np.uint8)[:, :, None]
    if rows.has_transparency_data:
        above = rows.convert("RGBA")
        rows = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return np.asarray(rows.convert("RGB"))


def _upright(image: ImageArray, orientation: int) -> ImageArray:
    """Undo the EXIF ``orientation`` (1..8) of an array ``(H, W, 3)``."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


# ------------------------------------------------------------------------------------------------------------ Pillow


class _OurLimits:
    """Lifts Pillow's limit on pixels while any thread reads with it: ``MAX_PIXELS`` is checked before decoding."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._theirs: int | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the limit off; the last reader to leave puts it back."""
        with self._lock:
            if not self._readers:
                self._theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if not self._readers:
                    Image.MAX_IMAGE_PIXELS = self._theirs


_our_limits = _OurLimits()


def _decode_with_pillow(data: bytes) -> ImageArray:
    return _with_pillow(BytesIO(data), _pixels)


def _with_pillow(file: IO[bytes], read: Callable[[Image.Image], _Read]) -> _Read:
    """Return what ``read`` gets from the image that ``file`` holds, without Pillow's limits on pixels and texts."""
    _prepare_for_heic(file)
    image = None
    try:
        with _our_limits(), Image.open(file, formats=_known_formats()) as image:
            return read(image)
    except BadImageError:
        raise
    except Exception as error:  # Pillow's format plug-ins raise whatever their parser does
        file.seek(0)
        plain = _without_text(file.read())
        if plain is not None:
            return _with_pillow(BytesIO(plain), read)
        if image is None:
            raise not_an_image() from error
        reason = str(error).partition("\n")[0]
        raise BadImageError(f"is truncated or damaged ({reason}). {AGAIN}") from error


def _known_formats() -> list[str]:
    """Return those of ``_FORMATS`` that this Pillow reads."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _pixels(image: Image.Image) -> ImageArray:
    _check_pixels(*image.size)
    image.load()
    return _upright(_to_rgb(image), _orientation(image))


def _stored_size(image: Image.Image) -> StoredSize:
    """Return the size and orientation. Of a PNG that takes its pixels, too: EXIF may stand behind them."""
    _check_pixels(*image.size)
    return StoredSize(*image.size, 1 if image.format == "TIFF" else _orientation(image))  # Pillow has turned TIFF


def _prepare_for_heic(file: IO[bytes]) -> None:
    """Have Pillow know HEIC where ``file`` is one, whatever it is called; leave the file at its start."""
    head = file.read(_LONGEST_FTYP)
    file.seek(0)
    if head[4:8] != b"ftyp":
        return
    known = head[8 : int.from_bytes(head[:4])]  # ISO/IEC 14496-12: brand, version, compatible brands
    brands = {known[start : start + 4] for start in range(0, len(known), 4)}
    if brands & _AVIF_BRANDS or not brands & _HEIC_BRANDS:
        return
    try:
        from pi_heif import register_heif_opener
    except ImportError as error:
        raise _NoHeicError(f"is a HEIC photo, which is not read: {HEIC_ADVICE}") from error
    register_heif_opener()


def _without_text(data: bytes) -> bytes | None:
    """Return a PNG less its texts and colour profile, which Pillow limits in size; None where there is none of them."""
    if not data.startswith(_PNG_START):
        return None
    kept, start, dropped = [_PNG_START], len(_PNG_START), False
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])  # length, type, data, checksum
        if data[start + 4 : start + 8] in _PNG_TEXT:
            dropped = True
        else:
            kept.append(data[start:end])
        start = end
    return b"".join(kept) if dropped else None
