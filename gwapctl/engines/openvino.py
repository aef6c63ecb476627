"""OpenVINO as an engine: float32, bfloat16, and int8 with ranges taken from images of the user (NNCF)."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gwapctl.engines.base import (
    TRACED_SHAPE,
    Engine,
    Images,
    NetworkFile,
    check_against_torch,
    colours_last,
    first_line,
    import_runtime,
)
from gwapctl.engines.cache import cache_folder, fingerprint, images_hash, machine, made_files
from gwapctl.errors import ModelError, UsageError
from gwapctl.networks.classifier import Classifier

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # what is computed in; what int8 leaves stays in float32
OWN_SIZES = 4  # a network of its own for so many input sizes; the others share one of any size, a little slower
EXTRA = "openvino"


class OpenVINOEngine(Engine):
    """A network that OpenVINO compiled for this processor, once per size of input; it is kept on disk.

    Args:
        model: the classifier, on the CPU, in eval mode.
        precision: ``fp32``, ``bf16`` or ``int8``.
        calibration: images ``(1, H, W, 3)`` whose activations set the ranges of ``int8``.

    Raises:
        MissingDependencyError: OpenVINO, or for ``int8`` NNCF, is not installed.
        ModelError: the network cannot be converted, or computes something else than in torch.

    """

    def __init__(self, model: Classifier, precision: str = "fp32", calibration: Sequence[Images] = ()) -> None:
        self.precision = precision
        self._openvino = import_runtime("openvino", "engine OpenVINO", EXTRA)
        self._cores = torch.get_num_threads()
        self._core = self._openvino.Core()
        self._core.set_property({"CACHE_DIR": str(cache_folder() / "compiled" / machine())})
        self._lock = threading.Lock()
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._threads = threading.local()
        self._file = _network_file(self._openvino, model)
        if precision == "int8":
            self._file = _quantized_file(self._openvino, self._core, self._file, calibration)
        elif precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UsageError("this processor does not compute in bf16. Choose another precision.")

    def feature_map(self, images: Tensor) -> Tensor:
        """Map RGB images ``(B, 3, H, W)``, uint8, to the feature map F ``(B, K, h, w)``, float32."""
        array = colours_last(images)
        found = self._request(array.shape[1], array.shape[2]).infer([array], share_inputs=True)
        return torch.from_numpy(found[0])

    def instruction_set(self) -> str:
        """Say with which instructions the convolutions run, from what was compiled last."""
        network = next(reversed(self._compiled.values()), None)
        if network is None:
            return "nothing has run"
        kinds: dict[str, int] = {}
        for node in network.get_runtime_model().get_ordered_ops():
            about = node.get_rt_info()
            if str(about["layerType"].value if "layerType" in about else "") == "Convolution":
                kind = str(about["primitiveType"].value)
                kinds[kind] = kinds.get(kind, 0) + 1
        return ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))

    def _request(self, height: int, width: int) -> Any:
        """Return this thread's way into the network for images of a size, which is compiled when it is first seen."""
        cores = torch.get_num_threads()  # of this thread; others run beside it
        if not hasattr(self._threads, "requests"):
            self._threads.requests = {}
        own: dict[tuple[int, ...], Any] = self._threads.requests
        with self._lock:
            sizes = {key[1:] for key in self._compiled}
            fixed = (height, width) in sizes or len(sizes) < OWN_SIZES
            key = (cores, height, width) if fixed else (cores, -1, -1)
            if key not in self._compiled:
                self._compiled[key] = self._compile(*key)
        if key not in own:
            own[key] = self._compiled[key].create_infer_request()
        return own[key]

    def _compile(self, cores: int, height: int, width: int) -> Any:
        network = self._core.read_model(self._file)
        network.reshape([-1, height, width, 3])
        asked = {
            "INFERENCE_PRECISION_HINT": HINTS[self.precision],
            "INFERENCE_NUM_THREADS": max(cores, self._cores),
            "NUM_STREAMS": max(1, self._cores // cores),
            "ENABLE_CPU_PINNING": False,  # threads that decode share the cores
        }
        return self._core.compile_model(network, "CPU", asked)


def _network_file(openvino: Any, model: Classifier) -> Path:
    """Return OpenVINO's file of the backbone, which is made where it is not there, and compared with torch."""
    path = cache_folder() / f"openvino-{openvino.__version__.partition('-')[0]}" / f"{fingerprint(model)}.xml"
    if path.is_file():
        return path
    with made_files(path.with_suffix(".bin"), path) as (_, made):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch tells about its own insides
                network = openvino.convert_model(
                    NetworkFile(model),
                    example_input=torch.zeros(TRACED_SHAPE, dtype=torch.uint8),
                    input=[openvino.PartialShape([-1, -1, -1, 3])],
                )
            openvino.save_model(network, made, compress_to_fp16=False)
        except Exception as error:  # the converter raises its own types, and those of every part it calls
            raise ModelError(f"OpenVINO cannot take backbone {model.info.backbone}: {first_line(error)}") from error
        check_against_torch(_Uncached(openvino, made), model)
    return path


class _Uncached(Engine):
    """A file as it is in float32, for the comparison."""

    precision = "fp32"

    def __init__(self, openvino: Any, path: Path) -> None:
        core = openvino.Core()
        self._network = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def feature_map(self, images: Tensor) -> Tensor:
        """Map RGB images ``(B, 3, H, W)``, uint8, to the feature map F ``(B, K, h, w)``, float32."""
        return torch.from_numpy(self._network([colours_last(images)])[0])

    def instruction_set(self) -> str:
        """Say nothing."""
        return ""


def _quantized_file(openvino: Any, core: Any, file: Path, calibration: Sequence[Images]) -> Path:
    """Return the network in int8, with the ranges of ``calibration``; it is made where it is not there."""
    path = file.with_name(f"{file.stem}-int8-{images_hash(calibration)}.xml")
    if path.is_file():
        return path
    nncf = import_runtime("nncf", "precision int8", EXTRA)
    nncf.set_log_level(logging.ERROR)
    with made_files(path.with_suffix(".bin"), path) as (_, made):
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # bars
                network = nncf.quantize(
                    core.read_model(file), nncf.Dataset(list(calibration)), subset_size=len(calibration)
                )
        except Exception as error:  # its own types, and those of every part it calls
            raise ModelError(f"NNCF cannot quantize the network: {first_line(error)}") from error
        openvino.save_model(network, made, compress_to_fp16=False)
    return path
