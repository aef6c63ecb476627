"""``gwapctl boxes``: recorded boxes pass through, maps are cut anew, bad input is one clear line and leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from gwapctl.formats import EXPORTERS
from gwapctl.maps.reading import ResolvedReading
from gwapctl.predict.map_folder import MAPS, MapImage, MapsInfo, write_map, write_maps_info
from gwapctl.predict.prediction import ClassPrediction, Prediction, PredictionError
from gwapctl.predict.predictions import read_predictions
from tests.factories import make_classifier

Run = Callable[..., Any]


def heat(height: int, width: int, *blobs: tuple[int, int, int, int, float]) -> npt.NDArray[np.float16]:
    """Return a map (h, w): 0 but for rectangles x0, y0, x1, y1 of the given value."""
    array = np.zeros((height, width), np.float16)
    for x0, y0, x1, y1, value in blobs:
        array[y0:y1, x0:x1] = value
    return array


# the cat's map has a large warm and a small hot region; the image is twice as large as its maps, 40 x 24
CAT = heat(12, 20, (2, 2, 10, 8, 0.5), (14, 1, 18, 4, 1.0))
DOG = heat(12, 20, (0, 6, 20, 12, 1.0))
FLAT = heat(9, 7)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """What localize would leave: one image with a map per class, a flat map, an image that failed."""
    folder = tmp_path / "out"
    cat = ClassPrediction("cat", "n01", 0.8, (4, 4, 20, 16), "maps/sub/a.jpg.npy")
    dog = ClassPrediction("dog", "n02", 0.2, (0, 12, 40, 24), "maps/sub/a.jpg.npy")
    items = [
        Prediction("in/sub/a.jpg", 40, 24, "tiny", (64,), (cat, dog), id="sub/a.jpg"),
        Prediction("in/flat.png", 7, 9, "tiny", (64,), (replace(cat, box=None),), id="flat.png"),
    ]
    save(folder, items)
    write_map(folder / MAPS, "sub/a.jpg", np.stack([CAT, DOG]))
    write_map(folder / MAPS, "flat.png", FLAT[None])
    images = {
        "sub/a.jpg": MapImage(40, 24, ("cat", "dog"), ("n01", "n02")),
        "flat.png": MapImage(7, 9, ("cat",), ("n01",)),
    }
    write_maps_info(
        folder / MAPS,
        MapsInfo(ResolvedReading("class", (64,)), model="tiny", class_agnostic=False),
        images.items(),
    )
    return folder


def save(folder: Path, items: list[Prediction]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(item.to_json()) + "\n" for item in items]
    (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")


def found(text: str) -> dict[str, list[tuple[str, float, list[float] | None]]]:
    """Return label, score and box of every prediction by image, from JSON lines."""
    documents = [json.loads(line) for line in text.splitlines()]
    return {d["id"]: [(p["label"], p["score"], p["box"]) for p in d["predictions"]] for d in documents}


# --- recorded boxes --------------------------------------------------------------------------------------------------


def test_recorded_boxes_are_passed_on(run_cli: Run, out: Path) -> None:
    result = run_cli("boxes", out, "--format", "jsonl")
    assert result.code == 0
    assert result.stdout == (out / "predictions.jsonl").read_text(encoding="utf-8")


def test_without_options_it_prints_csv(run_cli: Run, out: Path) -> None:
    result = run_cli("boxes", out)
    assert result.stdout.splitlines()[1] == "in/sub/a.jpg,40,24,cat,n01,0.8,4.0,4.0,20.0,16.0,"
    assert len(result.stdout.splitlines()) == 4


@pytest.mark.parametrize("place", [".", "predictions.jsonl", "maps"])
def test_out_its_file_and_its_maps_mean_the_same(run_cli: Run, out: Path, place: str) -> None:
    assert run_cli("boxes", out / place).stdout == run_cli("boxes", out).stdout


def test_low_scores_are_left_out(run_cli: Run, out: Path) -> None:
    result = run_cli("boxes", out, "--format", "jsonl", "--min-score", "0.5")
    assert {name: len(predictions) for name, predictions in found(result.stdout).items()} == {
        "sub/a.jpg": 1,
        "flat.png": 1,
    }


@pytest.mark.parametrize("name", ["coco", "label-studio", "cvat"])
def test_documents_of_one_file_can_go_to_stdout(run_cli: Run, out: Path, tmp_path: Path, name: str) -> None:
    printed = run_cli("boxes", out, "--format", name).stdout
    assert run_cli("boxes", out, "--format", name, "--out", tmp_path / "file").code == 0
    assert printed == (tmp_path / "file").read_text(encoding="utf-8")


def test_failed_images_are_named_and_left_out(run_cli: Run, out: Path, tmp_path: Path) -> None:
    bad = Prediction("in/bad.jpg", 0, 0, error=PredictionError("DataError", "in/bad.jpg is empty"), id="bad.jpg")
    save(out, [*read_predictions(out), bad])
    result = run_cli("boxes", out, "--out", tmp_path / "boxes.json")
    assert result.code == 3
    assert "in/bad.jpg is empty" in result.stderr
    assert "1 image failed and is left out" in result.stderr
    assert len(json.loads((tmp_path / "boxes.json").read_text())["images"]) == 2


# --- boxes cut anew --------------------------------------------------------------------------------------------------


def test_the_recorded_rule_gives_the_recorded_boxes(run_cli: Run, out: Path) -> None:
    anew = found(run_cli("boxes", out, "--format", "jsonl", "--box-rule", "paper20").stdout)
    assert anew == found((out / "predictions.jsonl").read_text(encoding="utf-8"))


def test_another_threshold_cuts_other_boxes(run_cli: Run, out: Path) -> None:
    anew = found(run_cli("boxes", out, "--format", "jsonl", "--threshold", "0.6").stdout)
    assert anew["sub/a.jpg"] == [("cat", 0.8, [28, 2, 36, 8]), ("dog", 0.2, [0, 12, 40, 24])]
    assert anew["flat.png"] == [("cat", 0.8, None)]


def test_several_boxes_of_a_class_share_its_score_by_heat(run_cli: Run, out: Path) -> None:
    anew = found(run_cli("boxes", out, "--format", "jsonl", "--max-boxes", "3").stdout)
    assert anew["sub/a.jpg"] == [
        ("cat", 0.8, [28, 2, 36, 8]),
        ("cat", pytest.approx(0.4), [4, 4, 20, 16]),
        ("dog", 0.2, [0, 12, 40, 24]),
    ]


def test_small_regions_are_left_out(run_cli: Run, out: Path) -> None:
    options = ("--format", "jsonl", "--max-boxes", "3", "--min-area", str(13 / 240))
    anew = found(run_cli("boxes", out, *options).stdout)
    assert [box for _, _, box in anew["sub/a.jpg"]] == [[4, 4, 20, 16], [0, 12, 40, 24]]


def test_one_map_serves_all_classes(run_cli: Run, out: Path) -> None:
    write_map(out / MAPS, "sub/a.jpg", CAT)
    anew = found(run_cli("boxes", out, "--format", "jsonl", "--threshold", "0.2").stdout)
    assert [box for _, _, box in anew["sub/a.jpg"]] == [[4, 4, 20, 16]] * 2


def test_a_missing_map_fails_that_image_only(run_cli: Run, out: Path) -> None:
    (out / MAPS / "sub/a.jpg.npy").unlink()
    result = run_cli("boxes", out, "--threshold", "0.2")
    assert result.code == 3
    assert "has no map of 'sub/a.jpg'" in result.stderr
    assert "flat.png" in result.stdout
    assert "sub/a.jpg" not in result.stdout


# --- other people's maps ---------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A bare folder of maps, and the image that one of them belongs to, 40 x 24."""
    folder = tmp_path / "foreign"
    write_map(folder, "val/x.png", CAT)
    (tmp_path / "images/val").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images/val/x.png"), np.zeros((24, 40, 3), np.uint8))
    return folder


def test_bare_maps_give_boxes_in_map_pixels_and_say_so(run_cli: Run, foreign: Path) -> None:
    result = run_cli("boxes", foreign, "--format", "jsonl")
    assert "pixels of the maps" in result.stderr
    assert found(result.stdout) == {"val/x.png": [("object", 0.5, [2, 2, 10, 8])]}


def test_images_tell_the_size(run_cli: Run, foreign: Path, tmp_path: Path) -> None:
    result = run_cli("boxes", foreign, "--format", "jsonl", "--images", tmp_path / "images")
    assert result.stderr == ""
    assert list(found(result.stdout).values()) == [[("object", 0.5, [4, 4, 20, 16])]]
    assert json.loads(result.stdout)["image"].endswith("images/val/x.png")


def test_a_map_without_its_image_fails_alone(run_cli: Run, foreign: Path, tmp_path: Path) -> None:
    write_map(foreign, "val/lost.png", CAT)
    result = run_cli("boxes", foreign, "--images", tmp_path / "images")
    assert result.code == 3
    assert "fits the map 'val/lost.png'" in result.stderr
    assert len(result.stdout.splitlines()) == 2


def test_channels_without_names_are_numbered(run_cli: Run, tmp_path: Path) -> None:
    write_map(tmp_path, "x.png", np.stack([CAT, DOG]))
    (predictions,) = found(run_cli("boxes", tmp_path, "--format", "jsonl").stdout).values()
    assert [(label, box) for label, _, box in predictions] == [("0", [2, 2, 10, 8]), ("1", [0, 6, 20, 12])]


def test_maps_alone_know_classes_and_sizes_from_maps_json(run_cli: Run, out: Path) -> None:
    (out / "predictions.jsonl").unlink()
    anew = found(run_cli("boxes", out / MAPS, "--format", "jsonl").stdout)
    assert anew == {
        "flat.png": [],
        "sub/a.jpg": [("cat", 0.5, [4, 4, 20, 16]), ("dog", 1.0, [0, 12, 40, 24])],
    }


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of three images in two folders, and one of a small random model of four classes."""

    from gwapctl.networks.classifier import save_model

    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, (height, width) in {"a.png": (50, 70), "sub/b.png": (90, 40), "sub/c.png": (33, 61)}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        pixels = cv2.resize(random.integers(0, 255, (5, 4, 3), np.uint8), (width, height))
        cv2.imwrite(str(folder / name), pixels)
    model = make_classifier(train_sizes=(64, 64), map="fused", box_rule="otsu", scales=(48, 64))
    save_model(model, folder.parent / "model")
    return folder, folder.parent / "model"


def test_images_are_localized_on_the_fly_as_localize_would(
    run_cli: Run, photos: tuple[Path, Path], tmp_path: Path
) -> None:
    """The boxes of images, of what localize recorded, and of its maps cut anew are the same."""
    from gwapctl.inputs import find_inputs
    from gwapctl.predict.classifier import load_model
    from gwapctl.predict.folder import localize_inputs

    folder, model = photos
    loaded = load_model(model, device="cpu")
    recorded = list(
        localize_inputs(loaded.predictor(top_k=2), str(model), find_inputs([str(folder)]), out=tmp_path, save=("map",))
    )
    assert [len(item.predictions) for item in recorded] == [2, 2, 2]
    assert any(p.box not in (None, item.predictions[0].box) for item in recorded for p in item.predictions[1:])
    boxes_of = {item.id: [(p.label, p.score, list(p.box or ())) for p in item.predictions] for item in recorded}
    live = ("boxes", folder, "--model", model, "--device", "cpu", "--top-k", "2", "--format", "jsonl")
    assert found(run_cli(*live).stdout) == boxes_of
    assert found(run_cli("boxes", tmp_path, "--format", "jsonl").stdout) == boxes_of
    anew = run_cli("boxes", tmp_path, "--format", "jsonl", "--max-boxes", "1").stdout  # by the recorded rule, otsu
    assert found(anew) == boxes_of
    three = run_cli("boxes", tmp_path, "--format", "jsonl", "--max-boxes", "3").stdout
    assert found(three) == found(run_cli(*live, "--max-boxes", "3").stdout) != boxes_of


def test_images_of_one_stem_are_refused_before_the_network_runs(
    run_cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gwapctl.predict.classifier.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    for name in ("a.png", "a.bmp"):
        cv2.imwrite(str(tmp_path / name), np.zeros((9, 7, 3), np.uint8))
    result = run_cli("boxes", tmp_path, "--format", "yolo", "--out", tmp_path / "yolo")
    assert result.code == 2
    assert "would share" in result.stderr


def test_a_broken_image_is_named_and_left_out(run_cli: Run, photos: tuple[Path, Path], tmp_path: Path) -> None:
    folder, model = photos
    (tmp_path / "torn.png").write_bytes((folder / "a.png").read_bytes()[:50])
    cv2.imwrite(str(tmp_path / "whole.png"), np.full((30, 20, 3), 99, np.uint8))
    result = run_cli("boxes", tmp_path, "--model", model, "--device", "cpu", "--format", "coco")
    assert result.code == 3
    assert "torn.png" in result.stderr
    assert [image["file_name"] for image in json.loads(result.stdout)["images"]] == ["whole.png"]


@pytest.mark.parametrize("option", [("--model", "x"), ("--scales", "64"), ("--map", "class"), ("--top-k", "2")])
def test_options_of_the_network_are_refused_where_none_runs(run_cli: Run, out: Path, option: tuple[str, str]) -> None:
    result = run_cli("boxes", out, *option)
    assert result.code == 2
    assert f"{option[0]} is for images" in result.stderr


# --- where it goes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "start"), [("b.csv", "image,"), ("b.jsonl", '{"schema'), ("b.json", "{\n"), ("b.xml", "<?xml")]
)
def test_the_suffix_names_the_format(run_cli: Run, out: Path, tmp_path: Path, name: str, start: str) -> None:
    assert run_cli("boxes", out, "--out", tmp_path / name).code == 0
    assert (tmp_path / name).read_text().startswith(start)


def test_a_file_format_given_a_folder_takes_its_usual_name(run_cli: Run, out: Path, tmp_path: Path) -> None:
    assert run_cli("boxes", out, "--format", "coco", "--out", tmp_path).code == 0
    assert (tmp_path / "annotations.json").is_file()


def test_out_dash_is_stdout(run_cli: Run, out: Path) -> None:
    assert run_cli("boxes", out, "--out", "-").stdout == run_cli("boxes", out).stdout


def test_nothing_is_overwritten_unless_asked(run_cli: Run, out: Path, tmp_path: Path) -> None:
    file = tmp_path / "boxes.csv"
    file.write_text("mine")
    result = run_cli("boxes", out, "--out", file)
    assert (result.code, file.read_text()) == (2, "mine")
    assert "--overwrite" in result.stderr
    assert run_cli("boxes", out, "--out", file, "--overwrite").code == 0
    assert file.read_text() != "mine"


def test_a_folder_with_files_is_refused_unless_asked(run_cli: Run, out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "voc"
    for extra, code in (((), 0), ((), 2), (("--overwrite",), 0)):
        assert run_cli("boxes", out, "--format", "voc", "--out", folder, *extra).code == code
    assert {path.name for path in folder.rglob("*.xml")} == {"a.xml", "flat.xml"}


@pytest.mark.parametrize("name", list(EXPORTERS))
def test_dry_run_touches_nothing(run_cli: Run, out: Path, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = run_cli("boxes", out, "--format", name, "--out", tmp_path / "new", "--dry-run")
    assert (result.code, result.stdout, sorted(tmp_path.rglob("*"))) == (0, "", before)
    assert f"2 images) as {name} to {tmp_path / 'new'}" in result.stderr


def test_label_studio_and_cvat_say_how_to_set_the_project_up(run_cli: Run, out: Path, tmp_path: Path) -> None:
    said = run_cli("boxes", out, "--format", "label-studio", "--out", tmp_path / "tasks.json").stderr
    assert '<Label value="cat"/>' in said
    said = run_cli("boxes", out, "--format", "cvat", "--out", tmp_path / "cvat.xml").stderr
    assert '"name": "dog"' in said


def test_options_of_one_format(run_cli: Run, out: Path, tmp_path: Path) -> None:
    assert run_cli("boxes", out, "--format", "yolo", "--yolo-scores", "--out", tmp_path / "y").code == 0
    assert (tmp_path / "y/labels/sub/a.txt").read_text().split()[5] == "0.800000"
    printed = run_cli("boxes", out, "--format", "label-studio", "--image-prefix", "https://host/").stdout
    assert json.loads(printed)[0]["data"]["image"] == "https://host/sub/a.jpg"


def test_a_class_list_fixes_the_numbers(run_cli: Run, out: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("unused\n\ndog\ncat\n")
    printed = run_cli("boxes", out, "--format", "coco", "--classes", tmp_path / "classes.txt").stdout
    document = json.loads(printed)
    assert [category["name"] for category in document["categories"]] == ["unused", "dog", "cat"]
    assert [annotation["category_id"] for annotation in document["annotations"]] == [3, 2]


# --- bad input -------------------------------------------------------------------------------------------------------

BAD = [  # arguments after the folder "out", exit code, what the one line says
    (["--format", "pascal"], 2, "unknown format 'pascal'"),
    (["--format", "yoolo"], 2, "Did you mean 'yolo'?"),
    (["--format", "voc"], 2, "Give a folder with --out"),
    (["--format", "voc", "--out", "boxes.xml"], 2, "writes a folder of files"),
    (["--format", "voc", "--out", "file"], 2, "file is a file"),
    (["--format", "coco", "--out", "boxes.csv"], 2, "writes .json files, not boxes.csv"),
    (["--out", "/dev/null", "--overwrite"], 2, "not a regular file"),
    (["--box-rule", "otsu", "--threshold", "0.2"], 2, "Give one of them"),
    (["--box-rule", "paper2"], 2, "Did you mean 'paper20'?"),
    (["--threshold", "2"], 2, "threshold '2'"),
    (["--max-boxes", "0"], 2, "max-boxes"),
    (["--min-area", "2"], 2, "min-area"),
    (["--yolo-scores"], 2, "--yolo-scores goes with --format yolo, not csv"),
    (["--format", "coco", "--image-prefix", "x"], 2, "goes with --format label-studio"),
    (["--classes", "missing.txt"], 4, "missing.txt"),
    (["--format", "coco", "--classes", "file"], 2, "class 'cat' (id 'n01') is not in the list"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD)
def test_bad_options(
    run_cli: Run, out: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(out.parent)
    Path("file").write_text("dog\n")
    before = sorted(Path().rglob("*"))
    result = run_cli("boxes", "out", *arguments)
    assert (result.code, result.stdout) == (code, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(Path().rglob("*")) == before


def broken_line(out: Path) -> None:
    with (out / "predictions.jsonl").open("a") as file:
        file.write('{"image": "c.jpg", "wid')


def missing_field(out: Path) -> None:
    with (out / "predictions.jsonl").open("a") as file:
        file.write('{"image": "c.jpg", "width": 3}\n')


def empty(out: Path) -> None:
    (out / "predictions.jsonl").write_text("")


def inverted(out: Path) -> None:
    first, *_ = read_predictions(out)
    save(out, [replace(first, predictions=(replace(first.predictions[0], box=(9.0, 9.0, 3.0, 12.0)),))])


def same_stem(out: Path) -> None:
    first, *_ = read_predictions(out)
    save(out, [first, replace(first, image="in/sub/a.png", id="sub/a.png")])


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (broken_line, 4, "predictions.jsonl, line 3 is not valid JSON"),
        (missing_field, 4, "predictions.jsonl, line 3: field 'height'"),
        (empty, 4, "holds no image"),
        (inverted, 4, "image 'sub/a.jpg' (40 x 24): the box [9.0, 9.0, 3.0, 12.0] is inverted"),
        (same_stem, 2, "'sub/a.jpg' and 'sub/a.png' would share"),
    ],
)
def test_bad_predictions(
    run_cli: Run, out: Path, tmp_path: Path, damage: Callable[[Path], None], code: int, message: str
) -> None:
    damage(out)
    result = run_cli("boxes", out, "--format", "voc", "--out", tmp_path / "voc")
    assert (result.code, result.stdout) == (code, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "voc").exists()


def test_cutting_anew_needs_maps(run_cli: Run, out: Path) -> None:
    for file in (out / MAPS).rglob("*.npy"):
        file.unlink()
    result = run_cli("boxes", out, "--threshold", "0.3")
    assert result.code == 4
    assert "holds no maps to cut boxes from. Localize again with --save map" in result.stderr


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("nothing", 2, "nothing does not exist"),
        ("nothing.jsonl", 4, "nothing.jsonl does not exist. Make it with: gwapctl localize"),
        ("one.npy", 2, "one.npy is one map. Give the folder"),
    ],
)
def test_missing_input(run_cli: Run, tmp_path: Path, name: str, code: int, message: str) -> None:
    np.save(tmp_path / "one.npy", CAT)
    result = run_cli("boxes", tmp_path / name, "--threshold", "0.2")
    assert result.code == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_boxes_from_disk_need_no_torch(out: Path) -> None:
    code = (
        "import sys; from gwapctl.cli import run; "
        f"run(['boxes', {str(out)!r}, '--format', 'coco', '--threshold', 'otsu', '--max-boxes', '2', '-q']); "
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"
    assert len(json.loads(done.stdout)["annotations"]) == 3
