"""How long work tells about itself: plain values through a callback, so that the library never prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` (None: unknown) in ``unit``; ``text`` is what the work wants said beside the bar."""

    done: int
    total: int | None
    unit: str
    text: str = ""


ProgressCallback = Callable[[Progress], None]
