"""The whole way from a labelled folder to checked boxes and a detector: ``gwapctl label``.

``make_plan`` looks at a folder and lists the steps, each of which is what another verb does and knows that verb's
command line; ``carry_out`` takes them, leaving out those whose result is there. ``summary`` says what came of it.
"""

from __future__ import annotations

from gwapctl.label.plan import Asked, Plan, make_plan
from gwapctl.label.run import carry_out, check_folder, prepare_folder
from gwapctl.label.steps import Ears, Machine, Step
from gwapctl.label.summary import Summary, summary

__all__ = [
    "Asked",
    "Ears",
    "Machine",
    "Plan",
    "Step",
    "Summary",
    "carry_out",
    "check_folder",
    "make_plan",
    "prepare_folder",
    "summary",
]
