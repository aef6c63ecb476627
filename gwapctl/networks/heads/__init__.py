"""Every pooling head by name: from a feature map to logits, and to the map that says where.

A new head is a class, one line in ``HEADS`` and one test row.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from gwapctl.errors import UsageError, closest, unknown_name
from gwapctl.networks.heads.averaging import GAP, GWAP, GWAPgt, GWAPNoExp, GWAPNoSigmoid, PoolThenClassify
from gwapctl.networks.heads.background import Background
from gwapctl.networks.heads.base import Head, HeadOutput
from gwapctl.networks.heads.original import Original
from gwapctl.networks.heads.scoring import GMP, LSE, WELDON, WILDCAT, GMPFeatures, GWAPClass

__all__ = ["HEADS", "Head", "HeadOutput", "PoolThenClassify", "build_head", "check_head", "head_class", "head_options"]

HEADS: dict[str, type[Head]] = {
    "background": Background,
    "gap": GAP,
    "gmp": GMP,
    "gmp-features": GMPFeatures,
    "gwap": GWAP,
    "gwap-class": GWAPClass,
    "gwap-gt": GWAPgt,
    "gwap-no-exp": GWAPNoExp,
    "gwap-no-sigmoid": GWAPNoSigmoid,
    "lse": LSE,
    "original": Original,
    "weldon": WELDON,
    "wildcat": WILDCAT,
}


def head_class(name: str) -> type[Head]:
    """Return the class of the head ``name``, which says what the head needs to be trained.

    Raises:
        UsageError: there is no such head; the message names the nearest.

    """
    if name not in HEADS:
        raise unknown_name("head", name, HEADS)
    return HEADS[name]


def head_options(name: str) -> dict[str, Any]:
    """Return the options of the head ``name`` with their defaults.

    Raises:
        UsageError: there is no such head; the message names the nearest.

    """
    _channels, _classes, *options = inspect.signature(head_class(name)).parameters.values()
    return {option.name: option.default for option in options}


def check_head(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a head or an option of it that does not exist.

    Raises:
        UsageError: there is no such head or option, or an option is no number.

    """
    known = head_options(name)
    for option, value in options.items():
        if option not in known:
            choices = f"Its options: {', '.join(known)}." if known else "It has none."
            raise UsageError(f"head {name} has no option {option!r}.{closest(option, known)} {choices}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(f"head {name}: {option} must be a number, not {value!r}.")


def build_head(name: str, channels: int, classes: int, options: Mapping[str, Any] | None = None) -> Head:
    """Build the head ``name`` for feature maps of ``channels`` and as many logits as ``classes``.

    Args:
        name: one of ``HEADS``.
        channels: K.
        classes: C.
        options: the head's own (``head_options`` lists them), such as ``{"r": 10}`` for ``lse``.

    Raises:
        UsageError: there is no such head or option, or an option's value makes no sense.

    """
    check_head(name, options or {})
    return HEADS[name](channels, classes, **(options or {}))
