"""``gwapctl label``: the plan, every step and its command line, going on after any end, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gwapctl.errors import DataError
from gwapctl.label import Asked, Ears, Machine, Plan, carry_out, make_plan, plan, prepare_folder, summary
from gwapctl.label.steps import Write
from gwapctl.lock import LOCK, _machine
from gwapctl.predict.predictions import read_predictions
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.runs import Run
from tests.factories import SMALL_DETECTOR, make_manifest, write

COLOURS = {"apple": (40, 40, 220), "pear": (40, 220, 160)}  # BGR
SMALL = {"backbone": "resnet-s", "weights": "none", "image_size": (40, 32), "precision": "fp32"}
CLASSIFIER = {"batch_size": 4, "epochs": 2, "val_fraction": 0.2, "lr": 0.05}
DETECTOR = {key: value for key, value in SMALL_DETECTOR.items() if key not in ("detector", "backbone", "weights")}
CPU = Machine("cpu", 0)
# what the same work gives to the byte, wherever it stopped in between
SAME = ("boxes.json", "classifier-boxes.jsonl", "classifier/weights.safetensors", "detector/weights.safetensors")
SAME += ("detector/boxes-1.jsonl", "detector/boxes-2.jsonl", "found/**/*", "review/**/*")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no ImageNet weights at hand, so that the small network is chosen, and give it small images."""
    monkeypatch.setattr(plan, "packaged_weights", dict)
    monkeypatch.setattr(plan, "SMALL", SMALL)


def make_photos(folder: Path, count: int = 6, nothing: int = 0) -> Path:
    """Write photos of a coloured block on noise, in class folders, and some of noise alone in ``_none``."""
    generator = np.random.default_rng(0)
    for name, colour in [*COLOURS.items(), ("_none", None)]:
        for number in range(nothing if colour is None else count):
            image = generator.integers(0, 90, (48, 64, 3), dtype=np.uint8)
            x, y = int(generator.integers(2, 30)), int(generator.integers(2, 20))
            image[y : y + 24, x : x + 28] = image[y : y + 24, x : x + 28] if colour is None else colour
            (folder / name).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(folder / name / f"{number}.png"), image)
    return folder


def asked(folder: str = "photos", **more: Any) -> Asked:
    return Asked(folder, Path("labelled"), classifier=CLASSIFIER, detector=DETECTOR, **more)


def ears(interrupt: str = "", said: list[str] | None = None) -> Ears:
    """Return ears that hear nothing; where progress called ``interrupt`` begins, Ctrl-C is pressed."""

    @contextmanager
    def watch(text: str) -> Iterator[ProgressCallback]:
        def heard(done: Progress) -> None:
            if text == interrupt and done.unit == ("it" if text == "training" else "images") and done.done == 2:
                raise KeyboardInterrupt

        yield heard

    return Ears(watch, *([said.append] * 2 if said is not None else []))


def label(what: Asked, ears: Ears, **how: bool) -> Plan:
    planned = make_plan(what, CPU)
    prepare_folder(planned, **how)
    carry_out(planned, ears, lambda *_: None)
    return planned


def files(folder: Path) -> dict[str, bytes]:
    found = (path for pattern in SAME for path in folder.glob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos, two of nothing, that was labelled in one go; no test writes into it."""
    folder = tmp_path_factory.mktemp("label")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(plan, "packaged_weights", dict)
        patch.setattr(plan, "SMALL", SMALL)
        make_photos(folder / "photos", nothing=3)
        label(asked(), ears())
    return folder


@pytest.fixture
def place(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same photos, not labelled yet, in the working directory."""
    shutil.copytree(whole / "photos", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_writes_boxes_overlays_a_page_and_a_detector(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole)
    out = Path("labelled")
    images = {image.id: image for image in read_predictions(out / "found")}
    assert len(images) == 15
    for name, image in images.items():  # exactly the classes that the labels name, each with a box
        folder = Path(name).parent.name
        assert {one.label for one in image.predictions} == ({folder} if folder in COLOURS else set()), name
        assert all(one.box is not None for one in image.predictions)
    assert len(list((out / "found" / "overlays").rglob("*.jpg"))) == 15
    assert len(json.loads((out / "boxes.json").read_text())["images"]) == 15
    assert "decisions.json" in (out / "review" / "index.html").read_text()
    assert Run.open(out / "detector").document["rounds"][0]["n_images"] == 12
    said = summary(make_plan(asked(), CPU))
    assert (said.images, said.none, said.empty, said.failed, said.measured) == (12, 3, 0, 0, [])
    assert said.boxes == sum(len(image.predictions) for image in images.values())


@pytest.mark.parametrize("stopped", ["checking", "training", "boxes", "localize", "writing", "detector"])
def test_an_interrupted_one_goes_on_and_gives_the_same_bytes(whole: Path, place: Path, stopped: str) -> None:
    if stopped == "detector":  # the second training
        (place / "labelled").mkdir()
        for name in ("label.json", "check.json", "classifier", "classifier-boxes.jsonl"):
            source = whole / "labelled" / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, place / "labelled" / name)
    with pytest.raises(KeyboardInterrupt):
        label(asked(), ears("training" if stopped == "detector" else stopped), resume=stopped == "detector")
    assert not (place / "labelled" / "review" / "index.html").exists()
    planned = label(asked(), ears(), resume=True)
    assert all(step.done for step in planned.steps)
    assert files(place / "labelled") == files(whole / "labelled")


def test_what_is_done_is_not_done_again(whole: Path, place: Path) -> None:
    shutil.copytree(whole / "labelled", "labelled")
    before = {path: path.stat().st_mtime_ns for path in Path("labelled").rglob("*") if path.name != "label.json"}
    planned = make_plan(asked(), CPU)
    prepare_folder(planned, resume=True)
    seen = []
    carry_out(planned, ears(), lambda number, step, done: seen.append((number, done)))
    assert seen == [(number, True) for number in range(1, 7)]
    now = {path: path.stat().st_mtime_ns for path in Path("labelled").rglob("*") if path.name != "label.json"}
    assert {path: stamp for path, stamp in now.items() if path != Path("labelled")} == before


@pytest.mark.parametrize(
    ("folder", "missing", "stray"),
    [
        ("classifier", (), ("state.pt",)),
        ("detector", (), ("state.pt",)),
        ("found", ("maps/maps.json",), (".gwapctl-localize-begun",)),
        ("review", (), ()),
    ],
)
def test_a_kill_at_the_end_of_a_step_leaves_nothing(
    whole: Path, place: Path, folder: str, missing: tuple[str, ...], stray: tuple[str, ...]
) -> None:
    """All images of the step are done; its writer was killed before it had written the rest and cleared its own."""
    shutil.copytree(whole / "labelled", "labelled")
    mine = place / "labelled" / folder
    for name in missing:
        (mine / name).unlink()
    for name in (LOCK, *stray):
        write(mine / name, {"machine": _machine(), "pid": os.getpid()} if name == LOCK else b"")
    label(asked(), ears(), resume=True)
    assert not [name for name in (LOCK, *stray) if (mine / name).exists()]
    assert files(place / "labelled") == files(whole / "labelled")


def test_each_printed_command_does_the_same_by_hand(whole: Path, place: Path, run_cli: Callable[..., Any]) -> None:
    Path("labelled").mkdir()
    for step in make_plan(asked(), CPU).steps:
        result = run_cli(*step.words)
        assert result.code == 0, f"{shlex.join(step.words)}: {result.stderr}"
    by_hand, at_once = files(Path("labelled")), files(whole / "labelled")
    masks = {name for name in at_once if name.startswith("found/masks")}
    assert {name for name in by_hand.keys() ^ at_once.keys()} <= masks
    assert [name for name in by_hand if by_hand[name] != at_once[name]] == []


def test_a_broken_image_is_left_out(place: Path) -> None:
    write(place / "photos" / "apple" / "broken.png", b"no image")
    said: list[str] = []
    planned = label(asked(), ears(said=said))
    found = summary(planned)
    assert (found.failed, found.images, found.none) == (1, 12, 3)
    assert any(text.startswith("left out:") and "broken.png" in text for text in said)
    assert len(json.loads(Path("labelled/boxes.json").read_text())["images"]) == 15
    assert all(step.done for step in planned.steps)


def test_true_boxes_judge_and_are_never_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_manifest(Path("set"), images=27)
    planned = label(asked("set", format="yolo"), ears())
    rows = summary(planned).measured
    assert {(row["boxes"], row["split"], row["n"]) for row in rows} == {
        ("detector", "train", 18),
        ("classifier", "train", 18),
        ("detector", "val", 9),
        ("classifier", "val", 9),
    }
    assert all(row["cor_loc"] is not None for row in rows)
    assert [step.format for step in planned.steps if isinstance(step, Write)] == ["yolo", "coco"]
    assert Path("labelled/yolo/data.yaml").is_file()
    first = Path("labelled/detector/weights.safetensors").read_bytes()
    text = Path("set/manifest.csv").read_text().splitlines()
    moved = [",".join([*line.split(",")[:3], "1", "1", "9", "9"]) for line in text[1:]]
    Path("set/manifest.csv").write_text("\n".join([text[0], *moved]))
    label(asked("set"), ears(), overwrite=True)
    assert Path("labelled/detector/weights.safetensors").read_bytes() == first
    assert not Path("labelled/yolo").exists()


def test_which_network_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    small = plan.choose_network(300)
    assert (small.backbone, small.recipe) == ("resnet-s", None)
    assert "not installed" in small.why
    monkeypatch.undo()
    frozen = plan.choose_network(300)
    assert (frozen.recipe, dict(frozen.settings)) == ("photos", {})
    assert "300 images are too few" in frozen.why
    many = plan.choose_network(50_000)
    assert (many.recipe, many.settings["cache_features"]) == ("photos", False)
    assert "50 GB" in many.why


def test_more_images_get_more_iterations() -> None:
    network = plan.choose_network(10)
    settings = [plan._detector_settings(network, Path("b.jsonl"), count) for count in (300, 600, 9000)]
    base = plan.FOUND_BOXES["iterations"]
    assert [one.get("iterations", base) for one in settings] == [base, 2 * base, 4 * base]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"apple": 8}, "every image of .* shows the one class 'apple'"),
        ({"apple": 8, "pear": 2}, "class 'pear' of .* has 2 images to train on, and at least 5 are needed"),
        ({}, "photos"),
    ],
)
def test_folders_that_nothing_can_be_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: dict[str, int], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name, count in folders.items():
        for number in range(count):
            (tmp_path / "photos" / name).mkdir(exist_ok=True)
            cv2.imwrite(f"photos/{name}/{number}.png", np.full((20, 30, 3), number, np.uint8))
    with pytest.raises(DataError, match=message) as caught:
        make_plan(asked(), CPU)
    assert "\n" not in str(caught.value)


def test_a_table_without_any_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_photos(Path("set"))
    write(Path("set/all.csv"), "image,label\n" + "\n".join(f"apple/{number}.png," for number in range(6)))
    with pytest.raises(DataError) as caught:
        make_plan(asked("set/all.csv"), CPU)
    assert "\n" not in str(caught.value)


def test_one_class_beside_images_of_nothing_will_do(place: Path) -> None:
    shutil.rmtree("photos/pear")
    write(Path("more.txt"), "")
    for number in range(5):
        cv2.imwrite(f"photos/_none/more-{number}.png", np.full((20, 30, 3), number, np.uint8))
    planned = make_plan(asked(), CPU)
    assert (list(planned.classes), planned.nothing) == (["apple"], 8)
