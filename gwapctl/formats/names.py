"""What labelling tools call an image: addresses, folders and marks of their own around the name that it had."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

_ADDRESS = re.compile(r"^(?:[a-z][a-z0-9+.-]+:/|/data/)", re.IGNORECASE)  # s3://..., https://..., Label Studio's own
_UPLOAD = re.compile(r"^/?data/upload/(?:\d+/)?")  # Label Studio: files that were dragged into a project ...
_MARK = re.compile(r"^[0-9a-f]{8}-(?=.)")  # ... get eight digits in front of their names


def image_name(address: str, *, marked: bool = False) -> str:
    """Return the path of an image of which a tool gives the ``address``; ``marked``: uploads carry Label Studio's mark.

    >>> image_name("/data/local-files/?d=fruit/red%20apple.jpg"), image_name("/data/upload/3/0a1b2c3d-pear.jpg")
    ('fruit/red apple.jpg', 'pear.jpg')
    >>> image_name("s3://bucket/a/b.jpg"), image_name("images/0a1b2c3d-pear.jpg", marked=True)
    ('a/b.jpg', 'pear.jpg')
    """
    path, marked = address.replace("\\", "/"), marked or _UPLOAD.match(address) is not None
    if _ADDRESS.match(path):
        parts = urlsplit(path)
        path = (parse_qs(parts.query).get("d") or [unquote(parts.path)])[0]
    path = _UPLOAD.sub("", path)
    if marked:
        folder, _, name = path.removeprefix("images/").rpartition("/")
        path = f"{folder}/{_MARK.sub('', name)}"
    return "/".join(part for part in path.split("/") if part)
