"""What does each map cost beside the class activation map? Images per second, and the tensors alive at once.

python benchmarks/map_cost.py [--backbone googlenet] [--batch 8] [--rounds 5] [--device cpu]
python benchmarks/map_cost.py MODEL --maps class,dgl,dgl@layers.3+layers.4 [--store]

Without MODEL (a run, folder or zoo entry): 224 x 224 pixels, random weights, 1000 classes, one map method after the
other and gradients at a layer in the middle, given by its number as `gwapctl models show` prints it. One thread, images
resized before: the network, the map of the best class, and the heatmap. The methods take turns in every round; the
median counts: of computing on a CPU, where other programs do not matter, else of wall time. "memory" is the most bytes
of tensors alive at once, per image, without what libraries take inside an operation (on a GPU, what torch allocated);
"extra" is what one image takes beyond classifying it. ``--store`` adds rate and extra memory to the run's stored
evaluations of these maps, from where `gwapctl report --table methods` takes them.
"""

from __future__ import annotations

import argparse
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from needs import run_script
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gwapctl.datasets.base import ClassName
from gwapctl.evaluate.from_model import sees_boxes
from gwapctl.evaluate.subject import find_subject
from gwapctl.maps.heatmap import PreparedImage
from gwapctl.maps.localizer import Localizer
from gwapctl.maps.reading import MapReading
from gwapctl.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from gwapctl.networks.classifier import Classifier, ModelInfo, build_classifier, convolutions, load_classifier
from gwapctl.runs import Run

SIDE, CLASSES = 224, 1000
MEBIBYTE = 2**20


def random_classifier(backbone: str) -> Classifier:
    """Return a network with random weights and a gwap head."""
    names = tuple(ClassName(str(index), str(index)) for index in range(CLASSES))
    info = ModelInfo(
        backbone=backbone,
        head="gwap",
        classes=names,
        multi_label=False,
        input_size=(SIDE, SIDE),
        train_sizes=(SIDE, SIDE),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return build_classifier(info).eval()


def ways(model: Classifier) -> dict[str, MapReading]:
    """Return the ways to read a map that are compared, by name."""
    middle = len(convolutions(model.backbone)) // 2
    methods = ("class", "weight", "fused", "gradcam", "layercam", "dgl")
    return {
        **{method: MapReading(method) for method in methods},
        f"gradcam, layer {middle}": MapReading("gradcam", layer=[middle]),
        f"dgl, layer {middle}": MapReading("dgl", layer=[middle]),
        f"dgl, layers {middle} and -1": MapReading("dgl", layer=[middle, -1]),
        "backprop": MapReading("backprop"),
    }


def measure_cost(readers: Mapping[str, Localizer], count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return what each reader's maps of ``count`` images cost: rate and memory in MiB per image, alone and beyond.

    Memory is left out on devices where nobody counts it. A head that sees boxes is told that all of an image is object.
    """
    times: dict[str, list[float]] = {name: [] for name in readers}
    batches = {name: random_images(localizer, count) for name, localizer in readers.items()}
    for round_number in range(rounds + 1):
        for name, localizer in readers.items():
            elapsed = seconds(localizer, batches[name])
            if round_number:  # the first one chooses kernels and fills caches
                times[name].append(elapsed)
    found = {}
    for name, localizer in readers.items():
        found[name] = {"images_per_second": count / statistics.median(times[name])}
        peaks = [
            peak_memory(lambda: read(localizer, batches[name]), localizer.device),  # noqa: B023
            peak_memory(lambda: read(localizer, batches[name][:1]), localizer.device),  # noqa: B023
            peak_memory(lambda: classify_one(localizer), localizer.device),  # noqa: B023
        ]
        if None not in peaks:
            found[name]["memory_mib"] = peaks[0] / count / MEBIBYTE
            found[name]["extra_memory_mib"] = max(0, peaks[1] - peaks[2]) / MEBIBYTE
    return found


def random_images(localizer: Localizer, count: int) -> list[PreparedImage]:
    """Return prepared images of noise at the network's own input size."""
    width, height = localizer.model.info.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return [localizer.prepare(image) for image in pixels]


def read(localizer: Localizer, images: list[PreparedImage]) -> None:
    """Read the map of the best class of each image."""
    regions = [np.ones((image.height, image.width), np.uint8) for image in images] if sees_boxes(localizer) else None
    localizer.run(images, regions=regions)  # brings the heatmaps to the CPU, so that a GPU has finished


def seconds(localizer: Localizer, images: list[PreparedImage]) -> float:
    """Return the time of the maps of one batch."""
    clock = time.process_time if localizer.device.type == "cpu" else time.perf_counter
    start = clock()
    read(localizer, images)
    return clock() - start


def classify_one(localizer: Localizer) -> None:
    """Run the network on one image, without any map; a head that sees boxes looks at all of it."""
    width, height = localizer.model.info.input_size
    image = torch.zeros(1, 3, height, width, device=localizer.device).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        features = localizer.model.feature_map(image)
        region = torch.ones_like(features[:, :1])
        localizer.model.head(features, region) if sees_boxes(localizer) else localizer.model.head(features)


def peak_memory(work: Callable[[], object], device: torch.device) -> int | None:
    """Return the most bytes of tensors made by ``work`` that were alive at once; None where nobody counts them.

    On a CPU the same work gives the same number on any machine: what an operation takes inside itself is not in it.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    if device.type != "cpu":
        return None
    live = _LiveBytes()
    with live:
        work()
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Sees every tensor that an operation of this thread returns, with or without a graph, and when it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._watch(leaf.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        """Count a storage once, as long as it lives: views share theirs."""
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key).atexit = False

    def _freed(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def map_name(options: Mapping[str, Any]) -> str:
    """Return how ``--maps`` names the map of an evaluation's options: the method, and behind ``@`` its layers."""
    return "@".join([str(options.get("map")), *(["+".join(options["layer"])] if options.get("layer") else [])])


def reading_of(name: str) -> MapReading:
    """Return how a map is read that ``--maps`` names.

    >>> reading_of("dgl@layers.3+layers.4").layer
    ('layers.3', 'layers.4')
    """
    method, _, layers = name.partition("@")
    return MapReading(method, layer=layers.split("+") if layers else None)


def store(run: Run, cost: Mapping[str, Mapping[str, float]], how: Mapping[str, Any]) -> int:
    """Add the cost of each map to the run's stored evaluations at one scale; return how many there are."""
    fitting = [
        document
        for document in run.evaluations()
        if map_name(document["options"]) in cost and len(document["options"].get("scales") or ()) == 1
    ]
    for document in fitting:
        numbers = cost[map_name(document["options"])]
        document["metrics"] |= {key: value for key, value in numbers.items() if key != "memory_mib"}
        document["timing"] = dict(how)
        run.save_evaluation(document)
    return len(fitting)


def table(cost: Mapping[str, Mapping[str, float]]) -> str:
    """Return a line per map, beside the first one."""
    lines = [f"{'map':<26}{'images/s':>10}{'of first':>10}{'MiB/image':>12}{'of first':>10}{'extra MiB':>11}"]
    first = next(iter(cost.values()))
    for name, one in cost.items():
        line = (
            f"{name:<26}{one['images_per_second']:>10.1f}{one['images_per_second'] / first['images_per_second']:>10.2f}"
        )
        if "memory_mib" in one:
            share = one["memory_mib"] / first["memory_mib"]
            line += f"{one['memory_mib']:>12.1f}{share:>10.2f}{one['extra_memory_mib']:>11.2f}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Print a line per map."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--maps", default="class")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--backbone", default="googlenet")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    subject = find_subject(options.model) if options.model else None
    model = load_classifier(subject.path) if subject else random_classifier(options.backbone)
    compared = {name: reading_of(name) for name in options.maps.split(",")} if subject else ways(model)
    how = {"batch_size": options.batch, "device": options.device, "threads": 1, "rounds": options.rounds}
    readers = {
        name: Localizer(model, way, device=options.device, batch_size=options.batch) for name, way in compared.items()
    }
    cost = measure_cost(readers, options.batch, options.rounds)
    name = subject.name if subject else options.backbone
    print(f"{name}, batch {options.batch}, {options.device}, median of {options.rounds} rounds")
    print(table(cost))
    if options.store:
        if subject is None or subject.run is None:
            parser.error("--store needs a run as MODEL: its evaluations get the numbers.")
        print(f"stored in {store(subject.run, cost, how)} evaluations of {name}")


if __name__ == "__main__":
    run_script(main)
