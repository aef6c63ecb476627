"""Images per second from JPEG files to JSON: gwapctl beside plain loops with torch-cam and pytorch-grad-cam.

python benchmarks/localize_speed.py [--images FOLDER] [--count 200] [--rounds 3] [--device cpu]

224 x 224 pixels, GoogLeNet with random weights and 1000 classes: gwapctl's is cut at inception4e with a gwap head, the
others' is torchvision's whole network, which they need. All decode, resize and find boxes with the same functions and
write the same JSON; the loops are what the tools' documentation shows: one image after the other, torch with its
default threads. The contenders take turns in every round; the best round of each counts. Targets: 3 times the rate of
torch-cam's CAM, 5 times that of pytorch-grad-cam's GradCAM. Needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from map_cost import random_classifier
from needs import PHOTOS, need_package, need_photos, run_script
from torch import Tensor

from gwapctl.geometry import Geometry
from gwapctl.images.decode import read_image
from gwapctl.inputs import ImageInput
from gwapctl.maps.heatmap import HEATMAP_SIDE
from gwapctl.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from gwapctl.networks.transforms import resize
from gwapctl.predict.classifier import Model
from gwapctl.predict.folder import localize_inputs
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.regions import map_to_boxes, parse_box_rule

SIDE, CLASSES = 224, 1000
TARGETS = {"torch-cam CAM": 3.0, "pytorch-grad-cam GradCAM": 5.0}
RULE = parse_box_rule("paper20")

Contender = Callable[[Sequence[ImageInput]], int]


def our_contender(device: str, precision: str) -> Contender:
    """Return the stream behind ``gwapctl localize --format jsonl``."""
    predictor = Model(random_classifier("googlenet"), "googlenet", device=device, precision=precision).predictor()
    return lambda inputs: sum(len(as_line(found)) for found in localize_inputs(predictor, "googlenet", inputs))


def as_line(found: Prediction) -> str:
    """Return the JSON line of an image."""
    return json.dumps(found.to_json())


class PlainLoop:
    """What both other tools' loops share: a whole GoogLeNet, the preprocessing before and the box after the map."""

    def __init__(self, device: str) -> None:
        self.device = device
        network = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False, num_classes=CLASSES)
        self.network = network.eval().to(device)
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
        return as_line(Prediction(str(item.path), width, height, "googlenet", (SIDE,), (found,), None, item.id))


class TorchCam(PlainLoop):
    """The loop of torch-cam's README."""

    def __call__(self, inputs: Sequence[ImageInput]) -> int:
        """Return how many characters of JSON the images gave."""
        from torchcam.methods import CAM

        written = 0
        with CAM(self.network, "inception5b", "fc") as extractor, torch.no_grad():
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
        with GradCAM(model=self.network, target_layers=[self.network.inception5b]) as extractor:
            for item in inputs:
                image = read_image(item.path)
                heatmap = extractor(input_tensor=self.tensor(image), targets=None)[0]
                probabilities = extractor.outputs.detach().softmax(1)[0]
                label = int(probabilities.argmax())
                written += len(self.line(item, image, heatmap, label, float(probabilities[label])))
        return written


def main() -> None:
    """Print images per second and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=PHOTOS)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    for module in ("torchcam", "pytorch_grad_cam"):
        need_package(module, "pip install -e '.[bench]'")
    files = need_photos(options.images)
    inputs = [ImageInput(files[index % len(files)], f"{index}.jpg") for index in range(options.count)]
    torch.manual_seed(0)
    contenders: dict[str, Contender] = {
        "gwapctl": our_contender(options.device, options.precision),
        "torch-cam CAM": TorchCam(options.device),
        "pytorch-grad-cam GradCAM": GradCam(options.device),
    }
    best = dict.fromkeys(contenders, float("inf"))
    for contender in contenders.values():  # warm up: kernels, caches, files
        contender(inputs[:16])
    for _ in range(options.rounds):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender(inputs)
            best[name] = min(best[name], time.perf_counter() - start)
    print(f"{len(inputs)} images, {options.device}, {torch.get_num_threads()} threads, best of {options.rounds} rounds")
    for name, seconds in best.items():
        print(f"{name:<26}{len(inputs) / seconds:8.1f} images/s")
    for name, target in TARGETS.items():
        print(f"gwapctl has {best[name] / best['gwapctl']:.2f} times the rate of {name}, target {target}")


if __name__ == "__main__":
    run_script(main)
