from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gwapctl.errors import DataError
from gwapctl.maps.reading import ResolvedReading
from gwapctl.predict.image_index import ImageIndex
from gwapctl.predict.map_folder import MapFolder, MapImage, MapsInfo, write_map, write_maps_info
from gwapctl.predict.prediction import ClassPrediction, Prediction, PredictionError, Rle
from gwapctl.predict.predictions import finished_ids, read_predictions


def line(image_id: str, **fields: object) -> str:
    return json.dumps(Prediction(image=f"/in/{image_id}", width=7, height=5, id=image_id, **fields).to_json()) + "\n"


def test_document_has_the_fields_of_the_interface() -> None:
    cat = ClassPrediction(
        "cat", "n02123045", 0.75, (1, 2, 3.5, 4), "maps/a/b.jpg.npy", (0.25, 2), 0.5, Rle((5, 7), "0S1")
    )
    image = Prediction("in/a/b.jpg", 7, 5, "tiny", (224, 448), (cat, ClassPrediction("dog", "n1", 0.25)), id="a/b.jpg")
    document = json.loads(json.dumps(image.to_json()))
    assert document == {
        "schema_version": 1,
        "image": "in/a/b.jpg",
        "width": 7,
        "height": 5,
        "model": "tiny",
        "scales": [224, 448],
        "predictions": [
            {
                "label": "cat",
                "label_id": "n02123045",
                "score": 0.75,
                "box": [1, 2, 3.5, 4],
                "map": "maps/a/b.jpg.npy",
                "map_range": [0.25, 2],
                "doubt": 0.5,
                "mask": {"size": [5, 7], "counts": "0S1"},
            },
            {
                "label": "dog",
                "label_id": "n1",
                "score": 0.25,
                "box": None,
                "map": None,
                "map_range": None,
                "doubt": None,
                "mask": None,
            },
        ],
        "error": None,
        "none": False,
        "engine": "",
        "precision": "",
        "id": "a/b.jpg",
    }
    assert Prediction.from_json(document) == image
    assert Prediction.from_json({**document, "of_the_future": 1}) == image


def test_id_falls_back_to_the_path() -> None:
    assert Prediction.from_json({"image": "x.jpg", "width": 1, "height": 2}).id == "x.jpg"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image": 3}, "image"),
        ({"width": None}, "width"),
        ({"predictions": [{"label": "a", "label_id": "a", "score": float("nan")}]}, "predictions.0.score"),
        ({"predictions": [{"label": "a", "label_id": "a", "score": 1, "box": [1, 2, 3]}]}, "predictions.0.box"),
        ({"schema_version": 2}, "schema_version"),
    ],
)
def test_wrong_documents_name_the_field(change: dict[str, object], named: str) -> None:
    document = {"schema_version": 1, "image": "x.jpg", "width": 1, "height": 2, **change}
    with pytest.raises(DataError, match=named):
        Prediction.from_json(document)


def test_reads_folder_jsonl_and_json(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    file.write_text(line("ä.jpg") + "\n" + line("b.jpg", error=PredictionError("DataError", "empty")))
    whole = tmp_path / "all.json"
    whole.write_text(json.dumps({"schema_version": 1, "images": [json.loads(line("ä.jpg"))]}))
    assert [image.id for image in read_predictions(tmp_path)] == ["ä.jpg", "b.jpg"]
    assert list(read_predictions(file))[1].error == PredictionError("DataError", "empty")
    assert [image.id for image in read_predictions(str(whole))] == ["ä.jpg"]


def test_broken_files_name_the_line(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    file.write_text(line("a.jpg") + '{"image": "b')
    with pytest.raises(DataError, match=r"line 2 .*--resume"):
        list(read_predictions(file))
    with pytest.raises(DataError, match="gwapctl localize"):
        list(read_predictions(tmp_path / "none.jsonl"))
    (tmp_path / "all.json").write_text("[]")
    with pytest.raises(DataError, match="expected a JSON object"):
        list(read_predictions(tmp_path / "all.json"))


def test_finished_ids_drop_the_torn_tail_and_failures(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    assert finished_ids(file) == set()
    good = line("a.jpg") + line("c.jpg")
    failed = line("b.jpg", error=PredictionError("DataError", "empty"))
    file.write_text(line("a.jpg") + failed + line("c.jpg") + line("d.jpg")[:-20])
    assert finished_ids(file) == {"a.jpg", "c.jpg"}
    assert file.read_text() == good
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_maps_round_trip_with_folders_and_suffixes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, many = rng.random((5, 7)).astype(np.float16), rng.random((3, 4, 6)).astype(np.float16)
    maps = tmp_path / "maps"
    write_map(maps, "a/x.jpg", one)
    write_map(maps, "a.b/x.png", many)
    info = MapsInfo(ResolvedReading(method="weight", scales=(224,)), model="tiny", values="raw")
    images = {"a/x.jpg": MapImage(14, 10, ("cat",), ("n1",)), 'q"/ö.png': MapImage(1, 2)}
    write_maps_info(maps, info, images.items())
    for folder in (MapFolder(tmp_path), MapFolder(str(maps))):
        assert folder.ids() == ["a.b/x.png", "a/x.jpg"]
        np.testing.assert_array_equal(folder.load("a/x.jpg"), one)
        assert folder.load("a.b/x.png").shape == (3, 4, 6)
        assert folder.load("a.b/x.png").dtype == np.float16
        assert folder.info.reading.method == "weight"
        assert folder.info.raw
        assert folder.info.images == images


def test_ranges_give_maps_their_own_values_again(tmp_path: Path) -> None:
    stretched = np.array([[[0, 0.5, 1]], [[0, 1, 0.25]], [[0, 0, 0]]], np.float16)
    write_map(tmp_path, "new", stretched)
    write_map(tmp_path, "old", stretched[0] * np.float16(3))  # beside it, as version 0.1.0 wrote maps
    images = {"new": MapImage(3, 1, ("a", "b", "c"), (), ((2.0, 4.0), (-8.0, 0.0), (7.0, 7.0))), "old": MapImage(3, 1)}
    write_maps_info(tmp_path, MapsInfo(values="minmax"), images.items())
    folder = MapFolder(tmp_path)
    assert folder.channels("new").tolist() == [[[2, 3, 4]], [[-8, 0, -6]], [[7, 7, 7]]]
    assert folder.channels("old").tolist() == [[[0, 1.5, 3]]]
    np.testing.assert_array_equal(folder.load("new"), stretched)
    write_map(tmp_path, "new", stretched[:2])
    with pytest.raises(DataError, match=r"3 ranges for the 2 maps of new\.npy"):
        folder.channels("new")


def test_a_map_that_is_being_written_is_none_yet(tmp_path: Path) -> None:
    write_map(tmp_path, "a/x.jpg", np.ones((2, 3)))
    (tmp_path / "a" / ".x-1234.npy").write_bytes(b"half")
    assert MapFolder(tmp_path).ids() == ["a/x.jpg"]


def test_maps_info_may_name_no_image(tmp_path: Path) -> None:
    write_maps_info(tmp_path, MapsInfo())
    assert MapFolder(tmp_path).info == MapsInfo()


def test_foreign_folder_has_defaults(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6).reshape(2, 3))
    folder = MapFolder(tmp_path)
    assert (folder.info.reading.method, folder.info.raw, folder.info.images) == ("unknown", False, {})
    assert folder.load("x").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4), "a map is"),
        (np.zeros((0, 4)), "a map is"),
        (np.zeros((1, 2, 3, 4)), "a map is"),
        (np.array([["a"]]), "a map is"),
        (np.array([[1.0, np.nan]]), "not finite"),
        (np.array([[object()]], dtype=object), "pickled"),
    ],
)
def test_arrays_that_are_no_maps(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        MapFolder(tmp_path).load("x")


def test_broken_map_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        MapFolder(tmp_path / "none")
    with pytest.raises(DataError, match=r"no \.npy maps"):
        MapFolder(tmp_path).ids()
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(DataError, match="cut off"):
        MapFolder(tmp_path).load("cut")
    with pytest.raises(DataError, match="has no map"):
        MapFolder(tmp_path).load("other")
    for outside in ("../cut", "/etc/passwd", ""):
        with pytest.raises(DataError, match="outside"):
            MapFolder(tmp_path).load(outside)
    (tmp_path / "maps.json").write_text('{"schema_version": 1, "scales": "big"}')
    with pytest.raises(DataError, match="scales"):
        _ = MapFolder(tmp_path).info


def test_index_finds_one_image_or_none() -> None:
    index = ImageIndex(["J/5.jpg", "J/6.jpg", "K/6.jpg", "7", "v1.5/8.jpg", "9.jpg", "9.png"])
    assert index.find("J/5.jpg") == "J/5.jpg"
    assert index.find("5") == "J/5.jpg"
    assert index.find("5.jpg") == "J/5.jpg"
    assert index.find("data/J/5.jpg") == "J/5.jpg"
    assert index.find("/data/x/7.jpg") == "7"
    assert index.find("8") == "v1.5/8.jpg"
    assert index.find("9.png") == "9.png"
    assert index.find("nothing", "K/6") == "K/6.jpg"
    assert index.find("6") is None  # two fit
    assert index.find("9") is None
    assert index.find("R/6.jpg") is None  # another folder
    assert index.find("5.png") is None  # another suffix


def test_reading_needs_no_torch() -> None:
    banned = "('torch', 'cv2', 'pandas')"
    code = f"import sys, gwapctl.predict.map_folder; sys.exit(any(name in sys.modules for name in {banned}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
