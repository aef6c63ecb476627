"""What options say in one word, as values: ``224,448``, ``5%``, lists of names."""

from __future__ import annotations

from gwapctl.errors import UsageError


def parse_scales(text: str | None) -> tuple[int, ...] | None:
    """Read ``--scales``: ``"224,448"`` becomes ``(224, 448)``.

    Raises:
        UsageError: not a comma-separated list of positive whole numbers.

    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--scales {text!r} is not a list of sizes in pixels. Write it like --scales 224,448,672.")
    return tuple(map(int, parts))


def parse_layers(text: str | None) -> tuple[str, ...] | None:
    """Read ``--layer``: ``"3,layers.4"`` becomes ``("3", "layers.4")``.

    Raises:
        UsageError: an empty name.

    """
    names = None if text is None else tuple(part.strip() for part in text.split(","))
    if names and not all(names):
        raise UsageError(f"--layer {text!r} names no layer. Write it like --layer 3 or --layer 3,layers.4.")
    return names


def parse_share(text: str | None, option: str) -> float | None:
    """Read a share: ``"5%"`` and ``"0.05"`` become 0.05.

    Raises:
        UsageError: not a number from 0 to below 1.

    """
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(f"{option} {text!r} is not a share from 0 to below 1. Write it like {option} 5%.")
    return share


def parse_names(text: str | None, option: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Read a comma-separated list whose items must be among ``choices``; None gives ``()``.

    Raises:
        UsageError: an item is unknown; the message lists the choices.

    """
    names = listed(text)
    for name in names:
        if name not in choices:
            raise UsageError(f"{option} does not know {name!r}. Choose from: {', '.join(choices)}.")
    return names


def listed(text: str | None) -> tuple[str, ...]:
    """Read a comma-separated list: ``"a, b"`` becomes ``("a", "b")``, None ``()``."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
