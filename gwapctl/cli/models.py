"""``gwapctl models``: the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gwapctl.cli import complete, console, options
from gwapctl.cli.options import argument, option
from gwapctl.errors import UsageError, any_of

app = typer.Typer(help="The models that come with gwapctl: list them, show one, verify its files and numbers.")

Name = Annotated[
    str, argument("NAME", "A zoo entry, run folder or model folder.", autocompletion=complete.names(complete.models))
]
LISTED = ("zoo", "heads", "backbones", "maps", "augmentations", "engines")
Kind = Annotated[str, argument("KIND", f"{any_of(LISTED)}: what to list.")]


@app.command("list")
def list_all(kind: Kind = LISTED[0], json: options.Json = False) -> None:
    """List the zoo, or the heads, backbones, map methods, training augmentations and engines of models.

    Examples:
      gwapctl models list
      gwapctl models list heads

    """
    from gwapctl.cli.kinds import print_kind
    from gwapctl.networks.zoo import list_models

    if kind != LISTED[0]:
        print_kind(kind, LISTED, json)
        return
    console.print_rows("models", list_models(), ("name", "backbone", "head", "dataset", "available", "default"), json)


@app.command()
def show(name: Name, json: options.Json = False) -> None:
    """Show what a model is: network, classes, sizes, defaults, layers.

    Examples:
      gwapctl models show resnet-s-gwap-tiny-imagenet

    """
    from gwapctl.predict.classifier import load_model

    document = load_model(name).describe()
    if json:
        console.print_json({"schema_version": 1, **document})
        return
    layers = document.pop("layers")
    console.print_table(["field", "value"], list(document.items()))
    console.print_table(["layer", "name"], list(enumerate(layers)), title="layers")


@app.command()
def verify(name: Name) -> None:
    """Check a zoo entry: the files' checksums and the stored output on a stored input.

    Examples:
      gwapctl models verify resnet-s-gwap-tiny-imagenet

    """
    from gwapctl.networks.zoo import resolve_model, verify_entry

    for line in verify_entry(resolve_model(name)):
        console.print_text(line)


@app.command()
def publish(
    run: Annotated[Path, argument("RUN", "A finished run.")],
    entry: Annotated[Path, argument("ENTRY", "The zoo entry's folder.")],
    evaluation: Annotated[
        list[Path] | None, option("--evaluation", "A document of `evaluate --out` on the entry. Repeatable.")
    ] = None,
) -> None:
    """Turn a run into a zoo entry: float16 weights, model.json, and a card with the numbers of the evaluations.

    Examples:
      gwapctl models publish runs/a models/my-model
      gwapctl models publish runs/a models/my-model --evaluation val.json

    """
    from gwapctl.networks.publish import write_entry

    write_entry(run, entry, evaluation or [])
    console.note(f"wrote {entry}")


@app.command("bundle", hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bundle() -> None:
    """Name the successor of what version 0.1.0 called it."""
    raise UsageError("`models bundle` is now `models publish`, with the same arguments.")
