"""What does a head add to the forward pass? Backbone alone, with ``gap`` and with ``gwap``, in turns in one run.

python benchmarks/head_overhead.py [--backbone googlenet] [--heads gap gwap] [--batch 8] [--rounds 30] [--threads N]

Random weights, 224 x 224 pixels, channels last, fp32, and bf16 where it is native. "share" is the head's own time on a
finished feature map over the backbone's; "ratio" compares whole forward passes with the backbone alone. Medians over
the rounds; the target is a share of at most 2 % for ``gwap``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from needs import run_script

from gwapctl.device import has_fast_bf16, resolve_device
from gwapctl.networks.backbones import build_backbone
from gwapctl.networks.heads import HEADS, build_head

TARGET = 0.02
CLASSES = 1000


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call, which waits for an accelerator to finish."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of each of ``works``, called one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_number in range(rounds + 2):
        for name, work in works.items():
            elapsed = seconds(work)
            if round_number >= 2:  # the first ones choose kernels and fill caches
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


@torch.inference_mode()
def measure(options: argparse.Namespace, precision: str) -> None:
    """Print one table: a line per head."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    backbone = build_backbone(options.backbone).eval().to(device, memory_format=torch.channels_last)
    heads = {name: build_head(name, backbone.channels, CLASSES).eval().to(device) for name in options.heads}
    images = torch.randn(options.batch, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        features = backbone(images)
        works: dict[str, Callable[[], object]] = {"backbone": lambda: backbone(images)}
        for name, head in heads.items():
            works[f"with {name}"] = lambda head=head: head(backbone(images))
            works[name] = lambda head=head: head(features)
        median = in_turns(works, options.rounds)
    print(
        f"\n{options.backbone}, batch {options.batch}, {device}, {precision}: {median['backbone'] * 1e3:.2f} ms alone"
    )
    print(f"{'head':<18}{'ms':>9}{'share':>9}{'ratio':>9}")
    for name in heads:
        share, ratio = median[name] / median["backbone"], median[f"with {name}"] / median["backbone"]
        print(f"{name:<18}{median[name] * 1e3:>9.3f}{share:>9.2%}{ratio:>9.3f}")
    if "gwap" in heads:
        print(f"gwap share {median['gwap'] / median['backbone']:.2%}, target at most {TARGET:.0%}")
    if {"gwap", "gap"} <= heads.keys():
        print(f"forward with gwap over forward with gap: {median['with gwap'] / median['with gap']:.3f}")


def main() -> None:
    """Read the options and measure in both precisions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="googlenet")
    parser.add_argument("--heads", nargs="+", default=["gap", "gwap"], choices=sorted(set(HEADS) - {"gwap-gt"}))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fast = has_fast_bf16(resolve_device("auto"))
    for precision in ("fp32", "bf16") if fast else ("fp32",):
        measure(options, precision)


if __name__ == "__main__":
    run_script(main)
