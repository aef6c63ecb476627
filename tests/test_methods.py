"""The table of all methods: which numbers land in it, which columns it has where, and how it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import write_methods

from gwapctl.config import TrainConfig, build_train_config
from gwapctl.maps import MAPS
from gwapctl.networks.heads import HEADS
from gwapctl.paper.build import BuiltTable, build_table
from gwapctl.paper.measured import measured_rows, read_results, recipe_file, record
from gwapctl.paper.profile import apply_profile, load_profile
from gwapctl.paper.specification import load_table
from gwapctl.paper.tables import FORMATS, render_tables
from gwapctl.runs import Run

SPEC = load_table("methods")
METRICS = {"gt_known_error": 40.0, "max_box_acc_v2": 55.0, "f_measure": 0.5, "images_per_second": 100.0}


def make_run(runs: Path, head: str, evaluations: list[tuple[str, dict[str, float]]], **different: Any) -> None:
    """Write a finished run of a row's recipe and its evaluations: map and metrics."""
    recipe = recipe_file(f"methods-{head}")
    assert recipe is not None
    dataset, calibrated = different.pop("dataset", "imagenet"), different.pop("calibrated", None)
    settings = build_train_config(dataset, recipe, different).model_dump(mode="json")
    data = {"name": dataset, "val_split": None}
    run = Run.create(runs / f"{head}-{dataset[:4]}", {"config": settings, "dataset": data, "seed": 0, "device": "cpu"})
    run.update(status="finished")
    for method, metrics in evaluations:
        where = {
            "dataset": dataset,
            "split": "val",
            "protocol": "paper",
            "n": 50_000 if dataset == "imagenet" else 1000,
        }
        options = {"map": method, "box_rule": "otsu", "scales": [224], "calibrate_on": calibrated}
        document = {**where, "metrics": metrics, "options": options, "created": "2026-11-20T10:00:00+00:00"}
        run.save_evaluation({"schema_version": 1, "model": head, **document})


def tables(runs: Path) -> list[BuiltTable]:
    return build_table(SPEC, measured_rows(runs))


def row_of(table: BuiltTable, identity: str) -> dict[str, float | None]:
    row = table.cells[table.cells["id"] == identity]
    return {key: None if pd.isna(value) else value for key, value in zip(row["key"], row["value"], strict=True)}


def test_every_row_is_of_a_head_and_a_map_of_the_toolkit() -> None:
    heads = {str(row.config["head"]) for row in SPEC.rows}
    assert heads <= set(HEADS)  # all but original when this was written: resnet-s has no classifier of its own
    assert {row.evaluate.map for row in SPEC.rows} <= set(MAPS)  # all but score, which is the class map and a constant
    assert not SPEC.of_a_paper


def test_every_row_has_the_same_budget() -> None:
    budgets = set()
    for row in SPEC.rows:
        recipe = recipe_file(str(row.recipe))
        assert recipe is not None
        config = build_train_config(SPEC.dataset, recipe, {})
        assert isinstance(config, TrainConfig)
        assert config.head == row.config["head"]
        assert config.epochs == row.config["epochs"]
        own = {"head": "", "head_options": {}, "background": None, "recipe": None}
        budgets.add(config.model_copy(update=own).model_dump_json())
        plain = {"map": None, "layer": None}
        assert row.evaluate.model_copy(update=plain) == SPEC.rows[0].evaluate.model_copy(update=plain)
        assert row.evaluate.layer is None or row.evaluate.map == "dgl"
    assert len(budgets) == 1


def test_numbers_land_in_the_row_of_their_map(tmp_path: Path) -> None:
    first, second = METRICS | {"top1_error": 30.0}, METRICS | {"top1_error": 30.0, "gt_known_error": 35.0}
    make_run(tmp_path, "gwap", [("weight", first), ("fused", second)])
    (table,) = tables(tmp_path)
    assert [column.key for column in table.spec.columns] == [
        *("top1", "gt_known", "max_box_acc_v2", "f_measure", "speed"),  # no mAP, no masks, no memory
    ]
    assert row_of(table, "gwap-weight") == {
        **{"top1": 30.0, "gt_known": 40.0, "max_box_acc_v2": 55.0},
        **{"f_measure": 0.5, "speed": 100.0},
    }
    assert row_of(table, "gwap-fused")["gt_known"] == 35.0
    assert set(row_of(table, "gap-class").values()) == {None}
    best = table.cells[table.cells["bold"]]
    assert list(best.loc[best["key"] == "gt_known", "id"]) == ["gwap-fused"]
    assert "speed" not in set(best["key"])  # speed is no contest


def test_another_data_set_has_its_own_table_and_columns(tmp_path: Path) -> None:
    make_run(tmp_path, "gap", [("class", METRICS | {"voc_map_11pt": 80.0, "px_ap": 60.0})], dataset="scenes")
    home, scenes = tables(tmp_path)
    assert home.title == "All methods on imagenet val"
    assert scenes.title == "All methods on scenes val (1,000 images)"
    assert set(scenes.cells["id"]) == {"gap-class"}
    assert [column.key for column in scenes.spec.columns][:1] == ["map"]
    assert "px_ap" in row_of(scenes, "gap-class")


def test_another_budget_is_left_out(tmp_path: Path) -> None:
    make_run(tmp_path, "gap", [("class", METRICS)], epochs=50)
    (table,) = tables(tmp_path)
    assert table.measured.empty


def test_the_mark_has_no_bold(tmp_path: Path) -> None:
    make_run(tmp_path, "gwap-gt", [("class", METRICS | {"gt_known_error": 1.0})])
    make_run(tmp_path, "gap", [("class", METRICS), ("dgl", METRICS | {"gt_known_error": 60.0})])
    (table,) = tables(tmp_path)
    first = table.cells[table.cells["key"] == table.spec.columns[0].key]
    assert set(first.loc[first["bold"], "id"]) == {"gap-class"}


@pytest.mark.parametrize("kind", FORMATS)
def test_no_format_speaks_of_a_paper(tmp_path: Path, kind: str) -> None:
    make_run(tmp_path, "gwap", [("weight", METRICS | {"top1_error": 30.125})])
    text = render_tables(tables(tmp_path), kind, commands=True)
    assert "30.1" in text
    if kind not in ("html", "json"):
        assert "paper" not in text.lower()
    if kind == "table":
        above_notes = text[: text.rindex("─")]
        assert max(map(len, above_notes.splitlines())) <= 80
        assert text.count("[k]") == 2  # one note for the whole row


def test_commands_train_and_evaluate(tmp_path: Path) -> None:
    (table,) = tables(tmp_path)
    commands = list(table.cells["command"])
    assert all(command.startswith("gwapctl train imagenet --recipe methods-") for command in commands)
    assert all("--box-rule otsu" in command for command in commands)
    assert sum("--layer network.blocks.4.2.conv_pwl" in command for command in commands) == len(SPEC.columns)


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_has_a_table_per_data_set(tmp_path: Path) -> None:
    spec = apply_profile(SPEC, load_profile("real"))
    assert "Nothing is measured yet" in write_methods.page(spec, measured_rows(tmp_path))
    asked = {key: value for key, value in spec.rows[0].instead.items() if key != "head"}
    make_run(tmp_path / "runs", "gap", [("class", METRICS | {"top1_error": 12.5})], calibrated="halves", **asked)
    make_run(tmp_path / "runs", "gwap", [("fused", METRICS)], calibrated="halves", dataset="scenes", **asked)
    (tmp_path / "runs" / "other").mkdir()
    Run.create(tmp_path / "runs" / "other", {"config": {"recipe": "voc-caffenet-gap"}}).update(status="finished")
    assert [run.name for run in write_methods.runs_of(spec, tmp_path / "runs")] == ["gap-imag", "gwap-scen"]
    record(measured_rows(tmp_path / "runs"), tmp_path / "results.csv")
    page = write_methods.page(spec, read_results(tmp_path / "results.csv"))
    assert "**All methods on imagenet val.**" in page
    assert "**All methods on scenes val (1,000 images).**" in page
    assert "| GAP | class | 12.50 |" in page
    assert str(tmp_path) not in page


def test_the_committed_page_is_what_the_command_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    spec = apply_profile(SPEC, load_profile("real"))
    assert write_methods.PAGE.read_text(encoding="utf-8") == write_methods.page(spec, read_results())
