"""The papers' tables filled: which measured number may stand where, and how each format prints it."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gwapctl.config import build_train_config
from gwapctl.errors import DataError, UsageError
from gwapctl.paper.build import BuiltTable, build_table
from gwapctl.paper.lookup import build_command, home_ground
from gwapctl.paper.measured import measured_rows, recipe_file
from gwapctl.paper.render import wrap_command
from gwapctl.paper.specification import TABLES, load_table, read_table, tables_folder
from gwapctl.paper.tables import build_tables, render_tables
from gwapctl.runs import Run

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a finished run with one evaluation per call; the same name again adds an evaluation."""

    def make(
        name: str,
        metrics: dict[str, float],
        *,
        dataset: str = "voc",
        split: str = "test",
        n: int = 4952,
        trained_on: str | None = None,
        recipe: str | None = "voc-caffenet-gap",
        settings: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        floors: dict[str, Any] | None = None,
        seed: int = 0,
        created: str = "2026-11-20T10:00:00+00:00",
        status: str = "finished",
        protocol: str = "paper",
        val_split: str = "0.1 of train, seed 0",
    ) -> Path:
        folder = tmp_path / "runs" / name
        file = None if recipe is None else recipe_file(recipe)
        config = build_train_config(trained_on or dataset, file, {**(settings or {}), "seed": seed})
        if not (folder / "run.json").is_file():
            data = {"name": trained_on or dataset, "val_split": val_split}
            stated = config.model_dump(mode="json") | {"dataset": (settings or {}).get("dataset", config.dataset)}
            Run.create(folder, {"config": stated, "dataset": data, "seed": seed, "device": "cpu"})
        run = Run.open(folder)
        run.update(status=status)
        where = {"dataset": dataset, "split": split, "protocol": protocol, "n": n}
        document = {"schema_version": 1, "model": name, **where, "metrics": metrics, "floors": floors or {}}
        run.save_evaluation({**document, "per_class": [], "options": options or {}, "created": created})
        return folder

    return make


def results_of(tmp_path: Path) -> pd.DataFrame:
    return measured_rows(tmp_path / "runs")


NO_ROWS = measured_rows(Path("nowhere"))


def cell(table: BuiltTable, row_id: str, column: int = 0) -> Any:
    return table.cells[table.cells["id"] == row_id].iloc[column]


def measured(table: BuiltTable, row_id: str, column: int = 0) -> float | None:
    value = cell(table, row_id, column)["value"]
    return None if pd.isna(value) else float(value)


def ids(cells: pd.DataFrame) -> list[str]:
    """Return the rows' ids, each once."""
    return list(cells.drop_duplicates("row")["id"])


def commands_of(table: BuiltTable) -> list[str]:
    return list(table.cells["command"].dropna())


DGL = {"map": "dgl", "box_rule": "paper20", "resize": "warp", "fuse": "mean", "scales": [324]}
BRANCHES = ["Mixed_6e.branch7x7_3", "Mixed_6e.branch7x7dbl_5"]
SPG = "imagenet-inception-v3-spg-gap"


def test_dgl_rows_need_their_layers_scales_and_closing_and_are_in_percent(make_run: MakeRun, tmp_path: Path) -> None:
    lid = {"dataset": "lid", "split": "val", "n": 23151, "trained_on": "imagenet", "recipe": SPG}
    floors = {"full_image": {"fg_iou": 0.3}, "centred_box": {"fg_iou": 0.4}}
    for value, options in (
        (0.5, {"layer": BRANCHES}),
        (0.6, {"layer": BRANCHES, "scales": [224, 324, 448]}),
        (0.7, {"layer": BRANCHES, "scales": [224, 324, 448], "close": 0.05}),
        (0.91, {"layer": BRANCHES[:1]}),
        (0.92, {"layer": BRANCHES, "fuse": "max"}),
        (0.93, {"layer": BRANCHES, "scales": [224, 324, 448], "close": 0.1}),
    ):
        make_run("spg", {"fg_iou": value}, options={**DGL, **options}, floors=floors, **lid)
    (table, *_) = build_table(load_table("dgl"), results_of(tmp_path))
    own, extra = table.cells[~table.cells["extra"]], table.cells[table.cells["extra"]]
    found = dict(zip(own["id"], own["value"], strict=True))
    assert found == pytest.approx({"dgl": 50, "dgl-multi-scale": 60, "dgl-multi-scale-close": 70})
    assert sorted(extra["value"]) == pytest.approx([91, 92, 93])
    markdown = render_tables([table], "markdown")
    assert "70.00" in markdown
    assert "30.00 (full image), 40.00 (centred box)" in markdown


@pytest.mark.parametrize(
    "extra",
    [
        {"guesses": "five"},
        {"guesses": "five", "tight": "fixed:0.5", "loose": "otsu"},
        {"crops": "none"},
        {"backprop_seg": "grabcut"},
        {"close": 0.05},
        {"beta": 5.0},
        {"box_rule": "cam-released+grabcut"},
    ],
)
def test_an_extra_never_stands_in_a_row_that_does_not_ask_for_it(
    make_run: MakeRun, tmp_path: Path, extra: dict[str, Any]
) -> None:
    common = {"dataset": "imagenet", "split": "val", "n": 50_000, "recipe": "released-googlenet-gap"}
    options = {"map": "class", "box_rule": "cam-released", "scales": [224], "resize": "warp", "crops": "ten"}
    make_run("g", {"top5_loc_error": 40.0}, options={**options, **extra}, **common)
    (table,) = build_table(load_table("cam"), results_of(tmp_path))
    assert measured(table, "googlenet-gap", column=1) is None
    assert table.cells["extra"].any()
    make_run("g", {"top5_loc_error": 43.0}, options=options, **common)
    (table,) = build_table(load_table("cam"), results_of(tmp_path))
    assert measured(table, "googlenet-gap", column=1) == 43
    assert measured(table, "googlenet-gap-heuristics", column=1) is None


def test_a_row_of_five_guesses_asks_for_its_thresholds(make_run: MakeRun, tmp_path: Path) -> None:
    options = {"map": "class", "box_rule": "cam-released", "scales": [224], "resize": "warp", "crops": "ten"}
    guesses = {"guesses": "five", "tight": "fixed:0.5", "loose": "fixed:0.2"}  # as `evaluate` writes them
    common = {"dataset": "imagenet", "split": "val", "n": 50_000, "recipe": "released-googlenet-gap"}
    make_run("g", {"top5_loc_error": 37.0}, options=options | guesses, **common)
    (table,) = build_table(load_table("cam"), results_of(tmp_path))
    assert measured(table, "googlenet-gap-heuristics", column=1) == 37
    assert measured(table, "googlenet-gap", column=1) is None
    row = next(row for row in load_table("cam").rows if row.id == "googlenet-gap-heuristics")
    command = build_command(
        load_table("cam"), row, load_table("cam").columns[1], home_ground(load_table("cam")), "r", tmp_path
    )
    assert command == (
        "gwapctl evaluate r --map class --box-rule cam-released --crops ten --guesses five --tight 0.5 --loose 0.2"
    )


# --- which number stands where --------------------------------------------------------------------------------------


def test_a_number_on_the_papers_data_stands_beside_the_papers(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("a", {"voc_map_11pt": 67.25})
    (table,) = build_table(load_table("i"), results_of(tmp_path))
    assert table.measured_on.home
    assert measured(table, "caffenet-gap") == 67.25
    assert ids(table.measured) == ["caffenet-gap"]


@pytest.mark.parametrize(
    "foreign",
    [
        {"dataset": "fruits-voc"},
        {"split": "val"},
        {"n": 10},
        {"trained_on": "voc07+12"},
        {"trained_on": "fruits-voc"},
        {"protocol": "wsoleval"},
        {"split": "held-out 0.1 of train, seed 0"},
        {"val_split": "test"},
        {"status": "interrupted"},
        {"settings": {"freeze_backbone": True}},
        {"settings": {"cam_conv": True}},
        {"settings": {"backbone": "resnet-s"}},
        {"settings": {"lr": 0.1}},
        {"recipe": None, "settings": {"backbone": "caffenet", "head": "gap"}},
    ],
    ids=str,
)
def test_any_other_number_never_stands_in_the_papers_rows(
    tmp_path: Path, make_run: MakeRun, foreign: dict[str, Any]
) -> None:
    make_run("a", {"voc_map_11pt": 12.34}, **foreign)
    home, *others = build_table(load_table("i"), results_of(tmp_path))
    assert home.measured["extra"].all()
    for other in others:
        assert not other.measured_on.home
        assert other.cells["paper"].isna().all()


def test_each_other_data_set_gets_a_table_that_carries_its_name(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("a", {"voc_map_11pt": 67.2})
    make_run("f", {"voc_map_11pt": 88.8}, dataset="fruits-voc", n=60)
    make_run("part", {"voc_map_11pt": 99.9}, n=10)
    home, fruits, part = build_table(load_table("i"), results_of(tmp_path))
    assert [table.title for table in (home, fruits, part)] == [
        "TABLE I",
        "TABLE I on fruits-voc test (60 images)",
        "TABLE I on voc test (10 images)",
    ]
    assert "Not comparable" in fruits.caption
    assert ids(fruits.cells) == ["caffenet-gap"]
    assert measured(fruits, "caffenet-gap") == 88.8
    for kind in ("table", "markdown", "latex", "html"):
        text = render_tables([fruits], kind)
        assert "fruits-voc test" in text
        assert "88.8" in text
        assert "68.6" not in text  # the paper's number for this row


@pytest.mark.parametrize("name", ["fruits-voc", "data/fruits-voc", "elsewhere/fruits-voc/"])
def test_dataset_asks_for_that_data_set_alone_with_all_rows(tmp_path: Path, make_run: MakeRun, name: str) -> None:
    make_run("a", {"voc_map_11pt": 67.2})
    make_run("f", {"voc_map_11pt": 88.8}, dataset="fruits-voc", n=60)
    (table,) = build_table(load_table("i"), results_of(tmp_path), dataset=name)
    assert table.measured_on.dataset == "fruits-voc"
    assert len(ids(table.cells)) == 10
    commands = commands_of(table)
    assert len(commands) == 9
    assert all(command.startswith(f"gwapctl train {name} ") for command in commands)


def test_a_folder_is_known_by_the_data_set_in_it(tmp_path: Path, make_run: MakeRun) -> None:
    settings = {"dataset": "data/tiny-imagenet-200", "backbone": "resnet-s", "head": "gwap"}
    more = {"split": "val", "n": 10_000, "recipe": None, "settings": settings}
    make_run("t", {"top1_error": 45.0}, dataset="tiny-imagenet", **more)
    (table,) = build_table(load_table("iii"), results_of(tmp_path), dataset="data/tiny-imagenet-200")
    assert table.measured_on.dataset == "tiny-imagenet"
    assert table.cells["labels"].iloc[-1] == ("resnet-s-gwap",)


def test_dataset_without_any_run_shows_what_to_run(tmp_path: Path) -> None:
    (table,) = build_table(load_table("ii"), NO_ROWS, dataset="cats")
    assert table.title == "TABLE II on cats"
    assert table.cells["paper"].isna().all()
    assert table.cells["command"].notna().all()


def test_other_networks_follow_as_rows_of_their_own(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("a", {"voc_map_11pt": 77.7}, recipe=None, settings={"backbone": "resnet50", "head": "gwap"})
    (table,) = build_table(load_table("i"), results_of(tmp_path))
    (extra,) = table.cells[table.cells["extra"]].to_dict("records")
    assert len(ids(table.cells)) == 10 + 1
    assert extra["labels"] == ("gwap", "resnet50")
    assert pd.isna(extra["paper"])
    assert extra["value"] == 77.7


def test_a_recipe_with_another_network_is_a_row_of_its_own_that_says_so(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("f", {"voc_map_11pt": 88.8}, dataset="fruits-voc", n=60, settings={"backbone": "resnet-s"})
    _, fruits = build_table(load_table("i"), results_of(tmp_path))
    assert list(fruits.cells["labels"]) == [("gap", "resnet-s")]
    text = " ".join(render_tables([fruits], "table").split())
    assert "departs from recipe voc-caffenet-gap: backbone resnet-s (caffenet)" in text


# --- evaluation options, seeds, experiments -------------------------------------------------------------------------

IMAGENET = {"dataset": "imagenet", "split": "val", "n": 50_000}
GOOGLENET_GWAP = "imagenet-googlenet-gwap"
SINGLE = {"map": "weight", "scales": [224], "box_rule": "paper20", "resize": "warp"}


@pytest.mark.parametrize(
    ("options", "row"),
    [
        (SINGLE, "googlenet-gwap"),
        ({**SINGLE, "scales": [224, 448, 672]}, "googlenet-gwap-multi-scale"),
        ({**SINGLE, "scales": [224, 448]}, None),
        ({**SINGLE, "scales": [448]}, None),
        ({**SINGLE, "map": "class"}, None),
        ({**SINGLE, "box_rule": "otsu"}, None),
        ({**SINGLE, "flip": True}, None),
        ({**SINGLE, "resize": "keep"}, None),
    ],
    ids=str,
)
def test_table_iv_places_a_number_by_its_evaluation_options(
    tmp_path: Path, make_run: MakeRun, options: dict[str, Any], row: str | None
) -> None:
    make_run("g", {"top1_loc_error": 55.5}, options=options, recipe=GOOGLENET_GWAP, **IMAGENET)
    (table,) = build_table(load_table("iv"), results_of(tmp_path))
    found = table.measured
    assert ids(found[~found["extra"]]) == ([] if row is None else [row])
    assert table.cells["extra"].sum() == (1 if row is None else 0)


def test_both_counts_of_the_blacklist_are_the_papers_data(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("g", {"top1_loc_error": 55.5}, options=SINGLE, recipe=GOOGLENET_GWAP, **{**IMAGENET, "n": 48_238})
    (table,) = build_table(load_table("iv"), results_of(tmp_path))
    assert measured(table, "googlenet-gwap") == 55.5


def test_seeds_of_one_experiment_give_mean_and_sample_deviation(tmp_path: Path, make_run: MakeRun) -> None:
    for seed, value in enumerate([70.0, 71.0, 75.0]):
        make_run(f"a{seed}", {"voc_map_11pt": value}, seed=seed, recipe="voc-caffenet-gwap")
    make_run("a2", {"voc_map_11pt": 10.0}, options={"map": "class"}, created="2026-11-19T10:00:00+00:00")  # older
    (table,) = build_table(load_table("i"), results_of(tmp_path))
    found = cell(table, "caffenet-gwap")
    assert found["value"] == pytest.approx(72.0)
    assert found["sd"] == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2
    assert [source["seed"] for source in found["sources"]] == [0, 1, 2]
    assert "72.0 ± 2.6" in render_tables([table], "table")
    assert "seeds 0 to 2, 2026-11-20" in render_tables([table], "markdown")


def test_two_experiments_are_not_averaged(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("long", {"voc_map_11pt": 70.0})
    newer = "2026-11-21T10:00:00+00:00"
    make_run("short", {"voc_map_11pt": 20.0}, settings={"iterations": 20}, seed=1, created=newer)
    (table,) = build_table(load_table("i"), results_of(tmp_path))
    assert measured(table, "caffenet-gap") == 70.0
    assert measured(table, f"run:{tmp_path / 'runs' / 'short'}") == 20.0  # never in the paper's row
    text = " ".join(render_tables([table], "table").split())
    assert "iterations 20 (60000)" in text  # and its departure from the recipe is said


def test_of_one_seed_the_newest_run_counts(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("first", {"voc_map_11pt": 70.0})
    make_run("again", {"voc_map_11pt": 69.0}, created="2026-11-21T10:00:00+00:00")
    (table,) = build_table(load_table("i"), results_of(tmp_path))
    assert measured(table, "caffenet-gap") == 69.0
    assert not table.cells["extra"].any()


def test_ones_own_runs_go_before_what_ships(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("own", {"voc_map_11pt": 70.0})
    own = results_of(tmp_path)
    ours = own.assign(run="ours", seed=1, shipped=True, voc_map_11pt=60.0)
    (table,) = build_table(load_table("i"), pd.concat([own, ours], ignore_index=True))
    assert measured(table, "caffenet-gap") == 70.0
    (table,) = build_table(load_table("i"), ours)
    assert measured(table, "caffenet-gap") == 60.0
    assert "--no-shipped" in render_tables([table], "table")


def test_the_best_measured_of_each_network_is_bold_but_never_the_upper_bound(tmp_path: Path, make_run: MakeRun) -> None:
    for head, value in [("gap", 60.0), ("gwap", 62.0), ("gwap-gt", 70.0)]:
        make_run(head, {"voc_map_11pt": value}, recipe=f"voc-caffenet-{head}")
    make_run("alone", {"voc_map_11pt": 80.0}, recipe="voc-googlenet-gap")
    (table,) = build_table(load_table("i"), results_of(tmp_path))
    assert ids(table.cells[table.cells["bold"]]) == ["caffenet-gwap"]


def test_lower_is_better_for_errors(tmp_path: Path, make_run: MakeRun) -> None:
    for backbone, value in [("vgg16", 33.0), ("googlenet", 36.0)]:
        metrics = {"top1_error": value, "top5_error": value / 3}
        make_run(backbone, metrics, recipe=f"released-{backbone}-gap", options={"crops": "centre"}, **IMAGENET)
    (table,) = build_table(load_table("iii"), results_of(tmp_path))
    assert ids(table.cells[table.cells["bold"]]) == ["vgg16-gap"]


def test_table_v_has_one_training_per_proportion(tmp_path: Path, make_run: MakeRun) -> None:
    recipe = "voc-resnet50-rfcn-gwap"
    for part, value in [(0.01, 40.0), (0.1, 63.0)]:
        settings = {"box_proportion": part}
        make_run(f"v{part}", {"det_map_11pt": value}, trained_on="voc07+12", recipe=recipe, settings=settings)
    (table,) = build_table(load_table("v"), results_of(tmp_path))
    assert [measured(table, "rfcn-gwap", column) for column in range(4)] == [40.0, None, None, 63.0]
    assert not table.cells["extra"].any()
    command = cell(table, "rfcn-gwap", 1)["command"]
    assert "--box-proportion 0.02" in command
    assert command.endswith("--dataset voc")


# --- commands of empty cells ----------------------------------------------------------------------------------------


def test_every_cell_is_filled_or_says_how(tmp_path: Path) -> None:
    for name in TABLES:
        (table,) = build_table(load_table(name), NO_ROWS, runs=tmp_path / "my runs")
        assert (table.cells["command"].isna() == table.cells["quoted"].notna()).all()
        for command in commands_of(table):
            assert re.match(r"gwapctl train .+ --out '.+' && gwapctl evaluate '.+'", command)


def test_where_the_training_exists_only_the_evaluation_is_missing(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run("g", {"top1_loc_error": 55.5}, options=SINGLE, recipe=GOOGLENET_GWAP, **IMAGENET)
    (table,) = build_table(load_table("iv"), results_of(tmp_path))
    command = cell(table, "googlenet-gwap-multi-scale")["command"]
    assert command == f"gwapctl evaluate {folder} --map weight --scales 224,448,672 --box-rule paper20"


def test_commands_are_wrapped_so_that_they_can_be_pasted() -> None:
    command = "gwapctl train voc --backbone caffenet --head gap --out runs/a && gwapctl evaluate runs/a --map weight"
    lines = wrap_command(command, 40, "    ")
    assert max(map(len, lines)) <= 40
    assert len(lines) > 2
    assert " ".join("\n".join(lines).replace("\\\n", "").split()) == command


# --- formats --------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> list[BuiltTable]:
    """Table II with one measured row at home, and one on another data set whose name wants escaping."""
    monkeypatch.chdir(tmp_path)
    options = {"map": "class", "scales": [600]}
    floors = {"full_image": {"f_measure": 0.25}, "centred_box": {"f_measure": 0.3}}
    make_run("a_1", {"f_measure": 0.33333}, options=options, floors=floors)
    make_run("b", {"f_measure": 0.5}, dataset="odd_set&<b>", n=1, options=options)
    return build_tables("ii")


def test_one_line_names_what_fills_all_empty_cells(filled: list[BuiltTable]) -> None:
    text = render_tables(filled, "table")
    assert "7 empty cells: `gwapctl reproduce ii` fills them." in text
    assert "gwapctl train" not in text
    assert render_tables(filled, "table", commands=True).count("empty; to fill it:") == 7


def test_text_fits_80_columns_and_shows_provenance(filled: list[BuiltTable]) -> None:
    text = render_tables(filled, "table", commands=True)
    assert max(map(len, text.splitlines())) <= 80
    gap, gwap = (next(line for line in text.splitlines() if line.startswith(name)) for name in ("GAP  ", "GWAP  "))
    assert gap.split() == ["GAP", "C", "0.3517", "0.3333", "[a]"]
    assert gwap.split() == ["GWAP", "C", "0.5060*", "–", "[d]"]
    assert gap.index("0.3517") == gwap.index("0.5060")  # digits below digits
    assert gap.index("[a]") == gwap.index("[d]")
    assert "[a] runs/a_1; voc test, n = 4,952, seed 0, 2026-11-20" in text
    assert "Floors: 0.2500 (full image), 0.3000 (centred box)." in text
    assert "TABLE II on odd_set&<b> test (1 image)." in text


@pytest.mark.parametrize("name", TABLES)
def test_tables_fit_80_columns(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no runs are
    for commands in (True, False):
        lines = render_tables(build_tables(name, shipped=True), "table", commands=commands).splitlines()
        assert max(map(len, lines)) <= 80


def test_markdown(filled: list[BuiltTable]) -> None:
    lines = render_tables(filled, "markdown", commands=True).splitlines()
    assert lines[2] == "| method | net | F-measure (paper) | F-measure (measured) |"
    assert lines[3] == "| :--- | :--- | ---: | ---: |"
    assert lines[4] == "| GAP | C | 0.3517 | 0.3333 [a] |"
    assert lines[7] == "| GWAP | C | **0.5060** | – [d] |"
    assert "- [a] runs/a\\_1; voc test, n = 4,952, seed 0, 2026-11-20" in "\n".join(lines)
    assert "**TABLE II on odd\\_set&\\<b\\> test (1 image).**" in "\n".join(lines)
    rows = [line for line in lines if line.startswith("|")]
    assert {line.count(" | ") for line in rows[:10]} == {3}


def test_latex(filled: list[BuiltTable]) -> None:
    text = render_tables(filled, "latex", commands=True)
    assert "\\begin{tabular}{llrr}\n\\toprule\nmethod & net & \\multicolumn{2}{c}{F-measure} \\\\\n" in text
    assert "\\cmidrule(lr){3-4}\n &  & paper & measured \\\\\n\\midrule\n" in text
    assert "GAP & C & 0.3517 & 0.3333\\textsuperscript{a} \\\\" in text
    assert "GWAP w/o $\\sigma$ & C & 0.1344 & -- \\\\" in text
    assert "GWAP & C & \\textbf{0.5060} & -- \\\\" in text
    assert "\\caption{ATTENTION EFFECTIVENESS ON THE VOC 2007 TEST SET (C: CAFFENET" in text
    assert "odd\\_set\\&\\textless{}b\\textgreater{} test (1 image)" in text
    assert "runs/a\\_1; voc test" in text
    assert re.findall(r"\\label\{(.+?)\}", text) == ["tab:ii", "tab:ii-odd-set--b--test--1-image-"]
    assert text.count("\\begin{") == text.count("\\end{") == 4
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%#_~^]", code.replace("\\label", "").replace("tab:", ""))
    assert "% empty; to fill it: gwapctl train voc" in text


def test_csv_has_one_line_per_number(filled: list[BuiltTable]) -> None:
    rows = list(csv.DictReader(io.StringIO(render_tables(filled, "csv"))))
    assert len(rows) == 8 + 1 + 7 + 1
    paper, ours, empty = rows[0], rows[1], rows[3]
    assert (paper["kind"], paper["value"], paper["dataset"], paper["runs"]) == ("paper", "0.3517", "voc", "")
    assert (ours["kind"], ours["value"], ours["n"], ours["seeds"]) == ("measured", "0.33333", "4952", "0")
    assert (ours["runs"], ours["date"], ours["split"]) == ("runs/a_1", "2026-11-20", "test")
    assert empty["value"] == ""
    assert empty["command"].startswith("gwapctl train voc")
    assert rows[-1]["dataset"] == "odd_set&<b>"
    assert {row["kind"] for row in rows if row["dataset"] != "voc"} == {"measured"}


def test_json_says_of_every_number_whose_it_is(filled: list[BuiltTable]) -> None:
    document = json.loads(render_tables(filled, "json"))
    assert document["schema_version"] == 1
    home, other = document["tables"]
    assert (home["table"], home["paper_dataset"], other["paper_dataset"]) == ("ii", True, False)
    paper, ours = home["rows"][0]["cells"]
    assert paper["kind"] == "paper"
    assert paper["value"] == 0.3517
    assert ours["value"] == 0.33333
    source = {"run": "runs/a_1", "seed": 0, "date": "2026-11-20", "value": 0.33333, "options": "0569e1e65346"}
    assert (ours["dataset"], ours["split"], ours["n"], ours["runs"]) == ("voc", "test", 4952, [source])
    kinds = [cell["kind"] for row in other["rows"] for cell in row["cells"]]
    assert kinds == ["measured"]


# --- bad input ------------------------------------------------------------------------------------------------------


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(UsageError, match=r"unknown table 'vi'.*cam, .*i, ii"):
        build_tables("vi")
    with pytest.raises(UsageError, match="unknown format 'xml'"):
        render_tables([], "xml")


def test_a_missing_runs_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere' is not a folder"):
        build_tables("i", runs=tmp_path / "nowhere")


def test_a_broken_evaluation_names_its_run(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run("a", {"voc_map_11pt": 67.2})
    (file,) = (folder / "evaluations").iterdir()
    file.write_text('{"dataset": "voc"}')
    with pytest.raises(DataError, match=r"a/evaluations holds a broken evaluation.*gwapctl evaluate"):
        results_of(tmp_path)


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (('metric = "voc_map_11pt"', 'metrik = "x"'), "metrik"),
        (("paper = { map = 68.6 }", "paper = { mop = 68.6 }"), "column that the table does not have"),
        (('id = "caffenet-gwap-gt"', 'id = "caffenet-gap"'), "same id"),
        (('recipe = "voc-caffenet-gap"', ""), "either a recipe or a reason"),
        (('labels = ["GAP", "C"]', 'labels = ["GAP"]'), "1 labels for 2 columns"),
        (("[[rows]]", "[[rows"), "is not valid TOML"),
    ],
)
def test_a_broken_specification_is_refused(tmp_path: Path, change: tuple[str, str], mistake: str) -> None:
    text = (tables_folder() / "i.toml").read_text(encoding="utf-8")
    file = tmp_path / "i.toml"
    file.write_text(text.replace(*change, 1), encoding="utf-8")
    with pytest.raises(DataError, match=mistake):
        read_table(file)


def test_tables_in_every_format_need_no_torch() -> None:
    code = (
        "import sys; from gwapctl.paper.tables import FORMATS, build_tables, render_tables; "
        "tables = build_tables('all'); [render_tables(tables, kind) for kind in FORMATS]; "
        "print(sorted({'torch', 'cv2', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
