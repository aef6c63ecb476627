"""How the processes of a training find each other: what torchrun or SLURM's srun told each, and where they meet."""

from __future__ import annotations

import os
import platform
import time
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from gwapctl.train.distributed import ALONE, PAUSE, LostProcessError, Processes, time_limit

PORT = "29500"  # torchrun's own, where SLURM names none


@cache
def join() -> Processes:
    """Meet the other processes that torchrun or srun started beside this one; without either there is this one alone.

    srun is known by ``MASTER_ADDR`` beside SLURM's own variables: a script of SLURM that starts no processes is left
    alone.

    Raises:
        LostProcessError: the others did not come.
        UsageError: the time limit is no number.

    """
    slurm = "RANK" not in os.environ and {"SLURM_PROCID", "SLURM_NTASKS", "MASTER_ADDR"} <= os.environ.keys()
    if slurm:
        told = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
        os.environ.update({ours: os.environ[theirs] for ours, theirs in told.items()})
        os.environ.setdefault("MASTER_PORT", PORT)
    if "RANK" not in os.environ:
        return ALONE
    rank, count = int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", 1))
    local: dict[str, Any] = {
        "local_rank": int(os.environ.get("LOCAL_RANK", rank)),
        "local_count": int(os.environ.get("LOCAL_WORLD_SIZE", 1)),  # SLURM says nothing: it shares the cores out itself
        "launch": _launch(slurm),
        "restarted": int(os.environ.get("SLURM_RESTART_COUNT" if slurm else "TORCHELASTIC_RESTART_COUNT", 0)) > 0,
    }
    if count == 1:
        return Processes(**local)
    return Processes(rank, count, store=_meet(rank, count, local["local_count"], local["local_rank"]), **local)


def _launch(slurm: bool) -> str:
    """Name this start: a job of SLURM, a name that torchrun was given, or the torchrun that is this one's parent."""
    if slurm:
        return f"slurm {os.environ.get('SLURM_JOB_ID')}"
    named = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return f"torchrun {platform.node()} {os.getppid()}" if named == "none" else f"torchrun {named}"


def _meet(rank: int, count: int, local_count: int, local_rank: int) -> Any:
    """Connect to the others and return the store. Collectives on the CPU are gloo's, on CUDA NCCL's.

    Where processes share a GPU, which NCCL refuses, those are gloo's, too.
    """
    gpus, limit = torch.cuda.device_count(), timedelta(seconds=time_limit())
    if gpus:
        torch.cuda.set_device(local_rank % gpus)
    try:
        store, _, _ = next(rendezvous("env://", timeout=limit))
        store = PrefixStore(_agreed(store, rank, count), store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus >= local_count else "gloo",
            store=PrefixStore("torch", store),
            rank=rank,
            world_size=count,
            timeout=limit,
        )
    except (RuntimeError, ValueError) as error:  # torch raises both
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).splitlines()[0]
        raise LostProcessError(f"process {rank} of {count} did not meet the others at {where}: {reason}") from error
    return PrefixStore("gwapctl", store)


def _agreed(store: Any, rank: int, count: int) -> str:
    """Return a name that the processes of this start agree on: torchrun's store keeps the notes of those that died.

    Each leaves a new name of its own; the first one lists them, until all have found theirs in the list.
    """
    own, start = uuid4().hex, time.monotonic()
    store.set(f"here {rank}", own)
    here = [f"here {number}" for number in range(count)]
    while time.monotonic() - start < time_limit():
        if rank == 0 and store.check(here):
            names = [store.get(key).decode() for key in here]
            store.set("list", " ".join(names))
            if store.check([f"found {own} {name}" for name in names[1:]]):
                return own
        elif rank > 0 and store.check(["list"]):
            names = store.get("list").decode().split()
            if names[rank:][:1] == [own]:
                store.set(f"found {names[0]} {own}", "")
                return str(names[0])
        time.sleep(PAUSE)
    raise RuntimeError(f"they did not come within {time_limit()} s")
