"""``gwapctl data``: list, get, check and make data sets."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from gwapctl.cli import complete, console, options
from gwapctl.cli.options import DATA, OUTPUT, argument, option
from gwapctl.datasets import DATASETS
from gwapctl.datasets.layouts import folder_layouts
from gwapctl.errors import DataError, UsageError, counted

MANY_CLASSES = 30  # more are summed up, unless -v

app = typer.Typer(help="Data sets: list them, get one, check one, make a synthetic one.")

Name = Annotated[
    str, argument("NAME", "A data set's name (gwapctl data list).", autocompletion=complete.entries(DATASETS))
]
Archives = Annotated[
    list[Path] | None,
    option("--archive", "Unpack this file, which you fetched yourself. Can be given several times.", DATA),
]
NoVerify = Annotated[bool, option("--no-verify", "Do not compare the checksum of --archive.", DATA)]
Count = Annotated[int, option("--images -n", "Number of images.", DATA)]
Size = Annotated[str, option("--image-size", "Longest side in pixels, or its range: 160-256.", DATA)]
Background = Annotated[bool, option("--background", "Only grounds, without any object.", DATA)]
Folder = Annotated[Path, option("--out -o", "Folder to make.", OUTPUT)]
LISTED = ("here", "datasets", "formats", "readers")
Kind = Annotated[
    str,
    argument(
        "KIND",
        "here: where data sets are. datasets: what they are. formats: what boxes are written in. readers: read from.",
    ),
]


@app.command("list")
def list_all(kind: Kind = LISTED[0], root: options.Root = None, json: options.Json = False) -> None:
    """List the data sets that have a name, and where they are here; or what they are, or the formats of boxes.

    Examples:
      gwapctl data list
      gwapctl data list formats
      gwapctl data list --root /data --json

    """
    from gwapctl.cli.kinds import print_kind
    from gwapctl.datasets.check import list_datasets

    if kind != LISTED[0]:
        print_kind(kind, LISTED, json)
        return
    rows = list_datasets(root)
    if json:
        console.print_json({"schema_version": 1, "datasets": rows})
        return
    console.print_table(
        ("name", "here", "splits", "to download", "how"),
        [(row["name"], row["root"] or "-", row["splits"], _megabytes(row["download_mb"]), row["how"]) for row in rows],
    )
    console.note(f"Any folder works, too: {folder_layouts()}.")


@app.command()
def get(
    name: Name,
    root: options.Root = None,
    archive: Archives = None,
    no_verify: NoVerify = False,
    offline: options.Offline = False,
) -> None:
    """Download and unpack a data set, or unpack what you fetched yourself.

    Examples:
      gwapctl data get tiny-imagenet --root data
      gwapctl data get voc --archive VOCtrainval_06-Nov-2007.tar --archive VOCtest_06-Nov-2007.tar

    """
    from gwapctl.datasets import open_named
    from gwapctl.datasets.download import get_dataset

    with console.progress(f"getting {name}") as progress:
        how: dict[str, Any] = {"files": archive or [], "verify": not no_verify, "offline": offline}
        get_dataset(name, root, **how, progress=progress, announce=console.note)
    dataset = open_named(name, root)
    console.print_text(f"{name} is at {dataset.root}: {', '.join(dataset.splits())}")


@app.command()
def check(dataset: options.DatasetName, root: options.Root = None, json: options.Json = False) -> None:
    """Count a data set's images, labels and boxes, and open every file; exit code 4 if one is broken.

    Examples:
      gwapctl data check my-photos
      gwapctl data check tiny-imagenet --root data --json

    """
    from gwapctl.datasets import open_dataset
    from gwapctl.datasets.check import check_dataset

    with console.progress("checking") as progress:
        document = check_dataset(open_dataset(dataset, root), progress)
    if json:
        console.print_json(document)
    else:
        _print_check(document)
    if document["broken"]:
        problems = counted(len(document["broken"]), "problem")
        raise DataError(f"{problems} in {document['root']}. Repair or remove what is listed.")


@app.command()
def synth(
    out: Folder,
    images: Count = 300,
    seed: options.Seed = 0,
    image_size: Size = "160-256",
    background: Background = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Make a synthetic data set in VOC layout: six classes, several objects per image, exact boxes and masks.

    Examples:
      gwapctl data synth --out data/scenes
      gwapctl data synth --images 1000 --seed 1 --image-size 320 --out data/large
      gwapctl data synth --background --out data/bg

    """
    from gwapctl.datasets.synthetic import make_backgrounds, make_synthetic_voc
    from gwapctl.files import prepare_output_folder

    size = _parse_range(image_size)
    with console.progress("drawing") as progress:
        if background:
            prepare_output_folder(out, overwrite=overwrite)
            make_backgrounds(out, images=images, seed=seed, size=size, progress=progress)
        else:
            make_synthetic_voc(out, images=images, seed=seed, size=size, overwrite=overwrite, progress=progress)
    made = f"{counted(images, 'image')} in {out}."
    if background:
        console.print_text(f"{made} Give them to a training: --head background --background {shlex.quote(str(out))}")
    else:
        console.print_text(f"{made} Next: {shlex.join(['gwapctl', 'train', _as_folder(out)])}")


def _as_folder(path: Path) -> str:
    """Write a folder so that it is not taken for the name of a data set."""
    return f".{os.sep}{path}" if str(path) in DATASETS else str(path)


def _megabytes(size: int) -> str:
    return f"{size} MB" if size else "-"


def _parse_range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not low.strip().isdecimal() or not (high or low).strip().isdecimal():
        raise UsageError(f"--image-size {text!r} is no size in pixels. Write it like 256 or 160-256.")
    return int(low), int(high or low)


def _print_check(document: dict[str, Any]) -> None:
    splits = [split["split"] for split in document["splits"]]
    kind = "several labels per image" if document["multi_label"] else "one label per image"
    counts = ("split", "images", "images_without_label", "boxes", "difficult", "masks")
    rows = [[*(row[key] for key in counts), _range(row["width"]), _range(row["height"])] for row in document["splits"]]
    columns = ["split", "images", "unlabelled", "boxes", "difficult", "masks", "width", "height"]
    console.print_table(columns, rows, title=f"{document['dataset']} at {document['root']}: {kind}")
    _print_classes(document["classes"], splits)
    for title in ("warnings", "broken"):
        if document[title]:
            console.print_table([title], [(message,) for message in document[title]])


def _print_classes(classes: list[dict[str, Any]], splits: list[str]) -> None:
    if len(classes) <= MANY_CLASSES or console.settings.verbose:
        rows = [[item["name"], *(f"{item['images'][s]} / {item['boxes'][s]}" for s in splits)] for item in classes]
        console.print_table(["images / boxes", *splits], rows)
        return
    counts = {split: sorted(item["images"][split] for item in classes) for split in splits}
    cells = [f"{values[0]} to {values[-1]}" for values in counts.values()]
    console.print_table([f"{len(classes)} classes", *splits], [["images per class", *cells]], caption="-v lists them.")


def _range(spread: dict[str, int] | None) -> str:
    return f"{spread['min']}-{spread['max']} (median {spread['median']})" if spread is not None else "-"
