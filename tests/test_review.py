"""The review page: what is written, and what a person does with it in a real browser, by mouse, keys and touch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gwapctl.errors import DataError, UsageError
from gwapctl.formats.decisions import read_decisions
from gwapctl.formats.review import PAGE, Review, doubt
from gwapctl.networks.classifier import save_model
from gwapctl.predict.image_index import ImageFiles
from gwapctl.predict.map_folder import MAPS, MapFolder, MapImage, MapsInfo, write_map, write_maps_info
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.predict.predictions import read_predictions
from gwapctl.regions import parse_box_rule
from tests.factories import make_classifier, save_image, write

Run = Callable[..., Any]
NAMES = "class 0\nclass 1\nclass 2\nclass 3\nplum\n"
BREAKS_OUT = "</script><b>pear"  # a class, as a file of somebody else may name it


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What localize would leave: five images of 80 x 60, maps of two, one without a box, one without a class."""
    folder = tmp_path_factory.mktemp("review")
    apple = ClassPrediction("apple", "n01", 0.9, (8, 6, 40, 30))
    pear = ClassPrediction(BREAKS_OUT, "n02", 0.6, (40, 30, 72, 54))
    found = {
        "sure.jpg": (apple,),
        "two.jpg": (replace(apple, score=0.7), pear),
        "doubtful.jpg": (replace(apple, score=0.2),),
        "unboxed.jpg": (replace(apple, box=None),),
        "nothing.jpg": (),
    }
    lines = []
    for name, predictions in found.items():
        path = save_image(folder / "in" / name)
        lines.append(json.dumps(Prediction(str(path), 80, 60, "tiny", (64,), predictions, id=name).to_json()) + "\n")
    write(folder / "predictions.jsonl", "".join(lines))
    heat = np.zeros((2, 12, 16), np.float16)
    heat[0, 2:6, 2:8] = heat[1, 6:10, 8:14] = 1
    write_map(folder / MAPS, "two.jpg", heat)
    write_map(folder / MAPS, "sure.jpg", heat[0])
    both = ("apple", BREAKS_OUT), ("n01", "n02")
    write_maps_info(folder / MAPS, MapsInfo(class_agnostic=False), [("two.jpg", MapImage(80, 60, *both))])
    return folder


def make_review(out: Path, folder: Path, **options: Any) -> Review:
    rule = parse_box_rule("paper20")
    return Review(folder, images=ImageFiles(None), maps=MapFolder(out / MAPS), rule=rule, **options)


@pytest.fixture(scope="module")
def page(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of ``out``."""
    review = make_review(out, tmp_path_factory.mktemp("page"))
    assert list(review.watch(read_predictions(out))) == list(read_predictions(out))
    return review.finish("Fruit")


def data(page: Path) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert match is not None
    document: dict[str, Any] = json.loads(match[1])
    return document


# --- what is written -------------------------------------------------------------------------------------------------


def test_the_page_says_what_was_found(page: Path) -> None:
    document = data(page)
    assert [one["label"] for one in document["classes"]] == ["apple", BREAKS_OUT]
    images = {one["id"]: one for one in document["images"]}
    assert {name: one["doubt"] for name, one in images.items()} == {
        "sure.jpg": 0.1,
        "two.jpg": 0.4,
        "doubtful.jpg": 0.8,
        "unboxed.jpg": 1,
        "nothing.jpg": 0,
    }
    assert images["two.jpg"]["shown"] == [[0, 0.7, 8, 6, 40, 30], [1, 0.6, 40, 30, 72, 54]]
    assert (images["two.jpg"]["maps"], images["sure.jpg"]["maps"]) == ([[0], [1]], [[0]])
    assert (images["unboxed.jpg"]["unboxed"], images["nothing.jpg"]["none"]) == ([0], True)


def test_pictures_heat_and_masks_are_files_beside_it(page: Path) -> None:
    folder, number = page.parent, data(page)["images"][1]["n"]
    thumb = cv2.imread(str(folder / "thumbs" / f"{number}.jpg"))
    assert thumb is not None
    assert thumb.shape == (60, 80, 3)
    heat = cv2.imread(str(folder / "heat" / f"{number}-1.png"), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(folder / "mask" / f"{number}-1.png"), cv2.IMREAD_UNCHANGED)
    assert heat is not None
    assert mask is not None
    assert ((heat[:, :, 3] > 0).nonzero()[0].min(), (mask[:, :, 3] > 0).sum()) == (6, 24)
    assert mask[6, 8, :3].tolist() == [255, 229, 0]
    assert len(list((folder / "heat").iterdir())) == 3


def test_nothing_is_fetched_and_no_text_becomes_markup(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[\w.]+", text)) == {"http://www.w3.org"}  # the name of SVG
    assert "default-src 'none'" in text
    assert BREAKS_OUT not in text
    assert text.count("</script>") == 2


def test_an_earlier_page_is_replaced_when_asked(out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "review"
    items = list(read_predictions(out))
    for _ in make_review(out, folder).watch(items):
        pass
    with pytest.raises(UsageError, match="not empty"):
        make_review(out, folder)
    write(folder / "thumbs" / "notes.txt", "mine")
    again = make_review(out, folder, overwrite=True, classes=["apple", "plum"])
    for _ in again.watch(items[:1]):
        pass
    again.finish("Again")
    assert sorted(file.name for file in (folder / "thumbs").iterdir()) == ["000001.jpg", "notes.txt"]
    assert [one["label"] for one in data(folder / PAGE)["classes"]] == ["apple", "plum"]


def test_images_that_are_gone_are_counted(out: Path, tmp_path: Path) -> None:
    review = make_review(out, tmp_path / "review")
    for _ in review.watch([Prediction("gone.jpg", 80, 60)]):
        pass
    assert review.missing == ["gone.jpg"]
    with pytest.raises(DataError, match=r"no image to review. 'gone.jpg' is not there"):
        review.finish("Gone")


def test_the_worst_box_makes_the_doubt() -> None:
    sure = ClassPrediction("apple", "n01", 0.9, (0, 0, 9, 9))
    assert doubt(Prediction("a", 9, 9, predictions=(sure, replace(sure, score=0.25)))) == 0.75
    assert doubt(Prediction("a", 9, 9, predictions=(replace(sure, doubt=0.5),))) == 0.5
    assert doubt(Prediction("a", 9, 9)) == 0


def test_the_command_writes_the_page_beside_an_export(run_cli: Run, out: Path, tmp_path: Path) -> None:
    result = run_cli("boxes", out, "--review", tmp_path / "review", "--out", tmp_path / "boxes.json")
    assert result.code == 0
    assert f"{tmp_path / 'review' / PAGE}" in result.stderr
    assert (tmp_path / "boxes.json").is_file()
    alone = run_cli("boxes", out, "--review", tmp_path / "review", "--overwrite")
    assert (alone.code, alone.stdout) == (0, "")
    assert run_cli("boxes", out, "--review", tmp_path / "review").code == 2


def test_images_that_are_localized_now_show_their_heat(run_cli: Run, out: Path, tmp_path: Path) -> None:
    save_model(make_classifier(), tmp_path / "model")
    asked = ("--model", tmp_path / "model", "--top-k", "2", "--classes", write(tmp_path / "names.txt", NAMES))
    assert run_cli("boxes", out / "in", *asked, "--review", tmp_path / "review").code == 0
    document = data(tmp_path / "review" / PAGE)
    assert [one["id"] for one in document["images"]] == sorted(path.name for path in (out / "in").iterdir())
    assert {one["label"] for one in document["classes"]} == set(NAMES.splitlines())
    heat = {f"{one['n']}-{k}.png" for one in document["images"] for k in range(len(one["maps"]))}
    assert heat == {file.name for file in (tmp_path / "review" / "heat").iterdir()} != set()


# --- in a browser ----------------------------------------------------------------------------------------------------


class Tab:
    """The page in a fresh browser, and what went wrong in it."""

    def __init__(self, context: Any, page: Path) -> None:
        self.problems: list[str] = []
        self.view = context.new_page()
        self.view.on("console", lambda message: self.problems.append(message.text))
        self.view.on("pageerror", lambda error: self.problems.append(str(error)))
        self.view.on("dialog", lambda dialog: dialog.accept("plum"))
        self.view.goto(page.as_uri())

    def names(self) -> list[str]:
        """Return the ids of the cards in order."""
        return [text.split(":")[0] for text in self.labels()]

    def labels(self) -> list[str]:
        labels: list[str] = self.view.eval_on_selector_all(".card .open", "all => all.map(e => e.ariaLabel)")
        return labels

    def state(self, name: str) -> str:
        return next(text.rsplit(", ", 1)[1] for text in self.labels() if text.startswith(name))

    def open(self, name: str) -> None:
        self.view.click(f'.card .open[aria-label^="{name}"]')

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point of the image in the editor is on the screen."""
        area = self.view.locator("#picture").bounding_box()
        return area["x"] + x / 80 * area["width"], area["y"] + y / 60 * area["height"]

    def drag(self, *corners: float) -> None:
        """Drag the mouse from one point of the image to another."""
        self.view.mouse.move(*self.point(*corners[:2]))
        self.view.mouse.down()
        self.view.mouse.move(*self.point(*corners[2:]), steps=4)
        self.view.mouse.up()

    def decisions(self, folder: Path) -> dict[str, Any]:
        """Download ``decisions.json`` and return what it says, by image."""
        if self.view.locator("#editor").is_visible():
            self.view.click("#close")
        with self.view.expect_download() as download:
            self.view.click("#download")
        assert download.value.suggested_filename == "decisions.json"
        download.value.save_as(folder / "decisions.json")
        return {one.proposed.id: one for one in read_decisions(folder / "decisions.json")}


@pytest.fixture
def tab(browser: Any, page: Path) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab = Tab(context, page)
    yield tab
    assert tab.problems == []
    context.close()


def near(box: Any, expected: tuple[float, float, float, float]) -> bool:
    return box is not None and bool(np.allclose(box, expected, atol=0.6))


def test_doubt_comes_first_and_images_of_nothing_have_their_group(tab: Tab) -> None:
    assert tab.names() == ["unboxed.jpg", "doubtful.jpg", "two.jpg", "sure.jpg", "nothing.jpg"]
    assert tab.view.locator("main h2").all_inner_texts() == ["Boxes 4", "None of the classes 1"]
    tab.view.select_option("#by-order", "name")
    assert tab.names()[:2] == ["doubtful.jpg", "sure.jpg"]
    tab.view.select_option("#by-class", label=BREAKS_OUT)
    assert tab.names() == ["two.jpg"]
    tab.view.select_option("#by-class", "none")
    assert tab.names() == ["nothing.jpg"]
    assert tab.view.eval_on_selector(".card img", "img => img.decode().then(() => img.naturalWidth)") == 80


def test_decisions_are_kept_undone_and_downloaded(tab: Tab, tmp_path: Path) -> None:
    tab.view.click('[aria-label="Accept sure.jpg"]')
    tab.view.click('[aria-label="Reject doubtful.jpg"]')
    tab.view.click('[aria-label="Accept nothing.jpg"]')
    tab.view.wait_for_selector("#progress:text-is('3 of 5 checked: 2 accepted, 0 corrected, 1 rejected')")
    tab.view.click("#undo")
    assert tab.state("nothing.jpg") == "to check"
    tab.view.reload()
    assert (tab.state("sure.jpg"), tab.state("doubtful.jpg")) == ("accepted", "rejected")
    tab.view.select_option("#by-state", "open")
    assert tab.names() == ["unboxed.jpg", "two.jpg", "nothing.jpg"]
    found = tab.decisions(tmp_path)
    assert {name: one.decision for name, one in found.items()} == {"sure.jpg": "accepted", "doubtful.jpg": "rejected"}
    assert found["sure.jpg"].checked.predictions == (ClassPrediction("apple", "n01", 1.0, (8, 6, 40, 30)),)
    assert found["doubtful.jpg"].checked is None
    assert found["doubtful.jpg"].proposed.predictions[0].score == 0.2


def test_boxes_are_moved_pulled_drawn_renamed_and_deleted_with_the_mouse(tab: Tab, tmp_path: Path) -> None:
    tab.open("two.jpg")
    tab.drag(20, 20, 30, 25)  # the apple, by 10 and 5
    tab.drag(50, 35, 60, 40)  # its lower right corner; the pear lies under it, but the handle is on top
    tab.drag(2, 45, 22, 58)  # where no box is
    boxes = tab.view.locator("#boxes li")
    assert boxes.count() == 3
    boxes.nth(2).locator("select").select_option("new")  # the dialog answers: plum
    boxes.nth(1).locator("button").click()
    checked = tab.decisions(tmp_path)["two.jpg"].checked.predictions
    assert [(one.label, one.label_id) for one in checked] == [("apple", "n01"), ("plum", "")]
    assert near(checked[0].box, (18, 11, 60, 40))
    assert near(checked[1].box, (2, 45, 22, 58))
    assert tab.state("two.jpg") == "corrected"
    for _ in range(5):
        tab.view.keyboard.press("u")
    assert tab.view.locator('.card:has([aria-label^="two.jpg"]) .edge').count() == 2
    assert not tab.decisions(tmp_path)


def test_boxes_stay_in_the_image_and_clicks_draw_nothing(tab: Tab, tmp_path: Path) -> None:
    tab.open("sure.jpg")
    tab.drag(20, 20, -30, -40)
    tab.view.mouse.click(*tab.point(75, 55))
    assert tab.view.locator("#boxes li").count() == 1
    assert near(tab.decisions(tmp_path)["sure.jpg"].checked.predictions[0].box, (0, 0, 32, 24))


def test_all_can_be_done_with_keys(tab: Tab, tmp_path: Path) -> None:
    press = tab.view.keyboard.press
    tab.view.focus('.open[aria-label^="unboxed.jpg"]')
    press("ArrowRight")
    press("r")  # doubtful.jpg
    press("ArrowRight")
    press("Enter")  # two.jpg
    for key in ("b", "1", "ArrowRight", "Shift+ArrowDown", "b", "Delete", "n", "2"):
        press(key)
    press("a")  # corrected already; on to the next that is to check: sure.jpg
    assert tab.view.locator("#name").inner_text() == "sure.jpg"
    press("x")  # none of the classes; then nothing.jpg
    press("a")
    press("Escape")
    found = tab.decisions(tmp_path)
    two = found["two.jpg"].checked.predictions
    assert [one.label for one in two] == ["apple", BREAKS_OUT]
    assert near(two[0].box, (8.8, 6, 40.8, 30.8))
    assert near(two[1].box, (20, 15, 60, 45))
    assert found["sure.jpg"].checked.predictions == ()
    assert {name: one.decision for name, one in found.items()} == {
        "doubtful.jpg": "rejected",
        "two.jpg": "corrected",
        "sure.jpg": "corrected",
        "nothing.jpg": "accepted",
    }


def test_heat_and_mask_come_on_demand_and_are_of_the_chosen_box(tab: Tab) -> None:
    tab.open("two.jpg")
    assert not tab.view.locator("#heat").is_visible()
    tab.view.keyboard.press("h")
    tab.view.keyboard.press("m")
    tab.view.keyboard.press("b")
    tab.view.keyboard.press("b")
    assert tab.view.locator("#heat").get_attribute("src") == "heat/000002-1.png"
    assert tab.view.eval_on_selector("#mask", "img => img.decode().then(() => img.naturalWidth)") == 16
    tab.view.keyboard.press("k")
    assert not tab.view.locator("#heat").is_visible()  # doubtful.jpg has no map


def test_a_finger_draws_a_box(browser: Any, page: Path, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    tab = Tab(context, page)
    assert tab.view.evaluate("document.documentElement.scrollWidth") == 390
    tab.view.tap('.open[aria-label^="unboxed.jpg"]')
    finger = context.new_cdp_session(tab.view)
    spots = [tab.point(*spot) for spot in ((10, 12), (30, 30), (50, 42))]
    for kind, where in (("touchStart", spots[0]), ("touchMove", spots[1]), ("touchMove", spots[2]), ("touchEnd", None)):
        points = [] if where is None else [{"x": where[0], "y": where[1]}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    (drawn,) = tab.decisions(tmp_path)["unboxed.jpg"].checked.predictions
    assert (drawn.label, tab.problems) == ("apple", [])
    assert near(drawn.box, (10, 12, 50, 42))
    context.close()


def test_of_many_images_only_those_in_view_are_in_the_page(browser: Any, out: Path, tmp_path: Path) -> None:
    review = make_review(out, tmp_path / "many")
    (one, *_) = read_predictions(out)
    for _ in review.watch([one]):
        pass
    (entry,) = review._entries.values()
    review._entries = {f"{i}": entry | {"id": f"{i:05d}.jpg", "doubt": i / 5000} for i in range(5000)}
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab = Tab(context, review.finish("Many"))
    assert tab.view.locator("main h2").inner_text() == "Boxes 5,000"
    assert len(tab.names()) < 60
    assert tab.names()[0] == "04999.jpg"
    tab.view.keyboard.press("End")
    tab.view.wait_for_selector('.open[aria-label^="00000.jpg"]')
    assert len(tab.names()) < 60
    tab.open("00000.jpg")
    tab.view.keyboard.press("k")
    tab.view.keyboard.press("Escape")
    tab.view.keyboard.press("Escape")
    assert "00001.jpg" in tab.view.evaluate("document.activeElement.ariaLabel")
    assert tab.problems == []
    context.close()
