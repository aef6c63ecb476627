"""Images in: decoded once, upright and complete, or refused with one clear line (``inputs`` finds them).

JPEG goes through OpenCV (the fastest decoder at hand), everything else through Pillow (the strictest one), HEIC with
the plug-in of the extra ``heic``. What becomes RGB how: grey is repeated, CMYK converted, 16 bits keep their upper 8,
transparent pixels are laid over white, and of an animation the first frame counts. The limits are ours, not Pillow's.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from gwapctl.errors import DataError, MissingReaderError
from gwapctl.images.files import HEIC_ADVICE

ImageArray = npt.NDArray[np.uint8]
_Read = TypeVar("_Read")

MAX_PIXELS = 200_000_000

# what Pillow may take a file for, whatever it is called: it would have Ghostscript run PostScript
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")

_AGAIN = "Fetch it again or remove it"
_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_READING = {  # OpenCV's modes by what they divide the size by
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_ORIENTATION = 0x0112  # EXIF tag; 1 = upright
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks that say nothing about pixels, as we read them
_HEIC_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_AVIF_BRANDS = frozenset({b"avif", b"avis"})  # in the same container; Pillow reads these itself
_LONGEST_FTYP = 256  # bytes of the box that names the brands


class _BadImageError(Exception):
    """What is wrong with an image; ``_naming`` puts the path in front."""


class _NoHeicError(_BadImageError):
    """A HEIC photo cannot be read here."""


@contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """Turn what goes wrong with the image at ``path``, or with what is called so, into an error that names it."""
    try:
        yield
    except (OSError, ValueError) as error:  # the latter: a name with a zero byte
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error
    except _NoHeicError as error:
        raise MissingReaderError(f"{path} {error}.") from error
    except _BadImageError as error:
        raise DataError(f"{path} {error}.") from error


def read_image(path: Path) -> ImageArray:
    """Return the image as ``(H, W, 3)`` uint8 RGB, upright (EXIF orientation applied once).

    Raises:
        DataError: the file is missing, empty, not an image, truncated or larger than 200 megapixels.
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
        size = _read_jpeg_header(data).size.upright if data.startswith(_JPEG_START) else image.shape[1::-1]
        return image, size


def pillow_pixels(image: Image.Image) -> ImageArray:
    """Return an image of Pillow, of any mode, as ``read_image`` returns a file; errors are the same."""
    with _naming("the image of Pillow"), _our_limits():
        try:
            return _pixels(image)
        except (_BadImageError, OSError):
            raise
        except Exception as error:  # Pillow's format plug-ins raise whatever their parser does
            raise _BadImageError(f"is truncated or damaged ({str(error).partition(chr(10))[0]}). {_AGAIN}") from error


class StoredSize(NamedTuple):
    """The size of an image as its file stores it, and the EXIF orientation (1 = upright) by which it is shown.

    >>> StoredSize(640, 480, orientation=6).upright
    (480, 640)
    """

    width: int
    height: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Return (width, height) of the upright image."""
        turned = self.orientation in (5, 6, 7, 8)
        return (self.height, self.width) if turned else (self.width, self.height)


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
            return _read_jpeg_header(data).size if data[:3] == _JPEG_START else _with_pillow(file, _stored_size)


# ---------------------------------------------------------------------------------------------------------- decoding


def _decode(data: bytes, least: tuple[int, int] | None = None) -> ImageArray:
    _refuse_empty(len(data))
    if not data.startswith(_JPEG_START):
        return _decode_with_pillow(data)
    header = _read_jpeg_header(data)
    _check_pixels(header.size.width, header.size.height)
    end = data.find(_JPEG_END, header.scan)
    if end < 0:
        raise _BadImageError(f"is truncated: the JPEG data ends early. {_AGAIN}")
    if header.components not in (1, 3):  # CMYK: OpenCV's conversion ignores the Adobe marker
        return _decode_with_pillow(data)
    factor = 1 if least is None else _reduction(header.size, least)
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), _READING[factor] | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        raise _not_an_image()
    if factor > 1:  # a last row or column stands for less than half of its pixels
        bgr = bgr[: round(header.size.height / factor), : round(header.size.width / factor)]
    if _may_be_incomplete(bgr, 4 if factor == 1 else 2) and _is_incomplete(data, end):
        raise _BadImageError(f"is damaged: the JPEG data of its lower part is missing. {_AGAIN}")
    return _upright(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8), header.size.orientation)


def _reduction(size: StoredSize, least: tuple[int, int]) -> int:
    """Return by what an image of this size can be divided so that ``least`` (width, height) pixels are left."""
    width, height = size.upright
    return next((by for by in (8, 4, 2) if width // by >= least[0] and height // by >= least[1]), 1)


def _refuse_empty(size: int) -> None:
    if not size:
        raise _BadImageError(f"is empty (0 bytes). {_AGAIN}")


def _not_an_image() -> _BadImageError:
    return _BadImageError(f"is not an image that can be decoded. {_AGAIN}")


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise _BadImageError(f"has {width} x {height} pixels, more than {limit} megapixels. Shrink it first")


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
    return not np.array_equal(_decode_with_pillow(data), _decode_with_pillow(padded))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that is still to be applied; the HEIC plug-in turns images itself, and says 1."""
    return int(image.getexif().get(_ORIENTATION, 1))


def _to_rgb(image: Image.Image) -> ImageArray:
    """Convert the loaded frame of any Pillow mode to ``(H, W, 3)``."""
    if image.mode == "F":
        raise _BadImageError("has floating-point pixels, whose range is unknown. Convert it to 8 or 16 bits first")
    if image.mode.startswith("I"):  # 16-bit grey, which older Pillow calls 32-bit
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return np.array(image.convert("RGB"))


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
    except _BadImageError:
        raise
    except Exception as error:  # Pillow's format plug-ins raise whatever their parser does
        file.seek(0)
        plain = _without_text(file.read())
        if plain is not None:
            return _with_pillow(BytesIO(plain), read)
        if image is None:
            raise _not_an_image() from error
        reason = str(error).partition("\n")[0]
        raise _BadImageError(f"is truncated or damaged ({reason}). {_AGAIN}") from error


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


# -------------------------------------------------------------------------------------------------------- JPEG header


class _JpegHeader(NamedTuple):
    size: StoredSize
    components: int  # 1 grey, 3 colour, 4 CMYK
    scan: int  # where the entropy-coded data starts


def _read_jpeg_header(data: bytes | mmap.mmap) -> _JpegHeader:
    """Walk the segments up to the first scan (ITU T.81, B.1.1)."""
    width = height = components = 0
    orientation, start = 1, 2
    while True:
        head = data[start : start + 4]
        if len(head) < 4 or head[0] != 0xFF:
            raise _BadImageError(f"is truncated or damaged: it ends within the JPEG header. {_AGAIN}")
        marker, length = head[1], int.from_bytes(head[2:])
        if marker == 0xFF:  # fill byte
            start += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF: start of frame
            height, width = int.from_bytes(data[start + 5 : start + 7]), int.from_bytes(data[start + 7 : start + 9])
            components = data[start + 9]
        elif marker == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0":
            orientation = _exif_orientation(bytes(data[start + 10 : start + 2 + length]))
        elif marker == 0xDA:  # SOS: start of scan
            break
        start += 2 + length
    if not width or not height:
        raise _not_an_image()
    return _JpegHeader(StoredSize(width, height, orientation), components, scan=start)


def _exif_orientation(tiff: bytes) -> int:
    """Return the orientation that the first directory of an EXIF block states; 1 where it says nothing, or nonsense."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2], "<")
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return value if value in range(1, 9) else 1
    except struct.error:  # broken EXIF is no reason to lose the picture
        pass
    return 1
