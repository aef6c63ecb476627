"""The scripts of benchmarks/: each is in the table of its README, and says in one line what it lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import results
import torch
import write_docs
from needs import PARITY_MAPS, need_maps

from gwapctl.device import to_device

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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "ours gwap"])
def test_the_training_step_that_is_timed_runs(name: str) -> None:
    asked = ["--backbone", "resnet-s", "--size", "32", "--batch", "4", "--steps", "1"]
    command = [sys.executable, str(BENCHMARKS / "train_step.py"), "--contender", name, *asked]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


def test_ratios_of_several_machines_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "speed.csv"
    monkeypatch.setattr(sys, "argv", ["benchmarks/sweep.py", "--rounds", "2", "--csv", str(file)])
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    results.record(file, [results.Measured("noisy", "the loop", 3.0), results.Measured("fine", "the loop", 2.0)])
    results.record(file, [results.Measured("noisy", "the loop", 4.12345)])  # measured again
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX")
    results.record(file, [results.Measured("noisy", "the loop", 9.0)])
    rows = results.read(file)
    assert [(row["isa"], row["row"], row["ratio"]) for row in rows] == [
        ("AVX2", "noisy", "4.123"),
        ("AVX2", "fine", "2"),
        ("AVX512_CORE_AMX", "noisy", "9"),
    ]
    assert rows[0]["command"] == "ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/sweep.py --rounds 2"
    lines = write_docs.table(rows).splitlines()
    machine = results.machine()
    assert lines[0] == f"| measured | compared | AVX2; {machine} | AVX512_CORE_AMX; {machine} |"
    assert lines[2] == "| noisy, beside wsolevaluation | the loop | 4.123 [1] | 9 [2] |"
    assert lines[3] == "| fine, beside wsolevaluation | the loop | 2 [1] | - |"
    assert lines[5].startswith(f"1. `{rows[0]['command']}` on {rows[0]['date']}: AVX2")


def test_the_page_of_benchmarks_has_every_row_that_counts() -> None:
    page = write_docs.PAGE.read_text(encoding="utf-8")
    for row in filter(write_docs.leads, results.read(write_docs.SPEED)):
        assert f"`{row['command']}` on {row['date']}" in page, "run python benchmarks/write_docs.py"
        assert f"| {row['ratio']} [" in page, "run python benchmarks/write_docs.py"


def test_a_batch_for_the_processor_is_not_copied() -> None:
    batch = torch.arange(24, dtype=torch.uint8).view(1, 2, 4, 3).permute(0, 3, 1, 2)
    found = to_device(batch, torch.device("cpu"))
    assert found.data_ptr() == batch.data_ptr()
    assert found.stride() == batch.stride()
