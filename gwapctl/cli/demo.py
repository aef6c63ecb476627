"""``gwapctl demo``: the whole way from image-level labels to boxes, numbers and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gwapctl.cli import console, options
from gwapctl.cli.evaluate import print_document

Images = Annotated[
    int,
    typer.Option(
        "--images", min=60, help="Scenes to make: 60 % train, 20 % val, 20 % test.", rich_help_panel=options.DATA
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.", rich_help_panel=options.OUTPUT)]


def demo(
    out: Out = Path("gwapctl-demo"),
    images: Images = 800,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Show everything on a data set made on the spot: train, measure, localize, write boxes, report. No download.

    Examples:
      gwapctl demo
      gwapctl demo --seed 1 --out /tmp/demo

    """
    from gwapctl.demo import run_demo

    console.note("This takes about three minutes on two cores. Training sees image-level labels only, never a box.")
    result = run_demo(out, step=console.progress, seed=seed, images=images, overwrite=overwrite)
    console.print_json(result.evaluation) if json else print_document(result.evaluation)
    console.note(f"pictures  {result.found}/overlays\nboxes     {result.boxes}\nreport    {result.page}")
    console.note(f"next      gwapctl localize YOUR_PHOTO.jpg --model {result.run}")
