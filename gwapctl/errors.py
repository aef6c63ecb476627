"""Every error a user can cause. The library raises them, the command line prints them as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

E = TypeVar("E")

LONGEST_REASON = 300  # characters of what a parser says


def printable(text: str) -> str:
    r"""Return ``text`` as it can be printed and stored: a byte of a file's name that is no UTF-8 becomes ``\xe9``."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair, from a JSON file: no byte of a name
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")


class GwapctlError(Exception):
    """Base of all expected errors. The message says what, on which file, why, and what to do next."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


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


class MissingReaderError(DataError, MissingDependencyError):
    """An image whose format an optional package reads: bad data in a batch, a missing dependency by itself."""

    exit_code = 5


@contextmanager
def reading(
    file: object, kind: type[GwapctlError] = DataError, advice: str = "Repair it, or fetch it again."
) -> Iterator[None]:
    """Turn whatever a parser raises on ``file``, which anybody may have made, into an error of ``kind`` that names it.

    The one boundary around every reader: parsers raise what their authors did not think of (a zip file's errors in a
    ``.npy``, a tokenizer's, a lack of memory for a size that the file states). Errors of ours pass as they are. Around
    a generator's body it sees what reading raises, and nothing of what its caller does.

    >>> with reading("a.xml"):
    ...     [][0]
    Traceback (most recent call last):
    ...
    gwapctl.errors.DataError: a.xml cannot be read (IndexError: list index out of range). Repair it, or fetch it again.
    """
    try:
        yield
    except GwapctlError:
        raise
    except MemoryError as error:
        raise kind(f"{file} cannot be read: it wants more memory than there is. {advice}") from error
    except OSError as error:
        raise kind(f"cannot read {file}: {error.strerror or error}.") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise kind(f"{file} cannot be read ({type(error).__name__}{': ' * bool(reason)}{reason}). {advice}") from error


_flags = False  # whether the command line is the caller


@contextmanager
def flags_spoken() -> Iterator[None]:
    """Have messages call options by their flags: the command line is the caller, not Python."""
    global _flags
    before, _flags = _flags, True
    try:
        yield
    finally:
        _flags = before


def option(name: str, *values: object) -> str:
    """Write the option ``name`` as the caller knows it, with the ``values`` that a message proposes.

    >>> option("scales"), option("resize", "keep"), option("map", "class", "fused"), option("flip", True)
    ('scales=', "resize='keep'", "map='class' or 'fused'", 'flip=True')
    >>> with flags_spoken():
    ...     option("box_rule"), option("scales", (224, 448)), option("map", "class", "fused"), option("verify", False)
    ('--box-rule', '--scales 224,448', '--map class or fused', '--no-verify')
    """
    if not _flags:
        return f"{name}={any_of(map(repr, values)) if values else ''}"
    words = name.replace("_", "-")
    if values and isinstance(values[0], bool):  # a switch
        return f"--{'' if values[0] else 'no-'}{words}"
    written = (",".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in values)
    return f"--{words}{' ' + any_of(written) if values else ''}"


def setting(name: str, value: object) -> str:
    """Write a setting of training that a message proposes as the caller gives it; ``option`` is for those with a flag.

    >>> setting("keep", "last")
    "keep='last'"
    >>> with flags_spoken():
    ...     setting("flip", False), setting("warmup", 500)
    ('--set flip=false', '--set warmup=500')
    """
    written = str(value).lower() if isinstance(value, bool) else value
    return f"--set {name}={written}" if _flags else f"{name}={value!r}"


def file_exists(path: object) -> UsageError:
    """Build the error for a file that is there already and nobody said to replace."""
    return UsageError(f"{path} exists. Replace it with {option('overwrite', True)}, or choose another {option('out')}.")


def counted(number: int, noun: str) -> str:
    """Return ``number`` with its noun: ``"1 image"``, ``"2,000 images"``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def closest(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice nearest to ``name``, or an empty string."""
    nearest = difflib.get_close_matches(str(name), list(choices), n=1, cutoff=0.5)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def any_of(names: Iterable[str], word: str = "or") -> str:
    """Return ``names`` as in a sentence: ``"a, b or c"``."""
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> UsageError:
    """Build the error for a ``name`` that is not one of ``choices``; it lists them and names the nearest."""
    names = sorted(choices)
    return UsageError(f"unknown {kind} {name!r}.{closest(name, names)} Choose one of: {', '.join(names)}.")


def lookup(kind: str, name: str, entries: Mapping[str, E]) -> E:
    """Return the entry ``name`` of the registry of a ``kind``, such as ``HEADS``.

    Raises:
        UsageError: there is none; the message lists all and names the nearest.

    """
    if name not in entries:
        raise unknown_name(kind, name, entries)
    return entries[name]
