"""Pillow as we use it: with our limits in place of its own, and with HEIC where the extra ``heic`` is installed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import IO

from PIL import Image

from gwapctl.images.files import HEIC_ADVICE

NOT_AN_IMAGE = "is not an image that can be decoded. Fetch it again or remove it"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks that say nothing about pixels, as we read them
_HEIC_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_AVIF_BRANDS = frozenset({b"avif", b"avis"})  # in the same container; Pillow reads these itself
_LONGEST_FTYP = 256  # bytes of the box that names the brands


class BadImageError(Exception):
    """What is wrong with an image; the caller puts the path in front."""


class NoHeicError(Exception):
    """A HEIC photo cannot be read here; the caller puts the path in front."""


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


our_limits = _OurLimits()


def open_with_pillow(file: IO[bytes]) -> Image.Image:
    """Open the image that ``file`` holds; its pixels are not decoded yet.

    Raises:
        BadImageError: Pillow knows no such image.
        NoHeicError: it is a HEIC photo, and the extra that reads these is not installed.

    """
    _prepare_for_heic(file)
    try:
        with our_limits():
            return Image.open(file)
    except Exception as error:  # Pillow's format plug-ins raise whatever their parser does
        file.seek(0)
        plain = without_text(file.read())
        if plain is not None:
            return open_with_pillow(BytesIO(plain))
        raise BadImageError(NOT_AN_IMAGE) from error


def _prepare_for_heic(file: IO[bytes]) -> None:
    """Have Pillow know HEIC where ``file`` is one, whatever it is called; leave the file at its start."""
    head = file.read(_LONGEST_FTYP)
    file.seek(0)
    if head[4:8] != b"ftyp":
        return
    known = head[8 : int.from_bytes(head[:4])]  # ISO/IEC 14496-12: brand, version, compatible brands
    brands = {known[place : place + 4] for place in range(0, len(known), 4)}
    if brands & _AVIF_BRANDS or not brands & _HEIC_BRANDS:
        return
    try:
        from pi_heif import register_heif_opener
    except ImportError as error:
        raise NoHeicError(f"is a HEIC photo, which is not read: {HEIC_ADVICE}") from error
    register_heif_opener()


def without_text(data: bytes) -> bytes | None:
    """Return a PNG less its texts and colour profile, which Pillow limits in size; None where there is none of them."""
    if not data.startswith(_PNG_START):
        return None
    kept, place, dropped = [_PNG_START], len(_PNG_START), False
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])  # length, type, data, checksum
        if data[place + 4 : place + 8] in _PNG_TEXT:
            dropped = True
        else:
            kept.append(data[place:end])
        place = end
    return b"".join(kept) if dropped else None
