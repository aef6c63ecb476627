"""What the header of a JPEG file says: its size, how it is turned, and where its picture begins."""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple

AGAIN = "Fetch it again or remove it"
ORIENTATION = 0x0112  # EXIF tag; 1 = upright


class BadImageError(Exception):
    """What is wrong with an image; ``_naming`` puts the path in front."""


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


def not_an_image() -> BadImageError:
    """Return the error that a file holds no image."""
    return BadImageError(f"is not an image that can be decoded. {AGAIN}")


class JpegHeader(NamedTuple):
    """The header of a JPEG file."""

    size: StoredSize
    components: int  # 1 grey, 3 colour, 4 CMYK
    scan: int  # where the entropy-coded data starts


def read_jpeg_header(data: bytes | mmap.mmap) -> JpegHeader:
    """Walk the segments up to the first scan (ITU T.81, B.1.1)."""
    width = height = components = 0
    orientation, start = 1, 2
    while True:
        head = data[start : start + 4]
        if len(head) < 4 or head[0] != 0xFF:
            raise BadImageError(f"is truncated or damaged: it ends within the JPEG header. {AGAIN}")
        marker, length = head[1], int.from_bytes(head[2:])
        if marker == 0xFF:  # fill byte
            start += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF: start of frame
            frame = data[start + 5 : start + 10]
            if len(frame) < 5:
                raise BadImageError(f"is truncated: it ends within the JPEG header. {AGAIN}")
            height, width, components = int.from_bytes(frame[:2]), int.from_bytes(frame[2:4]), frame[4]
        elif marker == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0":
            orientation = _exif_orientation(bytes(data[start + 10 : start + 2 + length]))
        elif marker == 0xDA:  # SOS: start of scan
            break
        start += 2 + length
    if not width or not height:
        raise not_an_image()
    return JpegHeader(StoredSize(width, height, orientation), components, scan=start)


def _exif_orientation(tiff: bytes) -> int:
    """Return the orientation that the first directory of an EXIF block states; 1 where it says nothing, or nonsense."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2], "<")
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == ORIENTATION:
                return value if value in range(1, 9) else 1
    except struct.error:  # broken EXIF is no reason to lose the picture
        pass
    return 1
