"""What every test gets: no network, no colours, no settings of the person who runs the tests."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gwapctl import cli
from gwapctl.cli import console
from gwapctl.datasets.synthetic import make_synthetic_voc
from gwapctl.offline import SWITCHES

for _name in list(os.environ):
    if _name.startswith("GWAPCTL_") or _name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
        del os.environ[_name]
os.environ |= {"NO_COLOR": "1", "TERMINAL_WIDTH": "80", "COLUMNS": "80", "MPLBACKEND": "Agg"}
os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small lose time to threads, more so on a busy machine


# nothing that a browser does by itself: no sandbox for root, no graphics card, no calls home
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class CliResult:
    code: int
    stdout: str
    stderr: str


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test reach another machine, nor one that gives --offline reach those after it."""
    for name in SWITCHES:
        monkeypatch.setenv(name, "0")
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: tuple[str, int] | str) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            raise OSError(f"a test must not use the network (tried {address})")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(autouse=True)
def _fresh_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the -q, -v and --debug of the test before."""
    monkeypatch.setattr(console, "settings", console.Settings())


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., CliResult]:
    """Run ``gwapctl`` with the given arguments in this process."""

    def run(*arguments: object) -> CliResult:
        console.settings = console.Settings()
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        return CliResult(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty synthetic images in VOC layout, 80 wide and 64 high; no test writes into it."""
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    make_synthetic_voc(folder, images=40, seed=3, size=(64, 80))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium: that of the system, else Playwright's own."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make test installs it")
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=system, args=QUIET)
        except api.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield browser
        browser.close()
