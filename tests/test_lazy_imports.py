"""Help is instant: nothing heavy is imported for it, in a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gwapctl import cli

HEAVY = ("torch", "torchvision", "cv2", "numpy", "pandas", "matplotlib", "numba", "scipy", "skimage", "PIL")


def heavy_imports(script: str) -> list[str]:
    """Run ``script`` in a fresh process and return the heavy modules that it imported."""
    script += f"\nimport sys\nfor name in {HEAVY!r}:\n    if name in sys.modules: print('HEAVY', name)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("HEAVY ")]


def test_a_heavy_import_is_seen() -> None:
    assert heavy_imports("import numpy") == ["numpy"]


def test_import_is_light() -> None:
    assert heavy_imports("import gwapctl; gwapctl.__version__") == []


@pytest.mark.parametrize("command", [(), *cli.help_pages()], ids=" ".join)
def test_help_is_light(command: tuple[str, ...]) -> None:
    arguments = [*command, "--help"]
    assert heavy_imports(f"from gwapctl.cli import run\nassert run({arguments!r}) == 0") == []
