"""What a notebook shows of models and predictions: a table, below a picture where there is one."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

ROWS = 20  # of a table, at most
JPEG_QUALITY = 85


def as_html(
    title: str,
    rows: Sequence[Sequence[object]],
    *,
    heads: Sequence[str] = (),
    picture: npt.NDArray[np.uint8] | None = None,
    below: Sequence[str] = (),
) -> str:
    """Return a table of ``rows`` below its title and a ``picture`` (H, W, 3), which is a part of the text.

    The sentences ``below`` follow it.

    >>> as_html("<a>", [("cat", 0.5)])
    '<strong>&lt;a&gt;</strong><table><tbody><tr><td>cat</td><td>0.5</td></tr></tbody></table>'
    """
    image = "" if picture is None else f'<br><img alt="" style="max-width: 100%" src="{_data_uri(picture)}">'
    head = f"<thead>{_row(heads, 'th')}</thead>" if heads else ""
    body = "".join(_row(row, "td") for row in rows[:ROWS])
    more = f"<p>and {len(rows) - ROWS} more</p>" if len(rows) > ROWS else ""
    said = "".join(f"<p>{escape(text)}</p>" for text in below)
    return f"<strong>{escape(title)}</strong>{image}<table>{head}<tbody>{body}</tbody></table>{more}{said}"


def _row(cells: Sequence[object], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"


def _data_uri(picture: npt.NDArray[np.uint8]) -> str:
    import cv2

    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
