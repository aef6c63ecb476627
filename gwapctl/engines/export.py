"""A trained classifier as a file for other programs, ONNX or OpenVINO, compared with torch before it is kept.

The network takes ``images``, uint8 RGB ``(B, 3, H, W)`` of any batch, height and width, and normalises them itself. It
gives ``probabilities (B, C)``; the most probable ``classes (B, k)``, the best first; their class activation maps
``class_map (B, k, h, w)`` where the head has such; and ``weight_map (B, 1 | C, h, w)`` where the head has one. Beside
it a JSON file says what ``model.json`` says (class names, sizes, scales, box rule), and how to call the network.
"""

from __future__ import annotations

import importlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gwapctl.engines.base import import_runtime
from gwapctl.errors import ModelError, UsageError, file_exists, option
from gwapctl.files import atomic_path, write_json
from gwapctl.networks.classifier import Classifier, load_classifier
from gwapctl.networks.heads.base import Head
from gwapctl.networks.inference import for_inference
from gwapctl.progress import Progress, ProgressCallback

SCHEMA_VERSION = 1
OPSET = 18  # what torch's exporter speaks by itself; every onnxruntime since 1.14 reads it
TRACED_SHAPE = (2, 3, 128, 192)
CHECKED_SHAPES = ((1, 3, 96, 160), (3, 3, 161, 128))  # neither is square, nor what was traced
TOLERANCE = 1e-3  # largest difference from torch, as a share of the output's largest value; rounding stays far below
HALF_TOLERANCE = 2e-2
NOTHING = "Nothing was written."
STEPS = ("tracing the network", "comparing it with torch")

Array = npt.NDArray[Any]
Network = Callable[[Array], dict[str, Array]]  # images (B, 3, H, W) uint8 -> outputs by name


@dataclass(frozen=True)
class Exported:
    """The files written, and the largest difference from torch that was found, as a share of the largest value."""

    files: tuple[Path, ...]
    difference: float


class Deployed(nn.Module):
    """A classifier with all its outputs in one forward pass.

    Args:
        model: the classifier, in eval mode.
        top_k: k, at most C.
        half: compute the backbone in float16; the head stays in float32, for it sums over all positions.

    """

    def __init__(self, model: Classifier, top_k: int, *, half: bool = False) -> None:
        super().__init__()
        self.model, self.half_backbone = model, False
        self.top_k = min(top_k, len(model.info.classes))
        self.has_class_map = True
        try:
            cast(Head, model.head).class_weights()
        except UsageError:  # its classifier is not linear
            self.has_class_map = False
        with torch.inference_mode():
            outputs = self.outputs(torch.zeros(TRACED_SHAPE, dtype=torch.uint8))
        self.shapes = {name: ["B", value.shape[1], *"hw"[: value.ndim - 2]] for name, value in outputs.items()}
        if half:
            self.half_backbone = True
            model.backbone.half()
        self.eval()

    def outputs(self, images: Tensor, classes: Tensor | None = None) -> dict[str, Tensor]:
        """Map uint8 RGB ``(B, 3, H, W)`` to the outputs by name; ``classes`` (B, k) replace the most probable ones."""
        pixels = images.float() * self.model.scale + self.model.shift
        head = cast(Head, self.model.head)
        features = self.model.backbone(pixels.half() if self.half_backbone else pixels).float()
        output = head(features)
        probabilities = self.model.probabilities(output.logits)
        chosen = probabilities.topk(self.top_k, dim=1).indices if classes is None else classes
        named = {"probabilities": probabilities, "classes": chosen}
        if self.has_class_map:
            named["class_map"] = head.class_map(features, chosen)
        if output.weight_map is not None:
            named["weight_map"] = output.weight_map
        return named

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map uint8 RGB ``(B, 3, H, W)`` to the outputs in the order of ``shapes``."""
        return tuple(self.outputs(images).values())


def export_onnx(
    folder: Path,
    out: Path,
    *,
    top_k: int = 5,
    half: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = lambda _: None,
) -> Exported:
    """Write the model in ``folder`` to ``out``, an ``.onnx`` file that holds its weights, and its description.

    ``half`` stores and computes the backbone in float16. Nothing is written unless onnxruntime gives what torch gives.
    ``progress`` is told what is being done: tracing takes minutes where padding depends on the size of the image.

    Raises:
        MissingDependencyError: a package of the extra ``onnx`` is not installed.
        UsageError: ``out`` has another suffix or exists, or the head cannot do without boxes.
        ModelError: the model cannot be loaded or exported, or the file gives other outputs than torch.

    """
    _require("onnx", "onnx", "onnxscript", "onnxruntime")
    description = _check_destination(folder, out, ".onnx", overwrite)
    model = load_classifier(folder)
    network = Deployed(for_inference(model, torch.device("cpu")), top_k, half=half)
    with atomic_path(out) as temporary:
        progress(Progress(0, len(STEPS), "steps", STEPS[0]))
        _trace(network, temporary)
        progress(Progress(1, len(STEPS), "steps", STEPS[1]))
        difference = _compare(model, network, _onnx_network(temporary), HALF_TOLERANCE if half else TOLERANCE)
    write_json(description, _describe(network, out, half))
    return Exported((out, description), difference)


def export_openvino(
    folder: Path,
    out: Path,
    *,
    top_k: int = 5,
    half: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback = lambda _: None,
) -> Exported:
    """Write the model in ``folder`` to ``out``, an ``.xml`` file, its weights to a ``.bin`` file, and its description.

    ``half`` stores the weights in float16; what they are computed in is OpenVINO's choice on the device. Otherwise as
    ``export_onnx``, with OpenVINO and its extra in place of onnxruntime.
    """
    _require("openvino", "onnx", "onnxscript", "openvino")
    description = _check_destination(folder, out, ".xml", overwrite)
    model = load_classifier(folder)
    network = Deployed(for_inference(model, torch.device("cpu")), top_k)
    weights = out.with_suffix(".bin")
    with tempfile.TemporaryDirectory() as folder_of_onnx:
        path = Path(folder_of_onnx, "model.onnx")
        progress(Progress(0, len(STEPS), "steps", STEPS[0]))
        _trace(network, path)
        progress(Progress(1, len(STEPS), "steps", STEPS[1]))
        openvino = importlib.import_module("openvino")
        xml = path.with_suffix(".xml")
        # OpenVINO reads ONNX by itself; openvino.convert_model would do the same, and report to its makers
        openvino.save_model(openvino.Core().read_model(path), xml, compress_to_fp16=half)
        difference = _compare(model, network, _openvino_network(xml), HALF_TOLERANCE if half else TOLERANCE)
        for written, kept in ((xml.with_suffix(".bin"), weights), (xml, out)):
            with atomic_path(kept) as temporary:
                shutil.copyfile(written, temporary)
    write_json(description, _describe(network, out, half))
    return Exported((out, weights, description), difference)


def _require(extra: str, *packages: str) -> None:
    for package in packages:
        import_runtime(package, f"export {extra}", extra)


def _check_destination(folder: Path, out: Path, suffix: str, overwrite: bool) -> Path:
    """Return where the description goes, ``out`` with the suffix ``.json``, once all files may be written."""
    if out.suffix != suffix:
        raise UsageError(f"{out} does not end in {suffix}. Give such a file with {option('out')}.")
    description = out.with_suffix(".json")
    if description.resolve() == (folder / "model.json").resolve():
        needed = f"{folder / 'model.json'}, which the model needs"
        raise UsageError(f"{out} would replace {needed}. Choose another {option('out')}.")
    for path in (out, description, *([out.with_suffix(".bin")] if suffix == ".xml" else [])):
        if path.exists() and not (overwrite and path.is_file()):
            raise file_exists(path)
    return description


def _trace(network: Deployed, path: Path) -> None:
    """Write ``network`` as ONNX with free batch, height and width."""
    images = torch.zeros(TRACED_SHAPE, dtype=torch.uint8)
    try:
        with _silence():
            torch.onnx.export(
                network,
                (images,),
                path,
                input_names=["images"],
                output_names=list(network.shapes),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,  # one file, which moves as a whole
                dynamic_shapes={"images": {0: "batch", 2: "height", 3: "width"}},
                verbose=False,
            )
    except Exception as error:  # the exporter raises its own types, and those of every part it calls
        info = network.model.info
        cause = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ModelError(
            f"torch cannot export backbone {info.backbone} with head {info.head} for inputs of any size: {cause}"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep torch from telling about its own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _onnx_network(path: Path) -> Network:
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, too
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))


def _openvino_network(path: Path) -> Network:
    core = importlib.import_module("openvino").Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # not bf16
    return lambda images: {output.any_name: value for output, value in compiled([images]).items()}


def _compare(model: Classifier, network: Deployed, exported: Network, tolerance: float) -> float:
    """Return the largest difference between ``exported`` and ``model`` on noise, as a share of the largest value.

    Classes that are all but equally probable may swap, so maps are compared for the classes chosen there.
    """
    reference = Deployed(model, network.top_k)
    generator = np.random.default_rng(0)
    largest = 0.0
    for shape in CHECKED_SHAPES:
        images, size = generator.integers(0, 256, shape, np.uint8), f"{shape[3]} x {shape[2]} pixels"
        try:
            found = exported(images)
        except Exception as error:  # each runtime raises its own
            reason = str(error).strip().partition("\n")[0]
            raise ModelError(f"the exported network fails on images of {size}: {reason} {NOTHING}") from error
        classes = torch.from_numpy(found.pop("classes"))
        with torch.inference_mode():
            wanted = reference.outputs(torch.from_numpy(images), classes)
        best = wanted["probabilities"].topk(network.top_k, dim=1).values
        pairs = {name: (value, wanted[name].numpy()) for name, value in found.items()}
        pairs["classes"] = (wanted["probabilities"].gather(1, classes).numpy(), best.numpy())
        for name, (value, right) in pairs.items():
            difference = float(np.abs(value - right).max() / np.abs(right).max())
            if not difference <= tolerance:  # NaN, too
                raise ModelError(
                    f"the exported {name} differ from torch's by {difference:.2g} of the largest value on images of "
                    f"{size}, more than {tolerance:g}. {NOTHING}"
                )
            largest = max(largest, difference)
    return largest


def _describe(network: Deployed, out: Path, half: bool) -> dict[str, Any]:
    """Return the model's own description and, as ``export``, how to call the network."""
    return {
        **network.model.info.model_dump(mode="json"),
        "export": {
            "schema_version": SCHEMA_VERSION,
            "file": out.name,
            "input": {"name": "images", "type": "uint8", "shape": ["B", 3, "H", "W"], "colour": "RGB"},
            "outputs": network.shapes,
            "top_k": network.top_k,
            "half": half,
        },
    }
