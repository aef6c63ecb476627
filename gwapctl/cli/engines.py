"""The options that say what a network runs in, the same in every verb that runs one on images."""

from __future__ import annotations

from typing import Annotated, Literal

from gwapctl.cli import complete
from gwapctl.cli.options import option
from gwapctl.config.settings import MACHINE
from gwapctl.engines import AUTO, ENGINES
from gwapctl.errors import any_of

Precision = Annotated[
    Literal["auto", "fp32", "bf16", "int8"],
    option("--precision", "Number format of the network; int8 is OpenVINO's.", MACHINE),
]
ENGINE = f"What runs a classifier: {any_of((AUTO, *ENGINES))}. auto measures which is fastest."
Engine = Annotated[str, option("--engine", ENGINE, MACHINE, autocompletion=complete.entries(ENGINES))]
