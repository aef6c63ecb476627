"""HTML pages: one self-contained file each. No scripts, nothing fetched, every text escaped."""

from __future__ import annotations

from typing import Any

from gwapctl import __version__


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
