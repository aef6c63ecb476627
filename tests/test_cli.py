"""The frame of the command line: help, exit codes, streams, progress, shared options."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwapctl import __version__, cli
from gwapctl.cli import console, parse
from gwapctl.config import all_settings
from gwapctl.errors import DataError, GwapctlError, MissingDependencyError, ModelError, UsageError
from gwapctl.progress import Progress

Run = Callable[..., Any]


def test_version(run_cli: Run) -> None:
    result = run_cli("--version")
    assert (result.code, result.stdout, result.stderr) == (0, f"gwapctl {__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_verb_within_80_columns(run_cli: Run, arguments: list[str]) -> None:
    result = run_cli(*arguments)
    assert result.code == 0
    for verb in [*cli.VERBS, *cli.GROUPS]:
        assert verb in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


@pytest.mark.parametrize("verb", [*cli.VERBS])
def test_every_verb_takes_the_common_options_and_shows_examples(run_cli: Run, verb: str) -> None:
    text = run_cli(verb, "-h").stdout
    for part in ("--quiet", "--verbose", "--debug", "Examples:", f"gwapctl {verb}"):
        assert part in text


@pytest.mark.parametrize("verb", cli.help_pages(), ids=" ".join)
def test_the_quick_help_is_the_help(run_cli: Run, verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    quick = run_cli(*verb, "-h").stdout
    monkeypatch.setattr(cli, "help_page", lambda words: None)
    assert quick == run_cli(*verb, "-h").stdout
    assert max(len(line) for line in quick.splitlines()) <= 80


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dokter"], "Did you mean 'doctor'"),
        (["doctor", "--jsn"], "--json"),
        (["doctor", "surplus"], "surplus"),
    ],
)
def test_usage_mistakes_are_one_line_and_exit_2(run_cli: Run, arguments: list[str], words: str) -> None:
    result = run_cli(*arguments)
    assert result.code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("no such thing"), 2, "error: no such thing\n"),
        (DataError("broken\nfile"), 4, "error: broken file\n"),
        (ModelError("not a model"), 4, "error: not a model\n"),
        (MissingDependencyError("no CUDA"), 5, "error: no CUDA\n"),
        (GwapctlError("x"), 1, "error: x\n"),
        (OutOfMemoryError("CUDA out of memory"), 5, "--batch-size"),
        (PermissionError(13, "Permission denied", "a.txt"), 4, "error: a.txt: Permission denied.\n"),
        (ValueError("odd"), 1, "error: internal error: ValueError: odd (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_line_and_its_code(
    run_cli: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("gwapctl.cli.doctor.diagnose", fail)
    result = run_cli("doctor")
    assert (result.code, result.stdout) == (code, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_the_traceback(run_cli: Run, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def fail() -> None:
        raise DataError("broken")

    monkeypatch.setattr("gwapctl.cli.doctor.diagnose", fail)
    if how == "environment":
        monkeypatch.setenv("GWAPCTL_DEBUG", "1")
    result = run_cli("doctor", *(["--debug"] if how == "option" else []))
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: broken\n")
    assert result.code == 4


def test_doctor_reports_versions_and_devices(run_cli: Run) -> None:
    document = json.loads(run_cli("doctor", "--json").stdout)
    assert document["schema_version"] == 1
    assert document["gwapctl"] == __version__
    assert document["libraries"]["torch"][0].isdigit()
    assert document["devices"][0].startswith("cpu")
    assert "torch" in run_cli("doctor").stdout


def test_doctor_warns_of_two_opencvs(run_cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gwapctl.cli.doctor._version", lambda name: "5.0.0")
    result = run_cli("doctor")
    assert "warning: opencv-python and opencv-contrib-python is installed" in result.stderr
    assert "pip uninstall" in result.stderr


WAITING_VERB = """
import signal, time
from gwapctl import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may ignore Ctrl-C, and pass that on
def wait():
    cli.console.print_text("ready")
    time.sleep(60)
cli.app().command("wait")(wait)
cli.main()
"""
TALKING_VERB = """
from gwapctl import cli
def talk():
    for number in range(200_000):
        cli.console.print_jsonl({"number": number})
cli.app().command("talk")(talk)
cli.main()
"""


def test_ctrl_c_exits_130() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING_VERB, "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr == "error: interrupted.\n"


def test_who_stops_what_can_go_on_is_told_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), console.resumable(tmp_path / "none", "gwapctl train a --resume"):
        raise KeyboardInterrupt
    assert not capsys.readouterr().err
    (tmp_path / "run.json").touch()
    with pytest.raises(KeyboardInterrupt), console.resumable(tmp_path, "gwapctl train a --resume"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "go on with: gwapctl train a --resume\n"


def test_a_closed_pipe_ends_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TALKING_VERB, "talk"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == '{"number": 0}\n'
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == cli.PIPE_CLOSED


PROGRESS_VERB = """
from gwapctl.cli import console
from gwapctl.progress import Progress
with console.progress("reading") as tell:
    for done in range(1, 4):
        tell(Progress(done, 3, "images", "loss 0.5"))
        console.note(f"note {done}")
        console.print_jsonl({"done": done})
"""


def test_progress_on_a_terminal_leaves_stdout_clean() -> None:
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRESS_VERB], stdout=subprocess.PIPE, stderr=child, env=environment, check=True
    )
    os.close(child)
    screen = b""
    while True:
        try:
            chunk = os.read(parent, 65536)
        except OSError:  # Linux says the end of a terminal this way
            break
        if not chunk:
            break
        screen += chunk
    os.close(parent)
    assert done.stdout.decode().splitlines() == ['{"done": 1}', '{"done": 2}', '{"done": 3}']
    for part in (b"reading", b"3/3 images", b"loss 0.5", b"note 2"):
        assert part in screen


def test_progress_without_a_terminal_is_a_line_every_30_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 10.0, 31.0, 50.0, 62.0])
    tell = console._line_printer("train", clock=lambda: next(times))
    for done in (10, 31, 50, 62):
        tell(Progress(done, 4000, "steps", "loss 0.25"))
    assert capsys.readouterr().err.splitlines() == [
        "train: 31/4000 steps, 1 steps/s, 1:06:09 left, loss 0.25",
        "train: 62/4000 steps, 1 steps/s, 1:05:38 left, loss 0.25",
    ]


def test_quiet_silences_all_but_errors(capsys: pytest.CaptureFixture[str]) -> None:
    console.settings.quiet = True
    console.note("a")
    console.warn("b")
    console.detail("c")
    with console.progress("d") as tell:
        tell(Progress(1, 1, "images"))
    console.error("e")
    assert capsys.readouterr() == ("", "error: e\n")


def test_verbose_shows_details(capsys: pytest.CaptureFixture[str]) -> None:
    console.detail("hidden")
    console.settings.verbose = True
    console.detail("shown")
    assert capsys.readouterr().err == "shown\n"


def test_tables_are_plain_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(("name", "error"), [("a" * 100, "12.5"), ("b [bold]", None), ("c", "7.25 %")], caption="end")
    assert capsys.readouterr().out.splitlines() == [
        "name".ljust(100) + "   error",
        "a" * 100 + "    12.5",
        "b [bold]",
        "c".ljust(100) + "  7.25 %",
        "end",
    ]


def test_tables_fit_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.print_table(("name", "what"), [("[bold]a", "word " * 40)], title="A title", caption="An end")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "A title" in lines[0]
    assert any("[bold]a" in line for line in lines)


def test_json_never_carries_nan() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        console.print_json({"x": float("nan")})


def test_scales_and_sizes_are_read() -> None:
    assert parse.parse_scales(None) is None
    assert parse.parse_scales("224, 448") == (224, 448)
    assert all_settings()["image_size"].parse("224") == (224, 224)
    assert all_settings()["image_size"].parse("320x240") == (320, 240)
    assert parse.parse_names(None, "--save", ("map",)) == ()
    assert parse.parse_names("map, mask", "--save", ("map", "mask")) == ("map", "mask")


@pytest.mark.parametrize("text", ["224,,448", "0", "-1"])
def test_wrong_scales_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Write it like"):
        parse.parse_scales(text)


def test_wrong_names_are_refused() -> None:
    with pytest.raises(UsageError, match="Choose from: map, mask"):
        parse.parse_names("map,box", "--save", ("map", "mask"))
