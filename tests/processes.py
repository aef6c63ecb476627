"""Trainings that several processes share: ``train_in`` starts them, and each of them runs this file as a program."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gwapctl.config import build_train_config
from gwapctl.datasets.base import Dataset, Sample
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.runs import Run
from gwapctl.train.distributed import ALONE, Processes
from gwapctl.train.launch import join
from gwapctl.train.loop import train_with
from gwapctl.train.pseudo import PseudoBoxes, pseudo_boxes
from gwapctl.train.task import Listener, Resources

ROOT = Path(__file__).parent.parent
SECONDS = 1200  # a machine may be busy


def found_boxes(dataset: Dataset, samples: Sequence[Sample], progress: ProgressCallback) -> list[PseudoBoxes]:
    """One box in every image, of its first class."""
    del dataset, progress
    return [pseudo_boxes([[8 + n % 9, 8, 40, 40 + n % 5]], [one.labels[0]], [0.9]) for n, one in enumerate(samples)]


def train_one(
    settings: dict[str, Any],
    out: Path | str,
    *,
    dataset: str,
    resume: bool = False,
    stop: int | None = None,
    cache: str | None = None,
    processes: Processes = ALONE,
) -> Run:
    """Train on the CPU in ``out``; in the iteration ``stop`` the first process is told to end."""
    folder = None if cache is None else Path(cache)
    resources = Resources.find("cpu", 0, folder, boxes=found_boxes, processes=processes)
    listener = Listener(progress=None if stop is None else _ended_in(stop))
    return train_with(
        resources, build_train_config(dataset, None, settings), Path(out), resume=resume, listener=listener
    )


def _ended_in(iteration: int) -> Callable[[Progress], None]:
    def progress(done: Progress) -> None:
        if done.unit == "it" and done.done == iteration:
            os.kill(os.getpid(), signal.SIGTERM)

    return progress


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def train_in(count: int, jobs: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    """Train the ``jobs``, arguments of ``train_one``, one after the other in ``count`` processes; return their stderr.

    They are started as SLURM's srun does, and end with 0.
    """
    file = folder / "jobs.json"
    file.write_text(json.dumps(list(jobs)))
    said = {
        "SLURM_NTASKS": str(count),
        "SLURM_JOB_ID": "7",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    said |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}  # as the command line has it
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.processes", file],
            cwd=ROOT,
            env={**os.environ, **said, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    heard = []
    try:
        for one in started:
            heard.append(one.communicate(timeout=SECONDS)[1])
    finally:
        for one in started:
            one.kill()
    assert [one.returncode for one in started] == [0] * count, "\n".join(heard)
    return heard


def main() -> None:
    """Train the jobs of the file that the command line names."""
    processes = join()
    for job in json.loads(Path(sys.argv[1]).read_text()):
        try:
            train_one(**job, processes=processes)
        except KeyboardInterrupt:
            assert job.get("stop")
    processes.leave()


if __name__ == "__main__":
    main()
