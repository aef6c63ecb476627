"""``gwapctl train`` in several processes: they meet, one of them speaks, and those that are started again go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gwapctl.cli import console
from gwapctl.errors import UsageError

if TYPE_CHECKING:
    from gwapctl.train.distributed import Processes


def meet() -> Processes:
    """Meet the processes that torchrun or srun started beside this one; only the first of them speaks."""
    from gwapctl.train.launch import join

    processes = join()
    console.settings.spoken = processes.spoken
    console.settings.quiet = console.settings.quiet or not processes.first
    return processes


def require_for_many(processes: Processes, out: Path | None, folds: int | None) -> None:
    """Refuse what several processes, or processes that are started again, cannot do."""
    if processes.launch and out is None:
        raise UsageError("torchrun and srun need --out, so that all processes, and those started again, use one run.")
    if processes.count > 1 and folds:
        raise UsageError("--folds trains in one process. Start it without torchrun or srun, or train each fold alone.")


def was_launched(out: Path, processes: Processes) -> bool:
    """Tell whether the run in ``out`` is the one that the processes began that are started again now."""
    from gwapctl.runs import Run

    if not (out / "run.json").is_file():
        return False
    return (Run.open(out).document.get("processes") or {}).get("launch") == processes.launch
