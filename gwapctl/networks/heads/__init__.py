"""Every pooling head by name: from a feature map to logits, and to the map that says where.

A new head is a class in a file of this folder, one entry in ``HEADS`` and its tests. Names need no torch: a head's
module is imported when the head is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from gwapctl.errors import UsageError, closest, lookup

if TYPE_CHECKING:
    from gwapctl.networks.heads.base import Head


@dataclass(frozen=True)
class HeadEntry:
    """What is known of a head without importing it.

    Attributes:
        path: ``module:Class`` of the head.
        label: what the papers call it, in tables and figures.
        help: what it does, in one line.
        in_figures: whether a figure of all heads shows it unasked: not one that needs ground-truth boxes or has no map.

    """

    path: str
    label: str
    help: str
    in_figures: bool = True

    def load(self) -> type[Head]:
        """Import the head's class."""
        return resolve_name(self.path)  # type: ignore[no-any-return]


_AVERAGING, _SCORING = "gwapctl.networks.heads.averaging", "gwapctl.networks.heads.scoring"

# in the order in which figures show them
HEADS: dict[str, HeadEntry] = {
    "gap": HeadEntry(f"{_AVERAGING}:GAP", "GAP", "mean of the features (CAM)"),
    "gap-relu": HeadEntry(
        f"{_SCORING}:GAPReLU", "GAP", "mean of the scores above 0 (Network in Network)", in_figures=False
    ),
    "gmp": HeadEntry(f"{_SCORING}:GMP", "GMP", "highest score of each class"),
    "gmp-features": HeadEntry(f"{_SCORING}:GMPFeatures", "GMP", "highest value of each feature, then one linear layer"),
    "lse": HeadEntry(f"{_SCORING}:LSE", "LSE", "log-sum-exp of scores, between mean and maximum"),
    "weldon": HeadEntry(f"{_SCORING}:WELDON", "WELDON", "mean of the highest plus mean of the lowest scores"),
    "wildcat": HeadEntry(f"{_SCORING}:WILDCAT", "WILDCAT", "several maps per class, pooled over their extremes"),
    "gwap-no-sigmoid": HeadEntry(
        f"{_AVERAGING}:GWAPNoSigmoid", "GWAP w/o σ", "gwap without its sigmoid: soft attention"
    ),
    "gwap-no-exp": HeadEntry(f"{_AVERAGING}:GWAPNoExp", "GWAP w/o exp", "gwap without its exponential"),
    "gwap": HeadEntry(f"{_AVERAGING}:GWAP", "GWAP", "mean of the features, weighted by a learnt map for all classes"),
    "gwap-class": HeadEntry(f"{_SCORING}:GWAPClass", "class-specific GWAP", "gwap with a learnt map per class"),
    "gwap-gt": HeadEntry(
        f"{_AVERAGING}:GWAPgt",
        "GWAP-gt",
        "mean of the features inside ground-truth boxes: an upper bound, not weakly supervised",
        in_figures=False,
    ),
    "background": HeadEntry(
        "gwapctl.networks.heads.background:Background",
        "background images",
        "gap that also learns from images without objects",
    ),
    "original": HeadEntry(
        "gwapctl.networks.heads.original:Original",
        "original",
        "the fully connected layers of AlexNet, CaffeNet and VGG, without a map of its own",
        in_figures=False,
    ),
}


def head_class(name: str) -> type[Head]:
    """Return the class of the head ``name``; an unknown one is a ``UsageError`` that names the nearest."""
    return lookup("head", name, HEADS).load()


def head_options(name: str) -> dict[str, Any]:
    """Return the options of the head ``name`` with their defaults."""
    _channels, _classes, *options = inspect.signature(head_class(name)).parameters.values()
    return {option.name: option.default for option in options}


def check_head(name: str, options: Mapping[str, Any]) -> None:
    """Refuse with a ``UsageError`` a head or option that does not exist, or an option that is no number."""
    known = head_options(name)
    for option, value in options.items():
        if option not in known:
            choices = f"Its options: {', '.join(known)}." if known else "It has none."
            raise UsageError(f"head {name} has no option {option!r}.{closest(option, known)} {choices}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(f"head {name}: {option} must be a number, not {value!r}.")


def build_head(name: str, channels: int, classes: int, options: Mapping[str, Any] | None = None) -> Head:
    """Build the head ``name`` for feature maps of ``channels`` (K) and ``classes`` (C) logits.

    ``options`` are the head's own (``head_options`` lists them), such as ``{"r": 10}`` for ``lse``.

    Raises:
        UsageError: there is no such head or option, or an option's value makes no sense.

    Example:
        >>> import torch
        >>> head = build_head("gwap", channels=256, classes=20)
        >>> output = head(torch.rand(1, 256, 7, 9))
        >>> tuple(output.logits.shape), tuple(output.weight_map.shape)
        ((1, 20), (1, 1, 7, 9))

    """
    check_head(name, options or {})
    return head_class(name)(channels, classes, **(options or {}))
