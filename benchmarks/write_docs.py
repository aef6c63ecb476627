"""Write docs/benchmarks.md: a table and a plot from ``speed.csv``, then what the benchmarks printed when they last ran.

python benchmarks/write_docs.py                 (the table and the plot anew; runs nothing)
python benchmarks/write_docs.py all | NAME ...  (first runs all benchmarks, or those named, which add to speed.csv)

Run benchmarks on a quiet machine. Ratios are measured side by side in one run; absolute rates mean little elsewhere.
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

import results
from needs import run_script, stop

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
PLOT = ROOT / "docs" / "images" / "speed.png"
SPEED = ROOT / "benchmarks" / "speed.csv"
TO_CSV = ["--csv", "benchmarks/speed.csv"]
PEERS = {  # in the name of a row: what the table and the plot call it
    "torch-cam": "torch-cam",
    "pytorch-grad-cam": "pytorch-grad-cam",
    "sweep": "wsolevaluation",
    "reference loop": "torchvision's reference loop",
    "Faster R-CNN": "Faster R-CNN",
}
# script, or script and what differs: (what is claimed, arguments)
BENCHMARKS = {
    "help_time": ("Help is at most 3.5 times `python -c 'import typer'`.", []),
    "localize_speed": (
        "Photos to JSON at 3 times torch-cam's CAM and 5 times pytorch-grad-cam's GradCAM.",
        ["--engine", "all", *TO_CSV],
    ),
    "localize_parts": (
        "Localizing keeps 85 % of the speed of its slower part, three scales take no longer than one each,"
        " and evaluating keeps up.",
        ["--dataset", "data/imagenet-val", *TO_CSV],
    ),
    "engine_boxes": ("Boxes as in fp32 torch: a mean IoU of 0.98 in bf16 and 0.95 in int8.", []),
    "list_files": ("100,000 files are listed in 3 s and 300 MB.", []),
    "localize_memory": ("2,000 images need at most 10 % more memory than 200.", []),
    "train_step": ("A training step at 2 times a plain fp32 loop; gwap within 2 % of gap.", TO_CSV),
    "train_from_files, resnet-s": (
        "From the second epoch on training from JPEGs keeps 85 % of the network's rate.",
        ["data/fruits-voc", "--backbone", "resnet-s", "--size", "128", *TO_CSV],
    ),
    "train_from_files, googlenet": ("The same.", ["data/fruits-voc", "--backbone", "googlenet", *TO_CSV]),
    "cached_features": ("Training a head from cached feature maps at 20 times the epochs of running the backbone.", []),
    "head_overhead": ("The gwap head adds at most 2 % to the forward pass.", []),
    "map_cost": ("Speed and memory of each map beside the class activation map; no target.", []),
    "map_to_boxes": ("Map to box at 0.85 times the rate of the bare OpenCV calls.", []),
    "detector_step": (
        "A detector at most as slow as torchvision's Faster R-CNN; its weak branch within 5 %.",
        ["--rounds", "2", *TO_CSV],
    ),
    "sweep": (
        "All thresholds in one pass: 9 times the contour loop on maps with 14 contours per threshold as ILSVRC's, 15 "
        "times on noisy ones; wsoleval 3 times on any.",
        TO_CSV,
    ),
}
HEAD = """# Benchmarks

Made by `python benchmarks/write_docs.py` from `benchmarks/speed.csv` and what the benchmarks printed. Each number is
how many times as fast we are as the tool named beside it, both measured side by side in one run; above 1 we are faster.
A missed target is left as it was measured. Kinds of processor without a column were not measured, and nothing is
claimed for them.
"""
OWN = """## Beside the network alone

Here a number is the share of its speed that is left.
"""
GPU = """## On a GPU

`python benchmarks/gpu.py` checks both tasks on the device beside the CPU, then measures. Without a GPU its paths are
tried by `--device cpu --small`; that says nothing about CUDA. Several GPUs and MPS have no check.
"""


def key(row: dict[str, str]) -> tuple[str, str]:
    """Return what stands in one line, whichever machine it was measured on."""
    return row["benchmark"], row["row"]


def kind(row: dict[str, str]) -> str:
    """Return the heading of a machine's column."""
    return f"{row['isa']}; {row['machine']}"


def run_of(row: dict[str, str]) -> tuple[str, str, str]:
    """Return the command, its date and the machine."""
    return row["command"], row["date"], kind(row)


def peer_of(row: dict[str, str]) -> str | None:
    """Return the peer that a row is measured beside."""
    said = f"{row['benchmark']} {row['row']}"
    return next((peer for word, peer in PEERS.items() if word in said), None) if row["benchmark"] != "gpu" else None


def leads(row: dict[str, str]) -> bool:
    """Tell whether a row is in a table of the page: of engines, those that are chosen, torch's plain one and int8."""
    engine = re.search(r"gwapctl (\w+ ?\w*)", row["row"]) if row["benchmark"] == "localize_speed" else None
    return engine is None or engine[1].startswith(("auto", "torch fp32", "openvino int8"))


def table(rows: list[dict[str, str]]) -> str:
    """Return a table: a line for each thing measured, a column for each machine, and the commands below it."""
    kinds, lines = [*dict.fromkeys(map(kind, rows))], dict.fromkeys(map(key, rows))
    runs = [*dict.fromkeys(map(run_of, rows))]
    cells = {(key(row), kind(row)): row for row in rows}
    text = ["| measured | compared |" + "".join(f" {name} |" for name in kinds), "|---" * (2 + len(kinds)) + "|"]
    for line in lines:
        found = [cells.get((line, name)) for name in kinds]
        shown = (f"{row['ratio']} [{runs.index(run_of(row)) + 1}]" if row else "-" for row in found)
        last = next(row for row in reversed(found) if row)
        text.append(f"| {named(last)} | {last['compared']} | " + " | ".join(shown) + " |")
    notes = [f"{number}. `{command}` on {date}: {where}" for number, (command, date, where) in enumerate(runs, start=1)]
    return "\n".join([*text, "", *notes, ""])


def named(row: dict[str, str]) -> str:
    """Return the first cell of a line: what was measured, beside which peer."""
    peer = peer_of(row)
    return row["row"] if peer is None or peer in row["row"] else f"{row['row']}, beside {peer}"


def draw_plot(rows: list[dict[str, str]]) -> None:
    """Draw a bar for each row that has a peer, in a colour for each kind of processor."""
    from matplotlib.figure import Figure

    kinds, lines = [*dict.fromkeys(map(kind, rows))], [*dict.fromkeys(map(key, rows))]
    names = {key(row): named(row) for row in rows}
    figure = Figure(figsize=(11, 1.2 + 0.17 * len(lines) * len(kinds) ** 0.5), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(kinds)
    for number, name in enumerate(kinds):
        found = {key(row): float(row["ratio"]) for row in rows if kind(row) == name}
        places = [lines.index(line) + (number - (len(kinds) - 1) / 2) * height for line in found]
        axes.bar_label(axes.barh(places, [*found.values()], height, label=name), fmt="%.3g", padding=2, fontsize=7)
    axes.set_yticks(range(len(lines)), [names[line] for line in lines], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.01)
    axes.set_xlabel("times as fast as the tool beside it")
    figure.legend(loc="outside upper right", fontsize=7)
    figure.savefig(PLOT, dpi=110, metadata={"Software": None})


def beginning() -> str:
    """Return the page up to what the benchmarks printed."""
    rows = [row for row in results.read(SPEED) if leads(row)]
    peers = list(PEERS.values())
    beside = sorted((row for row in rows if peer_of(row)), key=lambda row: peers.index(str(peer_of(row))))
    own = [row for row in rows if not peer_of(row) and row["benchmark"] != "gpu"]
    gpu = [row for row in rows if row["benchmark"] == "gpu"]
    draw_plot(beside)
    parts = [HEAD, table(beside), "![Bars of the table above](images/speed.png)\n"]
    parts += [OWN, table(own)] if own else []
    parts += [GPU, table(gpu) if gpu else "Not run on a GPU yet: every path on CUDA is untested.\n"]
    return "\n".join(parts)


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return match.group(1) if match else platform.processor()


def section(name: str) -> str:
    """Run one benchmark and return its part of the page."""
    claim, arguments = BENCHMARKS[name]
    command = [f"benchmarks/{name.partition(',')[0]}.py", *arguments]
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
    """Run what is asked for, and write the page."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    parts = {part.split("\n", 1)[0]: "## " + part for part in text.split("\n## ")[1:]}
    for name in BENCHMARKS if sys.argv[1:] == ["all"] else sys.argv[1:]:
        if name not in BENCHMARKS:
            stop(f"there is no benchmark {name!r}. Choose all, or some of {', '.join(BENCHMARKS)}.")
        sys.stderr.write(f"{name} ...\n")
        parts[name] = section(name)
        write(parts)
    write(parts)


def write(parts: dict[str, str]) -> None:
    """Write the page with the ``parts`` that benchmarks printed, by name."""
    printed = [parts[known].strip() + "\n" for known in BENCHMARKS if known in parts]
    PAGE.write_text(beginning() + "\n" + "\n".join(printed), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
