"""The papers' tables: every number, row, column and caption against a list typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gwapctl.paper.build import build_table
from gwapctl.paper.lookup import cell_config
from gwapctl.paper.measured import measured_rows
from gwapctl.paper.specification import TABLES, load_table, table_names, tables_folder
from gwapctl.paper.tables import FORMATS, build_tables, render_tables

# typed from the papers, independently of models/tables; None: the paper prints nothing there
PAPER: dict[str, list[tuple[tuple[str, ...], list[float | None]]]] = {
    "i": [
        (("GAP", "C"), [68.6]),
        (("GWAP w/o σ", "C"), [57.7]),
        (("GWAP w/o exp", "C"), [68.4]),
        (("GWAP", "C"), [70.4]),
        (("GWAP-gt", "C"), [73.7]),
        (("GAP", "G"), [84.7]),
        (("GWAP w/o σ", "G"), [81.5]),
        (("GWAP w/o exp", "G"), [83.7]),
        (("GWAP", "G"), [85.1]),
        (("GWAP-gt", "G"), [86.5]),
    ],
    "ii": [
        (("GAP", "C"), [0.3517]),
        (("GWAP w/o σ", "C"), [0.1344]),
        (("GWAP w/o exp", "C"), [0.3611]),
        (("GWAP", "C"), [0.5060]),
        (("GAP", "G"), [0.4164]),
        (("GWAP w/o σ", "G"), [0.1905]),
        (("GWAP w/o exp", "G"), [0.4577]),
        (("GWAP", "G"), [0.5450]),
    ],
    "iii": [
        (("VGGnet-GAP [6]",), [33.4, 12.2]),
        (("GoogLeNet-GAP [6]",), [35.0, 13.2]),
        (("AlexNet*-GAP [6]",), [44.9, 20.9]),
        (("AlexNet-GAP [6]",), [51.1, 26.3]),
        (("GoogLeNet [6]",), [31.9, 11.3]),
        (("VGGnet [6]",), [31.2, 11.4]),
        (("AlexNet [6]",), [42.6, 19.5]),
        (("NIN [6]",), [41.9, 19.6]),
        (("GoogLeNet-GMP [6]",), [35.6, 13.9]),
        (("GoogLeNet-GWAP",), [31.8, 11.3]),
    ],
    "iv": [
        (("GoogLeNet-GAP [6]",), [56.40]),
        (("VGGnet-GAP [6]",), [57.20]),
        (("GoogLeNet [6]",), [60.09]),
        (("AlexNet*-GAP [6]",), [63.75]),
        (("AlexNet-GAP [6]",), [67.19]),
        (("NIN [6]",), [65.47]),
        (("Backprop on GoogLeNet [6]",), [61.31]),
        (("Backprop on VGGnet [6]",), [61.12]),
        (("Backprop on AlexNet [6]",), [65.17]),
        (("GoogLeNet-GMP [6]",), [57.78]),
        (("GoogLeNet-GWAP",), [54.99]),
        (("GoogLeNet-GWAP (multi-scale)",), [54.09]),
    ],
    "v": [
        (("R-FCN",), [29.89, 40.25, 53.24, 61.05]),
        (("R-FCN + GAP",), [39.10, 45.85, 57.36, 62.32]),
        (("R-FCN + GWAP (ours)",), [39.86, 47.53, 57.34, 63.17]),
        (("R-FCN + GWAP + GAP (ours)",), [40.24, 47.20, 57.48, 62.55]),
    ],
    "cam": [
        (("GoogLeNet-GAP",), [56.40, 43.00, 42.9]),
        (("GoogLeNet-GAP (heuristics)",), [None, None, 37.1]),
        (("VGGnet-GAP",), [57.20, 45.14, None]),
        (("GoogLeNet",), [60.09, 49.34, None]),
        (("AlexNet*-GAP",), [63.75, 49.53, None]),
        (("AlexNet-GAP",), [67.19, 52.16, None]),
        (("NIN",), [65.47, 54.19, None]),
        (("Backprop on GoogLeNet",), [61.31, 50.55, None]),
        (("Backprop on VGGnet",), [61.12, 51.46, None]),
        (("Backprop on AlexNet",), [65.17, 52.64, None]),
        (("GoogLeNet-GMP",), [57.78, 45.26, None]),
        (("Backprop",), [None, None, 46.4]),
        (("GoogLeNet (fully supervised)",), [None, None, 26.7]),
        (("OverFeat (fully supervised)",), [None, None, 29.9]),
        (("AlexNet (fully supervised)",), [None, None, 34.2]),
    ],
    "dgl": [(("✘", "✘"), [58.23]), (("✔", "✘"), [61.46]), (("✔", "✔"), [62.22])],
    "background": [
        (("Background images (Kou et al.)", "not known"), [None, None]),
        (("CSoA (same authors, later)", "not known"), [37.69, None]),
        (("CAM", "VGG16"), [55.8, 47.8]),
        (("CAM", "GoogLeNet"), [58.9, 49.3]),
        (("CAM, same budget", "InceptionV3"), [None, None]),
        (("Background images (ours, after Kou et al.)", "InceptionV3"), [None, None]),
    ],
    "background-ilsvrc": [
        (("Background images (Kou et al.)", "not known"), [None, None]),
        (("CSoA (same authors, later)", "not known"), [48.81, None]),
        (("CAM", "VGG16"), [57.2, 45.1]),
        (("CAM", "InceptionV3"), [53.7, 41.8]),
        (("CAM", "GoogLeNet"), [56.4, 43.0]),
        (("CAM, same budget", "InceptionV3"), [None, None]),
        (("Background images (ours, after Kou et al.)", "InceptionV3"), [None, None]),
    ],
}
COLUMNS = {
    "i": (["method", "net"], ["mAP"]),
    "ii": (["method", "net"], ["F-measure"]),
    "iii": (["Networks"], ["top-1 val. error", "top-5 val. error"]),
    "iv": (["Networks"], ["top-1 val. error"]),
    "v": (["Method \\ Proportion"], ["0.01", "0.02", "0.05", "0.1"]),
    "cam": (["Method"], ["top-1 val. error", "top-5 val. error", "top-5 test error"]),
    "dgl": (["MS", "MC"], ["mIoU"]),
    "background": (["Method", "Network"], ["top-1 loc. error", "top-5 loc. error"]),
    "background-ilsvrc": (["Method", "Network"], ["top-1 loc. error", "top-5 loc. error"]),
}
NUMBERS = {
    "cam": "CAM TABLE",
    "dgl": "DGL TABLE",
    "background": "BACKGROUND TABLE",
    "background-ilsvrc": "BACKGROUND TABLE (ILSVRC)",
}
CAPTIONS = {
    "i": "VOC 2007 TEST CLASSIFICATION AVERAGE PRECISION (%) OF THE ABLATION EXPERIMENTS (C: CAFFENET, G: GOOGLENET, "
    "W/O: WITHOUT, σ: SIGMOID FUNCTION, exp EXPONENTIATE OPERATION, -GT: USING GROUND TRUTH ATTENTION MAP).",
    "ii": "ATTENTION EFFECTIVENESS ON THE VOC 2007 TEST SET (C: CAFFENET, G: GOOGLENET, W/O: WITHOUT, σ: SIGMOID "
    "FUNCTION, exp EXPONENTIATE OPERATION).",
    "iii": "CLASSIFICATION ERROR ON THE ILSVRC VALIDATION SET. (%)",
    "iv": "LOCALIZATION ERROR ON THE ILSVRC VALIDATION SET. (%)",
    "v": "COMPARISONS ON PASCAL VOC 2007 TEST SET WITH DIFFERENT PROPORTIONS OF IMAGES THAT HAVE GROUND TRUTH BOUNDING "
    "BOXES. (mAP(%))",
    "cam": "LOCALIZATION ERROR ON THE ILSVRC VALIDATION AND TEST SETS OF THE CAM PAPER (%).",
    "dgl": "Results on the Validation Set of LID (MS: Multi-scale inputs during test, MC: Morph close the localization "
    "map during test).",
    "background": "TOP-1 AND TOP-5 LOCALIZATION ERROR ON THE CUB-200-2011 TEST SET (%).",
    "background-ilsvrc": "TOP-1 AND TOP-5 LOCALIZATION ERROR ON THE ILSVRC VALIDATION SET (%).",
}
BOLD = {
    "i": {("caffenet-gwap", "map"), ("googlenet-gwap", "map")},
    "ii": {("caffenet-gwap", "f"), ("googlenet-gwap", "f")},
    "iii": {("googlenet-gwap", "top1"), ("googlenet-gwap", "top5")},
    "iv": {("googlenet-gwap", "top1"), ("googlenet-gwap-multi-scale", "top1")},
    "v": {("rfcn-gwap", "0.02"), ("rfcn-gwap", "0.1"), ("rfcn-gwap-gap", "0.01"), ("rfcn-gwap-gap", "0.05")},
    "cam": set(),
    "dgl": set(),
    "background": set(),
    "background-ilsvrc": set(),
}

BESIDE = {f"{network}-backprop-grabcut" for network in ("googlenet", "vgg16", "alexnet")}  # ours, in IV and CAM's
OURS = {name for name in TABLES if not load_table(name).of_a_paper}  # tables of our own, without a paper's numbers


@pytest.mark.parametrize("name", PAPER)
def test_every_number_row_column_and_caption_is_the_papers(name: str) -> None:
    (table,) = build_table(load_table(name), measured_rows(Path("nowhere")))
    rows = [cells for _, cells in table.cells.groupby("row") if cells["id"].iloc[0] not in BESIDE]
    paper = [(cells["labels"].iloc[0], [None if n != n else n for n in cells["paper"]]) for cells in rows]
    assert paper == PAPER[name]
    labels, columns = COLUMNS[name]
    assert list(table.spec.label_columns) == labels
    assert [column.name for column in table.spec.columns] == columns
    assert table.caption == CAPTIONS[name]
    assert table.spec.number == NUMBERS.get(name, f"TABLE {name.upper()}")
    bold = table.cells[table.cells["paper_bold"].astype(bool)]
    assert set(zip(bold["id"], bold["key"], strict=True)) == BOLD[name]


@pytest.mark.parametrize("name", ["iv", "cam"])
def test_rows_of_cam_are_made_as_its_released_code_makes_them(name: str) -> None:
    rows = [row for row in load_table(name).rows if row.recipe is not None and "gwap" not in row.id]
    assert len(rows) == {"iv": 13, "cam": 14}[name]
    for row in rows:
        asked = row.evaluate.asked()
        assert (asked["crops"], asked.get("scales")) == ("ten", None)
        assert asked["map"] == ("backprop" if "backprop" in row.id else "class")
        cut_out = row.id in BESIDE
        assert (asked["box_rule"], asked.get("backprop_seg")) == (
            ("paper20", "grabcut") if cut_out else ("cam-released", None)
        )
        assert (asked.get("guesses") == "five") == ("heuristics" in row.id)


def test_cams_maximum_is_over_features() -> None:
    for name in ("iii", "iv", "cam"):
        row = next(row for row in load_table(name).rows if row.id == "googlenet-gmp")
        config = cell_config(row, load_table(name).columns[0], "imagenet")
        assert row.config["head"] == config.head == "gmp-features"


def test_the_folder_holds_these_tables_and_no_other() -> None:
    assert sorted(path.stem for path in tables_folder().glob("*")) == sorted(TABLES)
    assert table_names("all") == TABLES
    assert set(PAPER) | OURS == set(TABLES)
    assert not set(PAPER) & OURS
    assert not any(row.paper for name in OURS for row in load_table(name).rows)


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("csv", "json")])
def test_every_format_prints_every_paper_number_in_order(name: str, kind: str) -> None:
    text = render_tables(build_tables(name), kind)
    spec = load_table(name)
    place = text.index("paper")  # in the head, or in front of the first row
    for row in spec.rows:
        for column in spec.columns:
            if column.key in row.paper:
                place = text.index(f"{row.paper[column.key]:.{column.decimals}f}", place)


def test_rows_that_share_a_training_name_one_recipe_with_one_set_of_settings() -> None:
    settings: dict[str, Any] = {}
    for name in TABLES:
        for row in load_table(name).rows:
            if row.recipe is not None:
                assert settings.setdefault(row.recipe, row.config) == row.config
    assert {row.recipe for row in load_table("ii").rows} <= {row.recipe for row in load_table("i").rows}
    assert {row.recipe for row in load_table("iv").rows} == {row.recipe for row in load_table("iii").rows}
    assert len(settings) == 10 + 10 + 4 + 12 + 4 + 5  # then heads of all methods, background images, last stages


def test_background_is_one_table_of_two_data_sets(tmp_path: Path) -> None:
    assert [table.spec.dataset for table in build_tables("background", runs=tmp_path)] == ["cub", "imagenet"]
    assert [table.spec.dataset for table in build_tables("background-ilsvrc", runs=tmp_path)] == ["imagenet"]
