"""Fetching data sets: announced, checked, resumable, and only where it was asked for.

VOC comes by itself when a command needs it and may use the network; every other set only by ``gwapctl data get``.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from gwapctl.datasets.archives import unpack
from gwapctl.datasets.places import candidates, data_places
from gwapctl.errors import DataError, UsageError, unknown_name
from gwapctl.progress import Progress, ProgressCallback

_ATTEMPTS = 4  # a download that breaks off goes on from there
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Archive:
    """One file of a data set. It has been unpacked below a place when ``folder / proof`` exists there.

    It brings ``folder`` with it, or unpacks ``into`` that part of it. Without ``urls`` only the user can fetch it.
    """

    file: str
    size: int  # bytes
    md5: str
    urls: tuple[str, ...]  # mirrors, best first
    folder: str
    proof: str
    splits: tuple[str, ...]
    into: str = ""

    def is_here(self, root: Path | None) -> bool:
        """Tell whether it is unpacked where the data set is looked for."""
        found = (candidate for place in data_places(root) for candidate in candidates(place, self.folder))
        return any((candidate / self.proof).exists() for candidate in found)

    def target(self, root: Path | None) -> Path:
        """Return where to unpack it: beside what is there of the same folder, else in the first place."""
        parts = Path(self.folder).parts
        for place in data_places(root):
            for candidate in candidates(place, self.folder):
                if candidate.is_dir() and candidate.resolve().parts[-len(parts) :] == parts:
                    return candidate.resolve().parents[len(parts) - 1]
        first = data_places(root)[0]
        return first.parent if first.resolve().name == parts[0] else first


_VOC = ("http://host.robots.ox.ac.uk/pascal/VOC", "https://data.pjreddie.com/files")
_VOC2007_TRAINVAL = Archive(
    file="VOCtrainval_06-Nov-2007.tar",
    size=460_032_000,
    md5="c52e279531787c972589f7e41ab4ae64",
    urls=(f"{_VOC[0]}/voc2007/VOCtrainval_06-Nov-2007.tar", f"{_VOC[1]}/VOCtrainval_06-Nov-2007.tar"),
    folder="VOCdevkit/VOC2007",
    proof="ImageSets/Main/trainval.txt",
    splits=("train", "val", "trainval"),
)
_VOC2007_TEST = Archive(
    file="VOCtest_06-Nov-2007.tar",
    size=451_020_800,
    md5="b6e924de25625d8de591ea690078ad9f",
    urls=(f"{_VOC[0]}/voc2007/VOCtest_06-Nov-2007.tar", f"{_VOC[1]}/VOCtest_06-Nov-2007.tar"),
    folder="VOCdevkit/VOC2007",
    proof="ImageSets/Main/test.txt",
    splits=("test",),
)
_VOC2012 = Archive(
    file="VOCtrainval_11-May-2012.tar",
    size=1_999_639_040,
    md5="6cd6e144f989b92b3379bac3b3de84fd",
    urls=(f"{_VOC[0]}/voc2012/VOCtrainval_11-May-2012.tar", f"{_VOC[1]}/VOCtrainval_11-May-2012.tar"),
    folder="VOCdevkit/VOC2012",
    proof="ImageSets/Main/trainval.txt",
    splits=("train", "val", "trainval"),
)
_TINY_IMAGENET = Archive(
    file="tiny-imagenet-200.zip",
    size=248_100_043,
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    urls=("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
    folder="tiny-imagenet-200",
    proof="wnids.txt",
    splits=("train", "val"),
)
_CUB = Archive(
    file="CUB_200_2011.tgz",
    size=1_150_585_339,
    md5="97eceeb196236b17998738112f37df78",
    urls=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
    folder="CUB_200_2011",
    proof="images.txt",
    splits=("train", "test"),
)


def _imagenet(file: str, size: int, md5: str, proof: str, into: str, *splits: str) -> Archive:
    return Archive(file, size, md5, (), "imagenet", proof, splits, into=f"imagenet/{into}")


_IMAGENET_VAL = "ILSVRC2012_val_00000001"
_IMAGENET = (
    _imagenet(
        "ILSVRC2012_img_val.tar",
        6_744_924_160,
        "29b22e2961454d5413ddabcf34fc5622",
        f"val/{_IMAGENET_VAL}.JPEG",
        "val",
        "val",
    ),
    _imagenet(
        "ILSVRC2012_bbox_val_v3.tgz",
        2_200_000,
        "f4cd18b5ea29fe6bbea62ec9c20d80f0",
        f"Annotations/val/{_IMAGENET_VAL}.xml",
        "Annotations",
        "val",
    ),
    _imagenet(
        "ILSVRC2012_devkit_t12.tar.gz",
        2_500_000,
        "fa75699e90414af021442c21a62c3abf",
        "ILSVRC2012_devkit_t12/data/meta.mat",
        "",
        "val",
    ),
    _imagenet(
        "ILSVRC2012_img_train.tar",
        147_897_477_120,
        "1d675b47d978889d74fa0da5fadfb00e",
        "train/n01440764",
        "train",
        "train",
    ),
    _imagenet(
        "ILSVRC2012_bbox_train_v2.tar.gz",
        20_000_000,
        "9271167e2176350e65cfe4e546f14b17",
        "Annotations/train/n01440764",
        "Annotations/train",
        "train",
    ),
)

ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "voc": (_VOC2007_TRAINVAL, _VOC2007_TEST),
    "voc2012": (_VOC2012,),
    "voc07+12": (_VOC2007_TRAINVAL, _VOC2012, _VOC2007_TEST),
    "tiny-imagenet": (_TINY_IMAGENET,),
    "imagenet": _IMAGENET,
    "cub": (_CUB,),
}
AUTOMATIC = ("voc", "voc2012", "voc07+12")

# what no checksum is published for: fetched and unpacked by hand, then counted by `gwapctl data check`
BY_HAND: dict[str, str] = {
    "lid": (
        "open https://lidchallenge.github.io/challenge.html, follow a link of track 3 (Baidu or Google Drive), and "
        "unpack the masks of the validation set, ILSVRC2012_val_*.png, below {folder}. Their images are "
        "ImageNet's val: gwapctl data get imagenet. Then count them: gwapctl data check lid"
    ),
}


def missing_archives(name: str, root: Path | None, splits: Sequence[str] | None = None) -> list[Archive]:
    """Return the archives of data set ``name`` that are not unpacked here; of ``splits`` only, if given."""
    wanted = [item for item in ARCHIVES.get(name, ()) if splits is None or not set(splits).isdisjoint(item.splits)]
    return [item for item in wanted if not item.is_here(root)]


def ensure_dataset(
    name: str,
    root: Path | None,
    *,
    offline: bool,
    splits: Sequence[str] = ("trainval",),
    progress: ProgressCallback | None = None,
    announce: Announce | None = None,
) -> None:
    """Fetch what ``splits`` of data set ``name`` lack, if it is one that comes by itself (VOC); do nothing otherwise.

    Raises:
        DataError: it is missing and the network may not be used (``offline`` or ``$GWAPCTL_OFFLINE``), or fails.

    """
    if name in AUTOMATIC:
        for archive in missing_archives(name, root, splits):
            _fetch(name, archive, root, offline, progress, announce)


def get_dataset(
    name: str,
    root: Path | None,
    *,
    files: Sequence[Path] = (),
    verify: bool = True,
    offline: bool = False,
    progress: ProgressCallback | None = None,
    announce: Announce | None = None,
) -> None:
    """Unpack the archives ``files`` of data set ``name``; without any, download all that is missing.

    Raises:
        UsageError: we do not know the name, or a file is not there.
        DataError: a checksum is wrong, an archive is damaged, or the network cannot be used.

    """
    if name in BY_HAND:
        raise DataError(
            f"{name} cannot be fetched for you: {BY_HAND[name].format(folder=data_places(root)[0] / name)}."
        )
    if name not in ARCHIVES:
        raise unknown_name("dataset", name, [*ARCHIVES, *BY_HAND])
    for file in files:
        archive = _identify(name, file, progress) if verify else _named_like(name, file)
        _unpack(archive, file, archive.target(root), progress)
    if not files:
        for archive in missing_archives(name, root):
            _fetch(name, archive, root, offline, progress, announce)


def _unpack(archive: Archive, file: Path, target: Path, progress: ProgressCallback | None) -> None:
    last = str(Path(archive.folder, archive.proof).relative_to(archive.into))
    unpack(file, target / archive.into, last=last, progress=progress)


def download(urls: Sequence[str], target: Path, size: int, md5: str, progress: ProgressCallback | None = None) -> None:
    """Download to ``target``, which appears only when it is whole and its MD5 is right.

    What has arrived stays in ``.<name>.part`` beside it, and the next call goes on from there.

    Raises:
        DataError: no mirror delivers the right file.

    """
    part = target.with_name(f".{target.name}.part")
    failure: Exception | str = "no address"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for url in [url for url in urls for _ in range(_ATTEMPTS)]:
            try:
                _append(url, part, size, progress)
            except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
                failure = error
                continue
            if part.stat().st_size != size or md5_of(part) != md5:
                failure = "what arrived has the wrong size or checksum"
                part.unlink()
                continue
            part.replace(target)
            return
    except OSError as error:
        raise DataError(
            f"cannot write {target}: {error.strerror or error}. Free space or choose another --root."
        ) from error
    raise DataError(f"cannot download {' or '.join(urls)}: {failure}.")


def md5_of(file: Path) -> str:
    """Return the MD5 of a file as hexadecimal digits."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}.") from error


def _append(url: str, part: Path, size: int, progress: ProgressCallback | None) -> None:
    """Add the rest of ``url`` to ``part``, or all of it where the server cannot continue."""
    done = part.stat().st_size if part.exists() else 0
    if done >= size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        done = done if _continues_at(response, done) else 0
        with part.open("ab" if done else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(Progress(done // 1_000_000, size // 1_000_000, "MB", part.name[1:-5]))
    if done < size:
        raise ConnectionError(f"the connection ended after {done} of {size} bytes")


def _continues_at(response: HTTPResponse, start: int) -> bool:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == 206 and match is not None and int(match[1]) == start


def _fetch(
    name: str,
    archive: Archive,
    root: Path | None,
    offline: bool,
    progress: ProgressCallback | None,
    announce: Announce | None,
) -> None:
    if not archive.urls:
        names = ", ".join(item.file for item in missing_archives(name, root))
        raise DataError(
            f"{name} needs an account and cannot be downloaded for you. Fetch what you need of {names} and run: gwapctl"
            f" data get {name} --archive FILE (once per file); or say where the data is with --root."
        )
    manual = (
        f"Fetch {archive.file} ({archive.size / 1e6:.0f} MB) from {archive.urls[0]} and run: gwapctl data get {name}"
        f" --archive {archive.file}; or say where the data is with --root."
    )
    if offline or os.environ.get("GWAPCTL_OFFLINE", "0") not in ("", "0"):
        raise DataError(f"{name} is not here, and --offline forbids to download it. {manual}")
    target = archive.target(root)
    if announce is not None:
        announce(f"downloading {archive.file}: {archive.size / 1e6:.0f} MB from {archive.urls[0]} to {target}")
    file = target / archive.file
    try:
        download(archive.urls, file, archive.size, archive.md5, progress)
    except DataError as error:
        raise DataError(f"{error} {manual}") from error
    _unpack(archive, file, target, progress)
    file.unlink()


def _identify(name: str, file: Path, progress: ProgressCallback | None) -> Archive:
    """Return the archive that ``file`` is, by its checksum."""
    if not file.is_file():
        raise UsageError(f"{file} does not exist. Give the downloaded archive with --archive.")
    if progress is not None:
        progress(Progress(0, None, "files", f"checking {file.name}"))
    digest = md5_of(file)
    for archive in ARCHIVES[name]:
        if archive.md5 == digest:
            return archive
    expected = ", ".join(f"{archive.file} {archive.md5}" for archive in ARCHIVES[name])
    raise DataError(
        f"{file} has MD5 {digest}, which is no archive of {name} ({expected}). Fetch it again, or use --no-verify."
    )


def _named_like(name: str, file: Path) -> Archive:
    if not file.is_file():
        raise UsageError(f"{file} does not exist. Give the downloaded archive with --archive.")
    return next((archive for archive in ARCHIVES[name] if archive.file == file.name), ARCHIVES[name][0])
