"""The timings of ``gpu.py``: ratios of what takes turns. Each comes with its target, below 0; 0: none."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path

import detector_step
import torch
from results import Measured
from torch import Tensor, nn

from gwapctl.config import build_train_config
from gwapctl.device import autocast
from gwapctl.networks.classifier import Classifier
from gwapctl.networks.inference import for_inference
from gwapctl.predict.base import Predictor
from gwapctl.predict.classifier import Model
from gwapctl.predict.threads import in_threads
from gwapctl.regions import parse_box_rule
from gwapctl.train.checkpoint import Training
from gwapctl.train.classification import Batch, ClassificationTask
from gwapctl.train.loop import train_step
from gwapctl.train.task import Resources

RULE = parse_box_rule("paper20")


def wait(device: str) -> None:
    """Wait until the device has done all it was told."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def in_turns(options: Namespace, contenders: Mapping[str, Callable[[], object]], steps: int) -> dict[str, float]:
    """Let each contender take ``steps`` steps in turns; return the seconds of a step in its best round."""
    for step in contenders.values():
        for _ in range(3):
            step()
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(options.rounds):
        for name, step in contenders.items():
            wait(options.device)
            started = time.perf_counter()
            for _ in range(steps):
                step()
            wait(options.device)
            best[name] = min(best[name], (time.perf_counter() - started) / steps)
    return best


def noise(options: Namespace, size: int, batch: int) -> Tensor:
    """Return a batch (B, 3, size, size) of uint8, channels last, in the memory of the CPU."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, size, size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


def forward(model: Classifier, images: Tensor, device: str, precision: str) -> Callable[[], object]:
    """Return the forward pass on a batch that lies on the device, and nothing else."""

    def step() -> object:
        with torch.inference_mode(), autocast(torch.device(device), precision):
            features = model.feature_map(images)
        with torch.inference_mode():
            return model.head(features.float())

    return step


def time_forward(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Compare number formats and memory formats of the forward pass."""
    device = torch.device(options.device)
    fast = for_inference(options.model, device)
    plain = for_inference(options.model, device).to(memory_format=torch.contiguous_format)
    images = noise(options, options.size, options.batch).to(device)
    contiguous = images.contiguous()
    seconds = in_turns(
        options,
        {
            "fp32": forward(fast, images, options.device, "fp32"),
            "bf16": forward(fast, images, options.device, "bf16"),
            "contiguous": forward(plain, contiguous, options.device, "bf16"),
        },
        options.steps,
    )
    what = f"{options.backbone}, {options.size} px, batch {options.batch}, forward pass"
    print(f"{what}: " + ", ".join(f"{name} {options.batch / one:,.0f}/s" for name, one in seconds.items()))
    yield Measured("bf16", f"{what}; fp32", seconds["fp32"] / seconds["bf16"]), 0
    yield Measured("channels last, bf16", f"{what}; contiguous", seconds["contiguous"] / seconds["bf16"]), 0


def localize(predictor: Predictor, files: Sequence[Path]) -> int:
    """Localize files, and return how many there were."""
    return sum(1 for _ in predictor.stream(files))


def decode(predictor: Predictor, files: Sequence[Path]) -> int:
    """Decode and resize files as ``localize`` does, in as many threads, and nothing else."""
    return sum(1 for _ in in_threads(lambda part: [*map(predictor._loaded, part)], files, chunk=predictor.batch_size))


def time_localizing(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Compare JPEGs to boxes with the forward pass alone, and with decoding alone."""
    files = [options.files[index % len(options.files)] for index in range(options.count)]
    for scales in ((options.size,), tuple(factor * options.size for factor in (1, 2, 3))):
        text = ",".join(map(str, scales))
        model = Model(options.model, options.backbone, device=options.device, precision="bf16")
        predictor = model.predictor(scales=scales, box_rule=RULE)
        network, batch = predictor.localizer.model, predictor.batch_size
        own = predictor.localizer._at_once
        passes = [(noise(options, side, own((side, side))).to(options.device), side) for side in scales]
        alone = 0.0
        for images, _ in passes:
            step = forward(network, images, options.device, "bf16")
            alone += in_turns(options, {"": step}, options.steps)[""] / len(images)
        chosen = files[: max(batch, len(files) // len(scales) ** 2)]
        contenders = {"localize": partial(localize, predictor, chosen), "decode": partial(decode, predictor, chosen)}
        seconds = in_turns(options, contenders, 1)
        whole, decoding = seconds["localize"] / len(chosen), seconds["decode"] / len(chosen)
        what = f"{options.backbone} bf16, {text} px, batch {batch}, {torch.get_num_threads()} threads"
        print(
            f"{what}: localize {1 / whole:,.0f}/s, forward {1 / alone:,.0f}/s, decode and resize {1 / decoding:,.0f}/s"
        )
        yield Measured(f"localize JPEGs, {text} px", f"{what}; the forward pass alone", alone / whole), -0.8
        slower = max(alone, decoding)
        told = f"{what}; the slower of forward pass and decoding, each alone"
        yield Measured(f"localize JPEGs, {text} px, of the slower", told, slower / whole), -0.8


def training_of(options: Namespace, size: int, *, compiled: bool = False) -> Training:
    """Return a training of the made-up images in bf16."""
    settings = {"backbone": options.backbone, "weights": "none", "batch_size": options.train_batch, "epochs": 10_000}
    given = {**settings, "image_size": (size, size), "precision": "bf16", "compile": compiled, "train_sizes": ()}
    config = build_train_config(str(options.voc), None, given)
    data = ClassificationTask.load_data(config, None, lambda found: found)
    return Training(ClassificationTask(config, data, Resources.find(options.device)))


def bare_step(training: Training, images: Tensor, *, precision: str = "bf16") -> Callable[[], object]:
    """Return a training step on a batch that lies on the device, with nothing around it."""
    model, device = training.task.model, training.task.device
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)
    classes = len(training.task.data.dataset.classes)
    labels = torch.eye(classes, device=device)[torch.arange(len(images)) % classes]
    loss_function = nn.BCEWithLogitsLoss(reduction="sum")

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            logits = model(images).logits
        loss = loss_function(logits.float(), labels) / len(images)
        loss.backward()
        optimizer.step()
        return loss.item() if precision == "fp32" else loss

    return step


def time_training(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Compare training steps."""
    training, size, batch = training_of(options, options.size), options.size, options.train_batch
    plain = training_of(options, size)
    plain.task.model.to(memory_format=torch.contiguous_format)
    host = noise(options, size, batch)
    there = host.to(options.device)
    indices = torch.arange(batch) % len(training.task.data.train)
    files = training.task.batches(0)
    contenders = {
        "bare": bare_step(training_of(options, size), there),
        "ours": partial(train_step, training, repeat(Batch(host, indices)), 0.0),
        "files": partial(train_step, training, files, 0.0),
        "plain": bare_step(plain, there.contiguous(), precision="fp32"),
    }
    seconds = in_turns(options, contenders, max(2, options.steps // 2))
    what = f"{options.backbone}, {size} px, batch {batch}"
    print(f"{what}, training step: " + ", ".join(f"{name} {batch / one:,.0f}/s" for name, one in seconds.items()))
    bare = f"{what}, bf16; the bare step on a batch on the device"
    yield Measured("training step", bare, seconds["bare"] / seconds["ours"]), -0.9
    readers = f"{bare}; JPEGs of 160 to 256 px, {training.task.workers} readers"
    yield Measured("training step from JPEGs", readers, seconds["bare"] / seconds["files"]), -0.9
    loop = f"{what}; bf16, channels last beside fp32, contiguous, the loss read in every step"
    yield Measured("training step, plain loop", loop, seconds["plain"] / seconds["ours"]), 0


def time_compile(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Compare compiled networks; --small tries the path with a compiler that makes no code."""
    device, what = torch.device(options.device), f"{options.backbone}, {options.size} px, bf16"
    plain, compiled = (for_inference(options.model, device) for _ in range(2))
    compiled.backbone = torch.compile(compiled.backbone, backend="aot_eager" if options.small else "inductor")
    images = noise(options, options.size, options.batch).to(device)
    both = {name: forward(one, images, options.device, "bf16") for name, one in (("with", compiled), ("", plain))}
    seconds = in_turns(options, both, options.steps)
    yield (
        Measured(
            "torch.compile, forward pass", f"{what}, batch {options.batch}; without", seconds[""] / seconds["with"]
        ),
        0,
    )
    if options.small:
        return
    batch = Batch(noise(options, options.size, options.train_batch), torch.arange(options.train_batch))
    steps = {
        name: partial(train_step, training_of(options, options.size, compiled=bool(name)), repeat(batch), 0.0)
        for name in ("with", "")
    }
    seconds = in_turns(options, steps, options.steps // 2)
    told = f"{what}, batch {options.train_batch}; without"
    yield Measured("compile=true, training step", told, seconds[""] / seconds["with"]), 0


def time_detector(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Compare a detector's training step and inference with Faster R-CNN's."""
    height, width = (96, 160) if options.small else (600, 1000)
    asked = Namespace(height=height, width=width, batch=1 if options.small else 2)
    found = {}
    for name in (detector_step.THEIRS, "gwap"):
        torch.manual_seed(0)
        with torch.device(options.device):
            contender = detector_step.theirs(asked) if name == detector_step.THEIRS else detector_step.ours(asked, name)
        contender.model.to(options.device)
        optimizer = torch.optim.SGD([one for one in contender.model.parameters() if one.requires_grad], lr=0.0)
        found[name] = contender, optimizer

    def learn(name: str) -> None:
        contender, optimizer = found[name]
        with torch.device(options.device):
            optimizer.zero_grad()
            contender.loss().backward()
            optimizer.step()

    def detect(name: str) -> object:
        with torch.device(options.device), torch.inference_mode():
            return found[name][0].detect()

    what = f"R-FCN with weak branch beside Faster R-CNN, ResNet-50, fp32, {asked.batch} of {width} x {height}"
    for row, step, training in (("detector's training step", learn, True), ("detector's inference", detect, False)):
        for contender, _ in found.values():
            contender.model.train(training)
        seconds = in_turns(options, {name: partial(step, name) for name in found}, max(2, options.steps // 4))
        print(f"{row}: " + ", ".join(f"{name} {1e3 * one:.1f} ms" for name, one in seconds.items()))
        yield Measured(row, what, seconds[detector_step.THEIRS] / seconds["gwap"]), -1.0
