"""The archives of data sets as they were published: file names, sizes, checksums, addresses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gwapctl.datasets.folders import candidates, data_folders


@dataclass(frozen=True)
class Archive:
    """One file of a data set. It has been unpacked below a folder of data when ``folder / proof`` exists there.

    It brings ``folder`` with it, or unpacks ``into`` that part of it. Without ``urls`` only the user can fetch it, and
    its ``checksum`` may be the MD5 that was published; what we fetch has a SHA-256.
    """

    file: str
    size: int  # bytes
    checksum: str  # hexadecimal digits: 64 are a SHA-256, 32 an MD5
    urls: tuple[str, ...]  # mirrors, best first; https all of them
    folder: str
    proof: str
    splits: tuple[str, ...]
    into: str = ""

    @property
    def algorithm(self) -> str:
        """What ``hashlib`` calls the algorithm of the checksum."""
        return "sha256" if len(self.checksum) == 64 else "md5"

    def is_here(self, root: Path | None) -> bool:
        """Tell whether it is unpacked where the data set is looked for."""
        found = (candidate for top in data_folders(root) for candidate in candidates(top, self.folder))
        return any((candidate / self.proof).exists() for candidate in found)

    def folder_for(self, root: Path | None) -> Path:
        """Return where to unpack it: beside what is there of the same folder, else in the first folder of data."""
        parts = Path(self.folder).parts
        for top in data_folders(root):
            for candidate in candidates(top, self.folder):
                if candidate.is_dir() and candidate.resolve().parts[-len(parts) :] == parts:
                    return candidate.resolve().parents[len(parts) - 1]
        first = data_folders(root)[0]
        return first.parent if first.resolve().name == parts[0] else first


def _voc(file: str, size: int, sha256: str, year: int, *splits: str) -> Archive:
    # host.robots.ox.ac.uk, the published address, has no https: the same group's other server has
    mirrors = (f"https://thor.robots.ox.ac.uk/pascal/VOC/voc{year}", "https://data.pjreddie.com/files")
    urls = tuple(f"{mirror}/{file}" for mirror in mirrors)
    return Archive(file, size, sha256, urls, f"VOCdevkit/VOC{year}", f"ImageSets/Main/{splits[-1]}.txt", splits)


def _imagenet(file: str, size: int, md5: str, split: str, proof: str, into: str = "") -> Archive:
    return Archive(f"ILSVRC2012_{file}", size, md5, (), "imagenet", proof, (split,), into=f"imagenet/{into}")


VOC2007_TRAINVAL = _voc(
    "VOCtrainval_06-Nov-2007.tar",
    460_032_000,
    "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
    2007,
    "train",
    "val",
    "trainval",
)
VOC2007_TEST = _voc(
    "VOCtest_06-Nov-2007.tar",
    451_020_800,
    "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
    2007,
    "test",
)
VOC2012 = _voc(
    "VOCtrainval_11-May-2012.tar",
    1_999_639_040,
    "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    2012,
    "train",
    "val",
    "trainval",
)
TINY_IMAGENET = Archive(
    file="tiny-imagenet-200.zip",
    size=248_100_043,
    checksum="6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    urls=("https://cs231n.stanford.edu/tiny-imagenet-200.zip",),
    folder="tiny-imagenet-200",
    proof="wnids.txt",
    splits=("train", "val"),
)
CUB = Archive(
    file="CUB_200_2011.tgz",
    size=1_150_585_339,
    checksum="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    urls=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
    folder="CUB_200_2011",
    proof="images.txt",
    splits=("train", "test"),
)


_VAL, _TRAIN = "ILSVRC2012_val_00000001", "train/n01440764"
IMAGENET = (
    _imagenet("img_val.tar", 6_744_924_160, "29b22e2961454d5413ddabcf34fc5622", "val", f"val/{_VAL}.JPEG", "val"),
    _imagenet(
        "bbox_val_v3.tgz",
        2_200_000,
        "f4cd18b5ea29fe6bbea62ec9c20d80f0",
        "val",
        f"Annotations/val/{_VAL}.xml",
        "Annotations",
    ),
    _imagenet(
        "devkit_t12.tar.gz", 2_500_000, "fa75699e90414af021442c21a62c3abf", "val", "ILSVRC2012_devkit_t12/data/meta.mat"
    ),
    _imagenet("img_train.tar", 147_897_477_120, "1d675b47d978889d74fa0da5fadfb00e", "train", _TRAIN, "train"),
    _imagenet(
        "bbox_train_v2.tar.gz",
        20_000_000,
        "9271167e2176350e65cfe4e546f14b17",
        "train",
        f"Annotations/{_TRAIN}",
        "Annotations/train",
    ),
)
