"""The command line: one module per verb, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import errno
import functools
import gc
import importlib
import io
import itertools
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Annotated, Any

import typer

from gwapctl import __version__
from gwapctl.cli import console, options
from gwapctl.errors import GwapctlError, flags_spoken

PIPE_CLOSED = 141  # what a shell shows for a program that SIGPIPE ended
INTERRUPTED = 130
_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # an output that takes no more

HELP = ("-h", "--help")
LOOK: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
    "context_settings": {"help_option_names": [*HELP]},
}
# a verb is the function of that name in the module of that name; a group is the ``app`` of its module
VERBS = ("label", "train", "localize", "evaluate", "boxes", "merge", "report", "reproduce", "demo", "doctor")
GROUPS = ("data", "models", "export")


def _print_version(value: bool) -> None:
    if value:
        console.print_text(f"gwapctl {__version__}")
        raise typer.Exit


def gwapctl(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Find objects with image-level labels only: train, localize, evaluate, export boxes, print the papers' tables."""


@functools.cache
def app() -> typer.Typer:
    """Return the program with every verb."""
    program = typer.Typer(name="gwapctl", no_args_is_help=True, **LOOK)
    program.callback()(gwapctl)
    for name in VERBS:
        program.command(name)(_verb(name))
    for name in GROUPS:
        program.add_typer(_group(name), name=name, no_args_is_help=True)
    return program


@functools.cache
def _verb(name: str) -> Callable[..., None]:
    return options.with_common(_function(name))


def _function(name: str) -> Callable[..., None]:
    return getattr(importlib.import_module(f"gwapctl.cli.{name}"), name)  # type: ignore[no-any-return]


@functools.cache
def _group(name: str) -> typer.Typer:
    group: typer.Typer = importlib.import_module(f"gwapctl.cli.{name}").app
    for info in group.registered_commands:
        assert info.callback is not None
        info.name = info.name or info.callback.__name__.replace("_", "-")
        info.callback = options.with_common(info.callback)
    return group


def help_pages() -> list[tuple[str, ...]]:
    """Return the words of every verb that help shows and that has help of its own: ``("data", "list")``."""
    pages: list[tuple[str, ...]] = [(name,) for name in (*VERBS, *GROUPS)]
    commands = [(group, info) for group in GROUPS for info in _group(group).registered_commands]
    return pages + [(group, str(info.name)) for group, info in commands if not info.hidden]


def help_page(words: Sequence[str]) -> tuple[typer.Typer, tuple[str, ...]] | None:
    """Return the verb that ``words`` begin with as a program of its own, and its words; None where there is no such.

    Help for one verb imports that verb alone, and that of the program looks at no verb's options. And Typer sends the
    options of every level above a verb through pydantic, even those not given, whose import costs more than drawing
    the help.
    """
    first = words[0] if words else ""
    page = typer.Typer(add_completion=not words, **LOOK)
    if not words:
        return _overview(page), ()
    if first in VERBS:
        page.command()(_verb(first))
        return page, (first,)
    if first not in GROUPS:
        return None
    group = _group(first)
    for info in group.registered_commands:
        if info.callback is not None and [info.name] == list(words[1:2]):
            page.command()(info.callback)
            return page, (first, words[1])
    page.info.help, page.registered_commands = group.info.help, group.registered_commands
    return page, (first,)


def _without_options() -> None:
    """Stand in for a verb where only its name and help are shown."""


def _overview(page: typer.Typer) -> typer.Typer:
    """Give a page what the program's own help shows of each verb and group: its name and the first line."""
    page.callback()(gwapctl)
    for name in VERBS:
        page.command(name, help=_function(name).__doc__)(_without_options)
    for name in GROUPS:
        page.add_typer(typer.Typer(help=_group(name).info.help), name=name)
    return page


def main() -> None:
    """Run the command line and leave with its exit code."""
    if not set(HELP).isdisjoint(sys.argv):
        _hurry()
    if isinstance(sys.stdout, io.TextIOWrapper):  # LC_ALL=C: a character that it lacks is written as \xe9
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run())


def _hurry() -> None:
    """Save a fifth of the time of drawing a help page, in a process that does nothing else.

    A page makes many objects and drops few, so looking for garbage only slows it down; and Typer and Rich import a
    parser of Markdown and attrs, which our pages have no use for.
    """
    gc.disable()
    unused = ModuleType("rich.markdown")
    unused.__dict__["Markdown"] = type("Markdown", (), {})
    sys.modules |= {"rich.markdown": unused, "attr": None}  # type: ignore[dict-item]  # None: it is not there


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (``sys.argv`` by default) and return its exit code.

    0 done; 1 internal error; 2 usage or recipe; 3 finished but some inputs failed; 4 bad data or checkpoint; 5 missing
    dependency or device; 10 a gate not met; 130 interrupted. Every error is one ``error:`` line on stderr.
    """
    console.settings.debug = os.environ.get("GWAPCTL_DEBUG", "0") not in ("", "0")
    if not (console.settings.debug or sys.warnoptions):
        warnings.simplefilter("ignore")  # other libraries' deprecations are nothing a user can act on
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with flags_spoken():
            result = _start(words)
        sys.stdout.flush()
    except BrokenPipeError:
        return _closed_pipe()
    except SystemExit as stop:
        return _closed_pipe() if isinstance(stop.__context__, BrokenPipeError) else int(stop.code or 0)
    except typer.TyperException as error:
        return _misused(error, words)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except Exception as error:
        return _failed(error)
    if result == INTERRUPTED:
        console.error("interrupted.")
    return result if isinstance(result, int) else 0


def _start(arguments: list[str]) -> Any:
    """Run the program; help for a verb comes from the verb alone."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    found = None if set(HELP).isdisjoint(arguments) else help_page(words)
    if found is not None:
        page, known = found
        return page(args=["--help"], prog_name=" ".join(["gwapctl", *known]), standalone_mode=False)
    return app()(args=arguments, prog_name="gwapctl", standalone_mode=False)


def _misused(error: typer.TyperException, words: list[str]) -> int:
    """Say what is wrong with the command line; without any argument Typer has printed the help and says nothing."""
    if not error.format_message():
        return 0
    console.error(_successor(words, getattr(error, "option_name", None)) or error.format_message())
    return error.exit_code


def _successor(words: list[str], option: str | None) -> str | None:
    """Ask the verb what has become of an option that it does not know: its module may have a ``successor``."""
    if option is None or words[0] not in VERBS:
        return None
    asked: Callable[[str], str | None] | None = getattr(sys.modules[f"gwapctl.cli.{words[0]}"], "successor", None)
    return asked and asked(option)


def _failed(error: Exception) -> int:
    """Say what went wrong and return the exit code."""
    if console.settings.debug:
        traceback.print_exception(error)
    if isinstance(error, GwapctlError):
        console.error(str(error))
        return error.exit_code
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which must not be imported for this
        console.error("the device is out of memory. Use a smaller --batch-size or --image-size, or --device cpu.")
        return 5
    if isinstance(error, MemoryError):
        console.error("the memory is used up. Use a smaller --batch-size or --image-size, or free memory.")
        return 5
    if isinstance(error, OSError) and error.filename is not None:
        console.error(f"{error.filename}: {error.strerror}.")
        return 4
    if isinstance(error, OSError) and error.errno in _LOST:
        _drop_output()
        console.error(f"cannot write to standard output: {error.strerror}. Free space or write elsewhere.")
        return 4
    console.error(f"internal error: {type(error).__name__}: {error} (--debug shows where)")
    return 1


def _closed_pipe() -> int:
    _drop_output()
    return PIPE_CLOSED


def _drop_output() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain about what it cannot write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
