"""Write docs/settings.md from the declarations in gwapctl/config/settings.py.

python benchmarks/write_settings.py
"""

from __future__ import annotations

from pathlib import Path

from gwapctl.config.settings import (
    PANELS,
    ClassifierSettings,
    DetectorSettings,
    Setting,
    all_settings,
    settings_of,
)

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = """# Settings of a training

Made by `python benchmarks/write_settings.py` from `gwapctl/config/settings.py`, where each is declared once.

A key is the same in a recipe (`momentum = 0.8` in a TOML file) and in `run.json`. On the command line a setting that
people use has a flag of its own, and every setting is also `--set KEY=VALUE`, so
`gwapctl train DATA --set momentum=0.8 --set flip=false`. Lists are written `64,96`, sizes `224` or `320x240` (width x
height), options of the head `head_options=r=10,q=3`.

A data set and a recipe may change a default: `gwapctl train DATA --recipe NAME --settings` shows what holds then and
where it comes from. An empty default of a list means none; `-`: there is no such setting.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page: a table for every panel of the help."""
    return "\n".join([HEAD, *(_table(panel) for panel in PANELS)])


def _table(panel: str) -> str:
    lines = [f"## {panel}", "", "| key | flag | classifier | detector | allowed | |", "|---|---|---|---|---|---|"]
    lines += [_line(setting) for setting in all_settings().values() if setting.about.panel == panel]
    return "\n".join([*lines, ""])


def _line(setting: Setting) -> str:
    owners = (settings_of(ClassifierSettings), settings_of(DetectorSettings))
    defaults = [setting.write(own[setting.key].default) if setting.key in own else "-" for own in owners]
    flag = " ".join(f"`{word}`" for word in setting.words) if setting.about.flag else "`--set`"
    cells = [f"`{setting.key}`", flag, *defaults, setting.allowed, setting.about.help]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
