"""Run every benchmark, one after the other, and write docs/benchmarks.md: commands, what they printed, the machine.

python benchmarks/write_docs.py [NAME ...]      (all of them, or those named; the rest of the page stays as it is)

Run it on a quiet machine. Ratios are measured side by side within one run; absolute rates mean little elsewhere.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
# name: (what is claimed, arguments)
BENCHMARKS = {
    "help_time": ("Help is at most 3.5 times `python -c 'import typer'`.", []),
    "localize_speed": ("Photos to JSON at 3 times torch-cam's CAM and 5 times pytorch-grad-cam's GradCAM.", []),
    "localize_memory": ("2,000 images need at most 10 % more memory than 200.", []),
    "train_step": ("A training step at 2 times a plain fp32 loop; gwap within 2 % of gap.", []),
    "cached_features": ("Training a head from cached feature maps at 20 times the epochs of running the backbone.", []),
    "head_overhead": ("The gwap head adds at most 2 % to the forward pass.", []),
    "map_cost": ("Speed and memory of each map beside the class activation map; no target.", []),
    "map_to_boxes": ("Map to box at 0.85 times the rate of the bare OpenCV calls.", []),
    "detector_step": (
        "A detector at most as slow as torchvision's Faster R-CNN; its weak branch within 5 %.",
        ["--rounds", "2"],
    ),
    "sweep": (
        "All thresholds in one pass: 9 times the contour loop on maps with 14 contours per threshold as ILSVRC's, 15 "
        "times on noisy ones; wsoleval 3 times on any.",
        [],
    ),
}
HEAD = """# Benchmarks

Made by `python benchmarks/write_docs.py`; each part names its own command. Ratios are measured side by side in one run.
A missed target is left as it was measured.
"""


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return match.group(1) if match else platform.processor()


def section(name: str) -> str:
    """Run one benchmark and return its part of the page."""
    claim, arguments = BENCHMARKS[name]
    command = ["benchmarks/" + name + ".py", *arguments]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("torch", "opencv-python-headless"))
    machine = f"{os.cpu_count()} cores, {processor()}; Python {platform.python_version()}, {versions}"
    return (
        f"## {name}\n\nTarget: {claim}\n\n`python {' '.join(command)}` on {datetime.now(UTC):%Y-%m-%d}, {machine}:\n\n"
        f"```\n{done.stdout.strip()}\n```\n"
    )


def main() -> None:
    """Run what is asked for and rewrite those parts of the page."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else HEAD
    parts = {part.split("\n", 1)[0]: "## " + part for part in text.split("\n## ")[1:]}
    for name in sys.argv[1:] or BENCHMARKS:
        sys.stderr.write(f"{name} ...\n")
        parts[name] = section(name)
        ordered = [parts[known].strip() + "\n" for known in BENCHMARKS if known in parts]
        PAGE.write_text(HEAD + "\n" + "\n".join(ordered), encoding="utf-8")


if __name__ == "__main__":
    main()
