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
import contextlib
import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import repeat
from pathlib import Path
from typing import Any

import detector_step
import numpy as np
import torch
from map_cost import random_classifier
from needs import need_photos, run_script
from results import Measured, add_csv_option, isa, machine, record
from torch import Tensor, nn

from gwapctl.boxes import iou
from gwapctl.config import build_train_config
from gwapctl.datasets.synthetic import make_synthetic_voc
from gwapctl.device import autocast
from gwapctl.maps.forward import Network
from gwapctl.maps.localizer import Localizer
from gwapctl.maps.reading import MapReading
from gwapctl.networks.classifier import Classifier, load_classifier
from gwapctl.networks.inference import for_inference
from gwapctl.networks.rfcn.inference import DetectorReader
from gwapctl.networks.rfcn.store import load_detector
from gwapctl.networks.zoo import resolve_model
from gwapctl.predict.classifier import Model
from gwapctl.predict.threads import in_threads
from gwapctl.progress import Progress
from gwapctl.regions import map_to_boxes, parse_box_rule
from gwapctl.runs import Run
from gwapctl.train.checkpoint import Training
from gwapctl.train.classification import Batch, ClassificationTask
from gwapctl.train.loop import train, train_step
from gwapctl.train.task import Listener, Resources

MODEL = "resnet-s-gwap-tiny-imagenet"  # comes with the checkout
RULE = parse_box_rule("paper20")
PRECISIONS = ("fp32", "bf16")
DETECTOR: dict[str, Any] = {"detector": "rfcn", "weak": "gwap", "iterations": 4, "lr": 2e-3}
Find = Callable[[Namespace], Iterator[tuple[Measured, float]]]  # each ratio with its limit


# ------------------------------------------------------------------------------------------------------------- checks


@cache
def known_model() -> Classifier:
    """Return a trained classifier."""
    return load_classifier(resolve_model(MODEL))


@cache
def pictures(folder: Path, count: int = 8) -> list[np.ndarray]:
    """Return the first made-up images, of several shapes."""
    from gwapctl.images.decode import read_image

    return [read_image(path) for path in sorted(folder.rglob("*.jpg"))[:count]]


def error(found: Any, expected: Any) -> float:
    """Return the norm of the difference, relative to that of what is expected."""
    found, expected = (torch.as_tensor(one).detach().cpu().double() for one in (found, expected))
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


def check_logits(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Compare the logits of a batch."""
    size = known_model().info.input_size
    images = np.random.default_rng(0).integers(0, 256, (8, *size[::-1], 3), dtype=np.uint8)
    exact = Network(known_model(), device=torch.device("cpu"))(images).output.logits
    for precision, limit in zip(PRECISIONS, (1e-3, 5e-2), strict=True):
        logits = Network(known_model(), device=torch.device(options.device), precision=precision)(images).output.logits
        yield Measured(f"logits, {precision}", "error of 8 x 200 beside the CPU's in fp32", error(logits, exact)), limit


def check_maps(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Compare heatmaps, and the boxes in them."""
    images = pictures(options.voc)
    readings = {
        "class map": (MapReading("class"), PRECISIONS),
        "weight map, two scales, mirrored": (MapReading("weight", (64, 96), flip=True), PRECISIONS),
        "gradcam": (MapReading("gradcam"), ("fp32",)),
        "dgl": (MapReading("dgl"), ("fp32",)),
        "backprop": (MapReading("backprop"), ("fp32",)),
    }
    for name, (reading, precisions) in readings.items():
        ask = partial(Localizer.run, images=images, classes=[(0, 1)] * len(images), top_k=0)
        expected = ask(Localizer(known_model(), reading, device="cpu"))
        for precision in precisions:
            found = ask(Localizer(known_model(), reading, device=options.device, precision=precision))
            pairs = [
                (one.heatmap(channel), other.heatmap(channel))
                for one, other in zip(found, expected, strict=True)
                for channel in range(len(one.heatmaps))
            ]
            worst = max(error(*pair) for pair in pairs)
            told = f"{len(pairs)} heatmaps beside the CPU's in fp32"
            yield Measured(f"{name}, {precision}", f"largest error of {told}", worst), 1e-2 if precision == "fp32" else 0.2
            ious = [iou(*(map_to_boxes(heat, RULE)[0].box[None] for heat in pair)).item() for pair in pairs]
            lost = 1 - float(np.mean(ious))
            yield Measured(f"boxes of {name}, {precision}", f"1 - mean IoU, {told}", lost), 0.02


def trained(options: Namespace, device: str, name: str, listener: Listener = Listener(), **given: Any) -> Run:  # noqa: B008
    """Train on the made-up images, or resume that, in the folder ``name``."""
    resume = given.pop("resume", False)
    settings = {"backbone": "resnet-s", "weights": "none", "batch_size": 4, "deterministic": True, **given}
    config = build_train_config(str(options.voc), None, settings | {"precision": given.get("precision", "fp32")})
    return train(config, options.folder / name, device=device, workers=2, resume=resume, listener=listener)


def weights(run: Run) -> Tensor:
    """Return all weights of a run, one after the other."""
    from gwapctl.networks.classifier import load_tensors

    return torch.cat([tensor.float().flatten() for _, tensor in sorted(load_tensors(run.folder / "weights.safetensors").items())])


CLASSIFIER: dict[str, Any] = {"head": "gwap", "image_size": (96, 64), "iterations": 6, "lr": 1e-3, "epochs": None}


def check_training(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Train a classifier and a detector from JPEGs, on the CPU and on the device."""
    device = options.device
    sizes = {"short_side": 96, "long_side": 160, "batch_size": 2}
    for name, given, limits in (("classifier", CLASSIFIER, (1e-2, 5e-2)), ("detector", {**DETECTOR, **sizes}, (0.3, 0.3))):
        expected = trained(options, "cpu", f"{name}-cpu", **given)
        for precision, limit in zip(PRECISIONS, limits, strict=True):
            found = trained(options, device, f"{name}-{precision}", **given, precision=precision)
            lost = error(*([row["loss"] for row in run.history()] for run in (found, expected)))
            told = "the detector draws regions at random" if name == "detector" else "same seed"
            yield Measured(f"training a {name}, {precision}", f"error of the loss beside the CPU's in fp32; {told}", lost), limit


def check_resume(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Interrupt a training on the device and resume it."""

    def stop(state: Progress) -> None:
        if state.done == 3 and state.unit == "it":
            raise KeyboardInterrupt

    whole = trained(options, options.device, "whole", **CLASSIFIER)
    with contextlib.suppress(KeyboardInterrupt):
        trained(options, options.device, "parts", Listener(progress=stop), **CLASSIFIER)
    parts = trained(options, options.device, "parts", **CLASSIFIER, resume=True)
    yield Measured("resumed training", "error of the weights beside going through", error(weights(parts), weights(whole))), 1e-6


def check_detector(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Compare the best boxes of the detector that was just trained."""
    images = pictures(options.voc, 4)
    readers = {
        device: DetectorReader(load_detector(options.folder / "detector-cpu"), device=device)
        for device in ("cpu", options.device)
    }
    expected, found = (readers[device].run(images, maps=True) for device in ("cpu", options.device))
    best = [iou(one.boxes[:5], other.boxes).max(1) for one, other in zip(expected, found, strict=True)]
    yield Measured("detector's boxes, fp32", "1 - mean IoU of the best 5 with the CPU's", 1 - float(np.mean(best))), 0.02
    maps = max(error(one.weight_maps, other.weight_maps) for one, other in zip(found, expected, strict=True))
    yield Measured("detector's weight maps, fp32", "error beside the CPU's", maps), 1e-2


# ------------------------------------------------------------------------------------------------------------ timings


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
        decode = lambda paths: [predictor._loaded(path) for path in paths]  # noqa: E731
        seconds = in_turns(
            options,
            {
                "localize": lambda: sum(1 for _ in predictor.stream(chosen)),
                "decode": lambda: sum(1 for _ in in_threads(decode, chosen, chunk=batch)),
            },
            1,
        )
        whole, decoding = seconds["localize"] / len(chosen), seconds["decode"] / len(chosen)
        what = f"{options.backbone} bf16, {text} px, batch {batch}, {torch.get_num_threads()} threads"
        print(f"{what}: localize {1 / whole:,.0f}/s, forward {1 / alone:,.0f}/s, decode and resize {1 / decoding:,.0f}/s")
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
    yield Measured("torch.compile, forward pass", f"{what}, batch {options.batch}; without", seconds[""] / seconds["with"]), 0
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


CHECKS: tuple[Find, ...] = (check_logits, check_maps, check_training, check_resume, check_detector)
TIMINGS: tuple[Find, ...] = (time_forward, time_localizing, time_training, time_detector, time_compile)


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
    print(f"{options.device}: {isa(options.device)}; {machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads")
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
                    verdict = f"{'at most' if limit > 0 else 'target'} {abs(limit):g}{'' if good else ', MISSED'}" if limit else ""
                    print(f"  {measured.row:<46}{measured.ratio:>10.3g}  {verdict}\n    {measured.compared}", flush=True)
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
