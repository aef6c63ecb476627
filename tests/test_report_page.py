"""The page of a run and the tables as HTML: complete, self-contained, escaped; and `gwapctl report` itself."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gwapctl.errors import DataError, UsageError
from gwapctl.paper.run_page import render_run_page, write_run_page
from gwapctl.paper.specification import TABLES
from gwapctl.paper.tables import build_tables, render_tables
from gwapctl.runs import Run

HOSTILE = "<script>alert('x')</script>\"&{{ 7*7 }}"
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Read a page strictly: every tag is closed in order; collect text, pictures and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.images: list[dict[str, str]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        self.links += [values[key] for key in ("src", "href", "srcset", "data", "action") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def assert_self_contained(page: Page, text: str) -> None:
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    paths = [folder / f"{place}.png" for place in range(15)]
    for path in paths:
        cv2.imwrite(str(path), generator.integers(0, 255, (30, 47, 3), np.uint8))
    return paths


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Run:
    """A run with everything that a page can show; tests leave it as it is."""
    classes = [{"name": name, "id": f"n{place}"} for place, name in enumerate(["cat", HOSTILE])]
    data = {"name": "pets", "train_split": "train", "n_train": 1234, "classes": classes, "fingerprint": "abc"}
    config = {"dataset": "data/pets", "backbone": "resnet-s", "head": "gwap", "lr": 0.05, "image_size": [64, 48]}
    document = {"config": {**config, "weights": HOSTILE}, "dataset": data, "seed": 3, "device": "cpu"}
    run = Run.create(tmp_path_factory.mktemp("runs") / "mine", document)
    for step in range(1, 6):
        row = {"iteration": 10 * step, "epoch": step, "loss": 1 / step, "lr": 0.1, "images_per_s": 50.0}
        run.append_history(row | ({"val_loss": 2 / step, "val_map": 10.0 * step} if step % 2 else {}))
    run.update(status="finished", finished="2026-11-20T11:22:33+00:00")
    run.save_evaluation(evaluation(examples=examples(photos)))
    run.save_evaluation(evaluation(split="held-out", created="2026-11-21T10:00:00+00:00", metrics={"f_measure": 0.99}))
    return run


def examples(photos: list[Path], prefix: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "image": prefix + path.name,
            "path": str(path),
            "iou": n / 14,
            "box": [3, 4, 20, 25],
            "truth": [[5, 5, 25, 20]],
        }
        for n, path in enumerate(photos)
    ]
    found[0] |= {"box": None, "label": HOSTILE}
    return found


@pytest.fixture(scope="module")
def text(run: Run) -> str:
    return render_run_page(run)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def problems_in(browser: Any, page: Path, script: str) -> tuple[list[str], Any]:
    """Open a page in a browser; return what it complains about, and what ``script`` says of the page."""
    view, problems = browser.new_page(), list[str]()
    view.on("console", lambda message: problems.append(message.text))
    view.on("pageerror", lambda error: problems.append(str(error)))
    view.goto(page.as_uri())
    found = view.evaluate(script)
    view.close()
    return problems, found


LOOKS = """() => ({
    images: [...document.images].filter(one => one.complete && one.naturalWidth > 0).length,
    margin: getComputedStyle(document.body).maxWidth,
    share: getComputedStyle(document.querySelector("td.bar") || document.body).getPropertyValue("--share"),
})"""


def test_a_page_shows_all_it_holds_under_its_policy(run: Run, page: Page, browser: Any, tmp_path: Path) -> None:
    problems, looks = problems_in(browser, write_run_page(run.folder, tmp_path / "page.html"), LOOKS)
    assert problems == []
    assert looks["images"] == len(page.images) > 0
    assert (looks["margin"] != "none", looks["share"] != "") == (True, True)


def test_tables_show_all_they_hold_under_their_policy(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "tables.html"
    file.write_text(render_tables(build_tables("iii"), "html"), encoding="utf-8")
    problems, looks = problems_in(browser, file, LOOKS)
    assert (problems, looks["margin"]) == ([], "1152px")  # 72rem


def test_no_script_runs_in_a_page_and_nothing_is_fetched(text: str, browser: Any, tmp_path: Path) -> None:
    """Were something of a stranger's ever written unescaped, the policy would still hold it."""
    (tmp_path / "own.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>')
    inside = (
        "<script>document.title = 'changed'</script><img id='own' src='own.svg' onerror=\"document.title='changed'\">"
    )
    file = tmp_path / "page.html"
    file.write_text(text.replace("</h1>", f"</h1>{inside}", 1), encoding="utf-8")
    problems, found = problems_in(
        browser, file, "() => [document.title, document.getElementById('own').naturalWidth, location.protocol]"
    )
    assert (found[0] != "changed", found[1:]) == (True, [0, "file:"])
    assert len([text for text in problems if "Content Security Policy" in text]) >= 2


def evaluation(**changes: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "model": "mine",
        "dataset": "pets",
        "split": "test",
        "protocol": "paper",
        "n": 1500,
        "n_degenerate": 2,
        "metrics": {"voc_map_11pt": 81.25, "f_measure": 0.61239, "odd_key": 1.0, "mean_iou": None},
        "floors": {"full_image": {"f_measure": 0.4}, "centred_box": {"f_measure": 0.45}},
        "per_class": [
            {"class": "cat", "id": "n0", "n": 900, "ap_11pt": 90.0, "gt_known_error": None},
            {"class": HOSTILE, "id": "n1", "n": 600, "ap_11pt": 72.5, "gt_known_error": 40.0},
        ],
        "notes": ["no masks"],
        "options": {"map": "fused", "scales": [64, 96], "box_rule": "otsu"},
        "created": "2026-11-20T10:00:00+00:00",
        "threshold_curve": {"thresholds": [0.0, 0.5, 1.0], "gt_known_error": [60.0, 40.0, 80.0], "chosen": 0.5},
        **changes,
    }


def test_the_page_says_what_the_run_is_and_how_good(page: Page, text: str) -> None:
    for expected in (
        "resnet-s + gwap, trained on pets train (1,234 images, 2 classes). Finished, 2026-11-20 11:22.",
        "pets test; 1,500 images; 2 with an empty or constant map (counted as wrong); protocol paper; map fused; "
        "scales 64, 96; box rule otsu; 2026-11-20",
        "81.2 classification mAP, 11 points (%)",
        "0.6124 F-measure floors: full image 0.4000, centred box 0.4500",
        "no masks",
        "lr 0.05",
        "image size 64, 48",
        "cat n0 900 90.0",
        "held-out",
    ):
        assert expected in page.text, expected
    assert "0.9900 F-measure" not in page.text  # held-out images are no result, though newer
    assert_self_contained(page, text)


def test_hostile_names_stay_text(page: Page, text: str) -> None:
    assert "<script" not in text.lower()
    assert page.text.count(HOSTILE) >= 2  # a class and a setting, as they are
    assert "49" not in re.findall(r"alert\('x'\)</script>\"&(\S+)", page.text)


def test_curves_and_pictures_are_images_that_decode(page: Page) -> None:
    charts = [image for image in page.images if image["src"].startswith("data:image/svg+xml;base64,")]
    titles = [image["alt"].split(" over ")[0] for image in charts]
    assert titles == ["Loss", "Validation", "Learning rate", "Box threshold (dashed: in use)"]
    assert "loss from 1 to 0.2, val_loss from 2 to 0.4" in charts[0]["alt"]
    assert b"</svg>" in base64.b64decode(charts[0]["src"].split(",")[1])
    photos = [image for image in page.images if image["src"].startswith("data:image/jpeg;base64,")]
    assert [image["alt"] for image in photos[:2]] == ["14.png: IoU 1.00", "13.png: IoU 0.93"]
    assert [image["alt"] for image in photos[6:8]] == ["0.png: no box", "1.png: IoU 0.07"]
    assert len(photos) == 12
    for image in photos:
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(image["src"].split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        assert pixels.shape[1] > pixels.shape[0]
    assert len(charts) + len(photos) == len(page.images)


def test_the_same_run_gives_the_same_page(run: Run, text: str) -> None:
    assert render_run_page(run) == text


@pytest.fixture
def bare(tmp_path: Path) -> Run:
    """A run without curves, which take most of the time."""
    return Run.create(tmp_path / "bare run", {"config": {"dataset": "data/pets"}, "dataset": {}})


def test_images_that_are_gone_cost_only_their_pictures(bare: Run, tmp_path: Path) -> None:
    gone = [tmp_path / f"{place}.png" for place in range(15)]
    gone[0].write_bytes(b"not an image")
    bare.save_evaluation(evaluation(examples=examples(gone), threshold_curve={}))
    page = Page(render_run_page(bare))
    assert page.images == []
    assert "12 more could not be drawn" in page.text


def test_images_that_moved_are_found_in_the_data_set(bare: Run, photos: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere" / "data" / "pets" / "test" / "cat"
    shutil.copytree(photos[0].parent, folder)
    moved = [tmp_path / path.name for path in photos]
    bare.save_evaluation(evaluation(examples=examples(moved, "cat/"), threshold_curve={}))
    assert Page(render_run_page(bare)).images == []
    assert len(Page(render_run_page(bare, tmp_path / "elsewhere")).images) == 12


def test_a_run_that_was_never_evaluated_says_how(bare: Run) -> None:
    text = render_run_page(bare)
    page = Page(text)
    assert f"gwapctl evaluate '{bare.folder}'" in page.text
    assert page.images == []
    assert_self_contained(page, text)


def test_one_history_row_and_one_example_are_enough(bare: Run, photos: list[Path]) -> None:
    bare.append_history({"iteration": 1, "loss": 2.0})
    example = {"image": "0.png", "path": str(photos[0]), "iou": 0.5, "box": [1, 1, 9, 9], "truth": []}
    bare.save_evaluation(evaluation(examples=[example], threshold_curve={}, per_class=[]))
    page = Page(render_run_page(bare))
    assert [image["alt"] for image in page.images] == ["Loss over iteration: loss from 2 to 2", "0.png: IoU 0.50"]


def test_tables_as_html(run: Run) -> None:
    text = render_tables(build_tables("all", runs=run.folder.parent), "html")
    page = Page(text)
    assert_self_contained(page, text)
    assert page.tags.count("table") == len(TABLES) + 2  # pets has numbers for tables I and II
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert "<b>70.4</b>" in text
    assert "TABLE I on pets test (1,500 images)" in page.text


def test_what_ships_as_html() -> None:
    text = render_tables(build_tables("all", shipped=True), "html", commands=True)
    page = Page(text)
    assert_self_contained(page, text)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert "Stand-in for TABLE II on VOC2012 val (600 images)" in page.text


def test_not_a_run_and_existing_files_are_refused(bare: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no run\.json"):
        write_run_page(tmp_path)
    write_run_page(bare.folder)
    with pytest.raises(UsageError, match="overwrite=True"):
        write_run_page(bare.folder)
    with pytest.raises(UsageError, match="is a folder"):
        write_run_page(bare.folder, tmp_path)


def test_a_page_needs_no_torch(run: Run, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gwapctl.paper.run_page import write_run_page; "
        "write_run_page(*map(Path, sys.argv[1:])); print({'torch', 'rich', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(run.folder), str(tmp_path / "page.html")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "set()"


# --- the command -----------------------------------------------------------------------------------------------------


def test_report_prints_a_table(run_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_cli("report", "--table", "v")
    assert (done.code, done.stderr) == (0, "")
    assert "R-FCN + GWAP (ours)" in done.stdout
    assert done.stdout.startswith("TABLE V. COMPARISONS ON PASCAL VOC 2007 TEST SET")


def test_report_writes_the_format_of_the_files_name(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    for suffix, start in [
        ("md", "**TABLE II."),
        ("tex", "% needs"),
        ("csv", "table,row"),
        ("json", "{"),
        ("txt", "TAB"),
    ]:
        out = tmp_path / f"t.{suffix}"
        done = run_cli("report", "--table", "ii", "--runs", tmp_path, "--out", out)
        assert (done.code, done.stdout) == (0, "")
        assert out.read_text(encoding="utf-8").startswith(start)
    again = run_cli("report", "--table", "ii", "--runs", tmp_path, "--out", out)
    assert again.code == 2
    assert "--overwrite" in again.stderr
    assert run_cli("report", "--table", "ii", "--runs", tmp_path, "--out", out, "--overwrite").code == 0


def test_report_of_a_run_prints_where_its_page_is(run_cli: Callable[..., Any], bare: Run) -> None:
    done = run_cli("report", bare.folder)
    assert (done.code, done.stdout) == (0, f"{bare.folder / 'report.html'}\n")
    assert (bare.folder / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "gwapctl report --table i"),
        (["nowhere", "--table", "i"], 2, "give a run"),
        (["nowhere"], 4, "not a run"),
        (["--table", "vii"], 2, "unknown table 'vii'"),
        (["--table", "i", "--format", "markdwon"], 2, "Did you mean 'markdown'?"),
        (["--table", "i", "--runs", "nowhere"], 2, "--runs nowhere is not a folder"),
    ],
)
def test_wrong_calls_get_one_line(run_cli: Callable[..., Any], arguments: list[str], code: int, words: str) -> None:
    done = run_cli("report", *arguments)
    assert done.code == code
    assert done.stdout == ""
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
