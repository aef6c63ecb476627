"""ONNX Runtime as an engine, in float32."""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gwapctl.engines.base import (
    TRACED_SHAPE,
    Engine,
    NetworkFile,
    check_against_torch,
    colours_last,
    first_line,
    import_runtime,
)
from gwapctl.engines.cache import cache_folder, fingerprint, made_files
from gwapctl.errors import ModelError
from gwapctl.networks.classifier import Classifier

OPSET = 18
EXTRA = "onnx"
FREE = {0: "batch", 1: "height", 2: "width"}


class OnnxRuntimeEngine(Engine):
    """A network that ONNX Runtime runs on the processor; its file is kept on disk.

    Raises:
        MissingDependencyError: ONNX Runtime, or the package that the file is written with, is not installed.
        ModelError: the network cannot be converted, or computes something else than in torch.

    """

    def __init__(self, model: Classifier, precision: str = "fp32") -> None:
        self.precision = precision
        self._runtime = import_runtime("onnxruntime", "engine ONNX Runtime", EXTRA)
        self._lock = threading.Lock()
        self._sessions: dict[int, Any] = {}
        self._file = cache_folder() / "onnx" / f"{fingerprint(model)}.onnx"
        if self._file.is_file():
            return
        with made_files(self._file) as (made,):
            _write(model, made)
            kept, self._file = self._file, made
            check_against_torch(self, model)
        self._file = kept
        self._sessions.clear()

    def feature_map(self, images: Tensor) -> Tensor:
        """Map RGB images ``(B, 3, H, W)``, uint8, to the feature map F ``(B, K, h, w)``, float32."""
        return torch.from_numpy(self._session().run(None, {"images": colours_last(images)})[0])

    def instruction_set(self) -> str:
        """Say that the library keeps it to itself."""
        return "MLAS, which does not tell"

    def _session(self) -> Any:
        """Return the network for threads with as many cores as this one has."""
        cores = torch.get_num_threads()
        with self._lock:
            if cores not in self._sessions:
                options = self._runtime.SessionOptions()
                options.intra_op_num_threads = cores
                options.log_severity_level = 4  # what goes wrong is raised, too
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the cores
                self._sessions[cores] = self._runtime.InferenceSession(
                    self._file, options, providers=["CPUExecutionProvider"]
                )
            return self._sessions[cores]


def _write(model: Classifier, path: Path) -> None:
    """Write the backbone as ONNX, by torch's older exporter: the newer one takes minutes for the same file."""
    import_runtime("onnx", "engine ONNX Runtime", EXTRA)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells about its own insides
            torch.onnx.export(
                NetworkFile(model),
                (torch.zeros(TRACED_SHAPE, dtype=torch.uint8),),
                path,
                input_names=["images"],
                output_names=["feature_map"],
                opset_version=OPSET,
                dynamo=False,
                dynamic_axes={"images": FREE, "feature_map": {0: "batch", 2: "rows", 3: "columns"}},
            )
    except Exception as error:  # the exporter raises its own types, and those of every part it calls
        raise ModelError(f"torch cannot write backbone {model.info.backbone} as ONNX: {first_line(error)}") from error
    finally:
        logging.disable(before)
