"""``--refine grabcut`` in every verb: the same boxes everywhere, stored, printed, and only where it was asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gwapctl.boxes import iou
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import BoxedSample
from gwapctl.errors import UsageError
from gwapctl.evaluate import GroundTruth, Options, evaluate
from gwapctl.evaluate.from_disk import from_maps
from gwapctl.images.decode import read_image
from gwapctl.predict.map_folder import MapFolder, write_map
from gwapctl.predict.prediction import ANY
from gwapctl.regions import map_to_boxes, parse_box_rule
from tests.factories import make_classifier

Run = Callable[..., Any]
BOXES = {"a.png": (10, 8, 50, 32), "sub/b.png": (20, 30, 44, 80), "sub/c.png": (4, 4, 40, 24)}
SIZES = {"a.png": (70, 50), "sub/b.png": (60, 90), "sub/c.png": (61, 33)}  # width, height
PX = ("px_ap", "max_box_acc", "max_box_acc_v2", "max_box_acc_threshold", "f_measure", "fg_iou")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of photos of bright objects, and a model that looks for what is bright."""

    from gwapctl.networks.classifier import save_model

    folder = tmp_path_factory.mktemp("refine")
    rows = ["image,label,split,x0,y0,x1,y1,mask"]
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        image, box, mask = (
            rng.integers(0, 60, (height, width, 3), np.uint8),
            BOXES[name],
            np.zeros((height, width), np.uint8),
        )
        image[box[1] : box[3], box[0] : box[2]] += np.uint8(150)
        mask[box[1] : box[3], box[0] : box[2]] = 255
        for path, pixels in ((f"data/{name}", image), (f"masks/{name}", mask)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / path), pixels)
        rows.append(f"{name},cat,test,{','.join(map(str, box))},")
    rows.append("a.png,cat,train,,,,,")
    (folder / "data/manifest.csv").write_text("\n".join(rows))
    # one whose maps and GrabCut agree often enough
    model = make_classifier(classes=("cat", "dog"), seed=3, drawn=False, box_rule="otsu", scales=(48, 64))
    save_model(model, folder / "model")
    refined = folder / "refined"
    shutil.copytree(folder / "model", refined)
    text = (refined / "model.json").read_text().replace('"otsu"', '"otsu+grabcut"')
    (refined / "model.json").write_text(text)
    return folder


def localize(run_cli: Run, world: Path, out: Path, *more: str, model: str = "model") -> Any:
    return run_cli("localize", world / "data", "--model", world / model, "--device", "cpu", "--out", out, *more)


def boxes_of(text: str) -> dict[str, list[float]]:
    """Return the box of the best class of every image, from JSON lines."""
    documents = [json.loads(line) for line in text.splitlines()]
    return {document["id"]: document["predictions"][0]["box"] for document in documents}


def recorded(out: Path) -> dict[str, list[float]]:
    return boxes_of((out / "predictions.jsonl").read_text())


@pytest.fixture
def out(run_cli: Run, world: Path, tmp_path: Path) -> Path:
    """What localize leaves without a refinement."""
    assert localize(run_cli, world, tmp_path / "out", "--format", "jsonl").code == 0
    return tmp_path / "out"


def test_localize_follows_edges_and_keeps_the_object_as_its_mask(run_cli: Run, world: Path, tmp_path: Path) -> None:
    folder, rule = tmp_path / "out", parse_box_rule("otsu+grabcut")
    assert localize(run_cli, world, folder, "--refine", "grabcut").code == 0
    maps = MapFolder(folder)
    assert maps.info.box_rule == "otsu+grabcut"
    moved = 0
    for name, box in recorded(folder).items():
        heat, image = maps.load(name), read_image(world / "data" / name)
        (region,) = map_to_boxes(heat, rule, image=image)
        width, height = SIZES[name]
        scale = [width / heat.shape[1], height / heat.shape[0]] * 2
        np.testing.assert_allclose(box, region.box * scale)
        mask = cv2.imread(str(folder / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        assert mask.shape == (height, width)
        if region.mask is not None:
            moved += 1
            np.testing.assert_array_equal(mask > 0, region.mask)  # images of up to 160 pixels are not shrunk
    assert moved >= 1


def test_stored_asked_and_taken_off_are_the_same(run_cli: Run, world: Path, tmp_path: Path, out: Path) -> None:
    plain = recorded(out)
    ways = {
        "asked": ("model", "--refine", "grabcut"),
        "named": ("model", "--box-rule", "otsu+grabcut"),
        "short": ("model", "--threshold", "otsu", "--refine", "grabcut"),
        "stored": ("refined",),
    }
    for name, (model, *options) in ways.items():
        done = localize(run_cli, world, tmp_path / name, "--save", "map", "-v", *options, model=model)
        assert "box rule otsu+grabcut" in " ".join(done.stderr.split()), name
        assert recorded(tmp_path / name) == recorded(tmp_path / "asked") != plain, name
    for name, options in {"off": ("--refine", "none"), "other": ("--box-rule", "otsu")}.items():
        localize(run_cli, world, tmp_path / name, "--save", "map", *options, model="refined")
        assert recorded(tmp_path / name) == plain
        assert MapFolder(tmp_path / name).info.box_rule == "otsu"


def test_threads_and_batches_do_not_matter(world: Path) -> None:
    from gwapctl import load_model

    model = load_model(world / "model", device="cpu", precision="fp32")
    paths = [world / "data" / name for name in SIZES] * 3
    alone = [model.localize(path, refine="grabcut", workers=0)[0].boxes.tolist() for path in paths]
    many = [found.boxes.tolist() for found in model.localize(paths, refine="grabcut", batch_size=2, workers=3)]
    np.testing.assert_allclose(many, alone, atol=1e-6)
    with pytest.raises(Exception, match="Did you mean 'grabcut'"):
        model.localize(paths[0], refine="grabcat")


def test_resume_refuses_to_mix_rules(run_cli: Run, world: Path, out: Path) -> None:
    done = localize(run_cli, world, out, "--refine", "grabcut", "--resume")
    assert done.code == 2
    assert "box_rule 'otsu'" in done.stderr


# --- boxes -----------------------------------------------------------------------------------------------------------


def test_boxes_from_maps_and_from_images_are_those_of_localize(
    run_cli: Run, world: Path, tmp_path: Path, out: Path
) -> None:
    localize(run_cli, world, tmp_path / "refined", "--refine", "grabcut")
    expected = recorded(tmp_path / "refined")
    anew = run_cli("boxes", out, "--refine", "grabcut", "--format", "jsonl")
    assert anew.code == 0
    assert boxes_of(anew.stdout) == expected
    network = ("--model", world / "model", "--device", "cpu", "--refine", "grabcut")
    assert boxes_of(run_cli("boxes", world / "data", *network, "--format", "jsonl").stdout) == expected
    again = run_cli("boxes", tmp_path / "refined", "--max-boxes", "1", "--format", "jsonl")  # the recorded rule
    assert boxes_of(again.stdout) == expected
    off = run_cli("boxes", tmp_path / "refined", "--refine", "none", "--format", "jsonl")
    assert boxes_of(off.stdout) == recorded(out)
    said = run_cli("boxes", out, "--refine", "grabcut", "--dry-run").stderr
    assert "boxes by otsu+grabcut from the maps" in " ".join(said.split())


def test_images_may_have_moved(run_cli: Run, world: Path, tmp_path: Path, out: Path) -> None:
    """The paths in predictions.jsonl are dead: exit 2 and one line, nothing written; --images says where they are."""
    expected = boxes_of(run_cli("boxes", out, "--refine", "grabcut", "--format", "jsonl").stdout)
    lines = (out / "predictions.jsonl").read_text().replace(str(world / "data"), "/nowhere")
    (out / "predictions.jsonl").write_text(lines)
    done = run_cli("boxes", out, "--refine", "grabcut", "--out", tmp_path / "boxes.csv")
    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "3 of 3 are not there, such as '/nowhere/a.png'. Give their folder with --images" in done.stderr
    assert not (tmp_path / "boxes.csv").exists()
    found = run_cli("boxes", out, "--refine", "grabcut", "--images", world / "data", "--format", "jsonl")
    assert boxes_of(found.stdout) == expected
    (world / "data/sub/b.png").rename(tmp_path / "b.png")
    try:
        done = run_cli("boxes", out, "--refine", "grabcut", "--images", world / "data")
    finally:
        (tmp_path / "b.png").rename(world / "data/sub/b.png")
    assert done.code == 2
    assert "1 of 3 are not there" in done.stderr


def test_maps_of_others_need_the_images(run_cli: Run, world: Path, tmp_path: Path, out: Path) -> None:
    for name in SIZES:
        write_map(tmp_path / "foreign", name, MapFolder(out).load(name))
    done = run_cli("boxes", tmp_path / "foreign", "--threshold", "otsu", "--refine", "grabcut")
    assert (done.code, len(done.stderr.splitlines())) == (2, 1)
    assert "Give their folder with --images" in done.stderr
    refine = ("--threshold", "otsu", "--refine", "grabcut", "--images", world / "data", "--format", "jsonl")
    done = run_cli("boxes", tmp_path / "foreign", *refine)
    expected = boxes_of(run_cli("boxes", out, "--refine", "grabcut", "--format", "jsonl").stdout)
    assert {name: boxes_of(done.stdout)[name] for name in SIZES} == expected


def test_an_image_that_cannot_be_read_fails_alone(run_cli: Run, world: Path, tmp_path: Path, out: Path) -> None:
    shutil.copytree(world / "data", tmp_path / "copy")
    (tmp_path / "copy/a.png").write_bytes(b"no image")
    done = run_cli("boxes", out, "--refine", "grabcut", "--images", tmp_path / "copy", "--format", "csv")
    assert done.code == 3
    assert "a.png is not an image" in done.stderr
    assert len(done.stdout.splitlines()) == 3


# --- evaluate --------------------------------------------------------------------------------------------------------


def test_evaluate_refines_boxes_and_nothing_that_reads_maps(run_cli: Run, world: Path, tmp_path: Path) -> None:
    localize(run_cli, world, tmp_path / "out", "--precision", "fp32")
    asked = {"dataset": str(world / "data"), "masks": world / "masks", "device": "cpu"}
    plain = evaluate(str(world / "model"), Options(**asked))
    documents = [
        evaluate(str(world / "model"), Options(refine="grabcut", **asked)),
        evaluate(str(world / "refined"), Options(**asked)),
        evaluate(str(world / "model"), Options(refine="grabcut", batch_size=1, workers=0, **asked)),
    ]
    del asked["device"]
    documents.append(evaluate(str(tmp_path / "out"), Options(refine="grabcut", **asked)))
    for document in documents:
        assert document.options["box_rule"] == "otsu+grabcut"
        assert document.metrics["mean_iou"] == pytest.approx(documents[0].metrics["mean_iou"], abs=1e-6)
        assert document.metrics["mean_iou"] != plain.metrics["mean_iou"]
        for name in PX:
            assert document.metrics[name] == pytest.approx(plain.metrics[name], abs=1e-6), name
        assert document.floors["full_image"] == pytest.approx(plain.floors["full_image"])
    taken_off = evaluate(str(world / "refined"), Options(refine="none", device="cpu", **asked))
    assert taken_off.metrics == plain.metrics


def test_evaluated_boxes_are_those_that_localize_wrote(run_cli: Run, world: Path, tmp_path: Path) -> None:
    localize(run_cli, world, tmp_path / "out", "--refine", "grabcut", "--save", "map")
    ious = [iou(box, BOXES[name]).item() for name, box in recorded(tmp_path / "out").items()]
    document = evaluate(str(tmp_path / "out"), Options(dataset=str(world / "data")))
    assert document.options["box_rule"] == "otsu+grabcut"  # the one that was recorded
    assert document.metrics["mean_iou"] == pytest.approx(np.mean(ious), abs=1e-6)


def test_evaluating_maps_without_the_images_of_the_data_set(world: Path, tmp_path: Path, out: Path) -> None:
    """A data set may be a list alone: predictions.jsonl knows the images, or --images, else one line."""
    dataset, rule = open_dataset(str(world / "data")), parse_box_rule("otsu+grabcut")
    there = dataset.boxed_samples("test")
    gone = [replace(sample, path=Path("/nowhere") / sample.id) for sample in there]

    def boxes(samples: list[BoxedSample], images: Path | None = None) -> list[list[float]]:
        predictions = from_maps(out, GroundTruth(dataset, "train", samples), box_rule=rule, images=images)
        return [found.boxes_by_class[ANY][0].tolist() for found in predictions.items]

    expected = boxes(there)
    assert boxes(gone) == expected
    (out / "predictions.jsonl").unlink()
    assert boxes(gone, world / "data") == expected
    with pytest.raises(UsageError, match=r"3 of 3 are not there, such as '/nowhere/a\.png'\. Give their folder"):
        boxes(gone)


def test_options_that_do_not_go_together(run_cli: Run, world: Path) -> None:
    data = ("--dataset", world / "data")
    done = run_cli("evaluate", world / "model", *data, "--protocol", "wsoleval", "--refine", "grabcut")
    assert (done.code, "its own box rule" in done.stderr) == (2, True)
    done = run_cli("evaluate", world / "model", *data, "--images", world / "data")
    assert (done.code, "--images is for maps" in done.stderr) == (2, True)
