"""Results that outlive a run: ``speed.csv``, a row per ratio, and what was measured on several kinds of processor.

A script adds its rows with ``--csv benchmarks/speed.csv``; ``write_docs.py`` shows them. Columns: ``machine``, ``isa``
(the widest instructions that networks may use there, or the GPU), ``benchmark`` (the script), ``row`` (what was
measured), ``compared`` (beside what, and how), ``ratio``, ``command``, ``date``. Of several rows with the same first
four, the last one counts.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

COLUMNS = ("machine", "isa", "benchmark", "row", "compared", "ratio", "command", "date")
ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")  # narrow what torch uses


class Measured(NamedTuple):
    """One ratio: ``row`` says what was measured, ``compared`` beside what, and how."""

    row: str
    compared: str
    ratio: float


def add_csv_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--csv FILE``."""
    parser.add_argument("--csv", type=Path, help="add the ratios to this file, as benchmarks/speed.csv")


def record(file: Path | None, measured: Iterable[Measured], device: str = "cpu") -> None:
    """Add what this script measured on ``device`` to ``file``, if there is one."""
    if file is None:
        return
    is_new = not file.is_file()
    script, today = Path(sys.argv[0]).stem, f"{datetime.now(UTC):%Y-%m-%d}"
    with file.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if is_new:
            writer.writerow(COLUMNS)
        for row, compared, ratio in measured:
            writer.writerow((machine(), isa(device), script, row, compared, f"{ratio:.4g}", command(), today))


def read(file: Path) -> list[dict[str, str]]:
    """Return the rows that count, in the order in which each was first measured."""
    with file.open(encoding="utf-8", newline="") as stream:
        return [*{tuple(row[name] for name in COLUMNS[:4]): row for row in csv.DictReader(stream)}.values()]


def machine() -> str:
    """Return the number of cores, and the processor's name."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return f"{os.cpu_count()} cores, {match.group(1) if match else platform.processor()}"


def isa(device: str = "cpu") -> str:
    """Return the widest instructions that torch may use on the processor, or the name of the GPU."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    if limit:
        return limit
    for check, name in (("_is_amx_tile_supported", "AMX"), ("_is_avx512_bf16_supported", "AVX512-bf16")):
        if getattr(torch.cpu, check, bool)():
            return name
    return torch.backends.cpu.get_cpu_capability()


def command() -> str:
    """Return the command that runs, without where its rows go, and with what narrows the instructions."""
    arguments = re.sub(r" ?--csv[ =]\S+", "", " ".join(sys.argv[1:])).split()
    variables = [f"{name}={os.environ[name]}" for name in ISA_VARIABLES if name in os.environ]
    return " ".join([*variables, "python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments])
