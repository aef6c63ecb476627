"""Every error a user can cause. The library raises them, the command line prints them as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GwapctlError(Exception):
    """Base of all expected errors. The message says what, on which file, why, and what to do next."""

    exit_code = 1


class UsageError(GwapctlError):
    """A wrong option, name or recipe."""

    exit_code = 2


class DataError(GwapctlError):
    """A data set, image or annotation that cannot be used."""

    exit_code = 4


class ModelError(GwapctlError):
    """A checkpoint that cannot be used."""

    exit_code = 4


class MissingDependencyError(GwapctlError):
    """An optional package or a device that is not there."""

    exit_code = 5


def closest(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice nearest to ``name``, or an empty string."""
    nearest = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> UsageError:
    """Build the error for a ``name`` that is not one of ``choices``; it lists them and names the nearest."""
    names = sorted(choices)
    return UsageError(f"unknown {kind} {name!r}.{closest(name, names)} Choose one of: {', '.join(names)}.")
