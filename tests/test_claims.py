"""Claims: the rule, the comparisons on made-up numbers, and the committed page."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from gwapctl.paper.build import BuiltTable, build_table
from gwapctl.paper.lookup import cell_config
from gwapctl.paper.measured import measured_rows, read_results, settings_hash
from gwapctl.paper.profile import apply_profile, load_profile
from gwapctl.paper.specification import TableSpec, load_table

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))  # the page's scripts are no package
import write_claims  # noqa: E402
from claims import (  # noqa: E402
    Claim,
    Comparison,
    Outcome,
    judge_claim,
    measure_comparison,
    paper_claims,
    spearman,
)

TOY = {
    **{"run": "run", "source": "toy", "trained_on": "toy", "dataset": "toy", "split": "test", "n": 9},
    **{"backbone": "toy", "method": "toy", "changed": {}, "floors": {}, "date": "2026-01-01", "shipped": False},
    **{"fingerprint": None, "n_degenerate": 0, "gwapctl": "0", "torch": "0"},
}
NAMES = ("i", "ii", "iii", "iv", "fused", "dgl", "background", "v")


def outcome(*values: float) -> Outcome:
    return Outcome(Comparison("", (), lambda n: n[0]), (), dict(enumerate(values)))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((), "not decidable here"),
        ((5.0,), "not decidable here"),
        ((5.0, 5.0), "not decidable here"),  # two seeds
        ((1.0, 2.0, 3.0), "holds"),  # mean 2, standard error 0.577
        ((-1.0, -2.0, -3.0), "does not hold"),
        ((0.0, 1.0, 2.0), "not decidable here"),  # mean 1, standard error 0.577
        ((1.0, 1.0, 1.0), "holds"),
        ((0.0, 0.0, 0.0), "not decidable here"),
    ],
)
def test_the_rule_on_hand_worked_differences(values: tuple[float, ...], verdict: str) -> None:
    assert outcome(*values).result == verdict


def test_a_claim_needs_all_and_falls_with_one() -> None:
    good, bad, open_ = outcome(1, 2, 3), outcome(-1, -2, -3), outcome(1)
    assert judge_claim([good, good]) == "holds"
    assert judge_claim([good, open_]) == "not decidable here"
    assert judge_claim([good, bad, open_]) == "does not hold"


def test_rank_correlation_against_scipy() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        first, second = generator.integers(0, 5, (2, 7)).tolist()
        expected = spearmanr(first, second).statistic
        assert spearman(first, second) == pytest.approx(0.0 if np.isnan(expected) else expected)


# --- on tables ------------------------------------------------------------------------------------------------------


def paper_specs() -> dict[str, TableSpec]:
    return {name: load_table(name) for name in NAMES}


def filled(numbers: Mapping[tuple[str, str, str], list[float]]) -> dict[str, BuiltTable]:
    """Return the tables with numbers per seed in some cells, given by (table, row, column)."""
    tables = {}
    for name, spec in paper_specs().items():
        rows: list[dict[str, Any]] = []
        for row in (row for row in spec.rows if row.quoted is None):
            for column in spec.columns:
                config = cell_config(row, column, "toy")
                options = {name: getattr(row.evaluate, name) for name in row.evaluate.asked()}
                if options.get("scales") == "own":
                    options["scales"] = sorted(set(getattr(config, "image_size", ())))
                for seed, value in enumerate(numbers.get((name, row.id, column.key), [])):
                    key = {"recipe": row.recipe, "settings": settings_hash(config), "options": options, "seed": seed}
                    rows.append({**TOY, **key, "protocol": spec.protocol, str(column.metric): value})
        (tables[name],) = build_table(
            spec, pd.DataFrame(rows) if rows else measured_rows(Path("nowhere")), dataset="toy"
        )
    return tables


def claim(title: str) -> Claim:
    return next(one for one in paper_claims(paper_specs()) if one.title.startswith(title))


def verdict(title: str, numbers: Mapping[tuple[str, str, str], list[float]]) -> str:
    tables = filled(numbers)
    return judge_claim([measure_comparison(one, tables) for one in claim(title).comparisons])


def test_the_papers_own_numbers_make_every_claim_but_two_hold() -> None:
    """Three seeds that all print the paper's numbers: the claims are what the paper says, in its direction."""
    numbers = {
        (name, row.id, key): [value] * 3
        for name, spec in paper_specs().items()
        for row in spec.rows
        for key, value in row.paper.items()
    }
    for column, values in {"otsu": (50, 49, 45), "max": (50, 51, 55)}.items():
        for row, value in zip(("weight", "class", "fused"), values, strict=True):
            numbers["fused", row, column] = [float(value)] * 3
    claims = paper_claims(paper_specs())
    assert len(claims) == 18
    fallen = [one.title for one in claims if verdict(one.title, numbers) != "holds"]
    assert fallen == [
        "Background images: the maps grow to cover the objects",  # nothing but the abstract is public
        "Detection: GWAP is above GAP",  # 57.34 against 57.36 at 0.05, in the paper too
    ]


def test_errors_are_better_when_lower() -> None:
    numbers = {
        ("iv", "googlenet-gwap", "top1"): [50.0, 51.0, 52.0],
        ("iv", "googlenet-gap", "top1"): [55.0, 56.0, 57.0],
    }
    numbers["iv", "googlenet-gmp", "top1"] = [60.0, 61.0, 62.0]
    assert verdict("Localization error", numbers) == "holds"
    numbers["iv", "googlenet-gmp", "top1"] = [40.0, 41.0, 42.0]
    assert verdict("Localization error", numbers) == "does not hold"


def test_only_shared_seeds_are_paired() -> None:
    numbers = {("i", "googlenet-gwap", "map"): [10.0, 20.0, 30.0], ("i", "googlenet-gap", "map"): [9.0, 18.0]}
    found = measure_comparison(claim("GWAP classifies").comparisons[0], filled(numbers))
    assert found.values == {0: 1.0, 1: 2.0}


def test_the_drop_must_be_taken_back_by_more_than_half() -> None:
    base = {
        ("iii", "googlenet-original", "top1"): [30.0, 30.1, 29.9],
        ("iii", "googlenet-gap", "top1"): [34.0, 34.1, 33.9],
    }
    assert verdict("GWAP has not", {**base, ("iii", "googlenet-gwap", "top1"): [31.0, 31.1, 30.9]}) == "holds"
    assert verdict("GWAP has not", {**base, ("iii", "googlenet-gwap", "top1"): [33.0, 33.1, 32.9]}) == "does not hold"


def test_nothing_measured_is_not_decidable() -> None:
    assert {verdict(one.title, {}) for one in paper_claims(paper_specs())} == {"not decidable here"}


# --- the page -------------------------------------------------------------------------------------------------------


def test_a_page_without_results_decides_nothing_and_says_what_to_run() -> None:
    details = write_claims.judge(measured_rows(Path("nowhere")))
    assert set(details["result"]) == set(details["claim_result"]) == {"not decidable here"}
    assert details["claim"].nunique() > 15
    text = write_claims.page(details)
    assert "holds (" not in text.split("## Summary")[1].replace("open (", "")
    assert "gwapctl reproduce ii --profile quick --dataset data/fruits-voc --seeds 3" in text


def test_the_committed_page_is_what_its_command_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    details = write_claims.judge(read_results())
    text = write_claims.PAGE.read_text(encoding="utf-8")
    assert text == write_claims.page(details)
    assert len(text.splitlines()) <= 150
    assert write_claims.DETAILS.read_text(encoding="utf-8") == details.to_csv(index=False, lineterminator="\n")


def test_profile_quick_has_every_row_that_a_claim_needs() -> None:
    profile = load_profile("quick")
    assert profile is not None
    specs = {name: apply_profile(load_table(name), profile) for name in NAMES if name in profile.tables}
    rows = {(name, row.id) for name, spec in specs.items() for row in spec.rows}
    sides = {(side.table, side.row) for one in paper_claims(specs) for c in one.comparisons for side in c.sides}
    assert sides <= rows
