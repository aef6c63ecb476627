"""ImageNet weights: where they come from, how large they are, and fetching them once."""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from gwapctl.errors import ModelError, option
from gwapctl.networks.weights_packages import way_on
from gwapctl.offline import is_offline

if TYPE_CHECKING:
    from torch import Tensor

TIMM = "timm:"  # in front of the name of any network of timm, whose weights are its hub's


class PretrainedWeights(NamedTuple):
    """A download: its address, its size in megabytes (10^6 bytes), to be announced before it starts, and its SHA-256.

    ``sha256`` may be its first digits; "": the Hugging Face hub states it when the file is fetched.
    """

    url: str
    size_mb: float
    sha256: str = ""

    @property
    def path(self) -> Path:
        """Where the file is downloaded to, and may be put by hand: torch.hub's cache (``TORCH_HOME`` moves it).

        Files of the Hugging Face hub all have one name; here they have their repository's.
        """
        import torch

        address = PurePosixPath(self.url)  # https:, HOST, OWNER, REPOSITORY, ...
        name = address.parts[3] + address.suffix if self._on_hugging_face else address.name
        return Path(torch.hub.get_dir()) / "checkpoints" / name

    @property
    def file(self) -> Path | None:
        """The file, if it is here: at ``path``, or where timm keeps what it downloaded from the Hugging Face hub."""
        if self.path.is_file():
            return self.path
        if not self._on_hugging_face:
            return None
        from huggingface_hub import try_to_load_from_cache

        _, _, owner, repository, *_, file = PurePosixPath(self.url).parts
        found = try_to_load_from_cache(f"{owner}/{repository}", file)
        return Path(found) if isinstance(found, str) else None

    @property
    def cached(self) -> bool:
        """Whether the file is here already, so that nothing will be downloaded."""
        return self.file is not None

    @property
    def _on_hugging_face(self) -> bool:
        return self.url.startswith("https://huggingface.co/")


def load_pretrained(weights: PretrainedWeights) -> dict[str, Tensor]:
    """Return the tensors of ``weights`` by name, downloading the file first where it is not cached.

    Torch's restricted reader, which runs no code, reads it. A file that it cannot read is a ``ModelError``.
    """
    import torch

    file = fetch(weights)
    try:
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways (zip, pickle, EOF), all of them mean the same
        raise ModelError(f"{file} is not a readable weights file. Delete it and run again.") from error
    return state


def fetch(weights: PretrainedWeights) -> Path:
    """Return the file of ``weights``, downloading it first where it is not here.

    The download goes to a temporary name, is compared with its SHA-256, and is then renamed. A bar on stderr appears
    only on a terminal.

    Raises:
        ModelError: the file cannot be downloaded, or may not be; the message names the manual way.

    """
    import torch

    if weights.file is not None:
        return weights.file
    by_hand = f"{way_on()} Or put the file by hand at {weights.path}."
    if is_offline():
        forbidden = f"{option('offline', True)} forbids to download it ({weights.size_mb:.0f} MB)"
        raise ModelError(f"{weights.url} is not here, and {forbidden}. {by_hand}")
    try:
        weights.path.parent.mkdir(parents=True, exist_ok=True)
        url, sha256 = _pinned(weights)
        torch.hub.download_url_to_file(url, str(weights.path), sha256, progress=sys.stderr.isatty())
    except Exception as error:  # no network, HTTP errors of three libraries, a full disk, a wrong checksum
        raise ModelError(f"cannot download {weights.url} ({weights.size_mb:.0f} MB): {error}. {by_hand}") from error
    return weights.path


def _pinned(weights: PretrainedWeights) -> tuple[str, str]:
    """Return the address of one revision of the file, and its SHA-256.

    On the Hugging Face hub a branch such as ``main`` moves. Its newest commit is asked for once, and the file of that
    commit, whose SHA-256 the hub states, is what is then fetched and compared.
    """
    if weights.sha256:
        return weights.url, weights.sha256
    from huggingface_hub import get_hf_file_metadata

    found = get_hf_file_metadata(weights.url)
    if not (found.commit_hash and re.fullmatch("[0-9a-f]{64}", found.etag or "")):
        raise ValueError("the hub states no revision and no SHA-256 of it")
    return re.sub("/resolve/[^/]+/", f"/resolve/{found.commit_hash}/", weights.url), str(found.etag)
