"""``localize --on ray``: images at any address, shards that appear whole and once, and a worker that is killed."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from gwapctl.cluster.on_ray import Job, Localizer, check_resumed, localize_on_ray
from gwapctl.cluster.sources import Source, fetched, find_sources
from gwapctl.errors import DataError, UsageError
from gwapctl.networks.classifier import save_model
from gwapctl.predict.shards import Shard, read_record, shards_in, whole_of
from tests.factories import make_images, make_small_classifier, write

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


def job_for(model: Path, out: Path | str, shards: int = 3, **more: Any) -> Job:
    options = {"batch_size": CHUNK}
    return Job(str(model), str(model), str(out), shards, "cpu", "fp32", options, SAVE, **more)


def work(job: Job, sources: list[Source], *indices: int) -> list[dict[str, Any]]:
    """Do some shards in this process, as an actor does."""
    actor, (total, digest) = Localizer(job), whole_of(source.id for source in sources)
    rows = []
    for index in indices:
        own = json.dumps([vars(source) for source in Shard(index, job.shards).of(sources, CHUNK)])
        rows.append(actor({"shard": index, "sources": own, "total": total, "digest": digest}))
    return rows


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
    rows = work(job, sources, 1, 0)
    (tmp_path / "r" / ".000002-killed").mkdir()
    write(tmp_path / "r" / ".000002-killed" / "predictions.jsonl", "torn")
    rows += work(job, sources, 2, 1)  # 1 once more, as Ray does where a worker died before it answered
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
    job, sources = job_for(model, "memory://results", shards=2), find_sources(["memory://in"])
    assert not job.finished(Shard(0, 2))
    work(job, sources, 0, 1)
    assert job.finished(Shard(0, 2))
    lines = b"".join(memory.cat_file(f"/results/{index:06d}/predictions.jsonl") for index in range(2)).splitlines()
    documents = [json.loads(line) for line in lines]
    assert [one["image"] for one in documents] == [source.address for source in sources]
    (failed,) = [one for one in documents if one["error"] is not None]
    assert failed["image"] in failed["error"]["message"]
    assert memory.exists("/results/000000/maps/a/0.png.npy")


def test_a_driver_goes_on_where_it_was(tmp_path: Path, photos: Path, model: Path) -> None:
    sources, job = find_sources([str(photos)]), job_for(model, tmp_path / "r")
    work(job, sources, 0, 1, 2)
    with pytest.raises(UsageError, match="has shards already"):
        next(localize_on_ray(job, sources, CHUNK))
    assert list(localize_on_ray(job, sources, CHUNK, resume=True)) == []
    settings = read_record(shards_in(tmp_path / "r")[0]).settings
    check_resumed(job, settings, sources)
    with pytest.raises(UsageError, match="begun with another chunk"):
        check_resumed(job, {**settings, "chunk": 3}, sources)
    with pytest.raises(UsageError, match="another size of shards"):
        check_resumed(replace(job, shards=4), settings, sources)


# --- Ray itself -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(
    tmp_path: Path, run_cli: Cli, photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, one of them killed; then the driver stops, and another one goes on."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's workers are polite, and starve beside other tests
    expected = one_process(run_cli, photos, model, tmp_path / "one")
    sources, job = find_sources([str(photos)]), job_for(model, tmp_path / "r", shards=5)
    stream = localize_on_ray(job, sources, CHUNK, actors=2)
    os.kill(next(stream)["pid"], signal.SIGKILL)
    done = [next(stream)["shard"] for _ in range(2)]
    stream.close()
    assert len(done) == 2
    rest = [row["shard"] for row in localize_on_ray(job, sources, CHUNK, actors=2, resume=True)]
    assert len(rest) <= 2
    assert run_cli("merge", tmp_path / "r", "--out", tmp_path / "all").code == 3
    assert files(tmp_path / "all") == expected
