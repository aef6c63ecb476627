"""Box rules by name, and the one call that turns a heatmap into boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote, unquote

import numpy.typing as npt

from gwapctl.errors import UsageError, option, unknown_name
from gwapctl.regions.by_class import ClassThresholds
from gwapctl.regions.components import BoxRule, ComponentRule, ImageArray, Region
from gwapctl.regions.contours import CamReleasedRule, PolygonRule
from gwapctl.regions.edges import GrabCutRule
from gwapctl.regions.split import SplitRule


def _fixed(value: str) -> BoxRule:
    first, *others = value.split(",")
    plain = _cut_at(first)
    pairs = (part.rpartition("=") for part in others)
    by_class = {unquote(class_id): _cut_at(threshold) for class_id, _, threshold in pairs}
    return ClassThresholds(f"fixed:{value}", plain, by_class) if by_class else plain


def _cut_at(threshold: str) -> ComponentRule:
    return ComponentRule(f"fixed:{threshold}", _fraction(threshold, "fixed:0.3"))


def fixed_rule(threshold: float, by_class: Mapping[str, float] | None = None) -> str:
    """Return the name of the rule that cuts at ``threshold``, and maps of the classes of some ids at theirs.

    >>> name = fixed_rule(0.4, {"apple": 0.25, "red, ripe": 0.5})
    >>> name
    'fixed:0.400,apple=0.250,red%2C%20ripe=0.500'
    >>> parse_box_rule(name).of_class("red, ripe").name
    'fixed:0.500'
    """
    others = (f",{quote(class_id, safe='')}={value:.3f}" for class_id, value in (by_class or {}).items())
    return f"fixed:{threshold:.3f}" + "".join(others)


def _wsoleval(value: str) -> BoxRule:
    return PolygonRule(f"wsoleval:{value}" if value else "wsoleval", _fraction(value or "0.2", "wsoleval:0.3"))


# a rule that takes no value, or its builder from the text after the colon ("" where there is none)
BOX_RULES: dict[str, BoxRule | Callable[[str], BoxRule]] = {
    "paper20": ComponentRule("paper20", 0.2),
    "otsu": ComponentRule("otsu", None),
    "fixed": _fixed,
    "cam-released": CamReleasedRule(),
    "wsoleval": _wsoleval,
}
# what may stand behind a rule's name and a plus -> how it is put on top of the rule
REFINEMENTS: dict[str, Callable[[BoxRule], BoxRule]] = {
    "grabcut": lambda plain: GrabCutRule(f"{plain.name}+grabcut", plain),
}
UNREFINED = "none"
SPLIT = "split"  # behind a rule's name and a plus, before the refinement: objects that touch come apart
DEFAULT_RULE = "paper20"


def parse_box_rule(
    text: str | BoxRule | None = None,
    *,
    threshold: str | None = None,
    refine: str | None = None,
    split: bool | None = None,
    default: str | BoxRule = DEFAULT_RULE,
) -> BoxRule:
    """Return the box rule that is asked for by name.

    Args:
        text: ``paper20``, ``otsu``, ``fixed:0.3``, ``cam-released`` or ``wsoleval[:0.3]``; ``split`` and a refinement
            may stand behind it, as in ``otsu+split+grabcut``. A rule is itself.
        threshold: short for one: ``otsu``, or a fraction of the map's range such as ``0.3``.
        refine: ``grabcut`` on top of the rule, ``none``: the rule without any refinement.
        split: whether objects that touch come apart; None: as the rule says.
        default: the rule where neither ``text`` nor ``threshold`` is given.

    >>> parse_box_rule(threshold="0.3").name
    'fixed:0.3'

    Raises:
        UsageError: no such rule or refinement (the message lists them), a wrong value, or two rules.

    """
    if text is not None and threshold is not None:
        raise UsageError(
            f"one of {option('threshold')} and {option('box_rule')} is enough: the first is short for the second. Give "
            "one of them."
        )
    if threshold is not None:
        text = (
            "otsu" if threshold == "otsu" else ComponentRule(f"fixed:{threshold}", _fraction(threshold, "0.3 or otsu"))
        )
    asked = default if text is None else text
    if not isinstance(asked, str | BoxRule):
        raise UsageError(f"box rule {asked!r} is no rule and no name of one, such as 'otsu'.")
    rule = _named(asked) if isinstance(asked, str) else asked
    return _refined(rule if split is None else _split(rule, split), refine)


def _named(text: str) -> BoxRule:
    plain, *additions = text.split("+")
    name, _, value = plain.partition(":")
    if name not in BOX_RULES:
        raise unknown_name("box rule", text, ["fixed:T" if key == "fixed" else key for key in BOX_RULES])
    rule = BOX_RULES[name]
    if isinstance(rule, BoxRule) and value:
        raise UsageError(f"box rule {name!r} takes no value, not {value!r}. Did you mean 'fixed:{value}'?")
    built = rule if isinstance(rule, BoxRule) else rule(value)
    for addition in additions:
        built = _split(built, True) if addition == SPLIT else _refined(built, addition)
    return built


def _split(rule: BoxRule, split: bool) -> BoxRule:
    """Return ``rule`` with objects that touch apart, or in one piece; what it says of the image stays."""
    plain = rule.whole()
    return _refined(SplitRule(f"{plain.name}+{SPLIT}", plain) if split else plain, rule.refinement)


def _refined(rule: BoxRule, refinement: str | None) -> BoxRule:
    """Return ``rule`` with ``refinement``, without any (``none``), or as it is (None)."""
    if refinement is None:
        return rule
    if refinement == UNREFINED:
        return rule.without_image()
    if not isinstance(refinement, str) or refinement not in REFINEMENTS:
        raise unknown_name("refinement", refinement, [*REFINEMENTS, SPLIT, UNREFINED])
    return REFINEMENTS[refinement](rule.without_image())


def _fraction(text: str, example: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(f"threshold {text!r} is not a number from 0 up to, but not including, 1. Write {example}.")
    return value


def map_to_boxes(
    heatmap: npt.ArrayLike,
    rule: BoxRule,
    *,
    max_boxes: int = 1,
    min_area: float = 0.0,
    image: ImageArray | None = None,
) -> list[Region]:
    """Return the regions that ``rule`` finds in ``heatmap`` (H, W), the best first; ``[]`` for a constant map.

    At most ``max_boxes``, none under ``min_area`` (a fraction of the map's pixels). Boxes are in map pixels:
    ``boxes.scale`` brings them to those of the image. A rule that ``needs_image`` takes the ``image`` that
    the map is of, (H, W, 3) uint8 RGB of any size.

    >>> (region,) = map_to_boxes([[0, 0, 0, 0], [0, 9, 5, 0], [0, 0, 1, 0]], parse_box_rule("paper20"))
    >>> region.box.tolist(), region.area_px
    ([1.0, 1.0, 3.0, 2.0], 2)

    Raises:
        DataError: the map is not (H, W), or holds NaN or infinity.
        UsageError: the rule needs the image.

    """
    return (rule if image is None else rule.on_image(image)).regions(heatmap, max_boxes, min_area)


def five_guesses(heatmaps: Sequence[npt.ArrayLike], tight: BoxRule, loose: BoxRule) -> list[tuple[int, Region | None]]:
    """Return CAM's five guesses for the top-5 metric as (rank, region): two boxes for ranks 0 and 1, one for rank 2.

    ``heatmaps`` are those of the three best classes, best first. The paper gives neither threshold: ``tight`` and
    ``loose`` are the caller's. A rank whose map gives no box has None.
    """
    plan = [(0, tight), (0, loose), (1, tight), (1, loose), (2, loose)]
    asked = [(rank, map_to_boxes(heatmaps[rank], rule)) for rank, rule in plan if rank < len(heatmaps)]
    return [(rank, next(iter(regions), None)) for rank, regions in asked]
