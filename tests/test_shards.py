"""One work in shards: what is merged is what one process writes, to the byte; what does not fit is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwapctl.errors import DataError, UsageError
from gwapctl.formats import EXPORTERS
from gwapctl.metrics.merging import decode, encode
from gwapctl.networks.classifier import save_model
from gwapctl.predict.shards import SHARD, Shard
from gwapctl.runs import Run
from tests.factories import make_images, make_manifest, make_run, make_small_classifier, write

Cli = Callable[..., Any]
SIZES = ((64, 48), (40, 56), (72, 40))  # width and height of the images in turn


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(make_small_classifier(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eleven photos in two folders; one of them is none."""
    folder = tmp_path / "photos"
    for index, image in enumerate(make_images(*(SIZES[index % 3] for index in range(10)))):
        (folder / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "ab"[index % 2] / f"{index}.png"), image)
    write(folder / "a" / "4broken.jpg", "no image")
    return folder


def localize(run_cli: Cli, photos: Path, model: Path, out: Path, *more: object) -> int:
    return run_cli("localize", photos, "-m", model, "--device", "cpu", "-b", 2, "--out", out, *more).code


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- which images are whose -------------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 9))
def test_shards_are_all_items_once_and_end_where_chunks_do(total: int, count: int, chunk: int) -> None:
    items = [*range(total)]
    parts = [Shard(index, count).of(items, chunk) for index in range(count)]
    assert [*chain(*parts)] == items
    assert all(part[0] % chunk == 0 for part in parts if part)
    assert all(len(part) <= -(-total // count) + chunk for part in parts)


@pytest.mark.parametrize("text", ["2/2", "1", "-1/2", "a/b", "0/0", "1/2/3"])
def test_a_shard_is_i_of_n(run_cli: Cli, text: str) -> None:
    result = run_cli("localize", "photos", "--out", "x", f"--shard={text}")
    assert (result.code, "is not I/N" in result.stderr) == (2, True)


# --- localize ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", ["overlay,map,mask", "mask"])
def test_merged_shards_are_the_folder_of_one_process(
    tmp_path: Path, run_cli: Cli, photos: Path, model: Path, save: str
) -> None:
    assert localize(run_cli, photos, model, tmp_path / "one", "--save", save) == 3
    codes = [
        localize(run_cli, photos, model, tmp_path / f"s{i}", "--save", save, "--shard", f"{i}/4") for i in range(4)
    ]
    assert sorted(codes) == [0, 0, 0, 3]
    before = files(tmp_path / "s1")
    result = run_cli("merge", *(tmp_path / f"s{i}" for i in (2, 0, 3, 1)), "--out", tmp_path / "all")
    assert (result.code, "10 images of 4 shards" in result.stderr) == (3, True)
    assert files(tmp_path / "all") == files(tmp_path / "one")
    assert len(files(tmp_path / "all")) == (1 + 10 * 3 + 1 if "map" in save else 1 + 10)
    assert files(tmp_path / "s1") == before


def test_a_shard_that_was_stopped_goes_on_and_fits(tmp_path: Path, run_cli: Cli, photos: Path, model: Path) -> None:
    one_by_one = ("-b", 1)
    localize(run_cli, photos, model, tmp_path / "one", *one_by_one)
    for index in range(2):
        localize(run_cli, photos, model, tmp_path / f"s{index}", *one_by_one, "--shard", f"{index}/2")
    lines = (tmp_path / "s0" / "predictions.jsonl").read_text().splitlines(keepends=True)
    assert '"error": {' in "".join(lines[:4])
    write(tmp_path / "s0" / "predictions.jsonl", "".join(lines[:4]) + lines[4][:40])
    merge = ("merge", tmp_path / "s0", tmp_path / "s1", "--out", tmp_path / "all")
    result = run_cli(*merge)
    assert (result.code, "is not whole" in result.stderr, (tmp_path / "all").exists()) == (4, True, False)
    localize(run_cli, photos, model, tmp_path / "s0", *one_by_one, "--shard", "0/2", "--resume")
    assert run_cli(*merge).code == 3
    assert files(tmp_path / "all") == files(tmp_path / "one")


def test_shards_that_do_not_fit_are_refused(tmp_path: Path, run_cli: Cli, photos: Path, model: Path) -> None:
    def shard(name: str, part: str, *more: object, photos: Path = photos, model: Path = model) -> Path:
        localize(run_cli, photos, model, tmp_path / name, "--save", "mask", "--shard", part, *more)
        return tmp_path / name

    first, second = shard("s0", "0/2"), shard("s1", "1/2")
    save_model(make_small_classifier(seed=1), tmp_path / "other" / "model")
    save_model(make_small_classifier(seed=2), tmp_path / "model2")
    fewer = tmp_path / "fewer"
    cv2.imwrite(str(write(fewer / "a.png", "")), make_images((50, 40))[0])
    refused = {
        (first,): "of the shards, 1/2 is missing: there is a gap",
        (first, second, first): "overlap: both are shard 0/2",
        (first, shard("of3", "1/3")): "are shards 0/2 and 1/3",
        (first, shard("rule", "1/2", "--box-rule", "otsu")): "differ in box_rule: 'paper20' and 'otsu'",
        (first, shard("scales", "1/2", "--scales", "32,48")): "differ in reading",
        (first, shard("weights", "1/2", model=tmp_path / "model2")): "differ in model",
        (first, shard("inputs", "1/2", photos=fewer)): "are of different inputs: 11 and 1 images",
        (first, tmp_path / "photos"): "photos has no shard.json: it is no shard, or not finished",
    }
    for folders, message in refused.items():
        result = run_cli("merge", *folders, "--out", tmp_path / "all")
        assert (result.code, result.stderr.count("\n")) == (4, 1), message
        assert message in result.stderr
        assert not (tmp_path / "all").exists()
    assert run_cli("merge", first, second, "--out", first).code == 2
    pair = shard("p0", "0/2", "--save", "overlay"), shard("p1", "1/2", "--save", "overlay")
    (pair[1] / "overlays" / "b" / "9.png.jpg").unlink()
    assert "overlays/b/9.png.jpg is missing" in run_cli("merge", *pair, "--out", tmp_path / "all").stderr
    next((second / "masks").rglob("*.png")).unlink()
    said = run_cli("merge", first, second, "--out", tmp_path / "all").stderr
    assert "s1 is not whole: masks has files of some images, and of others none" in said
    assert not (tmp_path / "all").exists()
    assert "Give one with --out" in run_cli("localize", photos, "-m", model, "--shard", "0/2").stderr


def test_other_weights_of_the_same_name_are_another_model(tmp_path: Path, run_cli: Cli, photos: Path) -> None:
    for index in range(2):
        save_model(make_small_classifier(seed=index), tmp_path / "model")
        localize(run_cli, photos, tmp_path / "model", tmp_path / f"s{index}", "--save", "mask", "--shard", f"{index}/2")
    result = run_cli("merge", tmp_path / "s0", tmp_path / "s1", "--out", tmp_path / "all")
    assert (result.code, "differ in weights" in result.stderr) == (4, True)


def test_a_new_call_without_shard_is_no_shard_any_more(tmp_path: Path, run_cli: Cli, photos: Path, model: Path) -> None:
    localize(run_cli, photos, model, tmp_path / "s", "--save", "mask", "--shard", "0/1")
    assert (tmp_path / "s" / SHARD).is_file()
    localize(run_cli, photos, model, tmp_path / "s", "--save", "mask", "--overwrite")
    assert not (tmp_path / "s" / SHARD).exists()


# --- boxes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPORTERS)
def test_merged_boxes_are_the_file_of_one_process(
    tmp_path: Path, run_cli: Cli, photos: Path, model: Path, name: str
) -> None:
    localize(run_cli, photos, model, tmp_path / "found", "--save", "map")
    asked = ("--threshold", 0.4, "--max-boxes", 3, "--format", name, *(("--masks", "rle") if name == "png" else ()))
    one = tmp_path / f"one{EXPORTERS[name].suffix}"
    assert run_cli("boxes", tmp_path / "found", *asked, "--out", one).code in (0, 3)
    for index in range(3):
        run_cli("boxes", tmp_path / "found", *asked, "--shard", f"{index}/3", "--out", tmp_path / f"s{index}")
    merged = tmp_path / f"all{EXPORTERS[name].suffix}"
    assert run_cli("merge", *(tmp_path / f"s{i}" for i in (1, 2, 0)), "--out", merged).code in (0, 3)
    if one.is_dir():
        assert files(merged) == files(one)
    else:
        assert merged.read_bytes() == one.read_bytes()


def test_boxes_of_images_and_of_maps_alone(tmp_path: Path, run_cli: Cli, photos: Path, model: Path) -> None:
    localize(run_cli, photos, model, tmp_path / "found", "--save", "map")
    (tmp_path / "found" / "predictions.jsonl").unlink()
    for number, (source, *more) in enumerate(
        [(photos, "-m", model, "--device", "cpu"), (tmp_path / "found" / "maps",)]
    ):
        folder = tmp_path / str(number)
        run_cli("boxes", source, *more, "--out", folder / "one.csv")
        shards = [folder / f"s{index}" for index in range(2)]
        for index, out in enumerate(shards):
            run_cli("boxes", source, *more, "--shard", f"{index}/2", "--out", out)
        run_cli("merge", *shards, "--out", folder / "all.csv")
        assert (folder / "all.csv").read_bytes() == (folder / "one.csv").read_bytes()
        assert len((folder / "one.csv").read_text().splitlines()) == 11


def test_what_looks_at_all_boxes_is_for_the_merged_ones(tmp_path: Path, run_cli: Cli) -> None:
    result = run_cli("boxes", tmp_path, "--shard", "0/2", "--out", tmp_path / "s", "--review", tmp_path / "page")
    assert (result.code, "--review is for all images, not for a shard" in result.stderr) == (2, True)
    result = run_cli("boxes", tmp_path, "--shard", "0/2", "--out", tmp_path / "s.json")
    assert (result.code, "--shard writes a folder" in result.stderr) == (2, True)


# --- evaluate ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", make_manifest(tmp_path / "data"), make_small_classifier())


def evaluations(run_cli: Cli, folder: Path, subject: object, *more: object, shards: int = 3) -> list[dict[str, Any]]:
    """Return the documents of one process and of merged shards without the time they took; tables must be the same."""
    arguments = ("evaluate", subject, *more)
    one = run_cli(*arguments, "--out", folder / "one.json")
    assert one.code == 0, one.stderr
    outs = [folder / f"e{index}" for index in range(shards)]
    for index, out in enumerate(outs):
        result = run_cli(*arguments, "--shard", f"{index}/{shards}", "--out", out)
        assert (result.code, result.stdout) == (0, ""), result.stderr
    merged = run_cli("merge", *outs[::-1], "--out", folder / "all.json")
    assert merged.code == 0, merged.stderr
    assert merged.stdout == one.stdout
    texts = [(folder / name).read_text() for name in ("one.json", "all.json")]
    documents = [json.loads(text) for text in texts]
    for document in documents:
        assert document.pop("seconds") >= 0
        assert document.pop("created")
    assert json.dumps(documents[0]) == json.dumps(documents[1])
    return documents


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--calibrate-on", "halves"),
        ("--split", "train", "--calibrate-on", "val", "--guesses", "five", "--box-rule", "otsu"),
        ("--protocol", "wsoleval", "--calibrate-on", "halves"),
        ("--protocol", "wsoleval", "--split", "train", "--calibrate-on", "val"),
    ],
    ids=" ".join,
)
def test_merged_evaluations_are_those_of_one_process(
    tmp_path: Path, run_cli: Cli, run: Run, more: tuple[str, ...]
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(24):
        width, height = 48 + 8 * (index % 3), 40 + 16 * (index % 2)
        mask = np.zeros((height, width), np.uint8)
        mask[index % 20 : 25, 5 + index % 7 : 33] = 255
        cv2.imwrite(str(masks / f"{index}.png"), mask)
    document, _ = evaluations(run_cli, tmp_path, run.folder, "--device", "cpu", "-b", 2, "--masks", masks, *more)
    assert document["n"] == (16 if "train" in more else 8)
    assert {"max_box_acc", "px_ap"} <= document["metrics"].keys()
    assert len(document["replicates"]["floors"]) == 2
    assert len(run.evaluations()) >= 1


def test_merged_evaluations_of_several_classes_and_of_boxes(tmp_path: Path, run_cli: Cli, voc: Path) -> None:
    save_model(make_small_classifier("gap", open_names(voc), multi_label=True), tmp_path / "model")
    data = ("--dataset", voc, "--split", "val")
    document, _ = evaluations(run_cli, tmp_path, tmp_path / "model", *data, "--device", "cpu", "-b", 2)
    assert {"voc_map_11pt", "cor_loc", "f_measure_predicted"} <= document["metrics"].keys()
    assert document["examples"]
    found = ("localize", voc, "-m", tmp_path / "model", "--device", "cpu", "--labels", "from-dataset")
    run_cli(*found, "--save", "map", "--out", tmp_path / "found")
    run_cli("boxes", tmp_path / "found", "--max-boxes", 4, "--threshold", 0.4, "--out", tmp_path / "boxes.json")
    document, _ = evaluations(run_cli, tmp_path / "boxes", tmp_path / "boxes.json", *data)
    assert {"det_map_11pt", "coco_map"} <= document["metrics"].keys()
    document, _ = evaluations(run_cli, tmp_path / "maps", tmp_path / "found", *data)
    assert "gt_known_error" in document["metrics"]


def open_names(voc: Path) -> list[str]:
    from gwapctl.datasets import open_dataset

    return [one.name for one in open_dataset(str(voc)).classes]


def test_shards_of_other_evaluations_are_refused(tmp_path: Path, run_cli: Cli, run: Run) -> None:
    outs = [tmp_path / f"e{index}" for index in range(2)]
    for index, rule in enumerate(("otsu", "paper20")):
        asked = ("--device", "cpu", "--box-rule", rule, "--shard", f"{index}/2", "--out", outs[index])
        assert run_cli("evaluate", run.folder, *asked).code == 0
    result = run_cli("merge", *outs)
    assert (result.code, "differ in evaluation: {'box_rule': 'otsu'} and {'box_rule': 'paper20'}" in result.stderr) == (
        4,
        True,
    )
    without_rule = [word for word in asked if word not in ("--box-rule", rule)]
    assert "do not go with --shard" in run_cli("evaluate", run.folder, "--calibrate", *without_rule).stderr
    assert "without --json and --fail-under" in run_cli("evaluate", run.folder, "--shard", "0/2").stderr
    write(outs[0] / "judged.json", {"schema_version": 1, "chosen_on": None, "seconds": 1, "run": None, "state": {}})
    run_cli("evaluate", run.folder, *asked[:3], "otsu", "--shard", "1/2", "--out", outs[1])
    result = run_cli("merge", *outs)
    assert (result.code, "judged.json does not hold what a shard counted" in result.stderr) == (4, True)


def test_arrays_in_a_file_are_numbers_and_no_larger_than_they_say() -> None:
    array = encode(np.arange(6.0).reshape(2, 3))
    assert np.array_equal(decode(array), np.arange(6.0).reshape(2, 3))
    for broken in (["|O", [1], array["array"][2]], ["<f8", [2, 2], array["array"][2]], ["<f8", [6], "?"], [1]):
        with pytest.raises(DataError, match="counts of a shard are broken"):
            decode({"array": broken})


def test_a_shard_is_read_from_python_too() -> None:
    with pytest.raises(UsageError, match="shard='0/4'"):
        Shard.parse("4/4")


def test_the_page_has_the_tables_that_the_script_prints() -> None:
    from scaling import ASSUMED, page, read_rates

    text = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert text.endswith(page(read_rates(), {key: value for key, (value, _) in ASSUMED.items()}))
