"""Write docs/claims.md: which of the papers' claims hold, with the numbers, from the result files in docs/results.

python benchmarks/write_claims.py                     the page from what is committed: the same text every time
python benchmarks/write_claims.py --collect runs      first copy the finished runs below runs to docs/results, without
                                                      weights and without anything of this machine

Run it at the top of the checkout. It trains nothing: the commands that made the runs are on the page.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from gwapctl.paper.build import FilledTable, fill_table
from gwapctl.paper.claims import (
    LEAST_SEEDS,
    STANDARD_ERRORS,
    Claim,
    Comparison,
    Outcome,
    judge_claim,
    measure_comparison,
    paper_claims,
)
from gwapctl.paper.profile import apply_profile, load_profile
from gwapctl.paper.render import render_markdown
from gwapctl.paper.results import Result, collect_results
from gwapctl.paper.specification import TableSpec, load_table
from gwapctl.paper.strip import collect_slim

RESULTS = Path("docs/results")
PAGE = Path("docs/claims.md")
PROFILE = "quick"
TABLES = ("i", "ii", "iii", "iv", "fused", "dgl", "background", "v")
VOC_LIKE = ("data/fruits-voc", "data/scenes")  # what tables are measured on that have no data set in the profile
CONTROL = "data/bccd-voc"
# what some are measured on besides
ALSO = {"ii": ("tiny-imagenet:40",), "dgl": ("data/scenes",), "v": (CONTROL,)}
CONTROL_ROWS = ("rfcn", "rfcn-gwap")
SEEDS = 3

HEAD = f"""# Do the claims hold?

Made by `python benchmarks/write_claims.py` from the result files in `docs/results`; nothing here is written by hand.

**Not the papers' setting.** VOC 2007 and ILSVRC were not at hand, and the papers' networks need days on a GPU. So the
rows of the tables are measured in profile `{PROFILE}` (`models/profiles/{PROFILE}.toml`): one small network, pretrained
by us on Tiny ImageNet, stands for all of them, on other data. What holds here need not hold there, nor the other way
round. A row has the budget, schedule and settings of every other row of its table; the last weights are kept; no
setting was chosen on the images that are reported on.

**The rule, the same for every claim.** Both sides of a comparison are trained with the same seeds. For every
seed the difference is taken so that the claim says it is positive. With at least {LEAST_SEEDS} seeds and a mean more
than {STANDARD_ERRORS:g} standard errors from zero the comparison *holds* or *does not hold*; anything else is *not
decidable here*. A claim holds on a data set where all of its comparisons do, and does not hold where one does not. Two
standard errors of few seeds are a lenient bound, and the spread over seeds says nothing about other images.

**Data.** `data/fruits-voc`: photos of fruit in VOC layout. `data/scenes`: made by
`gwapctl data synth --images 400 --out data/scenes`. `tiny-imagenet:N`: N classes of Tiny ImageNet, spread evenly over
its list. Its images have one label each, so of table I and II it has the second alone: a claim about mAP and F-measure
is judged there by its F-measure. `data/bccd-voc`: blood cells, the negative control for detection. Its image-level
labels say almost nothing (of 205 training images 204 have WBC and 197 RBC), so that a weak branch has nothing to learn
there and should not help. The papers' numbers, quoted with each claim, were measured on VOC 2007 and ILSVRC: only
their order can be compared.

Numbers are means over seeds ± standard deviation, in the order of the comparison's text.
"""


def main() -> None:
    """Collect if asked, then write the page."""
    parser = argparse.ArgumentParser(description="Write docs/claims.md.")
    parser.add_argument("--collect", type=Path, help="folder of finished runs to copy to docs/results first")
    runs = parser.parse_args().collect
    if runs is not None:
        print(f"{len(collect_slim(runs, RESULTS))} runs copied to {RESULTS}")
    PAGE.write_text(page(RESULTS), encoding="utf-8")
    print(f"wrote {PAGE}")


def page(results_folder: Path) -> str:
    """Return the page's text from the result files below ``results_folder``."""
    profile = load_profile(PROFILE)
    assert profile is not None
    results = collect_results(results_folder)
    specs = {name: apply_profile(load_table(name), profile) for name in TABLES if name in profile.tables}
    filled = {
        (name, dataset): _table(spec, dataset, results) for name, spec in specs.items() for dataset in _grounds(spec)
    }
    claims = paper_claims(specs)
    judged = {claim.title: _judge(claim, filled) for claim in claims}
    parts = [HEAD, _commands(list(filled)), _summary(claims, judged)]
    parts += [_section(claim, judged[claim.title]) for claim in claims]
    parts += ["## The tables\n", *(_drawn(table) for table in filled.values())]
    return "\n".join(parts).rstrip() + "\n"


def _grounds(spec: TableSpec) -> tuple[str, ...]:
    grounds = VOC_LIKE if spec.default_dataset is None else (spec.default_dataset,)
    return (*grounds, *ALSO.get(spec.name, ()))


def _table(spec: TableSpec, dataset: str, results: Sequence[Result]) -> FilledTable:
    """Fill one table on one data set: the ground with the most numbers, should there be several."""
    tables = fill_table(spec, results, dataset=dataset, runs=Path("runs"))
    return max(tables, key=lambda table: len(table.results()))


def _drawn(table: FilledTable) -> str:
    own = [row for row in table.rows if not row.extra]
    return render_markdown([FilledTable(table.spec, table.ground, tuple(own))])


def _judge(claim: Claim, filled: Mapping[tuple[str, str], FilledTable]) -> dict[str, list[Outcome]]:
    """Measure a claim on each data set that its tables are measured on."""
    grounds = dict.fromkeys(dataset for name, dataset in filled if name in claim.tables)
    judged = {dataset: _outcomes(claim, dataset, filled) for dataset in grounds}
    return {dataset: outcomes for dataset, outcomes in judged.items() if outcomes}


def _outcomes(claim: Claim, dataset: str, filled: Mapping[tuple[str, str], FilledTable]) -> list[Outcome]:
    here = {name: table for (name, ground), table in filled.items() if ground == dataset}
    return [measure_comparison(one, here) for one in claim.comparisons if _applies(one, dataset, here)]


def _applies(comparison: Comparison, dataset: str, here: Mapping[str, FilledTable]) -> bool:
    """Tell whether a data set has the tables, columns (no mIoU without masks) and rows of a comparison at all."""
    columns = {(name, column.key) for name, table in here.items() for column in table.spec.columns}
    asked = dataset != CONTROL or {side.row for side in comparison.sides} <= set(CONTROL_ROWS)
    return asked and {(side.table, side.column) for side in comparison.sides} <= columns


def _commands(filled: Sequence[tuple[str, str]]) -> str:
    rows = {CONTROL: f" --rows {','.join(CONTROL_ROWS)}"}
    lines = [
        f"gwapctl reproduce {name} --profile {PROFILE} --dataset {data} --seeds {SEEDS}{rows.get(data, '')}"
        for name, data in filled
    ]
    said = "**Commands.** Each trains what is missing, so that repeating or adding to them costs nothing:\n"
    return "\n".join([said, "```", *lines, "python benchmarks/write_claims.py --collect runs", "```", ""])


def _summary(claims: Sequence[Claim], judged: Mapping[str, Mapping[str, list[Outcome]]]) -> str:
    lines = ["## Summary\n", "| claim | data set | verdict | because |", "|:---|:---|:---|:---|"]
    for claim in claims:
        for dataset, outcomes in judged[claim.title].items():
            lines.append(f"| {claim.title} | {dataset} | {judge_claim(outcomes)} | {_because(outcomes)} |")
    return "\n".join([*lines, ""])


def _because(outcomes: Sequence[Outcome]) -> str:
    """Count the comparisons that speak for the claim, against it, and that are open for one reason or another."""
    words = [outcome.doubt or {"holds": "for it"}.get(outcome.verdict, "against it") for outcome in outcomes]
    order = sorted(set(words), key=lambda word: (word not in ("for it", "against it"), word))
    counts = ", ".join(f"{words.count(word)} {word}" for word in order)
    return f"of {len(words)} comparisons: {counts}" if len(words) > 1 else outcomes[0].doubt


def _section(claim: Claim, judged: Mapping[str, list[Outcome]]) -> str:
    lines = [f"## {claim.title}\n", f"Paper: {claim.paper}.\n"]
    lines += ["| data set | comparison | seeds | numbers | difference | verdict |", "|:---|:---|---:|:---|---:|:---|"]
    for dataset, outcomes in judged.items():
        lines += [f"| {dataset} | {' | '.join(_cells(outcome))} |" for outcome in outcomes]
    verdicts = [f"{dataset}: **{judge_claim(outcomes)}**" for dataset, outcomes in judged.items()]
    return "\n".join([*lines, "", f"{'; '.join(verdicts)}.", ""])


def _cells(outcome: Outcome) -> list[str]:
    """Return comparison, seeds, numbers, difference and verdict as texts."""
    seeds, decimals = list(outcome.values), outcome.comparison.decimals
    verdict = f"{outcome.verdict} ({outcome.doubt})" if outcome.doubt else outcome.verdict
    if not seeds:
        return [outcome.comparison.text, "0", "", "", verdict]
    numbers = ", ".join(_spread([one[seed] for seed in seeds], decimals) for one in outcome.numbers)
    error = "" if outcome.error is None else f" (standard error {outcome.error:.{decimals}f})"
    return [outcome.comparison.text, str(len(seeds)), numbers, f"{outcome.mean:+.{decimals}f}{error}", verdict]


def _spread(values: Sequence[float], decimals: int) -> str:
    sd = f" ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{decimals}f}{sd}"


if __name__ == "__main__":
    main()
