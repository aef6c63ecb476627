"""``gwapctl export``: a trained model as a file for other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gwapctl.cli import console, options
from gwapctl.cli.options import OUTPUT, option

if TYPE_CHECKING:
    from gwapctl.engines.export import Exported

app = typer.Typer(help="A model as one network file for other programs: ONNX or OpenVINO, checked against torch.")

OutFile = Annotated[Path, option("--out -o", "File to write; a .json beside it names classes and sizes.", OUTPUT)]
TopK = Annotated[int, option("--top-k", "Class maps for this many classes.", OUTPUT, min=1)]
Half = Annotated[bool, option("--half", "Weights in float16: half the size.", OUTPUT)]


@app.command()
def onnx(
    out: OutFile,
    model: options.ModelSpec = None,
    top_k: TopK = 5,
    half: Half = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a model as ONNX: images in, probabilities and maps out, for any size and batch.

    Examples:
      gwapctl export onnx --model runs/a --out a.onnx

    """
    from gwapctl.engines.export import export_onnx

    _export(export_onnx, model, out, top_k=top_k, half=half, overwrite=overwrite)


@app.command()
def openvino(
    out: OutFile,
    model: options.ModelSpec = None,
    top_k: TopK = 5,
    half: Half = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a model for OpenVINO (.xml and .bin): images in, probabilities and maps out.

    Examples:
      gwapctl export openvino --model runs/a --out a.xml

    """
    from gwapctl.engines.export import export_openvino

    _export(export_openvino, model, out, top_k=top_k, half=half, overwrite=overwrite)


def _export(write: Callable[..., Exported], model: str | None, out: Path, **asked: Any) -> None:
    from gwapctl.networks.zoo import resolve_model

    with console.progress("export") as progress:
        exported = write(resolve_model(options.model_or_default(model)), out, progress=progress, **asked)
    for path in exported.files:
        console.print_text(str(path))
    console.note(f"agrees with torch within {exported.difference:.1g} of the largest value of each output")
