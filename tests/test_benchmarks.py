"""The scripts of benchmarks/: each is in the table of its README, and says in one line what it lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from needs import PARITY_MAPS, need_maps

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_every_script_is_in_the_table() -> None:
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+\.py)` \| \S.* \| \S.* \|$", text, re.MULTILINE)
    parts = re.findall(r"`(\w+\.py)`", text.partition("Parts of these scripts")[2])
    scripts = {path.name: "__main__" in path.read_text(encoding="utf-8") for path in BENCHMARKS.glob("*.py")}
    assert rows == sorted(name for name, runs in scripts.items() if runs)
    assert parts == sorted(name for name, runs in scripts.items() if not runs)


def test_maps_come_with_the_checkout() -> None:
    maps = need_maps(PARITY_MAPS)
    assert len(maps) == 20
    assert {heatmap.shape for heatmap in maps} == {(224, 224)}
    assert all((heatmap.min(), heatmap.max()) == (0, 1) for heatmap in maps)
    assert not np.array_equal(maps[0], maps[1])


@pytest.mark.parametrize(
    ("script", "option", "said"),
    [
        ("localize_memory.py", "--images", "needs JPEG photos and {} has none; get them by"),
        ("map_to_boxes.py", "--maps", "needs maps (*.npy) and {} has none; get them by"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path: Path, script: str, option: str, said: str) -> None:
    command = [sys.executable, str(BENCHMARKS / script), option, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {script} {said.format(tmp_path)}")
    assert done.stderr.count("\n") == 1
