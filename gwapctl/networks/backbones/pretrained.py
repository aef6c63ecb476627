"""ImageNet weights: where they come from, how large they are, and fetching them once."""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from gwapctl.errors import ModelError
from gwapctl.networks.weights_packages import way_on

if TYPE_CHECKING:
    from torch import Tensor

TIMM = "timm:"  # in front of the name of any network of timm, whose weights are its hub's


class PretrainedWeights(NamedTuple):
    """A download: its address and its size in megabytes (10^6 bytes), to be announced before it starts."""

    url: str
    size_mb: float

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

    The download goes to a temporary name, is compared with the SHA-256 prefix in its file name, if it has one, and is
    then renamed. A bar on stderr appears only on a terminal.

    Raises:
        ModelError: the file cannot be downloaded; the message names the manual way.

    """
    import torch

    if weights.file is not None:
        return weights.file
    match = re.search(r"-([0-9a-f]{8,})\.", weights.path.name)
    try:
        weights.path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            weights.url, str(weights.path), match.group(1) if match else None, progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError) as error:  # no network, HTTP errors, full disk; RuntimeError: wrong checksum
        raise ModelError(
            f"cannot download {weights.url} ({weights.size_mb:.0f} MB): {error}. {way_on()} Or put the file by hand at "
            f"{weights.path}."
        ) from error
    return weights.path
