"""``gwapctl train --settings``: every setting of a training, its value and where that comes from."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gwapctl.cli import console
from gwapctl.config.settings import all_settings, settings_of

COLUMNS = (20, 15, 8, 28)  # characters of its four columns


def chosen_recipe(dataset: str | None, recipe: str | None, asked: dict[str, Any]) -> tuple[str | None, Path | None]:
    """Return the recipe that is named, or the data set's, and its file."""
    from gwapctl.networks.zoo import find_recipe
    from gwapctl.train.recipes import default_recipe

    if recipe is None and dataset is not None:
        recipe = default_recipe(dataset, asked)
    return recipe, find_recipe(recipe) if recipe else None


def show_settings(
    dataset: str | None, recipe: str | None, typed: dict[str, str], asked: dict[str, Any], json: bool
) -> None:
    """Print every setting: its value for this data set, recipe and flags, where that comes from, what it is.

    ``typed`` says how those of ``asked`` that were typed were; the others come from the model that --weights name.
    """
    from gwapctl.config import resolve

    recipe, file = chosen_recipe(dataset, recipe, asked)
    config, origins = resolve(dataset, file, asked)
    said = origins | dict.fromkeys(asked, "--weights") | typed
    own = settings_of(type(config))
    shown = [own.get(key, setting) for key, setting in all_settings().items() if key in own or "detector" not in own]
    rows = [
        {
            "key": setting.key,
            "value": getattr(config, setting.key, setting.default),
            "origin": said.get(setting.key, "default" if setting.key in own else "detector"),
            "default": setting.default,
            "flag": setting.words[0] if setting.about.flag else None,
            "panel": setting.about.panel,
            "values": setting.allowed,
            "help": setting.about.help,
        }
        for setting in shown
    ]
    if json:
        console.print_json({"schema_version": 1, "dataset": dataset, "recipe": recipe, "settings": rows})
        return
    what = f"of a training on {dataset}" if dataset else "and their defaults; with a DATASET, what it makes of them"
    console.print_table(
        ("setting", "value", "origin", "what it is"),
        _setting_lines(rows),
        title=f"Settings {what}" + (f", by recipe {recipe}" if recipe else ""),
    )
    console.note("* has a flag (--image-size); any: --set KEY=VALUE. Origin detector: of use with --detector.")


def _setting_lines(rows: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield the lines of the table, cells wrapped so that it fits 80 columns."""
    panel = ""
    for row in rows:
        if row["panel"] != panel:
            panel = row["panel"]
            yield ("", "", "", "")
            yield (panel.upper(), "", "", "")
        write = all_settings()[row["key"]].write
        usual = f" Default: {write(row['default']) or 'none'}." if row["origin"] not in ("default", "detector") else ""
        cells = (row["key"] + " *" * bool(row["flag"]), write(row["value"]), row["origin"], row["help"] + usual)
        parts = [textwrap.wrap(cell, width) for cell, width in zip(cells, COLUMNS, strict=True)]
        yield from itertools.zip_longest(*parts, fillvalue="")
