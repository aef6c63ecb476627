"""HTML pages: one self-contained file each. No scripts, nothing fetched, every text escaped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gwapctl import __version__
from gwapctl.errors import UsageError, file_exists, option
from gwapctl.files import write_text


def render_page(template: str, **values: Any) -> str:
    """Render a template of this package; what the templates get is text, never markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gwapctl.paper"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=__version__, **values)


def write_report(path: Path, make: Callable[[], str], *, overwrite: bool) -> None:
    """Write the text that ``make`` returns; it is not called where the file must stay as it is.

    Raises:
        UsageError: the file exists and ``overwrite`` is not set, or ``path`` is a folder.
        DataError: it cannot be written.

    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Give a file with {option('out')}.")
    if path.exists() and not overwrite:
        raise file_exists(path)
    write_text(path, make())
