"""Cells of a CSV file that a spreadsheet opens: text that it would take for a formula, written so that it does not."""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def safe_cell(text: str) -> str:
    """Return ``text`` with an apostrophe in front where a spreadsheet would run it; numbers stay what they are.

    >>> safe_cell("=1+1"), safe_cell("-1.5"), safe_cell("cat"), safe_cell("'=x")
    ("'=1+1", '-1.5', 'cat', "''=x")
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def plain_cell(text: str) -> str:
    """Return the text that ``safe_cell`` wrote.

    >>> plain_cell("'=1+1"), plain_cell("-1.5"), plain_cell("'tis")
    ('=1+1', '-1.5', "'tis")
    """
    return text[1:] if text[:1] == "'" and _FORMULA.match(text) else text
