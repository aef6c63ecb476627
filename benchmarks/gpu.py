"""Every check and every timing on a GPU, in one script: what it computes beside the CPU, and how long it is waited for.

python benchmarks/gpu.py [--device cuda] [--images FOLDER] [--count 2048] [--minutes 9] [--csv FILE]
python benchmarks/gpu.py --device cpu --small      (the same paths without a GPU, in less than two minutes)

Checks come first: the same networks, images and seeds on the CPU in float32 and on the device. Logits, maps and boxes
of a classifier, in float32 (without TF32), in bf16 and at two scales, the maps that need gradients, a detector's boxes,
a training of each from JPEGs, one that is interrupted and resumed. Then ratios, each measured side by side in turns:
localizing JPEGs beside the forward pass alone on a batch that lies on the device (target 0.8), a training step beside
the bare one (target 0.9), bf16, channels last and ``torch.compile`` beside going without, a detector's step beside
torchvision's Faster R-CNN. JPEGs are made up unless --images names some. Parts that begin after --minutes are left out,
and named. It ends with 1 where a check fails; a missed target is a result.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import gpu_checks as checks
import gpu_timings as timings
import torch
from map_cost import random_classifier
from needs import need_photos, run_script
from results import Measured, add_csv_option, isa, machine, record

from gwapctl.datasets.synthetic import make_synthetic_voc

Part = Callable[[Namespace], Iterator[tuple[Measured, float]]]  # each ratio with its limit; below 0: a target
CHECKS: tuple[Part, ...] = (
    checks.check_logits,
    checks.check_maps,
    checks.check_training,
    checks.check_resume,
    checks.check_detector,
)
TIMINGS: tuple[Part, ...] = (
    timings.time_forward,
    timings.time_localizing,
    timings.time_training,
    timings.time_detector,
    timings.time_compile,
)


def main() -> None:
    """Run all parts, print each ratio as it is known, and end with 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a small network, few images and rounds")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs to localize")
    parser.add_argument("--count", type=int, default=2048, help="how many times a JPEG is localized at one scale")
    parser.add_argument("--minutes", type=float, default=9, help="parts that would begin later are left out")
    add_csv_option(parser)
    options = parser.parse_args()
    raise SystemExit(run(options))


def run(options: Namespace) -> int:
    """Return the exit status of all parts."""
    small, started, failed = options.small, time.monotonic(), 0
    options.backbone, options.size, options.batch = ("resnet-s", 64, 8) if small else ("googlenet", 224, 32)
    options.count, options.train_batch = (16, 4) if small else (options.count, 32)
    options.rounds, options.steps = (1, 4) if small else (3, 20)
    where = f"{options.device}: {isa(options.device)}; {machine()}"
    print(f"{where}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as temporary:
        options.folder, options.voc = Path(temporary), Path(temporary) / "voc"
        make_synthetic_voc(options.voc, images=40 if small else 240, seed=0)
        options.files = need_photos(options.images or options.voc)
        torch.manual_seed(0)
        options.model = random_classifier(options.backbone)
        for part in (*CHECKS, *TIMINGS):
            if time.monotonic() - started > 60 * options.minutes:
                print(f"left out, --minutes {options.minutes:g} are over: {part.__name__}")
                continue
            exact = part in CHECKS
            torch.backends.cudnn.allow_tf32 = not exact  # torch's own setting, but for what is compared with a CPU
            begun = time.monotonic()
            try:
                for measured, limit in part(options):
                    good = measured.ratio <= limit if limit >= 0 else measured.ratio >= -limit
                    verdict = (
                        f"{'at most' if limit > 0 else 'target'} {abs(limit):g}{'' if good else ', MISSED'}"
                        if limit
                        else ""
                    )
                    print(
                        f"  {measured.row:<46}{measured.ratio:>10.3g}  {verdict}\n    {measured.compared}", flush=True
                    )
                    failed += exact and not good
                    record(options.csv, [measured], options.device)
            except Exception:
                print(f"{part.__name__} FAILED\n{traceback.format_exc()}", flush=True)
                failed += 1
            torch.use_deterministic_algorithms(mode=False)
            print(f"{part.__name__}: {time.monotonic() - begun:.0f} s", flush=True)
    print("all checks passed" if not failed else f"{failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    run_script(main)
