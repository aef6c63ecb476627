"""Measured rows: of run folders and of ``models/results.csv``, one kind of row; and the hash of a run's settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gwapctl.config import build_train_config
from gwapctl.errors import DataError
from gwapctl.metrics.replicates import encode
from gwapctl.networks.zoo import zoo_folder
from gwapctl.paper.measured import (
    COLUMNS,
    changed_settings,
    measured_rows,
    read_results,
    recipe_file,
    record,
    settings_hash,
)
from gwapctl.paper.replicates import ReplicatesOnFile, options_hash, replicates_file
from gwapctl.paper.specification import Column
from gwapctl.runs import Run

RECIPE = recipe_file("voc-caffenet-gap")


def make_run(folder: Path, **more: Any) -> Path:
    """Make a finished run whose documents name a machine."""
    config = build_train_config("/home/somebody/data/fruits", RECIPE, {"weights": "/home/somebody/w.safetensors"})
    data = {"name": "fruits", "root": "/home/somebody/data/fruits", "fingerprint": "abc", "val_split": "val"}
    document = {"config": config.model_dump(mode="json"), "dataset": data, "seed": 2, "device": "NVIDIA of somebody"}
    run = Run.create(folder, document)
    where = {"dataset": "fruits", "split": "test", "protocol": "paper", "n": 60, "n_degenerate": 1}
    evaluation = {
        **{"schema_version": 1, "model": "/home/somebody/runs/a", **where},
        **{"metrics": {"f_measure": 0.1 + 0.2, "px_ap": None}, "options": {"map": "weight", "scales": [600, 900]}},
        **{"floors": {"full_image": {"f_measure": 0.25}}, "created": "2026-01-01T00:00:00+00:00", "per_class": [{}]},
    }
    run.save_evaluation({**evaluation, **more})
    run.save_evaluation({**evaluation, "split": "val"})  # on which the run's weights were chosen
    run.update(status="finished")
    return folder


def test_recorded_rows_are_the_runs_rows_and_name_no_machine(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    Run.create(tmp_path / "runs" / "half", {"config": {}, "dataset": {}, "seed": 1})
    file = tmp_path / "results.csv"
    own = measured_rows(tmp_path / "runs")
    record(own, file)
    assert "somebody" not in file.read_text(encoding="utf-8")
    (row,) = read_results(file).to_dict("records")
    assert (row["run"], row["recipe"], row["source"], row["trained_on"]) == (
        "a",
        "voc-caffenet-gap",
        "fruits",
        "fruits",
    )
    assert (row["seed"], row["n"], row["n_degenerate"], row["fingerprint"]) == (2, 60, 1, "abc")
    assert row["f_measure"] == 0.1 + 0.2  # to the last digit
    assert row["options"] == {"map": "weight", "scales": [600, 900]}
    assert row["floors"] == {"full_image": {"f_measure": 0.25}}
    assert row["changed"]["weights"] == "w.safetensors"
    assert row["settings"] == own["settings"].iloc[0]
    assert own["run"].iloc[0] == str(tmp_path / "runs" / "a")


def test_recording_again_replaces_and_keeps_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    for name, value in (("b", 0.5), ("a", 0.25), ("b", 0.75)):
        folder = make_run(tmp_path / name / name, metrics={"f_measure": value})
        record(measured_rows(folder), file)
    rows = read_results(file)
    assert dict(zip(rows["run"], rows["f_measure"], strict=True)) == {"a": 0.25, "b": 0.75}
    text = file.read_text(encoding="utf-8")
    record(measured_rows(tmp_path / "nowhere"), file)
    assert file.read_text(encoding="utf-8") == text


def test_the_command_records_and_says_how_many(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    make_run(tmp_path / "runs" / "a")
    file = tmp_path / "mine.csv"
    done = run_cli("report", "--runs", tmp_path / "runs", "--record", file)
    assert done.code == 0, done.stderr
    assert "recorded 1 evaluation of 1 run" in done.stderr
    assert len(read_results(file)) == 1
    assert run_cli("report", "--table", "i", "--record", file).code == 2
    missing = run_cli("report", "--runs", tmp_path / "nowhere", "--record", file)
    assert missing.code == 2
    assert "nowhere is not a folder" in missing.stderr


def test_replicates_lie_beside_the_results_and_are_found_again(tmp_path: Path) -> None:
    """A floor that no model changes is kept once; the mean over some classes is made of theirs."""
    folder, file = tmp_path / "runs", tmp_path / "results.csv"
    deviations = {"cat": np.array([1.0, -1.0]), "dog": np.array([3.0, 0.0])}
    texts = {name: {"ap_11pt": encode(one, 0.0)} for name, one in deviations.items()}
    text = encode(np.array([0.5, -0.25]), 0.0)
    found = {"metrics": {"f_measure": text}, "per_class": texts}
    found["floors"] = {"full_image": {"f_measure": text, "top1_loc_error": text}}
    rows = [{"class": "cat", "ap_11pt": 70.0}, {"class": "dog", "ap_11pt": 80.0}]
    make_run(folder / "a", replicates=found, per_class=rows)
    make_run(folder / "b", replicates=found)
    measured = measured_rows(folder)
    record(measured, file)
    assert read_results(file)["per_class"].tolist() == [{"ap_11pt": {"cat": 70.0, "dog": 80.0}}, {}]
    written = replicates_file(file).read_text(encoding="utf-8")
    assert replicates_file(file) == tmp_path / "results-replicates.csv"
    assert len(written.splitlines()) == 1 + 2 * (1 + 2 + 1) + 1
    record(measured.iloc[:1], file)
    assert replicates_file(file).read_text(encoding="utf-8") == written
    row = measured.iloc[0]
    key = ("a", row["dataset"], row["split"], row["protocol"], options_hash(row["options"]))
    there = ReplicatesOnFile(replicates_file(file))
    assert there.find(key, "f_measure") == pytest.approx([0.5, -0.25], abs=0.01)
    assert there.find(key, "floors/full_image/f_measure") == pytest.approx([0.5, -0.25], abs=0.01)
    assert there.find(key, "px_ap") is None
    assert there.mean_of_classes(key, "voc_map_11pt", ("cat", "dog")) == pytest.approx([2.0, -0.5], abs=0.03)
    assert there.mean_of_classes(key, "voc_map_11pt", ("cat", "cow")) is None
    column = Column(key="a", name="a", metric="voc_map_11pt", decimals=1, classes=("cat", "dog"))
    assert column.value(row.to_dict()) == 75
    with pytest.raises(ValueError, match="no mean over classes"):
        Column(key="a", name="a", metric="f_measure", decimals=1, classes=("cat",))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    file.write_text("run,changed\na,{}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot read the results in .*results\.csv"):
        read_results(file)
    assert read_results(tmp_path / "none.csv").empty


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"seed": 7}, True),
        ({"precision": "fp32"}, True),
        ({"lr": 0.1}, False),
        ({"head": "gwap"}, False),
        ({"iterations": 20}, False),
    ],
    ids=str,
)
def test_the_hash_is_that_of_the_network(settings: dict[str, Any], same: bool) -> None:
    usual = build_train_config("data/fruits", RECIPE, {})
    other = build_train_config("/elsewhere/fruits", RECIPE, settings)
    assert (settings_hash(other) == settings_hash(usual)) == same
    assert changed_settings(usual) == {}
    assert changed_settings(other).keys() - settings.keys() <= {"map", "epochs"}


# --- what ships -----------------------------------------------------------------------------------------------------


def test_every_shipped_row_can_be_trained_again() -> None:
    rows = read_results()
    assert len(rows) > 250
    for row in rows.to_dict("records"):
        config = build_train_config(row["source"], recipe_file(row["recipe"]), row["changed"])
        assert settings_hash(config) == row["settings"], row["run"]
        assert (config.backbone, config.method) == (row["backbone"], row["method"])


def test_the_shipped_file_is_in_order_and_names_no_machine(tmp_path: Path) -> None:
    text = (zoo_folder() / "results.csv").read_text(encoding="utf-8")
    assert not re.search(r'"(/|[A-Za-z]:\\)', text)
    assert len(text) < 3_000 * len(text.splitlines())  # it ships
    columns = text.splitlines()[0].split(",")
    assert columns[: len(COLUMNS)] == [*COLUMNS]
    assert columns[len(COLUMNS) :] == sorted(columns[len(COLUMNS) :])
    copy = tmp_path / "copy.csv"
    copy.write_text(text, encoding="utf-8")
    record(measured_rows(tmp_path / "nowhere"), copy)
    assert copy.read_text(encoding="utf-8") == text


def test_report_prints_them_below_the_papers_table(
    tmp_path: Path, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a fresh clone has no runs
    paper, *ours = json.loads(run_cli("report", "--table", "ii", "--format", "json").stdout)["tables"]
    kinds = [cell["kind"] for table in ours for row in table["rows"] for cell in row["cells"]]
    assert {table["profile"] for table in ours} == {"real"}
    assert set(kinds) == {"measured"}
    assert not any(table["paper_dataset"] for table in ours)
    empty = [cell["value"] for row in paper["rows"] for cell in row["cells"] if cell["kind"] == "measured"]
    assert empty == [None] * 8
    (alone,) = json.loads(run_cli("report", "--table", "ii", "--no-shipped", "--format", "json").stdout)["tables"]
    assert alone == paper
    text = run_cli("report", "--table", "ii").stdout
    assert text.index("8 empty cells: `gwapctl reproduce ii` fills them.") < text.index("Stand-in for TABLE II on")
    assert "--no-shipped" in " ".join(text.split())


def test_rows_of_files_and_folders_go_together(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    both = pd.concat([measured_rows(tmp_path), read_results()], ignore_index=True)
    assert both["shipped"].value_counts().to_dict() == {True: len(read_results()), False: 1}


def test_an_asked_data_set_has_every_row_and_what_ships(
    tmp_path: Path, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("report", "--table", "ii", "--dataset", "cub", "--format", "json")
    empty, ours = json.loads(run_cli(*asked).stdout)["tables"]
    assert [table["profile"] for table in (empty, ours)] == ["paper", "real"]
    values = [[cell["value"] is not None for row in table["rows"] for cell in row["cells"]] for table in (empty, ours)]
    assert values == [[False] * 8, [True] * 5]
