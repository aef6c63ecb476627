"""Images per second from JPEG files to JSON: gwapctl beside plain loops with torch-cam and pytorch-grad-cam.

python benchmarks/localize_speed.py [--images FOLDER] [--count 200] [--rounds 3] [--device cpu] [--engine auto|all|...]

224 x 224 pixels, GoogLeNet with random weights and 1000 classes: gwapctl's is cut at inception4e with a gwap head, the
others' is torchvision's whole network, which they need. All decode, resize and find boxes with the same functions and
write the same JSON; the loops are what the tools' documentation shows: one image after the other, torch with its
default threads. The contenders take turns in every round; the best round of each counts. Targets: 3 times the rate of
torch-cam's CAM, 5 times that of pytorch-grad-cam's GradCAM. Needs the `bench` extra.

``--engine all`` has a row for every engine that is installed, in each of its number formats, and says with which
instructions its convolutions run. It goes on with the default model, beside both tools on the very same network (timm's
efficientnet_lite0 at output stride 16, 224 pixels, random weights): at one scale of 224 pixels with the box rule of the
others, as it is (three scales, boxes that follow edges), and at scales 224, 448 and 672.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from map_cost import random_classifier
from needs import PHOTOS, need_package, need_photos, run_script
from results import Measured, add_csv_option, record
from torch import Tensor, nn

from gwapctl.device import has_fast_bf16, resolve_device
from gwapctl.engines import AUTO, ENGINES
from gwapctl.engines.choose import candidates
from gwapctl.geometry import Geometry
from gwapctl.images.decode import read_image
from gwapctl.inputs import ImageInput
from gwapctl.maps.heatmap import HEATMAP_SIDE
from gwapctl.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from gwapctl.networks.classifier import Classifier, load_classifier
from gwapctl.networks.transforms import resize
from gwapctl.networks.zoo import default_model, resolve_model
from gwapctl.predict.classifier import ClassifierPredictor, Model
from gwapctl.predict.folder import localize_inputs
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.regions import map_to_boxes, parse_box_rule

SIDE, CLASSES = 224, 1000
TARGETS = {"torch-cam CAM": 3.0, "pytorch-grad-cam GradCAM": 5.0}
RULE = parse_box_rule("paper20")

Contender = Callable[[Sequence[ImageInput]], int]


@dataclass(frozen=True)
class Subject:
    """A network as gwapctl has it and as the other tools have it, with what both are asked.

    ``layer`` is the module that both tools read, ``fc`` the linear layer of torch-cam's CAM; ``rows`` are ours, by
    name: the network, and the options of ``Model.predictor``.
    """

    name: str
    theirs: nn.Module
    layer: str
    fc: str
    rows: Mapping[str, tuple[Classifier, Mapping[str, Any]]]


def googlenet() -> Subject:
    """Return GoogLeNet with random weights."""
    theirs = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False, num_classes=CLASSES)
    return Subject("googlenet", theirs, "inception5b", "fc", {"": (random_classifier("googlenet"), {})})


def default_network() -> Subject:
    """Return the default model, and the same network with random weights.

    Where the others see 224 pixels, so does ours: it decides the class there, and not at the size it was trained for.
    """
    name, _ = default_model()
    theirs = timm.create_model("efficientnet_lite0", pretrained=False, output_stride=16, num_classes=CLASSES)
    stored, at_224 = (load_classifier(resolve_model(name)) for _ in range(2))
    at_224.info = at_224.info.model_copy(update={"input_size": (SIDE, SIDE)})
    plain = {"box_rule": RULE, "refine": "none"}
    rows: dict[str, tuple[Classifier, Mapping[str, Any]]] = {
        "224": (at_224, {"scales": (SIDE,), **plain}),
        "as it is": (stored, {}),
        "224,448,672": (at_224, {"scales": (SIDE, 2 * SIDE, 3 * SIDE), **plain}),
    }
    return Subject(name, theirs, "bn2", "classifier", rows)


class Ours:
    """The stream behind ``gwapctl localize --format jsonl``."""

    def __init__(self, subject: Subject, predictor: ClassifierPredictor, inputs: Sequence[ImageInput]) -> None:
        self.name, self.predictor = subject.name, predictor
        predictor.settle([item.path for item in inputs])

    def __call__(self, inputs: Sequence[ImageInput]) -> int:
        """Return how many characters of JSON the images gave."""
        return sum(len(as_line(found)) for found in localize_inputs(self.predictor, self.name, inputs))


def engines(asked: str, precision: str, device: str) -> list[tuple[str, str]]:
    """Return the engines and number formats that have a row."""
    if asked != "all":
        return [(asked, precision)]
    found = [(choice.engine, choice.precision) for choice in candidates(AUTO, resolve_device(device))]
    if device == "cpu" and ENGINES["openvino"].installed:
        found.append(("openvino", "int8"))
    return [*found, (AUTO, AUTO)]


def compared(row: str) -> str:
    """Say what a row of ours sets beside the others' one pass at 224 pixels."""
    if row.endswith("as it is"):
        return "the very same network; ours at its three scales, with boxes that follow edges"
    if row.endswith("224,448,672"):
        return "the very same network; ours at three scales"
    return "the very same network" if row.endswith("224") else "ours cut at inception4e, theirs whole"


def as_line(found: Prediction) -> str:
    """Return the JSON line of an image."""
    return json.dumps(found.to_json())


class PlainLoop:
    """What both other tools' loops share: a whole network, the preprocessing before and the box after the map."""

    def __init__(self, subject: Subject, device: str) -> None:
        self.device, self.subject = device, subject
        self.network = subject.theirs.eval().to(device)
        self.mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        self.std = torch.tensor(IMAGENET_STD).view(3, 1, 1)

    def tensor(self, image: np.ndarray) -> Tensor:
        """Return the network input ``(1, 3, 224, 224)``."""
        small = torch.from_numpy(resize(image, (SIDE, SIDE))).permute(2, 0, 1).float() / 255
        return ((small - self.mean) / self.std)[None].to(self.device)

    def line(self, item: ImageInput, image: np.ndarray, heatmap: np.ndarray, label: int, score: float) -> str:
        """Return the JSON line for a map ``(h, w)``: resized as ours are, the same box rule."""
        height, width = image.shape[:2]
        fitted = Geometry.fit(width, height, HEATMAP_SIDE)
        maps = torch.from_numpy(heatmap)[None, None]
        size = (fitted.input_height, fitted.input_width)
        full = torch.nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)[0, 0].numpy()
        regions = map_to_boxes(full, RULE)
        box = tuple(fitted.to_original(regions[0].box)[0].tolist()) if regions else None
        found = ClassPrediction(str(label), str(label), score, box)
        name = self.subject.name
        return as_line(Prediction(str(item.path), width, height, name, (SIDE,), (found,), None, item.id))


class TorchCam(PlainLoop):
    """The loop of torch-cam's README."""

    def __call__(self, inputs: Sequence[ImageInput]) -> int:
        """Return how many characters of JSON the images gave."""
        from torchcam.methods import CAM

        written = 0
        with CAM(self.network, self.subject.layer, self.subject.fc) as extractor, torch.no_grad():
            for item in inputs:
                image = read_image(item.path)
                scores = self.network(self.tensor(image))
                probabilities = scores.softmax(1)[0]
                label = int(probabilities.argmax())
                heatmap = extractor(label, scores)[0][0].cpu().numpy()
                written += len(self.line(item, image, heatmap, label, float(probabilities[label])))
        return written


class GradCam(PlainLoop):
    """The loop of pytorch-grad-cam's README; the class is the best one, which it picks itself."""

    def __call__(self, inputs: Sequence[ImageInput]) -> int:
        """Return how many characters of JSON the images gave."""
        from pytorch_grad_cam import GradCAM

        written = 0
        with GradCAM(model=self.network, target_layers=[self.network.get_submodule(self.subject.layer)]) as extractor:
            for item in inputs:
                image = read_image(item.path)
                heatmap = extractor(input_tensor=self.tensor(image), targets=None)[0]
                probabilities = extractor.outputs.detach().softmax(1)[0]
                label = int(probabilities.argmax())
                written += len(self.line(item, image, heatmap, label, float(probabilities[label])))
        return written


ASK_TORCH = """
import torch
for kind in (torch.float32, torch.bfloat16):
    with torch.inference_mode():
        torch.nn.functional.conv2d(torch.zeros(8, 32, 56, 56, dtype=kind), torch.zeros(32, 32, 3, 3, dtype=kind))
"""


def torch_kernels() -> str:
    """Return the oneDNN kernels that torch's convolutions use here, in float32 and, where it is native, in bfloat16."""
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ASK_TORCH], env=environment, capture_output=True, text=True, check=True
    )
    kernels = dict.fromkeys(re.findall(r"primitive,exec,cpu,convolution,([^,]+)", done.stdout))
    return ", ".join([*kernels][: 1 + has_fast_bf16(torch.device("cpu"))]) or "not oneDNN's"


def compare(subject: Subject, inputs: Sequence[ImageInput], options: argparse.Namespace) -> None:
    """Print images per second of every contender, and how many times as fast as the others ours are."""
    ours: dict[str, Ours] = {}
    for name, (network, settings) in subject.rows.items():
        for engine, precision in engines(options.engine, options.precision, options.device):
            model = Model(network, subject.name, device=options.device, precision=precision, engine=engine)
            row = Ours(subject, model.predictor(**settings), inputs)
            chosen = f"auto: {row.predictor.choice}" if engine == AUTO else f"{row.predictor.choice}"
            ours[f"gwapctl {chosen.partition('@')[0]} {name}".strip()] = row
    contenders: dict[str, Contender] = {
        **ours,
        "torch-cam CAM": TorchCam(subject, options.device),
        "pytorch-grad-cam GradCAM": GradCam(subject, options.device),
    }
    best = dict.fromkeys(contenders, float("inf"))
    for contender in contenders.values():  # warm up: kernels, caches, files
        contender(inputs[:16])
    for _ in range(options.rounds):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender(inputs)
            best[name] = min(best[name], time.perf_counter() - start)
    threads = f"{torch.get_num_threads()} threads, best of {options.rounds} rounds"
    print(f"{subject.name}: {len(inputs)} images, {options.device}, {threads}")
    for name, seconds in best.items():
        print(f"{name:<48}{len(inputs) / seconds:8.1f} images/s")
    for name in ours:
        ratios = [f"{best[other] / best[name]:.2f} times the rate of {other}" for other in TARGETS]
        print(f"{name:<48}has {', '.join(ratios)}")
    record(
        options.csv,
        (
            Measured(
                f"{subject.name}, {re.sub('auto: [a-z]+ [a-z0-9]+', 'auto', name)}, beside {other}",
                f"JPEG to JSON, {compared(name)}; {torch.get_num_threads()} threads; theirs one image after the other",
                best[other] / best[name],
            )
            for name in ours
            for other in TARGETS
        ),
        options.device,
    )
    if options.engine == "all":
        print(f"torch: {torch_kernels()}")
        for choice, row in {str(row.predictor.choice): row for row in ours.values()}.items():
            if row.predictor.choice.engine != "torch":
                print(f"{choice}: {row.predictor.localizer.engine.instruction_set()}")
    elif subject.name == "googlenet":
        (seconds,) = (best[name] for name in ours)
        for name, target in TARGETS.items():
            print(f"gwapctl has {best[name] / seconds:.2f} times the rate of {name}, target {target}")


def main() -> None:
    """Compare on GoogLeNet, and with all engines on the default model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=PHOTOS)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default=AUTO)
    parser.add_argument("--engine", default=AUTO, choices=(AUTO, "all", *ENGINES))
    add_csv_option(parser)
    options = parser.parse_args()
    for module in ("torchcam", "pytorch_grad_cam"):
        need_package(module, "pip install -e '.[bench]'")
    files = need_photos(options.images)
    inputs = [ImageInput(files[index % len(files)], f"{index}.jpg") for index in range(options.count)]
    torch.manual_seed(0)
    compare(googlenet(), inputs, options)
    if options.engine == "all":
        compare(default_network(), inputs, options)


if __name__ == "__main__":
    run_script(main)
