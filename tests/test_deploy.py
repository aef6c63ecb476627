"""Export: what onnxruntime and OpenVINO compute is what torch computes, or there is no file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from gwapctl.datasets.base import ClassName
from gwapctl.engines import export as deploy
from gwapctl.errors import ModelError
from gwapctl.networks.classifier import Classifier, ModelInfo, build_classifier, load_classifier, save_model

CLASSES = tuple(ClassName(name, f"n{place}") for place, name in enumerate(("cat", "dog", "owl", "yak")))


def classifier(**changes: Any) -> Classifier:
    """Build an untrained classifier whose batch norms do something and whose maps are not flat."""
    fields: dict[str, Any] = {"backbone": "resnet-s", "head": "gwap", "classes": CLASSES, "multi_label": False}
    fields |= {"input_size": (48, 32), "train_sizes": (32, 48), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    torch.manual_seed(1)
    model = build_classifier(ModelInfo(**{**fields, **changes}))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
        elif isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, 0, 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model(classifier(), path)
    return path


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> deploy.Exported:
    """Export once: it takes seconds."""
    return deploy.export_onnx(folder, tmp_path_factory.mktemp("out") / "net.onnx", top_k=3)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, exported: deploy.Exported) -> None:
    """Let every export take the traced network of ``exported``."""
    monkeypatch.setattr(deploy, "_trace", lambda network, path: shutil.copyfile(exported.files[0], path))


def images_of(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


@pytest.mark.usefixtures("traced")
def test_what_takes_long_says_what_it_does(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    deploy.export_onnx(folder, tmp_path / "net.onnx", top_k=3, progress=lambda state: said.append(state.text))
    assert said == ["tracing the network", "comparing it with torch"]


def test_onnx_gives_what_torch_gives(folder: Path, exported: deploy.Exported) -> None:
    model = load_classifier(folder)
    session = onnxruntime.InferenceSession(exported.files[0], providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == ["probabilities", "classes", "class_map", "weight_map"]
    for shape in ((1, 3, 40, 72), (2, 3, 107, 64)):
        images = images_of(*shape)
        found = dict(zip(names, session.run(None, {"images": images}), strict=True))
        with torch.inference_mode():
            features = model.feature_map(torch.from_numpy(images))
            output = model.head(features)
            probabilities = model.probabilities(output.logits)
            classes = probabilities.topk(3).indices
            maps = model.head.class_map(features, classes)  # type: ignore[operator]
        np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)
        np.testing.assert_array_equal(found["classes"], classes)
        np.testing.assert_allclose(found["class_map"], maps, atol=1e-4 * maps.abs().max().item())
        np.testing.assert_allclose(found["weight_map"], output.weight_map, atol=1e-6)
        np.testing.assert_allclose(found["weight_map"].sum((1, 2, 3)), 1, atol=1e-5)
    assert exported.difference < 1e-4
    assert sorted(path.name for path in exported.files[0].parent.iterdir()) == ["net.json", "net.onnx"]


def test_description_says_how_to_call_it(exported: deploy.Exported) -> None:
    document = json.loads(exported.files[1].read_text())
    call = document.pop("export")
    assert ModelInfo.model_validate(document).classes == CLASSES
    assert call["file"] == "net.onnx"
    assert call["input"] == {"name": "images", "type": "uint8", "shape": ["B", 3, "H", "W"], "colour": "RGB"}
    assert call["outputs"] == {
        "probabilities": ["B", 4],
        "classes": ["B", 3],
        "class_map": ["B", 3, "h", "w"],
        "weight_map": ["B", 1, "h", "w"],
    }


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.usefixtures("traced")
def test_openvino_gives_what_torch_gives(folder: Path, tmp_path: Path, half: bool) -> None:
    pytest.importorskip("openvino")
    written = deploy.export_openvino(folder, tmp_path / "net.xml", top_k=3, half=half)
    assert [path.name for path in written.files] == ["net.xml", "net.bin", "net.json"]
    images = images_of(2, 3, 107, 64)
    found = deploy._openvino_network(tmp_path / "net.xml")(images)
    wanted = deploy.Deployed(load_classifier(folder), 3).outputs(torch.from_numpy(images))
    for name in ("probabilities", "weight_map"):
        right = wanted[name].detach().numpy()
        assert found[name].shape == right.shape
        np.testing.assert_allclose(found[name], right, atol=(2e-2 if half else 1e-3) * right.max())
    weights = sum(parameter.numel() for parameter in load_classifier(folder).parameters())
    assert (tmp_path / "net.bin").stat().st_size < weights * (2.2 if half else 4.2)


@pytest.mark.parametrize(
    ("head", "outputs"),
    [
        ("gap", {"probabilities": 4, "classes": 4, "class_map": 4}),
        ("gwap-class", {"probabilities": 4, "classes": 4, "class_map": 4, "weight_map": 4}),
    ],
)
def test_outputs_follow_the_head(head: str, outputs: dict[str, int]) -> None:
    network = deploy.Deployed(classifier(head=head), top_k=9)
    assert {name: shape[1] for name, shape in network.shapes.items()} == outputs


def test_a_head_without_class_maps_has_none() -> None:
    model = classifier(backbone="alexnet", head="original", head_options={"hidden": 8})
    assert list(deploy.Deployed(model, 2).shapes) == ["probabilities", "classes"]


def test_half_computes_the_backbone_in_float16_alone() -> None:
    model, images = classifier(), torch.from_numpy(images_of(1, 3, 64, 96))
    with torch.inference_mode():
        right = deploy.Deployed(model, 3).outputs(images)
        network = deploy.Deployed(model, 3, half=True)
        rounded = network.outputs(images)
    assert {p.dtype for p in network.model.backbone.parameters()} == {torch.float16}
    assert rounded["weight_map"].dtype == torch.float32
    difference = (rounded["probabilities"] - right["probabilities"]).abs().max().item()
    assert 0 < difference < 1e-2


@pytest.mark.usefixtures("traced")
def test_nothing_is_written_that_differs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file traced for one model does not pass as another one."""
    other = load_classifier(folder)
    with torch.no_grad():
        other.head.classifier.weight[0] *= 1.5  # type: ignore[union-attr, index]
    monkeypatch.setattr(deploy, "load_classifier", lambda path: other)
    with pytest.raises(ModelError, match=r"differ from torch's by .* Nothing was written"):
        deploy.export_onnx(folder, tmp_path / "net.onnx", top_k=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
def test_nothing_is_written_that_fails(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(images: object) -> None:
        raise RuntimeError("cannot be reshaped\nnode 7")

    monkeypatch.setattr(deploy, "_onnx_network", lambda path: fail)
    with pytest.raises(ModelError, match=r"fails on images of 160 x 96 pixels: cannot be reshaped Nothing was written"):
        deploy.export_onnx(folder, tmp_path / "net.onnx", top_k=3)
    assert list(tmp_path.iterdir()) == []


def test_what_torch_cannot_trace_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand a long story")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    result = run_cli("export", "onnx", "--model", folder, "--out", tmp_path / "net.onnx")
    assert (result.code, result.stdout) == (4, "")
    assert result.stderr.startswith("error: torch cannot export backbone resnet-s with head gwap")
    assert result.stderr.endswith("no such operator\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
def test_command_prints_the_files_and_overwrites_only_when_told(
    folder: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    arguments = ("export", "onnx", "--model", folder, "--out", tmp_path / "net.onnx", "--top-k", 3)
    result = run_cli(*arguments)
    assert result.code == 0, result.stderr
    assert result.stdout.split() == [str(tmp_path / "net.onnx"), str(tmp_path / "net.json")]
    assert "agrees with torch" in result.stderr
    again = run_cli(*arguments)
    assert (again.code, again.stdout) == (2, "")
    assert "--overwrite" in again.stderr
    assert run_cli(*arguments, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [("onnx", "net.xml", "does not end in .onnx"), ("onnx", "model.onnx", "which the model needs")],
)
def test_wrong_destinations_are_refused(
    folder: Path, tmp_path: Path, run_cli: Callable[..., Any], kind: str, name: str, words: str
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    result = run_cli("export", kind, "--model", tmp_path, "--out", tmp_path / name, "--overwrite")
    assert result.code == 2
    assert words in result.stderr
    assert load_classifier(tmp_path).info.classes == CLASSES


@pytest.mark.parametrize(("kind", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_missing_package_is_exit_5(
    folder: Path, tmp_path: Path, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    find = deploy.importlib.import_module

    def without(name: str) -> Any:
        if name == package:
            raise ImportError(name)
        return find(name)

    monkeypatch.setattr(deploy.importlib, "import_module", without)
    suffix = {"onnx": "onnx", "openvino": "xml"}[kind]
    result = run_cli("export", kind, "--model", folder, "--out", tmp_path / f"net.{suffix}")
    assert (result.code, result.stdout) == (5, "")
    assert result.stderr == f"error: export {kind} needs the package {package}. Run: pip install 'gwapctl[{kind}]'\n"
