"""Whether the network may be used: the one switch that every download asks."""

from __future__ import annotations

import os

SWITCHES = ("GWAPCTL_OFFLINE", "HF_HUB_OFFLINE")  # the second is the Hugging Face hub's own, and its libraries ask it


def is_offline() -> bool:
    """Tell whether the user forbids the network: by ``--offline``, or by one of the environment's ``SWITCHES``."""
    return any(os.environ.get(name, "").upper() not in ("", "0", "FALSE", "NO", "OFF") for name in SWITCHES)


def go_offline() -> None:
    """Forbid the network to this process, to what it starts, and to the libraries that it has yet to import."""
    os.environ.update(dict.fromkeys(SWITCHES, "1"))
