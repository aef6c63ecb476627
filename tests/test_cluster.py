"""``--on ray``: images at any address, shards that appear whole and once, and a worker that is killed."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from gwapctl.cluster import on_ray
from gwapctl.cluster.on_ray import Actor, Job, check_resumed, run_on_ray
from gwapctl.cluster.sources import Source, fetched, find_sources
from gwapctl.cluster.work import Localizing, Task, tasks_for
from gwapctl.errors import DataError, UsageError
from gwapctl.networks.classifier import save_model
from gwapctl.predict.shards import Shard, read_record, shards_in
from tests.factories import make_images, make_manifest, make_run, make_small_classifier, write

Cli = Callable[..., Any]
SAVE = ("map", "mask")
CHUNK = 2


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(make_small_classifier(), tmp_path / "model")
    return tmp_path / "model"


def pictures(count: int) -> dict[str, bytes]:
    images = make_images(*((48 + 8 * (index % 3), 40 + 16 * (index % 2)) for index in range(count)))
    return {
        f"{'ab'[index % 2]}/{index}.png": cv2.imencode(".png", one)[1].tobytes() for index, one in enumerate(images)
    }


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eleven photos; one of them is none."""
    for name, data in {**pictures(10), "a/4broken.jpg": b"none"}.items():
        write(tmp_path / "photos" / name, data)
    return tmp_path / "photos"


def job_for(model: Path, out: Path | str, **more: Any) -> Job:
    return Job(Localizing(str(model), str(model), "cpu", "fp32", {"batch_size": CHUNK}, SAVE), str(out), **more)


def tasks_of(sources: list[Source], size: int = 4) -> list[Task]:
    return tasks_for([source.id for source in sources], size, sources=sources, chunk=CHUNK)


def work(job: Job, tasks: list[Task], *indices: int) -> list[dict[str, Any]]:
    """Do some shards in this process, as an actor does."""
    actor = Actor(job)
    return [actor(tasks[index].row) for index in indices]


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process do what actors do, in the other order."""
    done = lambda job, tasks, **_: (Actor(job)(task.row) for task in reversed(tasks))  # noqa: E731
    monkeypatch.setattr(on_ray, "run_on_ray", done)


def one_process(run_cli: Cli, photos: Path, model: Path, out: Path) -> dict[str, bytes]:
    asked = ("--device", "cpu", "--precision", "fp32", "-b", CHUNK, "--workers", 1, "--save", ",".join(SAVE))
    assert run_cli("localize", photos, "-m", model, *asked, "--out", out).code == 3
    return files(out)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- where images are -------------------------------------------------------------------------------------------------


def test_images_of_folders_tars_tables_and_addresses_are_the_same(tmp_path: Path) -> None:
    fsspec, arrow = pytest.importorskip("fsspec"), pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = pictures(5)
    memory = fsspec.filesystem("memory")
    with tarfile.open(tmp_path / "first.tar", "w") as archive:
        for name, data in images.items():
            write(tmp_path / "folder" / name, data)
            memory.pipe_file(f"/bucket/set/{name}", data)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        archive.addfile(tarfile.TarInfo("a/0.cls"), io.BytesIO(b""))
    table = arrow.table({"key": [*images], "image": [{"bytes": data, "path": None} for data in images.values()]})
    parquet.write_table(table, tmp_path / "second.parquet", row_group_size=2)
    for inputs, prefix in (
        ([str(tmp_path / "folder")], ""),
        (["memory://bucket/set"], ""),
        ([str(tmp_path / "first.tar")], "first/"),
        ([str(tmp_path / "second.parquet")], "second/"),
    ):
        sources = find_sources(inputs)
        assert [source.id for source in sources] == sorted(prefix + name for name in images), inputs
        (tmp_path / "into").mkdir(exist_ok=True)
        got = {item.id: item.path.read_bytes() for item in fetched(sources, tmp_path / "into")}
        assert got == {prefix + name: data for name, data in images.items()}
    both = find_sources([str(tmp_path / "folder"), str(tmp_path / "first.tar")])
    assert len(both) == 10
    assert sources[0].name == f"{tmp_path / 'second.parquet'}#second/a/0.png"
    with pytest.raises(DataError, match="are both called"):
        find_sources([str(tmp_path / "folder"), "memory://bucket/set"])
    with pytest.raises(UsageError, match="does not exist"):
        find_sources([str(tmp_path / "gone.tar")])
    with pytest.raises(DataError, match="cannot read"):
        find_sources([str(write(tmp_path / "broken.tar", b"x" * 600))])
    with tarfile.open(tmp_path / "out.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../../x.png"), io.BytesIO(b""))
    with pytest.raises(DataError, match="points outside"):
        find_sources([str(tmp_path / "out.tar")])


# --- shards of actors, without Ray ------------------------------------------------------------------------------------


def test_shards_of_actors_merge_to_one_process(tmp_path: Path, run_cli: Cli, photos: Path, model: Path) -> None:
    expected = one_process(run_cli, photos, model, tmp_path / "one")
    sources, job = find_sources([str(photos)]), job_for(model, tmp_path / "r", rows="parquet")
    tasks = tasks_of(sources)
    rows = work(job, tasks, 1, 0)
    (tmp_path / "r" / ".000002-killed").mkdir()
    write(tmp_path / "r" / ".000002-killed" / "predictions.jsonl", "torn")
    rows += work(job, tasks, 2, 1)  # 1 once more, as Ray does where a worker died before it answered
    assert [row["images"] for row in rows] == [4, 4, 3, 4]
    assert sum(row["failed"] for row in rows) == 1
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["000000", "000001", "000002"]
    assert run_cli("merge", tmp_path / "r", "--out", tmp_path / "all").code == 3
    assert files(tmp_path / "all") == expected
    parquet = pytest.importorskip("pyarrow.parquet")
    ids = [name for file in sorted((tmp_path / "r").glob("*/*.parquet")) for name in parquet.read_table(file)["id"]]
    assert [name.as_py() for name in ids] == [source.id for source in sources]


def test_shards_at_an_address_have_their_images_names(tmp_path: Path, model: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for name, data in {**pictures(3), "a/broken.jpg": b"none"}.items():
        memory.pipe_file(f"/in/{name}", data)
    job, sources = job_for(model, "memory://results"), find_sources(["memory://in"])
    assert not job.finished(Shard(0, 2))
    work(job, tasks_of(sources, 2), 0, 1)
    assert job.finished(Shard(0, 2))
    lines = b"".join(memory.cat_file(f"/results/{index:06d}/predictions.jsonl") for index in range(2)).splitlines()
    documents = [json.loads(line) for line in lines]
    assert [one["image"] for one in documents] == [source.address for source in sources]
    (failed,) = [one for one in documents if one["error"] is not None]
    assert failed["image"] in failed["error"]["message"]
    assert memory.exists("/results/000000/maps/a/0.png.npy")


def test_a_driver_goes_on_where_it_was(tmp_path: Path, photos: Path, model: Path) -> None:
    sources, job = find_sources([str(photos)]), job_for(model, tmp_path / "r")
    tasks = tasks_of(sources)
    work(job, tasks, 0, 1, 2)
    with pytest.raises(UsageError, match="has shards already"):
        next(run_on_ray(job, tasks))
    assert list(run_on_ray(job, tasks, resume=True)) == []
    settings = read_record(shards_in(tmp_path / "r")[0]).settings
    check_resumed(job, settings, tasks[0])
    with pytest.raises(UsageError, match="begun with another chunk"):
        check_resumed(job, {**settings, "chunk": 3}, tasks[0])
    with pytest.raises(UsageError, match="another size of shards"):
        check_resumed(job, settings, tasks_of(sources, 3)[0])


# --- the verbs, without Ray -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("labels", [(), ("--labels", "from-dataset")], ids=["any class", "known classes"])
def test_localized_and_boxed_images_are_those_of_one_process(
    tmp_path: Path, run_cli: Cli, voc: Path, labels: tuple[str, ...]
) -> None:
    from gwapctl.datasets import open_dataset

    names = [one.name for one in open_dataset(str(voc)).classes]
    save_model(make_small_classifier("gap", names, multi_label=True), tmp_path / "model")
    asked = (voc, "-m", tmp_path / "model", "--device", "cpu", *labels)
    for verb, form, out in (("localize", ("--save", "map,mask"), "found"), ("boxes", ("-f", "coco"), "boxes.json")):
        assert run_cli(verb, *asked, *form, "--out", tmp_path / out).code == 0
        result = run_cli(verb, *asked, *form, "--on", "ray", "--shard-size", 3, "--out", tmp_path / verb)
        assert (result.code, "next: gwapctl merge" in result.stderr) == (0, True), result.stderr
        assert len(shards_in(tmp_path / verb)) > 1
        again = run_cli(verb, *asked, *form, "--on", "ray", "--shard-size", 3, "--resume", "--out", tmp_path / verb)
        assert again.code == 0, again.stderr
        assert run_cli("merge", tmp_path / verb, "--out", tmp_path / f"all-{out}").code == 0
    assert files(tmp_path / "all-found") == files(tmp_path / "found")
    assert (tmp_path / "all-boxes.json").read_bytes() == (tmp_path / "boxes.json").read_bytes()


@pytest.mark.usefixtures("without_ray")
def test_boxes_of_images_in_a_tar_and_from_stored_maps(tmp_path: Path, run_cli: Cli, photos: Path, model: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(photos, ".")
    asked = ("-m", model, "--device", "cpu", "-f", "csv", "--on", "ray", "--shard-size", 4)
    out = tmp_path / "tar"
    assert run_cli("boxes", tmp_path / "photos.tar", *asked, "--rows", "parquet", "--out", out).code == 3
    assert run_cli("merge", out, "--out", tmp_path / "tar.csv").code == 3
    assert run_cli("boxes", photos, *asked[:-4], "--out", tmp_path / "photos.csv").code == 3
    texts = [
        (tmp_path / name).read_text().replace("photos.tar#", "").replace("photos/", "")
        for name in ("tar.csv", "photos.csv")
    ]
    assert texts[0] == texts[1]
    assert len(texts[0].splitlines()) == 11
    tables = [pytest.importorskip("pyarrow.parquet").read_table(file) for file in sorted(out.glob("*/*.parquet"))]
    (broken,) = [row for table in tables for row in table.to_pylist() if row["error"]]
    assert broken["image"] == f"{tmp_path / 'photos.tar'}#photos/a/4broken.jpg"
    assert run_cli("localize", photos, "-m", model, "--device", "cpu", "--out", tmp_path / "found").code == 3
    cut = ("--threshold", 0.4, "--max-boxes", 3, "-f", "label-studio")
    result = run_cli("boxes", tmp_path / "found", *cut, *asked[-4:], "--out", tmp_path / "cut")
    assert (result.code, "10 images in 3 shards" in result.stderr) == (3, True), result.stderr
    assert run_cli("merge", tmp_path / "cut", "--out", tmp_path / "all.json").code == 3
    assert run_cli("boxes", tmp_path / "found", *cut, "--out", tmp_path / "one.json").code == 3
    assert (tmp_path / "all.json").read_bytes() == (tmp_path / "one.json").read_bytes()


@pytest.mark.usefixtures("without_ray")
def test_evaluations_are_those_of_one_process(tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", make_manifest(tmp_path / "data"), make_small_classifier())
    monkeypatch.chdir(tmp_path)
    assert run_cli("localize", tmp_path / "data", "-m", "run", "--device", "cpu", "--out", "found").code == 0
    for number, asked in enumerate([("run", "--device", "cpu", "-b", 2), ("found", "--dataset", "data")]):
        assert run_cli("evaluate", *asked, "--out", f"{number}.json").code == 0
        assert run_cli("evaluate", *asked, "--on", "ray", "--shard-size", 3, "--out", f"r{number}").code == 0
        result = run_cli("evaluate", *asked, "--box-rule", "otsu", "--on", "ray", "--resume", "--out", f"r{number}")
        assert result.code == 2, result.stderr
        assert len(shards_in(tmp_path / f"r{number}")) == 3
        assert run_cli("merge", f"r{number}", "--out", f"all{number}.json").code == 0
        one, merged = (json.loads((tmp_path / f"{name}{number}.json").read_text()) for name in ("", "all"))
        for document in (one, merged):
            del document["seconds"], document["created"]
        assert merged == one
    assert len(run.evaluations()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("localize", "photos", "--on", "ray"), "Give --out"),
        (("localize", "photos", "--on", "ray", "--json", "--out", "r"), "--json does not go with --on ray"),
        (("boxes", "photos", "--on", "ray", "--review", "page", "--out", "r"), "--review does not go with --on ray"),
        (("boxes", "photos", "--on", "ray", "--out", "boxes.json"), "--on ray writes a folder"),
        (("boxes", "photos", "--resume", "--out", "b.csv"), "--resume goes with --on ray"),
        (("evaluate", "run", "--on", "ray", "--shard", "0/2", "--out", "r"), "--shard does not go with --on ray"),
        (("evaluate", "run", "--actors", "2"), "--actors goes with --on ray"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_do_not_go_together_are_named(run_cli: Cli, words: tuple[str, ...], said: str) -> None:
    result = run_cli(*words)
    assert (result.code, said in result.stderr) == (2, True), result.stderr


# --- Ray itself -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(
    tmp_path: Path, run_cli: Cli, photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, one of them killed; then the driver stops, and another one goes on."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's workers are polite, and starve beside other tests
    expected = one_process(run_cli, photos, model, tmp_path / "one")
    sources, job = find_sources([str(photos)]), job_for(model, tmp_path / "r")
    tasks = tasks_of(sources, 2)
    stream = run_on_ray(job, tasks, actors=2)
    os.kill(next(stream)["pid"], signal.SIGKILL)
    done = [next(stream)["shard"] for _ in range(2)]
    stream.close()
    assert len(done) == 2
    rest = [row["shard"] for row in run_on_ray(job, tasks, actors=2, resume=True)]
    assert len(rest) <= 3
    assert run_cli("merge", tmp_path / "r", "--out", tmp_path / "all").code == 3
    assert files(tmp_path / "all") == expected


@pytest.mark.slow
def test_boxes_and_evaluate_run_on_ray(tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    make_run(tmp_path / "run", make_manifest(tmp_path / "data"), make_small_classifier())
    monkeypatch.chdir(tmp_path)
    on = ("--on", "ray", "--actors", 2, "--shard-size", 3)
    for words, end in (
        (("boxes", "data", "-m", "run", "--device", "cpu", "-f", "coco"), "coco.json"),
        (("evaluate", "run", "--device", "cpu"), "evaluation.json"),
    ):
        assert run_cli(*words, "--out", f"one-{end}").code == 0
        result = run_cli(*words, *on, "--out", end[:4])
        assert (result.code, "shards in" in result.stderr) == (0, True), result.stderr
        assert run_cli("merge", end[:4], "--out", f"all-{end}").code == 0
        one, merged = (json.loads((tmp_path / f"{name}-{end}").read_text()) for name in ("one", "all"))
        for document in (one, merged):
            document.pop("seconds", None), document.pop("created", None)
        assert merged == one
