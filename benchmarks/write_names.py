"""Write the tables of everything that has a name (heads, backbones, map methods, data sets, formats) into the docs.

python benchmarks/write_names.py

A page has `<!-- table: KIND -->` where the table of that kind goes; what stands below it, up to the next empty line, is
replaced. Run it at the top of the checkout, after you added an entry.
"""

from __future__ import annotations

import re
from pathlib import Path

from gwapctl.cli.kinds import KINDS

DOCS = Path("docs")
TABLE = re.compile(r"<!-- table: ([\w-]+) -->\n(.*?)\n\n", re.DOTALL)


def table(kind: str) -> str:
    """Return the table of a kind in markdown; names stand in backticks."""
    columns = KINDS[kind].columns
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[_cell(key, row[key]) for key in columns] for row in KINDS[kind].rows()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines).replace("  |", " |")


def _cell(key: str, text: str) -> str:
    if key == "name":
        return f"`{text}`"
    return text if "`" in text else text.replace("*", r"\*")


def tables_of(text: str) -> dict[str, list[str]]:
    """Return the lines of every table of a kind that a page has."""
    return {kind: body.splitlines() for kind, body in TABLE.findall(text)}


def page(text: str) -> str:
    """Return a page with its tables made anew."""
    return TABLE.sub(lambda match: f"<!-- table: {match[1]} -->\n{table(match[1])}\n\n", text)


def main() -> None:
    """Rewrite all pages."""
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if page(text) != text:
            path.write_text(page(text), encoding="utf-8")


if __name__ == "__main__":
    main()
