"""What a backbone runs in: torch, OpenVINO or ONNX Runtime. Which one is fastest here is measured (``choose``).

A new engine is a class in a file of this folder, one entry in ``ENGINES`` and its tests. Names need no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from gwapctl.errors import MissingDependencyError, UsageError, any_of, lookup, option

if TYPE_CHECKING:
    from gwapctl.engines.base import Engine

AUTO = "auto"
PRECISIONS = ("fp32", "bf16", "int8")
FROM_IMAGES = "int8"  # the precision whose ranges are those of images of the user
LEAST_IMAGES = 64  # with fewer, measuring would take longer than it saves


@dataclass(frozen=True)
class EngineEntry:
    """What is known of an engine without importing it.

    Attributes:
        path: ``module:Class`` of the engine.
        label: what it is called.
        help: what it is, in one line.
        precisions: the number formats it computes in.
        extra: what ``pip install gwapctl[...]`` is told; empty: nothing is needed.
        packages: what that installs and the engine imports.

    """

    path: str
    label: str
    help: str
    precisions: tuple[str, ...]
    extra: str = ""
    packages: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Tell whether its packages are there."""
        return all(find_spec(package) is not None for package in self.packages)

    @property
    def build(self) -> Callable[..., Engine]:
        """What makes the engine."""
        return resolve_name(self.path)  # type: ignore[no-any-return]


ENGINES: dict[str, EngineEntry] = {
    "torch": EngineEntry(
        "gwapctl.engines.torch:TorchEngine",
        "torch",
        "torch itself, channels last, batch norms folded",
        precisions=("fp32", "bf16"),
    ),
    "openvino": EngineEntry(
        "gwapctl.engines.openvino:OpenVINOEngine",
        "OpenVINO",
        "Intel's runtime for processors, of other makers as well",
        precisions=("fp32", "bf16", "int8"),
        extra="openvino",
        packages=("openvino",),
    ),
    "onnxruntime": EngineEntry(
        "gwapctl.engines.onnxruntime:OnnxRuntimeEngine",
        "ONNX Runtime",
        "the runtime of ONNX files",
        precisions=("fp32",),
        extra="onnx",
        packages=("onnxruntime", "onnx"),
    ),
}


@dataclass(frozen=True)
class Choice:
    """An engine and the number format that it computes in.

    ``images`` says which images set the ranges of ``int8``, as a hash; empty: not known yet, or no such format.
    """

    engine: str
    precision: str
    images: str = ""

    def __str__(self) -> str:
        """Return both names."""
        return f"{self.engine} {self.recorded_precision}"

    @property
    def recorded_precision(self) -> str:
        """The number format as documents have it: ``int8@1f3a...`` says which images set the ranges."""
        return f"{self.precision}@{self.images}" if self.images else self.precision

    @classmethod
    def from_record(cls, engine: str, precision: str) -> Choice:
        """Return what a document says."""
        name, _, images = precision.partition("@")
        return cls(engine, name, images)


def check_engine(engine: str, precision: str, device_type: str = "cpu") -> None:
    """Check that there is such an engine, here, and that it computes so.

    >>> check_engine("torch", "bf16")

    Raises:
        UsageError: an unknown name, or an engine that does not compute in ``precision`` or on the device.
        MissingDependencyError: its packages are not installed.

    """
    if engine == AUTO:
        if precision == FROM_IMAGES:
            able = any_of(option("engine", name) for name, entry in ENGINES.items() if precision in entry.precisions)
            raise UsageError(f"{option('precision', precision)} needs {able}.")
        return
    entry = lookup("engine", engine, ENGINES)
    if precision not in (AUTO, *entry.precisions):
        if precision not in PRECISIONS:
            raise UsageError(f"unknown precision {precision!r}. Choose {any_of((AUTO, *PRECISIONS))}.")
        able = any_of(option("engine", name) for name, other in ENGINES.items() if precision in other.precisions)
        raise UsageError(f"{entry.label} does not compute in {precision}. Choose {able}.")
    if entry.packages and device_type != "cpu":
        raise UsageError(
            f"{entry.label} runs on the processor, not on {device_type}. Use {option('device', 'cpu')}, or "
            f"{option('engine', 'torch')}."
        )
    if not entry.installed:
        raise missing(entry)


def missing(entry: EngineEntry) -> MissingDependencyError:
    """Return the error that says how to install an engine."""
    lacking = next(package for package in entry.packages if find_spec(package) is None)
    return MissingDependencyError(
        f"engine {entry.label} needs the package {lacking}. Run: pip install 'gwapctl[{entry.extra}]'"
    )
