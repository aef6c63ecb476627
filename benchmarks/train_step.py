"""Images per second of a training step: gwapctl's beside a plain loop, and what the gwap head costs beside gap.

python benchmarks/train_step.py [--backbone googlenet] [--size 224] [--batch 16] [--steps 6] [--rounds 3] [--compile]

The plain loop is torchvision's reference loop in its defaults: fp32, contiguous memory, a loss read every step, on the
same network with the same loss and optimizer. Ours is the step of ``gwapctl train``: channels last, bf16 where the
processor has it, memory kept between steps. Every contender runs in a process of its own, in turns; the best round of
each counts. Images are made up, so reading them is not part of it. Targets: 2 times the plain loop, and gwap within 2 %
of gap. With --compile also the step of ``gwapctl train --set compile=true``; minutes of compiling come before it.
On a CPU a row tells which share of our step convolutions take. Both loops leave those to oneDNN; the rest is all that a
better step could save.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from needs import run_script
from results import Measured, add_csv_option, record

CLASSES = 20
TARGET, HEAD_TARGET = 2.0, 0.02
CONVOLUTIONS = "convolutions"


def our_step(options: argparse.Namespace, head: str, *, compiled: bool) -> Callable[[], object]:
    """Return one step of ``gwapctl.train.loop`` on a batch of noise."""
    import torch

    from gwapctl.config import build_train_config
    from gwapctl.datasets.base import ClassName, Sample
    from gwapctl.device import keep_freed_memory, resolve_device
    from gwapctl.train.checkpoint import Training
    from gwapctl.train.classification import ClassificationTask
    from gwapctl.train.classifier_batches import Batch
    from gwapctl.train.data import TrainData
    from gwapctl.train.loop import train_step
    from gwapctl.train.task import Resources

    class Names:
        name, multi_label = "noise", True
        classes = tuple(ClassName(str(index), str(index)) for index in range(CLASSES))

    train = tuple(Sample(str(index), Path(), (index % CLASSES,)) for index in range(options.batch))
    data = TrainData(Names(), train, (), "train", None)  # type: ignore[arg-type]
    device = resolve_device("auto")
    if device.type == "cpu":
        keep_freed_memory()
    settings = {"backbone": options.backbone, "head": head, "weights": "none", "batch_size": options.batch, "epochs": 1}
    if compiled:
        settings["compile"] = True
    config = build_train_config("noise", None, settings)
    training = Training(ClassificationTask(config, data, Resources(device)))
    images = torch.randint(0, 256, (options.batch, options.size, options.size, 3), dtype=torch.uint8)
    batches = itertools.repeat(Batch(images.permute(0, 3, 1, 2), torch.arange(options.batch)))
    return lambda: train_step(training, batches, 1e-3)


def plain_step(options: argparse.Namespace) -> Callable[[], object]:
    """Return one step as a plain loop takes it, on the network and loss of ours."""
    import torch

    from gwapctl.device import resolve_device
    from gwapctl.networks.backbones import build_backbone
    from gwapctl.networks.heads import build_head

    device = resolve_device("auto")
    backbone = build_backbone(options.backbone)
    head = build_head("gwap", backbone.channels, CLASSES)
    model = torch.nn.ModuleList([backbone, head]).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    loss_function = torch.nn.BCEWithLogitsLoss(reduction="sum")
    images = torch.rand(options.batch, 3, options.size, options.size)
    labels = torch.eye(CLASSES)[torch.arange(options.batch) % CLASSES].to(device)

    def step() -> float:
        loss = loss_function(head(backbone(images.to(device))).logits, labels) / options.batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def convolutions(step: Callable[[], object]) -> float:
    """Return the share of a step's time on a CPU that convolutions take, forth and back."""
    import torch

    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
        step()
    times = {row.key: row.self_cpu_time_total for row in watched.key_averages()}
    return sum(time for name, time in times.items() if "convolution" in name) / sum(times.values())


def run(name: str, options: argparse.Namespace) -> float:
    """Return images per second of one contender, in this process; of ``CONVOLUTIONS`` their share of our step."""
    import torch

    if name == CONVOLUTIONS:
        return convolutions(our_step(options, "gwap", compiled=False))
    words = name.split()
    step = plain_step(options) if name == "plain" else our_step(options, words[1], compiled=words[-1] == "compiled")
    for _ in range(2):
        step()
    started = time.perf_counter()
    for _ in range(options.steps):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return options.steps * options.batch / (time.perf_counter() - started)


def main() -> None:
    """Let the contenders take turns and print rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="googlenet")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    add_csv_option(parser)
    parser.add_argument("--contender", help=argparse.SUPPRESS)  # set in the processes of the contenders
    options = parser.parse_args()
    from gwapctl.device import resolve_device

    if options.contender:
        print(run(options.contender, options))
        return

    def measured(name: str) -> float:
        command = [sys.executable, *sys.argv, "--contender", name]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    names = ("plain", "ours gap", "ours gwap", *(["ours gwap compiled"] if options.compile else []))
    best = dict.fromkeys(names, 0.0)
    for _ in range(options.rounds):
        for name in best:
            best[name] = max(best[name], measured(name))
    print(f"{options.backbone}, {options.size} px, batch {options.batch}")
    for name, rate in best.items():
        print(f"{name:<20}{rate:>9.1f} images/s{rate / best['plain']:>8.2f} x plain")
    overhead = best["ours gap"] / best["ours gwap"] - 1
    what = f"{options.backbone}, {options.size} px, batch {options.batch}, same network, loss and optimizer"
    told = f"{what}: the loop in fp32, contiguous, the loss read in every step"
    rows = [
        Measured(f"{name} beside torchvision's reference loop", told, best[name] / best["plain"]) for name in names[1:]
    ]
    if resolve_device("auto").type == "cpu":
        rows.append(Measured("convolutions' share of our step", what, measured(CONVOLUTIONS)))
        print(f"convolutions take {rows[-1].ratio:.0%} of our step")
    record(options.csv, rows)
    print(f"target {TARGET:g} x plain; gwap costs {overhead:.1%} over gap, target {HEAD_TARGET:.0%}")


if __name__ == "__main__":
    run_script(main)
