"""Names of files as strangers have them: other suffixes and Unicode forms, bytes that are no text, links in circles."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import Sample, fingerprint
from gwapctl.datasets.folders import list_images
from gwapctl.errors import DataError, MissingDependencyError, UsageError, printable
from gwapctl.files import json_text, read_json, write_json
from gwapctl.formats import EXPORTERS
from gwapctl.formats.base import annotation_name
from gwapctl.formats.reading import stored_boxes
from gwapctl.images.decode import image_size, read_image
from gwapctl.images.files import Overlooked, find_file, on_disk
from gwapctl.inputs import find_inputs
from gwapctl.predict.image_index import ImageIndex
from gwapctl.predict.map_folder import MapFolder, MapImage, MapsInfo, write_map, write_maps_info
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.predict.predictions import read_predictions
from tests.factories import boxes_by_id, coco, make_coco, make_voc, save_image, voc_object, voc_xml, write

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
LATIN = os.fsdecode(b"lat\xe9in.jpg")
WIDTH, HEIGHT = 64, 32
# red on the left, green above blue on the right; in the second the file says to turn it clockwise, and has EXIF 6
UPRIGHT_HEIC = (
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0004fZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=IV*mgE07O6l0RR"
    "C200001p#T8@00000004;q001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002}X>f9I0002pX>en20001XXm(>m"
    "0RwOV0058x000009`FGC{rLC*01pFT0096PKmiN^|NjGU00093kN^M!000939=ZZRVE_RDDnbDP18@KU0|1Z!00RI30{|YNAb|yz>g1-mxCm%4AOH"
    "XZ10VnZ0{|gn00967L;=Bbz=;3=025<xY;ta6Y<K_x01W^JfB*mh6lrsCWdHyG00000KmY&$KmY&$C}V74Z~y=RKmY&$0RR91AOHXW0RR9100000"
    "0{{R2-~a#s0ssI25O8UDX#fBK00RgJ2mk;87-?{AVE_OC000000RRC7fdT^sga7~lk!@sQbN~PVg(v~93E(*+B)|Xp1b_ed#BM|Q6f@g}{h7_b%o"
    "88`vO~~QYya%v!T*L5TYB@;XZ-HfnV6x>^^s+Z>m1QTYx0&AJWdbwx`j6SGmmJJAB-4}`4Hh~wp4VER{#!SW3%B$dQ029!8>khW3JYYoOjPZrSvg`"
    "yeCuW)@9i#na9w>a^L"
)
TURNED_HEIC = (
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0005VZDn*}000000000XXk=`10000000000aA{+700000000000000000000G-+&aV*mgE07O6l0ss"
    "L300001>;M4(00000004;q0ssI200MOY0RR9100000Bme*aIB98aW&i*H00062000$fZf0cy000000RRAKc4ILB0000LX>Mj^0ssI300IC2MR;ju00"
    "0004sdC7Z2$lO00031009SSaB^?}008D`aAR)(004Gqc4I>U18@KU0FVFx0000U@BsY%`1k+-4+CHT0RR|40Sp2E{{wIU00RJ!0009300RIXx&lC"
    "90096hLID8-Z~y=U0FVFx0{{R603M(qfd!W8<fgf}2xu@M00096AOHXZ03l)k0RRR>0l{;?i2wiq6Ju{|a&BX6cmM$a4FCp!0000KX>)L800000000"
    "0$0000$0000eV{Bn?0000$000010000W000010000000002|NsBs000020000GaA|mH000000|*ER00009X>xCL0{{R38EJ5BVE_OC000000RRC8f"
    "dT^sgoXeB02*m>Wo7^X0000001jhhb7KGk009620002BZDe6|0001mC;_ht;5j2CzyJ9JfB*QzZbSGKGuwszna#h<6CeAsL(o%e|Loww|ArD<dh^p~"
    "{O;A6n4!$|k!6eP9MMB-@|G1mP7n3Eg*N&#k7$w~j2Msk5aDRHRJCD401jbev*Aa2OWVA`J8o)YuGWs6ch5hi^f83ICsXLwW!Wj2$I!!a-~a#s21R&"
    "jW&i+9O#mtY000O80Ra*K0{{R30RRR70000000"
)


def save(path: Path, width: int = 40, height: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    path.write_bytes(cv2.imencode(".jpg", noise)[1].tobytes())
    return path


def write_heic(path: Path, data: str = UPRIGHT_HEIC) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b85decode(data))
    return path


@pytest.fixture
def without_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the extra ``heic`` look as if it were not installed."""
    monkeypatch.setitem(sys.modules, "pi_heif", None)


# ----------------------------------------------------------------------------------------------------------- suffixes


@pytest.mark.parametrize("suffix", ["jfif", "JFIF", "jpe", "mpo", "pjpeg"])
def test_every_name_of_a_jpeg_is_an_image(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / "set" / "cat" / f"v1.5 a.{suffix}")
    assert [item.id for item in find_inputs([str(tmp_path / "set")])] == [f"cat/v1.5 a.{suffix}"]
    assert list(list_images(tmp_path / "set")) == [f"cat/v1.5 a.{suffix}"]
    assert len(open_dataset(str(tmp_path / "set")).samples("train")) == 1
    assert annotation_name(f"cat/v1.5 a.{suffix}") == "cat/v1.5 a"
    assert ImageIndex([f"cat/v1.5 a.{suffix}"]).find("v1.5 a") == f"cat/v1.5 a.{suffix}"


def test_heic_is_read_upright(tmp_path: Path) -> None:
    upright, turned = write_heic(tmp_path / "a.HEIC"), write_heic(tmp_path / "b.heif", TURNED_HEIC)
    pixels, red, green, blue = read_image(upright), (220, 30, 30), (30, 200, 30), (30, 30, 220)
    assert image_size(upright) == (WIDTH, HEIGHT)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels[[4, 4, -4], [4, -4, -4]].astype(int) - [red, green, blue]).max() < 12
    pixels = read_image(turned)  # clockwise: what was left is above, what was below is left
    assert image_size(turned) == (HEIGHT, WIDTH)
    assert pixels.shape == (WIDTH, HEIGHT, 3)
    assert np.abs(pixels[[4, -4, -4], [4, 4, -4]].astype(int) - [red, blue, green]).max() < 12
    assert [item.id for item in find_inputs([str(tmp_path)])] == ["a.HEIC", "b.heif"]


def test_heic_in_a_file_called_jpg_is_read(tmp_path: Path) -> None:
    assert read_image(write_heic(tmp_path / "a.jpg")).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.usefixtures("without_heic")
def test_heic_without_the_extra_is_counted_and_named(tmp_path: Path, run_cli: Callable) -> None:
    for number in range(2):
        write_heic(tmp_path / "set" / "dog" / f"IMG_{number}.HEIC")
    for name in ("cat/0.jpg", "cat/1.jpg", "dog/0.jpg"):
        save(tmp_path / "set" / name)
    line = "2 HEIC photos are not read: "
    result = run_cli("data", "check", tmp_path / "set", "--json")
    document = json.loads(result.stdout)
    assert result.code == 0
    assert [item["images"] for item in document["classes"]] == [{"train": 2}, {"train": 1}]
    assert any(line in text and "IMG_0.HEIC" in text and "gwapctl[heic]" in text for text in document["warnings"])
    heard: list[str] = []
    assert len(find_inputs([str(tmp_path / "set")], notice=heard.append)) == 3
    assert len(heard) == 1
    assert line in heard[0]


@pytest.mark.usefixtures("without_heic")
def test_heic_named_without_the_extra_says_what_to_install(tmp_path: Path, run_cli: Callable) -> None:
    photo = write_heic(tmp_path / "dog" / "IMG_1.HEIC")
    for read in (read_image, image_size):
        with pytest.raises(MissingDependencyError, match=r"IMG_1\.HEIC is a HEIC photo.*gwapctl\[heic\]"):
            read(photo)
    with pytest.raises(MissingDependencyError, match=r"1 HEIC photo is not read"):
        find_inputs([str(tmp_path)])
    alone = run_cli("localize", photo)
    assert alone.code == 5
    assert "gwapctl[heic]" in alone.stderr
    both = run_cli("localize", photo, save(tmp_path / "a.jpg"), "--format", "jsonl")
    assert both.code == 3
    rows = {row["id"]: row for row in map(json.loads, both.stdout.splitlines())}
    assert rows["a.jpg"]["error"] is None
    assert "gwapctl[heic]" in rows["dog/IMG_1.HEIC"]["error"]["message"]


@pytest.mark.usefixtures("without_heic")
def test_a_class_of_heic_photos_alone_is_no_empty_class(tmp_path: Path) -> None:
    write_heic(tmp_path / "dog" / "a.heic")
    save(tmp_path / "cat" / "a.jpg")
    with pytest.raises(DataError, match=r"dog has no image but HEIC photos.*gwapctl\[heic\]"):
        open_dataset(str(tmp_path)).samples("train")


# ------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("aim", ["..", "../..", "."])
def test_a_link_that_leads_back_is_not_followed(tmp_path: Path, aim: str) -> None:
    top = tmp_path / "set"
    for name in ("cat/0.jpg", "cat/1.jpg", "dog/0.jpg"):
        save(top / name)
    (top / "cat" / "loop").symlink_to(aim)
    heard: list[str] = []
    assert len(find_inputs([str(top)], notice=heard.append)) == 3
    assert len(heard) == 1
    assert f"{top}/cat/loop" in heard[0]
    heard.clear()
    assert len(find_inputs([f"{top}/**/*.jpg"], notice=heard.append)) == 3  # a pattern walks by itself
    assert len(heard) == 1
    assert f"{top}/cat/loop" in heard[0]
    overlooked = Overlooked()
    assert list(list_images(top / "cat", overlooked)) == ["0.jpg", "1.jpg"]
    assert overlooked.loops == [f"{top}/cat/loop"]
    dataset = open_dataset(str(top))
    assert [sample.labels for sample in dataset.samples("train")] == [(0,), (0,), (1,)]
    assert any("cat/loop" in text for text in dataset.problems.warnings)


def test_other_links_are_followed_also_from_both_sides(tmp_path: Path) -> None:
    save(tmp_path / "store" / "x.jpg")
    save(tmp_path / "set" / "cat" / "0.jpg")
    (tmp_path / "set" / "more").symlink_to("../store")
    assert [item.id for item in find_inputs([str(tmp_path / "set")])] == ["cat/0.jpg", "more/x.jpg"]
    (tmp_path / "store" / "back").symlink_to("../set")  # two folders that link to each other
    assert [item.id for item in find_inputs([str(tmp_path / "set")])] == ["cat/0.jpg", "more/x.jpg"]


# ------------------------------------------------------------------------------------------------------ hidden files


def make_yolo(root: Path) -> Path:
    write(root / "data.yaml", "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        save_image(root / "images" / split / f"{name}.jpg")
        write(root / "labels" / split / f"{name}.txt", "1 0.5 0.5 0.25 0.25\n")
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "voc": lambda root: make_voc(root, {"a": voc_xml(voc_object()), "b": voc_xml(voc_object("dog"))}),
    "voc lists": lambda root: make_voc(root, {"a": voc_xml(voc_object())}, {"train": "a\n"}),
    "coco": lambda root: make_coco(root, coco()),
    "yolo": make_yolo,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_mac_or_a_kill_leaves_beside_a_file_is_not_read(tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "set")
    alone = open_dataset(str(folder))
    before = boxes_by_id(alone)
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        for begin in ("._", ".gwapctl-"):
            write(file.with_name(f"{begin}{file.name}"), b"\x00\x05\x16\x07\x00\x02\xff\xfe")
    dataset = open_dataset(str(folder))
    assert boxes_by_id(dataset) == before
    assert (dataset.problems.errors, dataset.problems.warnings) == (alone.problems.errors, alone.problems.warnings)


@pytest.mark.parametrize("name", ["voc", "yolo"])
def test_boxes_are_read_without_what_a_kill_left_beside_them(tmp_path: Path, name: str) -> None:
    found = (ClassPrediction("cat", "cat", 0.5, (1.0, 2.0, 30.0, 40.0)),)
    item = Prediction(str(save_image(tmp_path / "a.jpg")), 80, 60, predictions=found, id="a")
    EXPORTERS[name].build().write(tmp_path / "boxes", [item], None)
    before = [*stored_boxes(tmp_path / "boxes", lambda _: (80, 60))]
    assert len(before) == 1
    for file in [path for path in (tmp_path / "boxes").rglob("*") if path.is_file()]:
        write(file.with_name(f".gwapctl-{file.name}"), b"half")
    assert [*stored_boxes(tmp_path / "boxes", lambda _: (80, 60))] == before


# ------------------------------------------------------------------------------------------------------ Unicode forms


@pytest.mark.parametrize(("on_the_disk", "asked"), [(NFC, NFD), (NFD, NFC)])
def test_a_name_is_found_in_either_form(tmp_path: Path, on_the_disk: str, asked: str) -> None:
    path = save(tmp_path / on_the_disk / f"{on_the_disk}.jpg")
    assert find_file(tmp_path / asked / f"{asked}.jpg") == path
    (tmp_path / "list.txt").write_text(f"{asked}/{asked}.jpg\n", encoding="utf-8")
    assert [item.path for item in find_inputs([str(tmp_path / "list.txt")])] == [path]
    assert [item.path for item in find_inputs([str(tmp_path / asked / f"{asked}.jpg")])] == [path]
    assert ImageIndex([f"{on_the_disk}.jpg"]).find(f"photos/{asked}.jpg") == f"{on_the_disk}.jpg"


def test_of_two_files_that_differ_in_form_alone_each_is_itself(tmp_path: Path) -> None:
    paths = {form: save(tmp_path / f"{form}.jpg") for form in (NFC, NFD)}
    assert find_file(paths[NFC]) == paths[NFC]
    assert find_file(paths[NFD]) == paths[NFD]
    assert len(find_inputs([str(tmp_path)])) == 2
    index = ImageIndex([f"{NFC}.jpg", f"{NFD}.jpg"])
    assert (index.find(f"{NFC}.jpg"), index.find(f"{NFD}.jpg")) == (f"{NFC}.jpg", f"{NFD}.jpg")


def test_maps_are_found_in_either_form(tmp_path: Path) -> None:
    write_map(tmp_path, f"{NFD}.jpg", np.eye(6, dtype=np.float32)[:4])
    write_maps_info(tmp_path, MapsInfo(), [(f"{NFD}.jpg", MapImage(60, 40, ("cat",), ("n1",)))])
    folder = MapFolder(tmp_path)
    assert folder.load(f"{NFC}.jpg").shape == (4, 6)
    assert folder.about(f"{NFC}.jpg").labels == ("cat",)


# ----------------------------------------------------------------------------------------------- bytes that are no text


def test_an_undecodable_name_is_written_and_found_again(tmp_path: Path) -> None:
    assert printable(LATIN) == r"lat\xe9in.jpg"
    assert on_disk(r"a/lat\xe9in.jpg") == f"a/{LATIN}"
    assert printable(printable(LATIN)) == printable(LATIN)
    path = save(tmp_path / LATIN)
    assert find_file(tmp_path / r"lat\xe9in.jpg") == path
    [item] = find_inputs([str(tmp_path)])
    assert (item.path, item.id) == (path, r"lat\xe9in.jpg")
    assert Sample(LATIN, path, (0,)).id == r"lat\xe9in.jpg"
    assert len(fingerprint([Sample(LATIN, path, (0,))])) == 16
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / f"no {LATIN}")
    assert r"no lat\xe9in.jpg" in str(caught.value)


def test_a_name_that_is_what_another_is_written_as_is_refused(tmp_path: Path) -> None:
    save(tmp_path / LATIN)
    save(tmp_path / r"lat\xe9in.jpg")
    with pytest.raises(UsageError, match="written alike"):
        find_inputs([str(tmp_path)])


def test_lists_hold_names_of_any_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path / name) for name in ("a b.jpg", "line\u2028end.jpg", " blank .jpg", LATIN)]
    data = b"".join(os.fsencode(path.name) + b"\r\n" for path in paths)
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + data)
    assert {item.path for item in find_inputs([str(tmp_path / "list.txt")])} == set(paths)
    monkeypatch.chdir(tmp_path)
    for given in (data, data.replace(b"\r\n", b"\0")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8"))
        assert {item.path.name for item in find_inputs(["-"])} == {path.name for path in paths}


def test_a_file_listed_twice_is_noticed(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    (tmp_path / "list.txt").write_text("a.jpg\n./a.jpg\n")
    heard: list[str] = []
    assert len(find_inputs([str(tmp_path / "list.txt")], notice=heard.append)) == 1
    assert heard == ["listed twice, taken once: ./a.jpg."]


def test_an_undecodable_name_goes_all_the_way(tmp_path: Path, run_cli: Callable) -> None:
    """From ``localize --out`` over boxes in every format to ``evaluate``; nothing stops, nothing is lost."""
    for name in ("cat", os.fsdecode(b"h\xf6r")):
        save(tmp_path / "set" / "val" / name / "b.jpg")
        save(tmp_path / "set" / "val" / name / LATIN)
    out = tmp_path / "out"
    assert run_cli("localize", tmp_path / "set", "--out", out, "--format", "jsonl").code == 0
    ids = [image.id for image in read_predictions(out)]
    assert ids == ["val/cat/b.jpg", r"val/cat/lat\xe9in.jpg", r"val/h\xf6r/b.jpg", r"val/h\xf6r/lat\xe9in.jpg"]
    assert MapFolder(out).ids() == ids
    assert (out / "overlays" / r"val/cat/lat\xe9in.jpg.jpg").is_file()
    for name in EXPORTERS:
        assert run_cli("boxes", out, "--format", name, "--threshold", "0.5", "--out", tmp_path / name).code == 0, name
    label = Path(os.fsdecode(b"val/h\xf6r/lat\xe9in"))
    assert (tmp_path / "yolo" / "labels" / f"{label}.txt").is_file()
    assert (tmp_path / "voc" / f"{label}.xml").is_file()
    assert run_cli("boxes", out, "--format", "yolo", "--out", tmp_path / "yolo", "--overwrite").code == 0
    assert "lat%E9in.jpg" in (tmp_path / "label-studio").read_text()
    check = run_cli("data", "check", tmp_path / "set", "--json")
    assert [item["name"] for item in json.loads(check.stdout)["classes"]] == ["cat", r"h\xf6r"]
    judged = run_cli("evaluate", out / "maps", "--dataset", tmp_path / "set", "--json")
    document = json.loads(judged.stdout)
    assert (document["n"], document["metrics"]["top1_error"]) == (4, 100)  # the bundled model knows neither class
    assert any("lacks, which count as wrong" in note for note in document["notes"])


def test_maps_of_others_keep_their_names(tmp_path: Path) -> None:
    np.save(tmp_path / f"{LATIN}.npy", np.eye(4, dtype=np.float32))
    folder = MapFolder(tmp_path)
    assert folder.ids() == [r"lat\xe9in.jpg"]
    assert folder.load(r"lat\xe9in.jpg").shape == (4, 4)


def test_json_keeps_the_bytes_of_a_path(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"root": LATIN, "name": "café"})
    assert read_json(tmp_path / "run.json") == {"root": LATIN, "name": "café"}
    assert json_text("é\udce9") == r'"é\udce9"'


def test_an_id_that_is_text_stays_as_it_is() -> None:
    image = Prediction("a/é.jpg", 4, 3, predictions=(ClassPrediction("é", "é", 1.0),))
    assert Prediction.from_json(json.loads(json_text(image.to_json()))) == image
