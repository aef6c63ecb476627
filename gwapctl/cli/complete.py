"""What the shell proposes for a value: names with what they are, from the registries, without torch.

Where nothing is proposed, the shell goes on with files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Completion = Callable[[str], list[tuple[str, str]]]  # Typer knows its argument by the name ``incomplete``


def entries(registry: Mapping[str, Any]) -> Completion:
    """Return what completes names of a registry; help is each entry's own."""
    return lambda incomplete: _starting(incomplete, ((name, str(entry.help)) for name, entry in registry.items()))


def names(listed: Callable[[], Iterable[str]]) -> Completion:
    """Return what completes names that ``listed`` finds when it is asked."""
    return lambda incomplete: _starting(incomplete, ((name, "") for name in listed()))


def _starting(begun: str, choices: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, help) for name, help in choices if name.startswith(begun)]


def models() -> list[str]:
    """Return the zoo's entries."""
    from gwapctl.networks.zoo import entries as zoo

    return list(zoo())


def recipes() -> list[str]:
    """Return the recipes that have a name."""
    from gwapctl.networks.zoo import recipes as known

    return list(known())


def weights() -> list[str]:
    """Return what first weights may be called."""
    return ["imagenet", "none", *models()]


def tables() -> list[str]:
    """Return the papers' tables."""
    from gwapctl.paper.specification import table_names

    return [*table_names("all"), "all"]


def gates() -> list[str]:
    """Return the metrics that a gate can be set on, with the sign behind which its value stands."""
    from gwapctl.metrics import METRICS

    return [f"{key}=" for key, metric in METRICS.items() if metric.has_gate]
