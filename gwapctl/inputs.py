"""Inputs: the images that files, folders, globs, lists and standard input mean, each once and with an id."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gwapctl.errors import DataError, MissingReaderError, UsageError, counted, printable
from gwapctl.files import decode_text
from gwapctl.images.files import HEIC_SUFFIXES, SUFFIXES, Overlooked, find_file, same_files, walk_images


@dataclass(frozen=True, slots=True)
class ImageInput:
    """One image to work on. ``id`` is its posix path from the common root of all inputs, suffix kept: unique."""

    file: str | Path  # a text where there are many: a Path takes three times the memory
    id: str

    @property
    def path(self) -> Path:
        """Where it lies."""
        return Path(self.file)


def find_inputs(
    inputs: Sequence[str], *, recursive: bool = True, notice: Callable[[str], None] = lambda _: None
) -> list[ImageInput]:
    """Return the images that ``inputs`` mean, sorted by id, each once.

    An input is an image file, a folder (its images, and those of its subfolders if ``recursive``), a glob, a ``.txt``
    file with one of these per line, or ``-`` for such lines (or NUL-separated ones) on standard input. Files that a
    list names need not exist: they fail one by one when read. ``notice`` hears what was passed by: HEIC photos that
    cannot be read here, links that lead back to a folder above them, lines that a list has twice.

    Raises:
        UsageError: an input does not exist or matches nothing.
        DataError: there is no image at all.
        MissingReaderError: there are HEIC photos alone, and the extra that reads these is not installed.

    """
    roots: list[str] = []
    found: set[str] = set()
    search = _Search(recursive)
    for text in inputs:
        for root, paths in search.expand(text):
            roots.append(root)
            found.update(paths)
    if not found:
        if search.overlooked.heic:
            raise MissingReaderError(search.overlooked.messages()[0])
        raise DataError(f"no image in {', '.join(inputs)}. Known suffixes: {' '.join(sorted(SUFFIXES))}.")
    for message in search.messages():
        notice(message)
    try:
        common = os.path.commonpath(roots)
    except ValueError as error:
        raise UsageError("the inputs lie on different drives. Run once for each drive.") from error
    start = len(common.rstrip(os.sep)) + 1
    paths = sorted(found)
    for message in _first_and_more(same_files(paths)):
        notice(message)
    ids = [path[start:].replace(os.sep, "/") for path in paths]
    written = [name if name.isascii() else printable(name) for name in ids]
    if written != ids and len(set(written)) < len(ids):
        raise UsageError(f"two images in {', '.join(inputs)} have names that would be written alike. Rename one.")
    return [ImageInput(path, name) for path, name in zip(paths, written, strict=True)]


def _first_and_more(messages: list[str]) -> list[str]:
    """Return the first of many messages that are alike, and how many more there are."""
    more = f" And {counted(len(messages) - 1, 'more file')} like it." if len(messages) > 1 else ""
    return [messages[0] + more] if messages else []


class _Search:
    """One look for inputs: what they mean, and what was passed by."""

    def __init__(self, recursive: bool) -> None:
        self.recursive = recursive
        self.overlooked = Overlooked()
        self._twice: list[str] = []

    def messages(self) -> list[str]:
        """Return what the user must hear of."""
        lines = self.overlooked.messages()
        if self._twice:
            more = f" and {len(self._twice) - 1} more" if len(self._twice) > 1 else ""
            lines.append(f"listed twice, taken once: {self._twice[0]}{more}.")
        return lines

    def expand(self, text: str) -> Iterable[tuple[str, list[str]]]:
        """Yield (root, absolute image paths) of one input."""
        path = find_file(Path(text)) or Path(text)
        if text == "-":
            yield from self._expand_lines(_read_stdin(), Path.cwd())
        elif path.is_dir():
            yield _absolute(path), self._images_in(path)
        elif path.suffix.lower() == ".txt" and path.is_file():
            yield from self._expand_lines(_read_list(path), path.parent)
        elif path.exists():
            yield _absolute(path.parent), [_absolute(path)]
        elif glob.has_magic(text):
            yield from self._expand_pattern(text)
        else:
            raise UsageError(
                f"{text} does not exist. Give an image, a folder, a glob, a .txt list or - for standard input."
            )

    def _expand_pattern(self, text: str) -> Iterable[tuple[str, list[str]]]:
        matches = [Path(match) for match in glob.glob(text, recursive=True)]  # noqa: PTH207 (absolute patterns, too)
        if not matches:
            raise UsageError(f"nothing matches {text}. Check the pattern.")
        for match in matches:
            if self.overlooked.beyond_a_loop(_absolute(match)):  # a pattern with ** follows every link
                continue
            if match.is_dir():
                yield _absolute(match), self._images_in(match)
            elif match.suffix.lower() in SUFFIXES | HEIC_SUFFIXES:  # one that cannot be read fails by name
                yield _absolute(match.parent), [_absolute(match)]

    def _expand_lines(self, lines: Iterable[str], base: Path) -> Iterable[tuple[str, list[str]]]:
        """Expand the lines of a list; relative ones count from the working folder, or else from the list's ``base``."""
        seen: set[str] = set()
        for line in filter(str.strip, lines):
            path = _listed_file(line, base)
            text = line.strip()
            if glob.has_magic(text) if path is None else path.is_dir():
                yield from self.expand(str(path or text))
                continue
            file = _absolute(path or Path(text))
            if file in seen:
                self._twice.append(text)
            seen.add(file)
            yield os.path.dirname(file), [file]  # noqa: PTH120

    def _images_in(self, folder: Path) -> list[str]:
        """List the images of ``folder``; hidden files and folders do not count."""
        return [
            os.path.join(path, name)  # noqa: PTH118 (60,000 Path objects cost a second)
            for path, names in walk_images(_absolute(folder), self.overlooked, recursive=self.recursive)
            for name in names
        ]


def _listed_file(line: str, base: Path) -> Path | None:
    """Return the file or folder that a line names, blanks around it not counted unless they belong to the name."""
    for text in (line.strip(), line):
        for path in (Path(text), base / text):
            found = find_file(path)
            if found is not None:
                return found
    return None


def _read_list(path: Path) -> list[str]:
    """Return the lines of a list of inputs; a name that is not UTF-8 keeps its bytes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the list {path}: {error.strerror or error}.") from error
    return _lines(decode_text(data, "surrogateescape"))


def _read_stdin() -> list[str]:
    if sys.stdin.isatty():
        raise UsageError("- reads paths from standard input, but that is a terminal. Pipe a list into it.")
    raw = getattr(sys.stdin, "buffer", None)  # names may be no text
    return _lines(sys.stdin.read() if raw is None else decode_text(raw.read(), "surrogateescape"))


def _lines(text: str) -> list[str]:
    return re.split(r"\0" if "\0" in text else r"\r?\n", text)  # not splitlines(): it also ends lines within names


def _absolute(path: Path) -> str:
    return os.path.normpath(path.absolute())  # not resolve(): links keep the names that the user gave
