"""Networks that were released as a ``.caffemodel``: where each was published, and where its file is looked for.

Needs no torch. What the layers of each are called is in its released prototxt: our networks use those names, or
``BackboneEntry.caffe`` says which is which.
"""

from __future__ import annotations

from pathlib import Path

from gwapctl.datasets.folders import data_folders
from gwapctl.errors import ModelError, option

CAFFE = ".caffemodel"
# to be fetched by hand: those that begin with http: have no https
_BVLC = "http://dl.caffe.berkeleyvision.org"  # BVLC/caffe, models/*/readme.md
_CAM = "http://cnnlocalization.csail.mit.edu/demoCAM/models"  # zhoubolei/CAM, README.md

RELEASED = {
    "bvlc_alexnet.caffemodel": f"{_BVLC}/bvlc_alexnet.caffemodel",
    "bvlc_googlenet.caffemodel": f"{_BVLC}/bvlc_googlenet.caffemodel",
    "bvlc_reference_caffenet.caffemodel": f"{_BVLC}/bvlc_reference_caffenet.caffemodel",
    "nin_imagenet.caffemodel": "https://gist.github.com/mavenlin/d802a5849de39225bcc6",  # Caffe's Model Zoo
    "VGG_ILSVRC_16_layers.caffemodel": (
        "https://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel"
    ),
    "imagenet_googleletCAM_train_iter_120000.caffemodel": (
        f"{_CAM}/imagenet_googleletCAM_train_iter_120000.caffemodel"
    ),
    "vgg16CAM_train_iter_90000.caffemodel": f"{_CAM}/vgg16CAM_train_iter_90000.caffemodel",
    "alexnetplusCAM_imagenet.caffemodel": f"{_CAM}/alexnetplusCAM_imagenet.caffemodel",
}


def find_caffemodel(spec: str, root: Path | None = None) -> Path:
    """Return the file ``spec``: as it is given, else below ``root``, else in the user's cache.

    Without ``root`` the usual folders of data stand for it (``data_folders``).

    Raises:
        ModelError: it is in none of them; the message says where it was published.

    """
    from platformdirs import user_cache_path

    given, cache = Path(spec), user_cache_path("gwapctl")
    found = (path for path in (given, *(folder / given for folder in (*data_folders(root), cache))) if path.is_file())
    if (file := next(found, None)) is not None:
        return file
    tops = ", ".join(str(folder) for folder in data_folders(root) if folder != cache)
    known = RELEASED.get(given.name)
    source = f"It was published at {known}: fetch it" if known else "Bring it"
    raise ModelError(
        f"no {spec} in the working folder {Path.cwd()}, in {tops} ({option('root')}) or in the cache {cache}. {source} "
        f"and put it into one of them, or give its path with {option('weights')}."
    )
