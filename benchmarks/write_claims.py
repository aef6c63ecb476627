"""Write docs/claims.md and docs/claims.csv: which of the papers' claims hold.

python benchmarks/write_claims.py

Run it at the top of the checkout. It reads models/results.csv and benchmarks/replicates.csv, writes the same text every
time and trains nothing: the commands that made the runs, and the one that records them, are on the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from claims import COUNTS, Judged, judge, judge_claim, measure, paper_claims

from gwapctl.metrics import METRICS
from gwapctl.paper.build import BuiltTable, build_table
from gwapctl.paper.claims import LEAST_SEEDS, LEVEL, POWER
from gwapctl.paper.measured import read_results
from gwapctl.paper.profile import apply_profile, load_profile
from gwapctl.paper.replicates import ReplicatesOnFile
from gwapctl.paper.specification import load_table


@dataclass(frozen=True)
class Ground:
    """Where claims are tried: a profile, the data sets of each table, the negative control, and what departs.

    ``parts``: the folder with a part of a data set, where that is what is called by its name.
    """

    profile: str
    tables: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, str]
    control: str
    departs: str


GROUND = Ground(
    "real",
    {
        **dict.fromkeys(("i", "ii"), ("voc2012-part", "cub", "imagenet")),
        **dict.fromkeys(("iii", "iv", "fused", "dgl", "margins", "last-stages"), ("imagenet", "cub")),
        **{"background": ("cub",), "background-ilsvrc": ("imagenet",), "v": ("voc2012-part", "bccd-voc")},
    },
    {"cub": "cub-20", "imagenet": "imagenet-20"},
    "bccd-voc",
    """One network, efficientnet-lite0 with ImageNet weights, stands for all of the papers'; its frozen features saw the
labels of `imagenet-20`'s classes. Parts of VOC 2012, ILSVRC and CUB stand for the whole: 600, 500 and 289 images are
reported on. Images of one label have the top-1 error in the place of mAP. mAP over the five classes for which
`voc2012-part` is complete (cat, dog, horse, cow, sheep) is the headline, over all 20 stands beside it. Detection has a
frozen trunk, 800 iterations and the proportions 0.02 and 0.1. `bccd-voc` is the negative control: nearly every image
shows the same classes, so that a weak branch should not help.""",
)
PAGE, DETAILS = Path("docs/claims.md"), Path("docs/claims.csv")
REPLICATES = Path("benchmarks/replicates.csv")
LIMIT = 150  # lines of the page
SHORT = {
    "holds": "**holds**",
    "against the paper": "**against**",
    "cannot be told": "?",
    "not decidable here": "n.d.",
}
MEANING = {
    "holds": "Holds",
    "against the paper": "Against the paper",
    "cannot be told": "Cannot be told",
    "not decidable here": "Not decidable here",
}

HEAD = """# Do the claims hold?

Made by `python benchmarks/write_claims.py` from `models/results.csv` and `benchmarks/replicates.csv`; nothing here is
written by hand. Seeds, numbers of both sides and p values are in [claims.csv](claims.csv).
"""
RULE = f"""## The rule

Both sides of a comparison have the same seeds and images. Two tests must say that the difference is not zero: the
paired t test over seeds (at least {LEAST_SEEDS}), and a bootstrap over images x seeds. The greater p value is adjusted
by Holm within the claim's family, its comparisons on all data sets, at {LEVEL:.0%} two-sided. `gwapctl/paper/claims.py`
cites the methods, `tests/test_claims_rule.py` simulates how often the rule errs. Then a comparison *holds*, or is
*against the paper*; else it *cannot be told*. A claim holds where all comparisons do, and falls with one. About boxes
it is *not decidable here* unless one side is shown to beat the better of two blind boxes. `±` is half of the longer of
both 95 % intervals, `sdd` the smallest difference that is found with {POWER:.0%} power at the strictest level of the
family. What stands beside a headline, and the negative control, are families of their own.

The smallest differences that count, our choice, stated before. One that is shown but smaller is said to be *small*:

"""


def main() -> None:
    """Write page and details."""
    judged = judge_rows(read_results(), ReplicatesOnFile(REPLICATES))
    PAGE.write_text(page(judged), encoding="utf-8")
    details(judged).to_csv(DETAILS, index=False, lineterminator="\n")
    print(f"wrote {PAGE} and {DETAILS}")


def judge_rows(rows: pd.DataFrame, file: ReplicatesOnFile) -> list[Judged]:
    """Judge every comparison of every claim on each data set that its tables are measured on."""
    outcomes = []
    for data in dict.fromkeys(data for grounds in GROUND.tables.values() for data in grounds):
        tables = {name: _table(name, data, rows) for name, grounds in GROUND.tables.items() if data in grounds}
        for claim in paper_claims({name: table.spec for name, table in tables.items()}):
            outcomes += [(claim, data, measure(claim, one, tables, file)) for one in claim.comparisons]
    every = paper_claims({name: load_table(name) for name in GROUND.tables})
    order = [claim.title for claim in every]
    return sorted(judge(outcomes, GROUND.control), key=lambda one: order.index(one.claim.title))


def _table(name: str, data: str, rows: pd.DataFrame) -> BuiltTable:
    """Build one table on one data set: the ground with the most numbers, should there be several."""
    spec = apply_profile(load_table(name), load_profile(GROUND.profile))
    return max(build_table(spec, rows, dataset=data), key=lambda table: len(table.measured))


def details(judged: list[Judged]) -> pd.DataFrame:
    """Return one row per comparison and data set; numbers are means over seeds ± sd, side after side."""
    return pd.DataFrame([_detail(one) for one in judged])


def _detail(one: Judged) -> dict[str, object]:
    comparison, evidence = one.outcome.comparison, one.outcome.evidence
    decimals = comparison.decimals
    seeds = sorted(set.intersection(*(set(side) for side in one.outcome.numbers)))
    sides = [_spread(pd.Series([side[seed] for seed in seeds]), decimals) for side in one.outcome.numbers if seeds]
    p_values = [spread and spread.p_value(evidence.mean) for spread in (evidence.over_seeds, evidence.over_images)]
    return {
        "claim": one.claim.title,
        "paper": one.claim.paper,
        "data": one.data,
        "comparison": comparison.text,
        "beside": comparison.beside,
        "seeds": evidence.seeds,
        "numbers": ", ".join(sides),
        "difference": f"{evidence.mean:+.{decimals}f}" if seeds else "",
        "half_interval": _text(evidence.reach(), decimals),
        "smallest_detectable": _text(evidence.detectable(one.level), decimals),
        "counts_from": comparison.counts,
        **dict(zip(("p_seeds", "p_images"), (_text(value, 4) for value in p_values), strict=True)),
        "p_adjusted": "" if evidence.doubt else f"{one.adjusted:.4f}",
        "result": one.verdict,
        "because": one.because,
    }


def _text(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def _spread(values: pd.Series[float], decimals: int) -> str:
    sd = f" ± {values.std():.{decimals}f}" if len(values) > 1 else ""
    return f"{values.mean():.{decimals}f}{sd}"


# --- the page -------------------------------------------------------------------------------------------------------


def page(judged: list[Judged]) -> str:
    """Return the page's text: the story, where the setting departs, the rule, one row per comparison, the commands."""
    departs = f"## Where our setting departs from the papers'\n\n{GROUND.departs}\n"
    before, after = [HEAD, _story(judged), departs, RULE + _counts()], _commands()
    room = LIMIT - len("\n".join([*before, "", after]).splitlines())
    return "\n".join([*before, _comparisons(judged, room), after])


def _counts() -> str:
    """Write the smallest differences that count as a table of one row."""
    labels = [METRICS[key].label for key in COUNTS]
    return _markdown([labels, [":---"] * len(COUNTS), [f"{value:g}" for value in COUNTS.values()]])


def _markdown(rows: Iterable[Iterable[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _story(judged: list[Judged]) -> str:
    """Say which claims hold where, which do not, and what cannot be told and why: one line per claim and verdict."""
    found: dict[str, dict[str, list[str]]] = {name: {} for name in MEANING}
    claims: dict[tuple[str, str], list[Judged]] = {}
    for one in judged:
        claims.setdefault((one.claim.title, one.data), []).append(one)
    for (title, data), members in claims.items():
        verdict = judge_claim(members)
        whys = dict.fromkeys(one.because for one in members if one.verdict == verdict and one.because)
        why = f" ({'; '.join(whys)})" if whys else ""
        found[verdict].setdefault(title, []).append(f"{_name(data)}{why}")
    parts = []
    for verdict, name in MEANING.items():
        lines = [f"- {title}: {_together(places)}" for title, places in found[verdict].items()] or ["- nothing"]
        parts += [f"**{name}**", "", *lines, ""]
    return "\n".join(["## The story", "", *parts])


def _together(places: list[str]) -> str:
    """Join the names of data sets; a reason that all of them share is said once."""
    names, _, reasons = zip(*(one.partition(" (") for one in places), strict=True)
    if len(set(reasons)) == 1 and reasons[0]:
        return f"{', '.join(names)} ({reasons[0]}"
    return ", ".join(places)


def _comparisons(judged: list[Judged], room: int) -> str:
    """Write one row per comparison and one column per data set, on at most ``room`` lines."""
    shown = [one for one in judged if one.outcome.evidence.seeds and not one.outcome.comparison.beside]
    frame = pd.DataFrame(
        {
            "claim": [one.claim.title for one in shown],
            "comparison": [one.outcome.comparison.text for one in shown],
            "data": [_name(one.data) for one in shown],
            "cell": [_cell(one) for one in shown],
        }
    )
    wide = frame.pivot_table(
        index=["claim", "comparison"], columns="data", values="cell", aggfunc="first", sort=False, fill_value=""
    ).reset_index()
    left_out = f"All {len(judged)} are in [claims.csv](claims.csv); {len(judged) - len(shown)} are not measured yet or"
    said = [
        "Difference ± interval (sdd); positive is as the claim says. ? cannot be told, n.d. not decidable here.",
        f"{left_out} stand beside a headline.",
    ]
    wide = wide.head(room - 7)
    wide["claim"] = wide["claim"].where(wide["claim"] != wide["claim"].shift(), "")
    rows = [list(wide.columns), [":---"] * wide.shape[1], *wide.to_numpy().tolist()]
    return "\n".join(["## Comparisons", "", *said, "", _markdown(rows) if shown else ""])


def _cell(one: Judged) -> str:
    evidence, decimals = one.outcome.evidence, one.outcome.comparison.decimals
    reach, least = evidence.reach(), evidence.detectable(one.level)
    spread = "" if reach is None or least is None else f" ± {reach:.{decimals}f} (sdd {least:.{decimals}f})"
    said = SHORT[one.verdict]
    small = ", small" if one.verdict in ("holds", "against the paper") and one.because else ""
    return f"{evidence.mean:+.{decimals}f}{spread} {said}{small}"


def _name(data: str) -> str:
    control = " as negative control" if data == GROUND.control else ""
    return f"`{GROUND.parts.get(data, data)}`{control}"


def _commands() -> str:
    lines = []
    for data, names in _by_data().items():
        root = f" --root data/{GROUND.parts[data]}" if data in GROUND.parts else ""
        command = f"gwapctl reproduce $table --profile {GROUND.profile} --dataset {data}{root} --feature-cache cache"
        lines.append(f"for table in {' '.join(names)}; do {command}; done")
    last = ["gwapctl report --runs runs --record models/results.csv", "python benchmarks/write_claims.py"]
    said = "## Commands\n\nEach trains what is missing, so that repeating or adding to them costs nothing.\n"
    return "\n".join([said, "```", *lines, *last, "```", ""])


def _by_data() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, grounds in GROUND.tables.items():
        for data in grounds:
            found.setdefault(data, []).append(name)
    return found


if __name__ == "__main__":
    main()
