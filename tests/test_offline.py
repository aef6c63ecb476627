"""What is fetched comes over https and is compared with its SHA-256, and nothing is fetched where that is forbidden."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

from gwapctl.datasets import DATASETS
from gwapctl.errors import ModelError
from gwapctl.networks.backbones import BACKBONES
from gwapctl.networks.backbones.pretrained import PretrainedWeights, fetch
from gwapctl.offline import SWITCHES, is_offline
from tests.conftest import CliResult
from tests.factories import save_image

COMMIT, DIGEST = "c" * 40, "d" * 64
ON_THE_HUB = PretrainedWeights("https://huggingface.co/timm/some.net/resolve/main/model.safetensors", 1.0)


def test_every_download_is_https_with_a_sha256() -> None:
    archives = [archive for entry in DATASETS.values() for archive in entry.archives if archive.urls]
    weights = [entry.weights for entry in BACKBONES.values() if isinstance(entry.weights, PretrainedWeights)]
    assert len(archives) >= 5
    assert len(weights) >= 8
    urls = [url for archive in archives for url in archive.urls] + [item.url for item in weights]
    assert [url for url in urls if not url.startswith("https://")] == []
    assert {archive.algorithm for archive in archives} == {"sha256"}
    for item in weights:
        assert re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", item.sha256)
        assert item.path.stem.endswith(item.sha256[:8])
    assert [item.path.name for item in weights if len(item.sha256) == 8] == ["inception_v3_google-0cc3c7bd.pth"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """Answer in place of the hub and of every server; the list fills with what is fetched."""
    said = SimpleNamespace(commit_hash=COMMIT, etag=DIGEST)
    fetched: list[tuple[str, ...]] = []
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: said)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *words, progress: fetched.append(words))
    return fetched


def test_a_file_of_the_hub_is_that_of_one_commit_compared_with_its_sha256(asked: list[tuple[str, ...]]) -> None:
    fetch(ON_THE_HUB)
    assert asked == [(ON_THE_HUB.url.replace("main", COMMIT), str(ON_THE_HUB.path), DIGEST)]


def test_a_file_that_the_hub_states_no_sha256_of_is_not_fetched(
    asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        huggingface_hub, "get_hf_file_metadata", lambda url: SimpleNamespace(commit_hash=COMMIT, etag="short")
    )
    with pytest.raises(ModelError, match=r"states no revision and no SHA-256 .* by hand"):
        fetch(ON_THE_HUB)
    assert asked == []


@pytest.mark.parametrize("switch", SWITCHES)
def test_no_weights_are_fetched_where_that_is_forbidden(
    switch: str, asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(switch, "1")
    with pytest.raises(ModelError, match=r"not here, and offline=True forbids to download it \(1 MB\)\. .* by hand"):
        fetch(ON_THE_HUB)
    assert asked == []


@pytest.mark.parametrize("verb", ["localize", "label"])
def test_offline_holds_for_all_that_the_command_uses(
    verb: str, tmp_path: Path, run_cli: Callable[..., CliResult]
) -> None:
    save_image(tmp_path / "photos" / "a" / "1.png", 40, 30)
    assert not is_offline()
    run_cli(verb, tmp_path / "photos", "--offline", "--dry-run", "--out", tmp_path / "out")
    assert is_offline()
    assert [os.environ[switch] for switch in SWITCHES] == ["1", "1"]
