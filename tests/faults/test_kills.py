"""A kill at file operations spread over the verbs that write: what a person types next leaves the same files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kill_everywhere import VERBS, spread

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_everywhere.py"
POINTS = {
    "train": 8,
    "train, replacing a run;train, cached features": 8,
    "localize;localize, replacing": 12,
    "boxes, one file;boxes, replacing a folder;boxes, replacing a page": 12,
    "evaluate;evaluate, to a file;data synth, replacing;data synth, backgrounds;report, a page": 10,
}


def test_fifty_points_and_names_that_there_are() -> None:
    assert sum(POINTS.values()) == 50
    assert {name for names in POINTS for name in names.split(";")} <= VERBS.keys()
    assert spread(list(range(9)), 3) == [1, 4, 7]
    assert spread([1, 2], 3) == [1, 2]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names open files by /proc")
@pytest.mark.parametrize("names", POINTS)
def test_nothing_is_lost(names: str) -> None:
    verbs = names if ";" in names else f"{names};"
    words = [sys.executable, str(SCRIPT), "--verbs", verbs, "--points", str(POINTS[names]), "--json"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.stdout, result.stderr
    document = json.loads(result.stdout)
    assert [row["lost"] for row in document["verbs"]] == [[] for _ in document["verbs"]]
    assert document["points"] == document["recovered"] >= POINTS[names] - 4
