"""``gwapctl demo``: the whole way from image-level labels to boxes, numbers and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gwapctl.cli import console, options
from gwapctl.cli.evaluate import print_document
from gwapctl.cli.options import DATA, OUTPUT, option

if TYPE_CHECKING:
    from gwapctl.predict.prediction import Prediction

Images = Annotated[int, option("--images", "Scenes to make: 60 % train, 20 % val, 20 % test.", DATA, min=60)]
Out = Annotated[Path, option("--out -o", "Where to write.", OUTPUT)]


def demo(
    out: Out = Path("gwapctl-demo"),
    images: Images = 300,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Localize three photos, then show the whole way on a data set made on the spot: train to report. No download.

    Examples:
      gwapctl demo
      gwapctl demo --seed 1 --out /tmp/demo

    """
    from gwapctl.demo import run_demo

    console.note("This takes about two minutes on two cores. Training sees image-level labels only, never a box.")
    show = (lambda _: None) if json else _print_photos
    document = run_demo(out, step=console.progress, seed=seed, images=images, overwrite=overwrite, show=show)
    console.print_json(document) if json else print_document(document)
    console.note(f"photos    {out}/photos.jpg\npictures  {out}/found/overlays")
    console.note(f"boxes     {out}/boxes.json\nreport    {out}/report.html")
    console.note(f"next      gwapctl localize YOUR_PHOTO.jpg --model {out}/run")


def _print_photos(photos: list[Prediction]) -> None:
    """Show what the default model found, the one that it does not know included."""
    rows = []
    for photo in photos:
        corners = " ".join(f"{value:.0f}" for value in photo.boxes[0])
        rows.append((Path(photo.image).stem, photo.classes[0], f"{photo.scores[0]:.2f}", corners))
    console.print_table(("photo", "what the default model finds", "score", "box"), rows)
