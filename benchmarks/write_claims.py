"""Write docs/claims.md and docs/claims.csv: which of the papers' claims hold, from models/results.csv.

python benchmarks/write_claims.py

Run it at the top of the checkout; it writes the same text every time and trains nothing: the commands that made the
runs, and the one that adds finished runs to models/results.csv, are on the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from claims import (
    LEAST_SEEDS,
    STANDARD_ERRORS,
    Claim,
    Comparison,
    Outcome,
    judge_claim,
    measure_comparison,
    paper_claims,
)

from gwapctl.paper.build import BuiltTable, build_table
from gwapctl.paper.measured import read_results
from gwapctl.paper.profile import apply_profile, load_profile
from gwapctl.paper.specification import TableSpec, load_table

PAGE, DETAILS = Path("docs/claims.md"), Path("docs/claims.csv")
PROFILE = "quick"
TABLES = ("i", "ii", "iii", "iv", "fused", "dgl", "background", "v")
VOC_LIKE = ("data/fruits-voc", "data/scenes")  # what tables are measured on that have no data set in the profile
CONTROL = "data/bccd-voc"
# what some are measured on besides
ALSO = {"ii": ("tiny-imagenet:40",), "dgl": ("data/scenes",), "v": (CONTROL,)}
CONTROL_ROWS = ("rfcn", "rfcn-gwap")
SEEDS = 3
OPEN = "open"  # what the page calls "not decidable here"

HEAD = f"""# Do the claims hold?

Made by `python benchmarks/write_claims.py` from `models/results.csv`; nothing here is written by hand. The numbers of
both sides, their seeds and spread are in [claims.csv](claims.csv), one row per comparison and data set.

**Not the papers' setting.** VOC 2007 and ILSVRC were not at hand, and the papers' networks need days on a GPU. So the
rows of the tables are measured in profile `{PROFILE}` (`models/profiles/{PROFILE}.toml`): one small network, pretrained
by us on Tiny ImageNet, stands for all of them, on other data. What holds here need not hold there, nor the other way
round. A row has the budget, schedule and settings of every other row of its table; the last weights are kept; no
setting was chosen on the images that are reported on.

**The rule, the same for every claim.** Both sides of a comparison are trained with the same seeds. For every
seed the difference is taken so that the claim says it is positive. With at least {LEAST_SEEDS} seeds and a mean more
than {STANDARD_ERRORS:g} standard errors from zero the comparison *holds* or *does not hold*; anything else is *not
decidable here*, below *{OPEN}*. A claim holds on a data set where all of its comparisons do, and does not hold where
one does not. Two standard errors of few seeds are a lenient bound, and the spread over seeds says nothing about other
images.

**Data.** `data/fruits-voc`: photos of fruit in VOC layout. `data/scenes`: made by
`gwapctl data synth --images 400 --out data/scenes` of version 0.1.0 (it draws other images since).
`tiny-imagenet:N`: N classes of Tiny ImageNet, spread evenly over
its list. Its images have one label each, so of table I and II it has the second alone: a claim about mAP and F-measure
is judged there by its F-measure. `data/bccd-voc`: blood cells, the negative control for detection. Its image-level
labels say almost nothing (of 205 training images 204 have WBC and 197 RBC), so that a weak branch has nothing to learn
there and should not help. The papers' numbers, quoted with each claim, were measured on VOC 2007 and ILSVRC: only
their order can be compared.
"""


def main() -> None:
    """Write page and details."""
    details = judge(read_results())
    PAGE.write_text(page(details), encoding="utf-8")
    details.to_csv(DETAILS, index=False, lineterminator="\n")
    print(f"wrote {PAGE} and {DETAILS}")


def judge(rows: pd.DataFrame) -> pd.DataFrame:
    """Return every comparison of every claim on each data set that its tables are measured on, one per row."""
    specs = _specs()
    built = {(name, data): _table(spec, data, rows) for name, spec in specs.items() for data in _grounds(spec)}
    details = []
    for claim in paper_claims(specs):
        for data in dict.fromkeys(data for name, data in built if name in claim.tables):
            here = {name: table for (name, ground), table in built.items() if ground == data}
            outcomes = [measure_comparison(one, here) for one in claim.comparisons if _applies(one, data, here)]
            of_claim = judge_claim(outcomes) if outcomes else ""
            details += [_detail(claim, data, outcome) | {"claim_result": of_claim} for outcome in outcomes]
    return pd.DataFrame(details)


def _specs() -> dict[str, TableSpec]:
    profile = load_profile(PROFILE)
    assert profile is not None
    return {name: apply_profile(load_table(name), profile) for name in TABLES if name in profile.tables}


def _grounds(spec: TableSpec) -> tuple[str, ...]:
    grounds = VOC_LIKE if spec.default_dataset is None else (spec.default_dataset,)
    return (*grounds, *ALSO.get(spec.name, ()))


def _table(spec: TableSpec, data: str, rows: pd.DataFrame) -> BuiltTable:
    """Build one table on one data set: the ground with the most numbers, should there be several."""
    return max(build_table(spec, rows, dataset=data), key=lambda table: len(table.measured))


def _applies(comparison: Comparison, data: str, here: Mapping[str, BuiltTable]) -> bool:
    """Tell whether a data set has the tables, columns (no mIoU without masks) and rows of a comparison at all."""
    columns = {(name, column.key) for name, table in here.items() for column in table.spec.columns}
    asked = data != CONTROL or {side.row for side in comparison.sides} <= set(CONTROL_ROWS)
    return asked and {(side.table, side.column) for side in comparison.sides} <= columns


def _detail(claim: Claim, data: str, outcome: Outcome) -> dict[str, object]:
    """Return one row of the details: the numbers are means over seeds ± standard deviation, side after side."""
    seeds, decimals = list(outcome.values), outcome.comparison.decimals
    sides = [_spread(pd.Series([one[seed] for seed in seeds]), decimals) for one in outcome.numbers if seeds]
    return {
        "claim": claim.title,
        "paper": claim.paper,
        "data": data,
        "comparison": outcome.comparison.text,
        "seeds": len(seeds),
        "numbers": ", ".join(sides),
        "difference": f"{outcome.mean:+.{decimals}f}" if seeds else "",
        "standard_error": "" if outcome.error is None else f"{outcome.error:.{decimals}f}",
        "result": outcome.result,
        "because": outcome.doubt,
    }


def _spread(values: pd.Series[float], decimals: int) -> str:
    sd = f" ± {values.std():.{decimals}f}" if len(values) > 1 else ""
    return f"{values.mean():.{decimals}f}{sd}"


# --- the page -------------------------------------------------------------------------------------------------------


def page(details: pd.DataFrame) -> str:
    """Return the page's text: the summary with one row per claim, then one row per comparison."""
    details = details.assign(data=details["data"].map(lambda name: f"`{name.partition(':')[0]}`"))
    claims = details.groupby(["claim", "paper", "data"], sort=False).apply(_of_claim).unstack("data", fill_value="")
    comparisons = details.assign(cell=details.apply(_of_comparison, axis=1))
    comparisons = comparisons.pivot_table(
        index=["claim", "comparison"], columns="data", values="cell", aggfunc="first", sort=False, fill_value=""
    )
    parts = [HEAD, _commands(), "## Summary\n\nIn brackets how many comparisons are for the claim, open, against it.\n"]
    parts += [_markdown(claims.reset_index()), "\n## Comparisons\n"]
    parts += ["Difference (standard error) and result; positive is as the claim says.\n"]
    return "\n".join([*parts, _markdown(comparisons.reset_index())]) + "\n"


def _of_claim(details: pd.DataFrame) -> str:
    counts = [int((details["result"] == result).sum()) for result in ("holds", "not decidable here", "does not hold")]
    return f"{_short(details['claim_result'].iloc[0])} ({'/'.join(map(str, counts))})"


def _of_comparison(detail: pd.Series[str]) -> str:
    error = f" ({detail['standard_error']})" if detail["standard_error"] else ""
    return f"{detail['difference']}{error} {_short(detail['result'])}".strip()


def _short(result: str) -> str:
    return {"not decidable here": OPEN, "does not hold": "**does not hold**"}.get(result, result)


def _markdown(frame: pd.DataFrame) -> str:
    """Write a table; a text that the row above has in the same of the leading columns is not repeated."""
    frame = frame.assign(claim=frame["claim"].where(frame["claim"] != frame["claim"].shift(), ""))
    rows = [list(frame.columns), [":---"] * frame.shape[1], *frame.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _commands() -> str:
    rows = {CONTROL: f" --rows {','.join(CONTROL_ROWS)}"}
    lines = [
        f"gwapctl reproduce {name} --profile {PROFILE} --dataset {data} --seeds {SEEDS}{rows.get(data, '')}"
        for name, spec in _specs().items()
        for data in _grounds(spec)
    ]
    said = "**Commands.** Each trains what is missing, so that repeating or adding to them costs nothing:\n"
    last = ["gwapctl report --runs runs --record models/results.csv", "python benchmarks/write_claims.py"]
    return "\n".join([said, "```", *lines, *last, "```", ""])


if __name__ == "__main__":
    main()
