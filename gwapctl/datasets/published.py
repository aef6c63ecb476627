"""The archives of data sets as they were published: file names, sizes, checksums, addresses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gwapctl.datasets.folders import candidates, data_folders


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
        found = (candidate for place in data_folders(root) for candidate in candidates(place, self.folder))
        return any((candidate / self.proof).exists() for candidate in found)

    def target(self, root: Path | None) -> Path:
        """Return where to unpack it: beside what is there of the same folder, else in the first place."""
        parts = Path(self.folder).parts
        for place in data_folders(root):
            for candidate in candidates(place, self.folder):
                if candidate.is_dir() and candidate.resolve().parts[-len(parts) :] == parts:
                    return candidate.resolve().parents[len(parts) - 1]
        first = data_folders(root)[0]
        return first.parent if first.resolve().name == parts[0] else first


_VOC = ("http://host.robots.ox.ac.uk/pascal/VOC", "https://data.pjreddie.com/files")
VOC2007_TRAINVAL = Archive(
    file="VOCtrainval_06-Nov-2007.tar",
    size=460_032_000,
    md5="c52e279531787c972589f7e41ab4ae64",
    urls=(f"{_VOC[0]}/voc2007/VOCtrainval_06-Nov-2007.tar", f"{_VOC[1]}/VOCtrainval_06-Nov-2007.tar"),
    folder="VOCdevkit/VOC2007",
    proof="ImageSets/Main/trainval.txt",
    splits=("train", "val", "trainval"),
)
VOC2007_TEST = Archive(
    file="VOCtest_06-Nov-2007.tar",
    size=451_020_800,
    md5="b6e924de25625d8de591ea690078ad9f",
    urls=(f"{_VOC[0]}/voc2007/VOCtest_06-Nov-2007.tar", f"{_VOC[1]}/VOCtest_06-Nov-2007.tar"),
    folder="VOCdevkit/VOC2007",
    proof="ImageSets/Main/test.txt",
    splits=("test",),
)
VOC2012 = Archive(
    file="VOCtrainval_11-May-2012.tar",
    size=1_999_639_040,
    md5="6cd6e144f989b92b3379bac3b3de84fd",
    urls=(f"{_VOC[0]}/voc2012/VOCtrainval_11-May-2012.tar", f"{_VOC[1]}/VOCtrainval_11-May-2012.tar"),
    folder="VOCdevkit/VOC2012",
    proof="ImageSets/Main/trainval.txt",
    splits=("train", "val", "trainval"),
)
TINY_IMAGENET = Archive(
    file="tiny-imagenet-200.zip",
    size=248_100_043,
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    urls=("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
    folder="tiny-imagenet-200",
    proof="wnids.txt",
    splits=("train", "val"),
)
CUB = Archive(
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
IMAGENET = (
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
