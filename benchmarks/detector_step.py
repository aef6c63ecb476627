"""Seconds of a detector's training step and inference: ours beside torchvision's Faster R-CNN with ResNet-50 FPN.

python benchmarks/detector_step.py [--height 600] [--width 1000] [--batch 1] [--steps 2] [--rounds 3]

Same images at the same size, same precision (fp32), same memory format (channels last), same optimizer; both trunks are
fixed as with ImageNet weights: batch norm, the stem and the first of the four layers. Ours runs without the weak branch
and with each form of it. Every contender runs in a process of its own, in turns; the best round of each counts. Images
are made up, so reading them is not part of it. Targets: no slower than Faster R-CNN, and a weak branch within 5 % of
none.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from needs import run_script
from results import Measured, add_csv_option, record

CLASSES = 20
THEIRS = "faster r-cnn"
WEAK = ("none", "gap", "gwap", "gwap+gap")
TARGET, WEAK_TARGET = 1.0, 0.05


class Contender(NamedTuple):
    """A detector, its loss on the batch, and its detections in it."""

    model: Any
    loss: Callable[[], Any]
    detect: Callable[[], object]


def objects(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return the boxes of an image's four objects and their classes from 0."""
    import torch

    width, height = options.width, options.height
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.6], [0.5, 0.2, 0.9, 0.8], [0.05, 0.7, 0.3, 0.95], [0.3, 0.3, 0.7, 0.7]])
    return boxes * torch.tensor([width, height, width, height]), torch.tensor([3, 7, 7, 11])


def ours(options: argparse.Namespace, weak: Any) -> Contender:
    """Build R-FCN with the weak branch ``weak``."""
    import torch

    from gwapctl.datasets.base import ClassName
    from gwapctl.networks.rfcn.base import BoxTarget, DetectorInfo
    from gwapctl.networks.rfcn.losses import total_loss
    from gwapctl.networks.rfcn.store import build_detector

    classes = tuple(ClassName(str(index), str(index)) for index in range(CLASSES))
    short, long = sorted((options.height, options.width))
    info = DetectorInfo(backbone="resnet50", classes=classes, weak=weak, short_side=short, long_side=long)
    model = build_detector(info).to(memory_format=torch.channels_last)
    model.trunk.freeze()
    images = torch.randint(0, 256, (options.batch, 3, options.height, options.width), dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last)
    sizes = [(options.height, options.width)] * options.batch
    boxes, found = objects(options)
    targets = [BoxTarget(boxes, found, torch.zeros(len(found), dtype=torch.bool))] * options.batch
    labels = torch.zeros(options.batch, CLASSES)
    labels[:, found] = 1
    return Contender(
        model,
        lambda: total_loss(model(images, sizes, targets, labels)),
        lambda: model.detect(model.features(images, sizes), sizes),
    )


def theirs(options: argparse.Namespace) -> Contender:
    """Build torchvision's Faster R-CNN, as ``fasterrcnn_resnet50_fpn`` does for ImageNet weights."""
    import torch
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    short, long = sorted((options.height, options.width))
    trunk = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)  # its norms are frozen
    model = FasterRCNN(trunk, CLASSES + 1, min_size=short, max_size=long).to(memory_format=torch.channels_last)
    images = list(torch.rand(options.batch, 3, options.height, options.width))
    boxes, found = objects(options)
    targets = [{"boxes": boxes, "labels": found + 1}] * options.batch

    def detect() -> object:
        with torch.no_grad():
            return model(images)

    return Contender(model, lambda: torch.stack(list(model(images, targets).values())).sum(), detect)


def run(name: str, options: argparse.Namespace) -> tuple[float, float]:
    """Return the seconds of a training step and of an inference of one contender, in this process."""
    import torch
    from torchvision.models.resnet import Bottleneck

    torch.manual_seed(0)
    contender = theirs(options) if name == THEIRS else ours(options, name.split()[-1])
    for block in contender.model.modules():
        if isinstance(
            block, Bottleneck
        ):  # fixed norms would let the signals of a fresh network grow from block to block
            block.bn3.weight.data.fill_(0.2)
    parameters = [parameter for parameter in contender.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=5e-4)  # every step is the same work

    def learn() -> None:
        loss = contender.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    contender.model.train()
    training = fastest(learn, options.steps)
    contender.model.eval()
    return training, fastest(contender.detect, options.steps)


def fastest(step: Callable[[], object], count: int) -> float:
    """Return the seconds of the fastest of ``count`` steps, after one to warm up."""
    step()
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    """Let the contenders take turns and print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=600)
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    add_csv_option(parser)
    parser.add_argument("--contender", help=argparse.SUPPRESS)  # set in the processes of the contenders
    options = parser.parse_args()
    if options.contender:
        print(*run(options.contender, options))
        return
    best = {name: (float("inf"), float("inf")) for name in (THEIRS, *(f"r-fcn, weak {weak}" for weak in WEAK))}
    for _ in range(options.rounds):
        for name, (training, inference) in best.items():
            command = [sys.executable, *sys.argv, "--contender", name]
            found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            best[name] = (min(training, float(found[0])), min(inference, float(found[1])))
    print(f"ResNet-50, {options.batch} image(s) of {options.width} x {options.height}, seconds (times {THEIRS})")
    print(f"{'':<22}{'training step':>20}{'inference':>20}")
    for name, seconds in best.items():
        cells = (f"{own:.2f} ({own / other:.2f})" for own, other in zip(seconds, best[THEIRS], strict=True))
        print(f"{name:<22}" + "".join(f"{cell:>20}" for cell in cells))
    what = f"ResNet-50, fp32, {options.batch} image(s) of {options.width} x {options.height}"
    told = f"{what}: R-FCN, and torchvision's Faster R-CNN with FPN"
    ratios = [other / own for own, other in zip(best["r-fcn, weak gwap"], best[THEIRS], strict=True)]
    rows = ("training step, weak gwap beside Faster R-CNN", "inference, weak gwap beside Faster R-CNN")
    record(options.csv, [Measured(row, told, ratio) for row, ratio in zip(rows, ratios, strict=True)])
    plain = best["r-fcn, weak none"][0]
    costs = ", ".join(f"{weak} {best[f'r-fcn, weak {weak}'][0] / plain - 1:+.1%}" for weak in WEAK[1:])
    print(f"the weak branch costs a training step: {costs}")
    print(f"targets: at most {TARGET:g} times {THEIRS}, a weak branch within {WEAK_TARGET:.0%}")


if __name__ == "__main__":
    run_script(main)
