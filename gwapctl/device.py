"""Where and how a network runs: the device, the number format, and how memory is kept between steps."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from gwapctl.errors import MissingDependencyError, UsageError, option

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # parameters of glibc's mallopt


def resolve_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is the first GPU where there is one.

    >>> resolve_device("cpu")
    device(type='cpu')

    Raises:
        MissingDependencyError: the device is not there.
        UsageError: no such name.

    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"unknown device {name!r}. Choose auto, cpu, cuda, cuda:N or mps.") from error
    there = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise MissingDependencyError(
            f"device {name!r} is not there. Use {option('device', 'cpu')}, or auto for what there is."
        )
    return device


def device_name(device: torch.device) -> str:
    """Return what a run says of the device that it was trained on: a GPU's own name, else the type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def has_fast_bf16(device: torch.device) -> bool:
    """Tell whether ``device`` computes in bfloat16 natively; emulation would only cost precision and time."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private: a later torch may move them
        return any(getattr(torch.cpu, check, bool)() for check in checks)
    return False


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context that runs a network in ``precision``: ``fp32``, ``bf16``, ``auto`` (bf16 where it is native).

    Raises:
        UsageError: no such precision.

    """
    if precision not in ("auto", "fp32", "bf16"):
        raise UsageError(f"unknown precision {precision!r}. Choose auto, fp32 or bf16.")
    enabled = precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return ``tensor`` on ``device``; nobody waits for the copy to a GPU.

    Such a copy starts in pinned memory. From any other memory it begins only when all that the GPU was told before is
    done, and this thread, which could prepare the next step in the meantime, waits for that.

    >>> to_device(torch.ones(2), torch.device("cpu"))
    tensor([1., 1.])
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def keep_freed_memory() -> None:
    """Let the C library keep the memory that tensors free, instead of handing it back to the system each time.

    Every step of a network on the CPU frees and asks for the same large blocks; fetching them anew from the system
    costs a page fault per 4 KiB (`benchmarks/train_step.py` measures it). Only glibc has this setting.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
