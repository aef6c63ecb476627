"""Images in: decoded once, upright and complete, or refused with one clear line (``inputs`` finds them).

JPEG goes through OpenCV (the fastest decoder at hand), everything else through Pillow (the strictest one), HEIC with
the plug-in of the extra ``heic``. What becomes RGB how: grey is repeated, CMYK converted, 16 bits keep their upper 8,
transparent pixels are laid over white, and of an animation the first frame counts. The limits are ours, not Pillow's.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from gwapctl.errors import DataError, MissingReaderError
from gwapctl.images.pillow import NOT_AN_IMAGE, BadImageError, NoHeicError, open_with_pillow, our_limits, without_text

ImageArray = npt.NDArray[np.uint8]

MAX_PIXELS = 200_000_000

_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_ORIENTATION = 0x0112  # EXIF tag; 1 = upright


def read_image(path: Path) -> ImageArray:
    """Return the image as ``(H, W, 3)`` uint8 RGB, upright (EXIF orientation applied once).

    Raises:
        DataError: the file is missing, empty, not an image, truncated or larger than 200 megapixels.
        MissingReaderError: it is a HEIC photo, and the extra that reads these is not installed.

    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    if not data:
        raise DataError(f"{path} is empty (0 bytes). Fetch it again or remove it.")
    try:
        return _decode(data)
    except BadImageError as error:
        raise DataError(f"{path} {error}.") from error
    except NoHeicError as error:
        raise MissingReaderError(f"{path} {error}.") from error


class StoredSize(NamedTuple):
    """The size of an image as its file stores it, and the EXIF orientation (1 = upright) by which it is shown."""

    width: int
    height: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Return (width, height) of the upright image."""
        turned = self.orientation in (5, 6, 7, 8)
        return (self.height, self.width) if turned else (self.width, self.height)


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of the upright image from its header, without decoding pixels.

    Raises:
        DataError: the file is missing, empty or not an image.
        MissingReaderError: it is a HEIC photo, and the extra that reads these is not installed.

    """
    return stored_size(path).upright


def stored_size(path: Path) -> StoredSize:
    """Return the size as stored and the orientation from the header, without decoding pixels.

    Raises:
        DataError: the file is missing, empty or not an image.

    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:3] == _JPEG_START:
                header = _read_jpeg_header(data)
                width, height, orientation = header.width, header.height, header.orientation
            else:
                width, height, orientation = _read_header_with_pillow(file)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:  # mmap of nothing
        raise DataError(f"{path} is empty (0 bytes). Fetch it again or remove it.") from error
    except BadImageError as error:
        raise DataError(f"{path} {error}.") from error
    except NoHeicError as error:
        raise MissingReaderError(f"{path} {error}.") from error
    return StoredSize(width, height, orientation)


# ---------------------------------------------------------------------------------------------------------- decoding


def _decode(data: bytes) -> ImageArray:
    if not data.startswith(_JPEG_START):
        return _decode_with_pillow(data)
    header = _read_jpeg_header(data)
    _check_pixels(header.width, header.height)
    end = data.find(_JPEG_END, header.scan)
    if end < 0:
        raise BadImageError("is truncated: the JPEG data ends early. Fetch it again or remove it")
    if header.components not in (1, 3):  # CMYK: OpenCV's conversion ignores the Adobe marker
        return _decode_with_pillow(data)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if bgr is None:
        raise BadImageError(NOT_AN_IMAGE)
    if _may_be_incomplete(bgr) and _is_incomplete(data, end):
        raise BadImageError("is damaged: the JPEG data of its lower part is missing. Fetch it again or remove it")
    return _upright(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8), header.orientation)


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise BadImageError(f"has {width} x {height} pixels, more than {limit} megapixels. Shrink it first")


def _may_be_incomplete(image: npt.NDArray[Any]) -> bool:
    """Tell whether the last 4x4 pixels are equal: so the decoder leaves them where data is missing; so are borders."""
    corner = image[-4:, -4:]
    return bool((corner == image[-1, -1]).all())


def _is_incomplete(data: bytes, end: int) -> bool:
    """Tell whether a decoder still wants data where the end marker is: then stray bytes put there become pixels.

    Decoders fill a missing rest with flat grey and say nothing; after a complete image they skip stray bytes.
    """
    padded = data[:end] + b"\xa5\x5a\x3c\xc3" * 256 + _JPEG_END
    return not np.array_equal(_decode_with_pillow(data), _decode_with_pillow(padded))


def _decode_with_pillow(data: bytes) -> ImageArray:
    try:
        return _load_with_pillow(data)
    except (BadImageError, NoHeicError):
        raise
    except Exception as error:  # as above: SyntaxError, struct.error, zlib.error, ... on broken files
        plain = without_text(data)
        if plain is not None:
            return _decode_with_pillow(plain)
        raise _damaged(error) from error


def _load_with_pillow(data: bytes) -> ImageArray:
    with open_with_pillow(BytesIO(data)) as image:
        _check_pixels(*image.size)
        with our_limits():
            image.load()
        return _upright(_to_rgb(image), _orientation(image))


def _read_header_with_pillow(file: IO[bytes]) -> tuple[int, int, int]:
    """Return (width, height, EXIF orientation). Of a PNG that takes its pixels, too: EXIF may stand behind them."""
    with open_with_pillow(file) as image:
        width, height = image.size
        _check_pixels(width, height)
        try:
            with our_limits():
                # Pillow has already turned TIFF
                return width, height, 1 if image.format == "TIFF" else _orientation(image)
        except Exception as error:  # as above
            file.seek(0)
            plain = without_text(file.read())
            if plain is not None:
                return _read_header_with_pillow(BytesIO(plain))
            raise _damaged(error) from error


def _damaged(error: Exception) -> BadImageError:
    reason = str(error).partition("\n")[0]
    return BadImageError(f"is truncated or damaged ({reason}). Fetch it again or remove it")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that is still to be applied; the HEIC plug-in turns images itself, and says 1."""
    return int(image.getexif().get(_ORIENTATION, 1))


def _to_rgb(image: Image.Image) -> ImageArray:
    """Convert the loaded frame of any Pillow mode to ``(H, W, 3)``."""
    if image.mode == "F":
        raise BadImageError("has floating-point pixels, whose range is unknown. Convert it to 8 or 16 bits first")
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


# -------------------------------------------------------------------------------------------------------- JPEG header


@dataclass(frozen=True)
class _JpegHeader:
    width: int
    height: int
    components: int  # 1 grey, 3 colour, 4 CMYK
    orientation: int
    scan: int  # where the entropy-coded data starts


def _read_jpeg_header(data: bytes | mmap.mmap) -> _JpegHeader:
    """Walk the segments up to the first scan (ITU T.81, B.1.1)."""
    width = height = components = 0
    orientation, place = 1, 2
    while True:
        head = data[place : place + 4]
        if len(head) < 4 or head[0] != 0xFF:
            raise BadImageError("is truncated or damaged: it ends within the JPEG header. Fetch it again or remove it")
        marker, length = head[1], int.from_bytes(head[2:])
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF: start of frame
            height, width = int.from_bytes(data[place + 5 : place + 7]), int.from_bytes(data[place + 7 : place + 9])
            components = data[place + 9]
        elif marker == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            orientation = _exif_orientation(bytes(data[place + 10 : place + 2 + length]))
        elif marker == 0xDA:  # SOS: start of scan
            break
        place += 2 + length
    if not width or not height:
        raise BadImageError(NOT_AN_IMAGE)
    return _JpegHeader(width, height, components, orientation, scan=place)


def _exif_orientation(tiff: bytes) -> int:
    """Return the orientation that the first directory of an EXIF block states; 1 where it says nothing, or nonsense."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2], "<")
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, place)
            if tag == _ORIENTATION:
                return value if value in range(1, 9) else 1
    except struct.error:  # broken EXIF is no reason to lose the picture
        pass
    return 1
