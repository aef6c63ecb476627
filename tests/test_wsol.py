"""docs/wsol.md: the field's numbers with a source each, ours apart from them with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from write_wsol import MARKS, PAGE, PARTS, PUBLISHED, THEIRS, linked, page, wilson

from gwapctl.paper.measured import COLUMNS

FLOOR = {"gt_known_error": 52.9, "top1_loc_error": 60.0, "max_box_acc": 47.1, "voc_map_11pt": 1.0}


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return pd.read_csv(PUBLISHED, dtype="str")


def measured(*rows: dict[str, Any]) -> pd.DataFrame:
    usual = {
        "recipe": "methods-gap",
        "backbone": "efficientnet-lite0",
        "method": "gap",
        "settings": "abc",
        "dataset": "cub",
        "split": "test",
        "protocol": "paper",
        "options": {"map": "class", "scales": [224], "box_rule": "paper20"},
        "n": 289,
        "floors": {"centred_box": FLOOR, "full_image": {}},
    }
    return pd.DataFrame([usual | row for row in rows], columns=None if rows else [*COLUMNS])


def test_every_published_number_has_source_and_mark(published: pd.DataFrame) -> None:
    assert not published.isna().any(axis=None)
    assert set(published["mark"]) == set(MARKS)
    assert set(published["metric"]) == set(THEIRS)
    assert set(published["dataset"]) == set(PARTS)
    assert published["value"].astype(float).between(30, 100).all()
    assert not published.duplicated(["method", "network", "dataset", "metric", "source"]).any()


def test_methods_without_a_number_are_named_as_left_out(published: pd.DataFrame) -> None:
    text, methods = page(published, measured()), set(published["method"])
    left_out = text.partition("Left out")[2].partition("###")[0]
    for name in ("CAM", "HaS", "ACoL", "SPG", "ADL", "CutMix", "DGL", "PSOL", "TS-CAM", "GenPromp", "TriLite"):
        assert name in methods or name in left_out


def test_the_page_is_the_one_that_the_script_writes(published: pd.DataFrame) -> None:
    theirs = page(published, measured()).partition("## Ours")[0]
    assert (Path(__file__).parents[1] / PAGE).read_text(encoding="utf-8").startswith(theirs)


def test_before_anything_is_measured(published: pd.DataFrame) -> None:
    text = page(published, measured())
    assert text.count("Not measured yet.") == 2
    assert "| DA-WSOL | 2022 | InceptionV3 | 52.70 |  | 69.11 | 64.75 |" in text
    assert "| 42.8ˡ | 54.9ˡ | 59.0ˡ |  |" in text


def test_ours_are_means_over_seeds_and_stay_apart(published: pd.DataFrame) -> None:
    rows = measured(
        {"run": "a-on-cub-20-real", "seed": 0, "gt_known_error": 40.0, "top1_loc_error": 50.0},
        {"run": "a-on-cub-20-real-seed1", "seed": 1, "gt_known_error": 44.0, "top1_loc_error": 56.0},
        {
            "run": "a-on-cub-20-real",
            "seed": 0,
            "protocol": "wsoleval",
            "options": {"map": "class", "scales": [224]},
            "max_box_acc": 61.0,
            "box_acc": 59.0,
        },
        {"run": "a-on-cub-20-smoke", "seed": 0, "gt_known_error": 99.0},  # another profile
        {"run": "b-on-scenes-real", "seed": 0, "dataset": "scenes", "gt_known_error": 98.0},  # another data set
    )
    theirs, _, ours = page(published, rows).partition("## Ours")
    assert theirs == page(published, measured()).partition("## Ours")[0]
    assert ours.count("Not measured yet.") == 1
    about = "| methods-gap | efficientnet-lite0 | class map, 224 px | 2 | cub test | 289"
    errors, accuracies = "47.0 (41.3 to 52.8) | 58.0 (52.2 to 63.5) | ", "61.0 (55.3 to 66.4) | 59.0 (53.2 to 64.5) | "
    assert f"{about} | {errors} | {accuracies} |  |\n" in ours
    assert "| centred box |  | floor |  | cub test | 289 |  | 47.1 (41.4 to 52.9) |  | 47.1 (41.4 to 52.9) |  |" in ours
    assert " 1.0 (" not in ours
    assert " 2.0 (" not in ours


def test_wilson_intervals() -> None:
    """Against the closed form worked by hand at the ends, and the well-known 50 of 100."""
    assert wilson(0, 10) == pytest.approx((0, 27.7533), abs=1e-3)
    assert wilson(100, 10) == pytest.approx((72.2467, 100), abs=1e-3)
    assert wilson(50, 100) == pytest.approx((40.3832, 59.6168), abs=1e-3)


def test_sources_are_links() -> None:
    assert linked("github.com/a/b-c, x.png") == "[a/b-c](https://github.com/a/b-c), x.png"
    assert linked("arXiv 1809.08264, table IV") == "[arXiv 1809.08264](https://arxiv.org/abs/1809.08264), table IV"
