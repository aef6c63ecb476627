"""What a person sees: results on stdout, everything else on stderr. The only user of rich.

rich is imported where it draws, so that importing a verb costs nothing.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from gwapctl.errors import printable
from gwapctl.files import json_ascii, json_text
from gwapctl.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from rich.console import Console

SECONDS_BETWEEN_LINES = 30.0

# what moves a terminal's cursor, recolours it or turns the direction of text around: names of strangers hold anything
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@dataclass
class Settings:
    """What ``-q``, ``-v`` and ``--debug`` of this call said."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    spoken: Callable[[str], str | None] = lambda message: message  # what is said of an error; None: another says it


settings = Settings()
_live: Console | None = None  # the terminal under a live progress line: what is printed must pass above that line


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)


def shown(text: str, *, line: bool = False) -> str:
    r"""Return ``text`` as a terminal may show it, its control characters written out; of a ``line`` its ends, too.

    >>> shown("cat\x1b[31m\n"), shown("cat\n", line=True)
    ('cat\\x1b[31m\n', 'cat\\n')
    """
    text = _CONTROLS.sub(lambda found: _escape(found[0]), printable(text))
    return text.replace("\n", "\\n").replace("\t", "\\t") if line else text


def _escape(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"


def _say(text: str, style: str = "") -> None:
    (_live or _console(stderr=True)).print(_encodable(shown(text), sys.stderr), style=style or None)


def error(message: str) -> None:
    """Say on stderr what went wrong, as one line."""
    said = settings.spoken(message)
    if said is not None:
        _say("error: " + " ".join(said.split()), style="red")


def warn(message: str) -> None:
    """Say on stderr what the user should know, unless ``-q``."""
    if not settings.quiet:
        _say(f"warning: {message}", style="yellow")


def note(message: str) -> None:
    """Say on stderr what happens, unless ``-q``."""
    if not settings.quiet:
        _say(message)


def detail(message: str) -> None:
    """Say on stderr what only ``-v`` asks for."""
    if settings.verbose:
        _say(message, style="dim")


def print_text(text: str) -> None:
    r"""Write a result to stdout; what its encoding does not have (LC_ALL=C) is written as ``\xe9``."""
    _print(shown(text))


def _print(text: str) -> None:
    text = _encodable(text)
    if _live is not None and sys.stdout.isatty():
        _live.print(text.rstrip("\n"))
        return
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def print_json(document: Any) -> None:
    """Write one indented JSON document to stdout."""
    print_data(json_text(document, indent=2), ".json")


def print_jsonl(document: Any) -> None:
    """Write one JSON document as one line to stdout."""
    print_data(json_text(document), ".json")


def print_data(text: str, suffix: str) -> None:
    """Write a part of a document that machines read to stdout, as a file with ``suffix`` has it.

    Where stdout is not UTF-8, JSON and XML say the characters that it lacks in their own way. A table cannot: it is
    written as UTF-8 all the same, which is what a file of it is.
    """
    text = printable(text)
    if sys.stdout.isatty():  # JSON says a control character in its own way
        json_like = suffix in (".json", ".jsonl")
        text = _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}" if json_like else _escape(found[0]), text)
    if _encodable(text) != text:
        if suffix in (".json", ".jsonl"):
            text = json_ascii(text)
        elif suffix == ".xml":
            text = text.encode("ascii", "xmlcharrefreplace").decode()
        elif hasattr(sys.stdout, "buffer"):
            sys.stdout.flush()
            sys.stdout.buffer.write((text.removesuffix("\n") + "\n").encode())
            sys.stdout.buffer.flush()
            return
    _print(text)


def _encodable(text: str, stream: TextIO | None = None) -> str:
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return text if text.isascii() else text.encode(encoding, "backslashreplace").decode(encoding)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", caption: str = ""
) -> None:
    """Write a table to stdout, numbers to the right: drawn on a terminal, else plain text without any cutting."""
    cells = [[_encodable(shown(_cell(value), line=True)) for value in row] for row in rows]
    columns = [_encodable(shown(name, line=True)) for name in columns]
    title, caption = _encodable(shown(title)), _encodable(shown(caption))
    right = [_is_numeric([row[i] for row in cells]) for i in range(len(columns))]
    if sys.stdout.isatty():
        _draw_table(columns, cells, right, title, caption)
        return
    widths = [max(len(text) for text in [name, *(row[i] for row in cells)]) for i, name in enumerate(columns)]
    lines = [title] if title else []
    for row in [list(columns), *cells]:
        fields = [text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(fields).rstrip())
    print_text("\n".join([*lines, caption] if caption else lines))


def print_rows(kind: str, rows: list[dict[str, Any]], columns: Sequence[str], json: bool) -> None:
    """Write ``rows`` to stdout: all of them as a JSON document, or those ``columns`` as a table."""
    if json:
        print_json({"schema_version": 1, kind: rows})
    else:
        print_table(columns, [[row[name] for name in columns] for row in rows])


def _cell(value: object) -> str:
    """Write the value of a cell: None as nothing, yes and no, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else str(value)


def _draw_table(columns: Sequence[str], cells: list[list[str]], right: list[bool], title: str, caption: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left", pad_edge=False)
    for name, is_right in zip(columns, right, strict=True):
        table.add_column(Text(name), justify="right" if is_right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(text) for text in row))
    console = _console(stderr=False)
    console.print(table, soft_wrap=False)
    if caption:
        console.print(caption, style="dim", soft_wrap=False)


def _is_numeric(texts: list[str]) -> bool:
    """Tell whether every filled cell of a column reads as a number (a percent sign or dash may stand for one)."""
    filled = [text.rstrip(" %") for text in texts if text not in ("", "-", "–")]
    return bool(filled) and all(text.lstrip("+-").replace(".", "", 1).isdecimal() for text in filled)


@contextmanager
def resumable(out: Path | None, again: str) -> Iterator[None]:
    """Say what goes on with it where Ctrl-C stops what is inside and ``out`` has something of it."""
    try:
        yield
    except KeyboardInterrupt:
        if out is not None and out.is_dir() and any(out.iterdir()):
            note(f"go on with: {again}")
        raise


@contextmanager
def progress(description: str) -> Iterator[ProgressCallback]:
    """Yield a callback that shows progress on stderr: a live line on a terminal, else a line every 30 s.

    With ``-q`` nothing is shown.
    """
    if settings.quiet:
        yield lambda _: None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _live_bar(description) as update:
            yield update
    else:
        yield _line_printer(description)


@contextmanager
def _live_bar(description: str) -> Iterator[ProgressCallback]:
    global _live
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        console=_console(stderr=True),
        redirect_stdout=False,  # results must not move to stderr
    )
    task = bar.add_task(description, total=None, count="", text="")
    with bar:
        _live = bar.console
        try:
            yield lambda now: bar.update(
                task, completed=now.done, total=now.total, count=_count(now), text=shown(now.text)
            )
        finally:
            _live = None


def _line_printer(description: str, clock: Callable[[], float] = time.monotonic) -> ProgressCallback:
    started = last = clock()

    def update(state: Progress) -> None:
        nonlocal last
        now = clock()
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        note(_line(description, state, now - started))

    return update


def _line(description: str, state: Progress, seconds: float) -> str:
    """Build one status line: what, how many, how fast, how long still."""
    parts = [f"{description}: {_count(state)}"]
    if state.done and seconds > 0:
        rate = state.done / seconds
        parts.append(f"{rate:.3g} {state.unit}/s")
        if state.total is not None:
            parts.append(f"{_duration((state.total - state.done) / rate)} left")
    return ", ".join(filter(None, [*parts, state.text]))


def _count(state: Progress) -> str:
    return f"{state.done}{'' if state.total is None else f'/{state.total}'} {state.unit}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
