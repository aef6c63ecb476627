"""Downloads: from a server on this machine that cuts connections, and archives that try to leave their folder."""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gwapctl.datasets import DATASETS, published
from gwapctl.datasets.download import ensure_dataset, get_dataset, missing_archives, unpack
from gwapctl.datasets.published import Archive
from gwapctl.errors import DataError, UsageError
from gwapctl.progress import Progress

DEVKIT = {
    "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt": b"000001\n",
    "VOCdevkit/VOC2007/Annotations/000001.xml": b"<annotation></annotation>",
    "VOCdevkit/VOC2007/JPEGImages/000001.jpg": b"not looked at" * 1000,
}


def make_tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@dataclass
class Server:
    """What the server sends and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None  # bytes per answer
    ranges: bool = True
    asked: list[str | None] = field(default_factory=list)
    address: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("GWAPCTL_OFFLINE", raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = state.files.get(self.path)
            asked = self.headers.get("Range")
            state.asked.append(asked)
            if data is None:
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:][: state.cut_after])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def have_archives(monkeypatch: pytest.MonkeyPatch, *archives: Archive) -> None:
    monkeypatch.setitem(DATASETS, "voc", replace(DATASETS["voc"], archives=archives))


@pytest.fixture
def voc(server: Server, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """VOC 2007 trainval, very much smaller, on our own server."""
    data = make_tar(DEVKIT)
    archive = replace(
        published.VOC2007_TRAINVAL,
        size=len(data),
        checksum=hashlib.sha256(data).hexdigest(),
        urls=(f"{server.address}/voc.tar",),
    )
    server.files["/voc.tar"] = data
    have_archives(monkeypatch, archive, published.VOC2007_TEST)
    return archive


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_voc_comes_by_itself_announced_and_once(voc: Archive, server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    steps: list[Progress] = []
    for _ in range(2):
        ensure_dataset("voc", tmp_path, offline=False, progress=steps.append, announce=said.append)
    assert contents(tmp_path) == DEVKIT, "the archive itself and temporary files are gone"
    assert len(server.asked) == 1
    (message,) = said
    assert voc.file in message
    assert "MB" in message
    assert server.address in message
    assert {step.unit for step in steps} == {"MB", "files"}


def test_other_splits_are_not_fetched(voc: Archive, tmp_path: Path) -> None:
    assert missing_archives("voc", tmp_path, ["train"]) == [voc]
    ensure_dataset("voc", tmp_path, offline=False)
    assert missing_archives("voc", tmp_path, ["trainval"]) == []
    assert [item.splits for item in missing_archives("voc", tmp_path)] == [("test",)]


@pytest.mark.parametrize("inside", [".", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_the_root_may_be_a_part_of_the_official_folder(voc: Archive, tmp_path: Path, inside: str) -> None:
    root = tmp_path / inside
    root.mkdir(parents=True, exist_ok=True)
    ensure_dataset("voc", root, offline=False)
    assert contents(tmp_path) == DEVKIT


def test_a_broken_connection_is_continued(voc: Archive, server: Server, tmp_path: Path) -> None:
    server.cut_after = voc.size // 3 + 1
    ensure_dataset("voc", tmp_path, offline=False)
    assert contents(tmp_path) == DEVKIT
    assert server.asked == [None, f"bytes={server.cut_after}-", f"bytes={2 * server.cut_after}-"]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(voc: Archive, server: Server, tmp_path: Path) -> None:
    server.cut_after = voc.size // 10
    with pytest.raises(DataError, match="data get voc --archive"):
        ensure_dataset("voc", tmp_path, offline=False)
    assert not (tmp_path / "VOCdevkit").exists()
    kept = 4 * server.cut_after
    server.cut_after = None
    ensure_dataset("voc", tmp_path, offline=False)
    assert server.asked[-1] == f"bytes={kept}-"
    assert contents(tmp_path) == DEVKIT


def test_a_server_that_cannot_continue_starts_over(voc: Archive, server: Server, tmp_path: Path) -> None:
    (tmp_path / f".{voc.file}.part").write_bytes(b"old")
    server.ranges = False
    ensure_dataset("voc", tmp_path, offline=False)
    assert contents(tmp_path) == DEVKIT


def test_a_wrong_file_is_refused_and_forgotten(voc: Archive, server: Server, tmp_path: Path) -> None:
    server.files["/voc.tar"] = bytes(voc.size)
    with pytest.raises(DataError, match="wrong size or checksum"):
        ensure_dataset("voc", tmp_path, offline=False)
    assert contents(tmp_path) == {}


def test_the_second_mirror_helps_out(voc: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    two = replace(voc, urls=(voc.urls[0].replace("voc.tar", "gone.tar"), *voc.urls))
    have_archives(monkeypatch, two)
    ensure_dataset("voc", tmp_path, offline=False)
    assert contents(tmp_path) == DEVKIT


def test_no_network(voc: Archive, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dead = replace(voc, urls=("http://127.0.0.1:9/voc.tar",))
    have_archives(monkeypatch, dead)
    with pytest.raises(DataError, match=r"cannot download .*gwapctl data get voc --archive .*root="):
        ensure_dataset("voc", tmp_path, offline=False)


def test_offline_asks_nobody(voc: Archive, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"offline=True forbids.*data get voc --archive"):
        ensure_dataset("voc", tmp_path, offline=True)
    monkeypatch.setenv("GWAPCTL_OFFLINE", "1")
    with pytest.raises(DataError, match="offline=True forbids"):
        ensure_dataset("voc", tmp_path, offline=False)
    assert server.asked == []


def test_other_sets_never_come_by_themselves(server: Server, tmp_path: Path) -> None:
    ensure_dataset("tiny-imagenet", tmp_path, offline=False)
    ensure_dataset("some/folder", tmp_path, offline=False)
    assert server.asked == []
    assert contents(tmp_path) == {}


# --------------------------------------------------------------------------------------------------- archives by hand


def test_get_unpacks_a_given_archive(voc: Archive, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "whatever.tar"
    file.write_bytes(server.files["/voc.tar"])
    get_dataset("voc", tmp_path / "data", files=[file])
    assert contents(tmp_path / "data") == DEVKIT
    assert file.exists(), "what the user gave stays"
    assert server.asked == []


def test_get_refuses_a_wrong_archive(voc: Archive, tmp_path: Path) -> None:
    file = tmp_path / voc.file
    file.write_bytes(make_tar({"VOCdevkit/VOC2007/ImageSets/Main/trainval.txt": b""}))
    with pytest.raises(DataError, match=r"SHA256 .* no archive of voc"):
        get_dataset("voc", tmp_path / "data", files=[file])
    assert not (tmp_path / "data").exists()
    get_dataset("voc", tmp_path / "data", files=[file], verify=False)
    assert (tmp_path / "data/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt").exists()
    with pytest.raises(UsageError, match="does not exist"):
        get_dataset("voc", tmp_path, files=[tmp_path / "nothing.tar"])
    with pytest.raises(UsageError, match="Did you mean 'voc2012'"):
        get_dataset("voc2013", tmp_path)


def tar_with(member: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("fine.txt"))
        tar.addfile(member)
    return buffer.getvalue()


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


HOSTILE = {
    "absolute": tar_member("/etc/evil"),
    "above": tar_member("a/../../evil"),
    "backslash": tar_member("..\\evil"),
    "drive": tar_member("C:/evil"),
    "symlink": tar_member("a", tarfile.SYMTYPE, "/etc"),
    "hardlink": tar_member("a", tarfile.LNKTYPE, "../evil"),
    "device": tar_member("a", tarfile.CHRTYPE),
}


@pytest.mark.parametrize("member", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_tar_members_are_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    file = tmp_path / "evil.tar"
    file.write_bytes(tar_with(member))
    with pytest.raises(DataError, match="refused"):
        unpack(file, tmp_path / "inside" / "data")
    assert contents(tmp_path / "inside") == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar", "inside"]


def test_hostile_zip_members_are_refused(tmp_path: Path) -> None:
    for name, mode in (("../evil", stat.S_IFREG), ("/evil", stat.S_IFREG), ("a", stat.S_IFLNK)):
        file = tmp_path / "evil.zip"
        with zipfile.ZipFile(file, "w") as archive:
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode | 0o644) << 16
            archive.writestr(info, "/etc/passwd")
        with pytest.raises(DataError, match="refused"):
            unpack(file, tmp_path / "data")
        assert contents(tmp_path / "data") == {}


def test_zip_and_compressed_tar(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("top/a.txt", "a")
    with tarfile.open(tmp_path / "b.tgz", "w:gz") as tar:
        tar.add(tmp_path / "a.zip", "top/deep/b.bin")
    for name in ("a.zip", "b.tgz"):
        unpack(tmp_path / name, tmp_path / "data")
    assert set(contents(tmp_path / "data")) == {"top/a.txt", "top/deep/b.bin"}


@pytest.mark.parametrize("data", [b"", b"neither", make_tar(DEVKIT)[:2000], b"PK\x03\x04 broken"])
def test_damaged_archives(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tar"):
        unpack(file, tmp_path / "data")
    assert contents(tmp_path / "data") == {}
