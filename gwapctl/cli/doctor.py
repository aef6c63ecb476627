"""``gwapctl doctor``: what is installed, and what is wrong with it."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from gwapctl import __version__
from gwapctl.cli import console, options

LIBRARIES = ("torch", "torchvision", "numpy", "opencv-python-headless", "typer", "pydantic", "safetensors", "numba")
OPTIONAL = ("timm", "openvino", "onnxruntime", "tensorboard", "torchcodec")


def doctor(json: options.Json = False) -> None:
    """Show versions, devices and known trouble; paste it into a bug report.

    Examples:
      gwapctl doctor
      gwapctl doctor --json

    """
    report = diagnose()
    if json:
        console.print_json(report)
        return
    rows = [("gwapctl", report["gwapctl"]), ("python", report["python"]), ("system", report["system"])]
    rows += report["libraries"].items()
    rows += [(name, version or "not installed (optional)") for name, version in report["optional"].items()]
    rows += [("device", device) for device in report["devices"]]
    console.print_table(("what", "value"), rows)
    for problem in report["problems"]:
        console.warn(problem)


def diagnose() -> dict[str, Any]:
    """Collect versions, devices and problems as a JSON document."""
    libraries = {name: _version(name) for name in LIBRARIES}
    return {
        "schema_version": 1,
        "gwapctl": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.platform()}, {os.cpu_count()} cores",
        "libraries": {name: version or "missing" for name, version in libraries.items()},
        "optional": {name: _version(name) for name in OPTIONAL},
        "devices": _devices(),
        "problems": _problems(libraries),
    }


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    """List what ``--device`` accepts here."""
    import torch

    names = [f"cpu ({torch.get_num_threads()} threads)"]
    for index in range(torch.cuda.device_count()):
        names.append(f"cuda:{index} ({torch.cuda.get_device_name(index)})")
    return [*names, "mps"] if torch.backends.mps.is_available() else names


def _problems(libraries: dict[str, str | None]) -> list[str]:
    problems = [
        f"{name} is not installed. Install gwapctl again." for name, version in libraries.items() if not version
    ]
    doubles = [name for name in ("opencv-python", "opencv-contrib-python") if _version(name)]
    if doubles:
        problems.append(
            f"{' and '.join(doubles)} is installed beside opencv-python-headless: both write the same cv2 and break "
            f"each other. Run: pip uninstall -y {' '.join(doubles)} opencv-python-headless && pip install "
            "opencv-python-headless"
        )
    return problems
