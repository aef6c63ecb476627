"""What a backbone runs in: the same numbers everywhere, the fastest by measuring, and nobody is told about it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import gwapctl.engines
from gwapctl.boxes import iou
from gwapctl.engines import ENGINES, Choice, check_engine
from gwapctl.engines.base import Engine, import_runtime
from gwapctl.engines.cache import cache_folder, fingerprint, images_hash
from gwapctl.engines.choose import HOPELESS, NOISE, SECONDS, candidates, fastest, known_choice
from gwapctl.engines.chosen import ChosenEngine
from gwapctl.errors import MissingDependencyError, UsageError
from gwapctl.evaluate import Options, evaluate
from gwapctl.maps.localizer import Localizer
from gwapctl.maps.reading import MapReading
from gwapctl.networks.classifier import save_model
from gwapctl.networks.inference import for_inference
from gwapctl.predict.classifier import Model
from gwapctl.predict.threads import in_threads
from tests.conftest import CliResult
from tests.factories import make_classifier, make_images, make_manifest, make_small_classifier, save_image

CPU = torch.device("cpu")
OTHERS = [name for name in ENGINES if name != "torch"]
RunCli = Callable[..., CliResult]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images, none of them square."""
    for number, size in enumerate(((90, 60), (70, 110), (120, 50))):
        save_image(tmp_path / "photos" / f"{number}.jpg", *size)
    return tmp_path / "photos"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(make_small_classifier(), tmp_path / "model")
    return tmp_path / "model"


def box_overlaps(first: Model, second: Model, images: list[np.ndarray]) -> list[float]:
    pairs = zip(first.localize(images), second.localize(images), strict=True)
    return [float(iou(one.boxes[:1], other.boxes[:1])[0, 0]) for one, other in pairs]


# ------------------------------------------------------------------------------------------------------- same numbers


@pytest.mark.parametrize("resize", ["warp", "keep"])
@pytest.mark.parametrize("engine", OTHERS)
def test_maps_and_scores_are_those_of_torch(engine: str, resize: str) -> None:
    model, images = make_classifier(), make_images((150, 90), (70, 130), (64, 64))
    reading = MapReading(method="class", scales=(64, 96), resize=resize, flip=True)
    expected = Localizer(model, reading, device="cpu").run(images, top_k=2)
    found = Localizer(model, reading, device="cpu", engine=engine, precision="fp32").run(images, top_k=2)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)
        np.testing.assert_allclose(one.heatmaps, other.heatmaps, atol=5e-3)


@pytest.mark.parametrize("engine", OTHERS)
def test_feature_maps_are_those_of_torch_in_any_size_and_batch(engine: str) -> None:
    network = for_inference(make_classifier(), CPU)
    other = ENGINES[engine].build(network, "fp32")
    sizes = [(1, 40, 72), (3, 107, 64), (2, 32, 32), (5, 48, 80), (1, 64, 48), (2, 96, 33), (1, 40, 72)]  # not all kept
    for count, height, width in sizes:
        images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
        with torch.inference_mode():
            wanted = network.feature_map(images)
        torch.testing.assert_close(other.feature_map(images), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("engine", OTHERS)
def test_threads_share_an_engine(engine: str) -> None:
    localizer = Localizer(make_classifier(), MapReading(scales=(64,)), device="cpu", engine=engine, precision="fp32")
    images = make_images(*[(60 + number, 50) for number in range(12)])
    alone = localizer.run(images)
    threads = in_threads(localizer.run, [*images, *images], chunk=2, workers=4)
    for one, other in zip(threads, [*alone, *alone], strict=True):
        np.testing.assert_allclose(one.heatmaps, other.heatmaps, atol=2e-3)


def test_int8_finds_almost_the_same_boxes_and_says_whose_ranges_it_has(voc: Path) -> None:
    from gwapctl.images.decode import read_image
    from gwapctl.networks.classifier import load_classifier
    from gwapctl.networks.zoo import resolve_model

    trained = load_classifier(resolve_model("resnet-s-gwap-tiny-imagenet"))
    images = [read_image(path) for path in sorted(voc.rglob("*.jpg"))[:12]]
    plain, small = (
        Model(trained, "a", device="cpu", precision=precision, engine=engine)
        for engine, precision in (("torch", "fp32"), ("openvino", "int8"))
    )
    assert np.mean(box_overlaps(plain, small, images)) >= 0.9
    predictor = small.predictor()
    assert predictor.unsettled
    said: list[str] = []
    predictor.notice = said.append
    predictor.settle(images)
    name, _, ranges = predictor.choice.recorded_precision.partition("@")
    assert (predictor.choice.engine, name, len(ranges)) == ("openvino", "int8", 16)
    assert said == [f"engine openvino int8@{ranges}, ranges from 12 images"]
    assert images_hash(images) != images_hash(images[1:])


def test_a_network_file_is_made_once_and_another_network_has_another() -> None:
    one, other = (for_inference(make_classifier(seed=seed), CPU) for seed in (0, 1))
    assert fingerprint(one) != fingerprint(other)
    ENGINES["openvino"].build(one, "fp32")
    files = {path: path.stat().st_mtime_ns for path in cache_folder().glob(f"openvino-*/{fingerprint(one)}.*")}
    assert len(files) == 2  # .xml and .bin
    ENGINES["openvino"].build(one, "fp32")
    assert {path: path.stat().st_mtime_ns for path in cache_folder().glob(f"openvino-*/{fingerprint(one)}.*")} == files


# ------------------------------------------------------------------------------------------------------------ choosing


class Pretended(Engine):
    """Takes ``seconds`` per image on a clock that everybody reads."""

    precision = "fp32"

    def __init__(self, seconds: float, clock: list[float]) -> None:
        self.seconds, self.clock, self.images = seconds, clock, 0

    def feature_map(self, images: Tensor) -> Tensor:
        self.images += len(images)
        self.clock[0] += self.seconds * len(images)
        return images

    def instruction_set(self) -> str:
        return "none"


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ((0.05, 0.02, 0.03), 1),
        ((0.05, 0.05 * (1 - NOISE / 2), 0.06), 0),  # a gain within noise is none: plain torch stays
        ((0.01, 0.02, 0.9), 0),
        ((9.0, 5.0, 4.0), 2),  # one pass alone takes longer than there is time
    ],
)
def test_the_fastest_is_chosen_in_the_time_there_is(
    seconds: tuple[float, ...], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    clock = [0.0]
    engines = {Choice(f"e{place}", "fp32"): Pretended(one, clock) for place, one in enumerate(seconds)}
    images = torch.zeros(8, 3, 4, 6, dtype=torch.uint8)
    found = fastest(engines, images, clock=lambda: clock[0])
    assert found.choice == [*engines][chosen]
    assert found.rates[f"e{chosen} fp32"] == pytest.approx(1 / seconds[chosen], rel=0.01)
    singles = 2 * sum(seconds)  # one to compile, one to see which are hopeless
    assert clock[0] <= singles + SECONDS + 8 * max(seconds)
    for choice, engine in engines.items():
        if engine.seconds > HOPELESS * min(seconds):
            assert engine.images == 2, choice


def test_candidates_are_what_is_installed_and_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gwapctl.engines.choose.has_fast_bf16", lambda device: True)
    assert candidates("auto", CPU)[0] == Choice("torch", "fp32")
    assert [*map(str, candidates("bf16", CPU))] == ["torch bf16", "openvino bf16"]
    assert candidates("auto", torch.device("cuda")) == [Choice("torch", "fp32"), Choice("torch", "bf16")]
    monkeypatch.setattr("gwapctl.engines.choose.has_fast_bf16", lambda device: False)
    assert {choice.precision for choice in candidates("auto", CPU)} == {"fp32"}
    monkeypatch.setattr(gwapctl.engines, "find_spec", lambda name: None)
    assert candidates("auto", CPU) == [Choice("torch", "fp32")]


def test_many_images_are_measured_on_and_few_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gwapctl.engines.choose.SECONDS", 0.2)
    model, images = make_classifier(seed=7), make_images(*[(40, 30)] * 70)
    said: list[str] = []

    def chosen(count: int) -> Choice:
        predictor = Model(model, "m", device="cpu", engine="auto").predictor(scales=(64,))
        predictor.notice = said.append
        predictor.settle(images[:count])
        return predictor.choice

    assert chosen(10).engine == "torch"
    assert "nothing is measured for fewer than 64 images" in said.pop()
    measured = chosen(70)
    assert said.pop().startswith(f"engine {measured} (measured, images/s: torch fp32 ")
    assert chosen(3) == measured
    assert "measured earlier" in said.pop()
    known = known_choice(for_inference(model, CPU), "auto", (64, 64))
    assert known is not None
    best = max(known.rates.values())
    assert known.rates[str(measured)] >= (1 - 2 * NOISE) * best


def test_a_network_that_an_engine_cannot_run_stays_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(torch.nn.Module):
        """Looks at its input, so that what is traced for one size is wrong for others."""

        def forward(self, images: Tensor) -> Tensor:
            return images * float(images.shape[2])

    model = make_classifier(seed=8)
    model.backbone = Odd()
    with pytest.raises(gwapctl.errors.ModelError, match="feature maps than torch"):
        ENGINES["onnxruntime"].build(for_inference(model, CPU), "fp32")


def test_maps_of_gradients_are_made_in_torch() -> None:
    localizer = Localizer(make_classifier(), MapReading(method="gradcam"), device="cpu", engine="auto")
    assert localizer.engine.choice.engine == "torch"
    assert not localizer.engine.unsettled
    with pytest.raises(UsageError, match="gradients, which only torch has"):
        Localizer(make_classifier(), MapReading(method="gradcam"), device="cpu", engine="openvino")


@pytest.mark.parametrize(
    ("engine", "precision", "device", "said"),
    [
        ("openvin", "auto", "cpu", "Did you mean 'openvino'"),
        ("torch", "int8", "cpu", "torch does not compute in int8"),
        ("onnxruntime", "bf16", "cpu", "ONNX Runtime does not compute in bf16"),
        ("auto", "int8", "cpu", "int8.*needs.*openvino"),
        ("torch", "fp64", "cpu", "unknown precision 'fp64'"),
        ("openvino", "auto", "cuda", "runs on the processor"),
    ],
)
def test_what_does_not_go_is_refused(engine: str, precision: str, device: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_engine(engine, precision, device)


@pytest.mark.parametrize("engine", OTHERS)
def test_a_missing_package_names_its_extra(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gwapctl.engines, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'gwapctl\[{ENGINES[engine].extra}\]'"):
        ChosenEngine(for_inference(make_classifier(), CPU), engine)
    with pytest.raises(MissingDependencyError, match=r"gwapctl\[openvino\]"):
        import_runtime("a_package_that_nobody_has", "engine OpenVINO", "openvino")


# ---------------------------------------------------------------------------------------------------- the command line


def test_what_ran_is_written_down_and_binds_resume(tmp_path: Path, photos: Path, model: Path, run_cli: RunCli) -> None:
    out = tmp_path / "out"
    asked = ("localize", photos, "--model", model, "--out", out, "--save", "map")
    assert run_cli(*asked, "--engine", "onnxruntime", "--limit", 1).code == 0
    assert run_cli(*asked, "--resume", "--engine", "torch").code == 2
    assert run_cli(*asked, "--resume", "--engine", "openvino", "--precision", "fp32").code == 2
    done = run_cli(*asked, "--resume")
    assert done.code == 0, done.stderr
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [(line["engine"], line["precision"]) for line in lines] == [("onnxruntime", "fp32")] * 3
    about = json.loads((out / "maps" / "maps.json").read_text())
    assert (about["engine"], about["precision"]) == ("onnxruntime", "fp32")


def test_few_images_run_in_torch_and_an_old_folder_goes_on_there(
    tmp_path: Path, photos: Path, model: Path, run_cli: RunCli
) -> None:
    out = tmp_path / "out"
    asked = ("localize", photos, "--model", model, "--out", out, "--save", "overlay")
    assert run_cli(*asked, "--limit", 1, "--precision", "fp32").code == 0
    log = out / "predictions.jsonl"
    line = json.loads(log.read_text())
    assert (line.pop("engine"), line.pop("precision")) == ("torch", "fp32")
    log.write_text(json.dumps(line) + "\n")  # as version 0.1.0 wrote it
    done = run_cli(*asked, "--resume", "--engine", "auto", "--precision", "fp32")
    assert done.code == 0, done.stderr
    assert json.loads(log.read_text().splitlines()[-1])["engine"] == "torch"


def test_wrong_engines_are_one_line(photos: Path, model: Path, run_cli: RunCli) -> None:
    for options in (("--precision", "int8"), ("--engine", "torch", "--precision", "int8"), ("--engine", "tensorrt")):
        done = run_cli("localize", photos, "--model", model, *options)
        assert (done.code, done.stderr.count("\n")) == (2, 1), done.stderr
    done = run_cli("boxes", photos, "--model", model, "--engine", "onnxruntime", "--precision", "bf16")
    assert (done.code, done.stderr.count("\n")) == (2, 1)


def test_boxes_and_evaluate_take_engines(tmp_path: Path, photos: Path, model: Path, run_cli: RunCli) -> None:
    boxes = [
        run_cli("boxes", photos, "--model", model, "--format", "csv", "--engine", engine, "--precision", "fp32").stdout
        for engine in ("torch", "openvino")
    ]
    assert boxes[0].count("\n") == boxes[1].count("\n") == 4
    data = make_manifest(tmp_path / "data")
    asked = Options(dataset=str(data), device="cpu")
    plain, other = (evaluate(str(model), replace(asked, engine=engine)) for engine in ("torch", "openvino"))
    assert "engine" not in plain.options
    assert (other.options["engine"], other.options["precision"]) == ("openvino", "fp32")
    assert other.metrics["top1_error"] == plain.metrics["top1_error"]
    assert other.metrics["mean_iou"] == pytest.approx(plain.metrics["mean_iou"], abs=0.02)


# --------------------------------------------------------------------------------------------------------- by itself

SEALED = """
import ctypes, os, struct, sys
def told(event, args):
    if event.startswith(("socket.", "urllib.", "http.")): raise SystemExit(f"{event} {args}")
sys.addaudithook(told)
if %r:  # from here on the kernel ends this process where anything in it, C++ included, makes a socket
    rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 41), (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("rules", ctypes.c_void_p)]
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    print("sealed", libc.prctl(22, 2, ctypes.byref(Filter(len(rules), ctypes.addressof(program))), 0, 0) == 0)
import numpy as np, torch
from tests.factories import make_classifier
from gwapctl.engines import ENGINES
from gwapctl.networks.inference import for_inference
network = for_inference(make_classifier(), torch.device("cpu"))
images = torch.zeros(2, 3, 48, 64, dtype=torch.uint8)
shapes = {ENGINES[name].build(network, "fp32").feature_map(images).shape for name in ENGINES}
noise = [np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3), np.uint8)]
shapes.add(ENGINES["openvino"].build(network, "int8", calibration=noise).feature_map(images).shape)
print("ran", len(shapes), sorted(name for name in sys.modules if name == "openvino_telemetry" and sys.modules[name]))
"""


def in_a_process(script: str, home: Path, **variables: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    environment = {**kept, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_engines_tell_nobody(tmp_path: Path) -> None:
    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    said = in_a_process(SEALED % linux, tmp_path).splitlines()
    assert said[-1] == "ran 1 []"
    assert not linux or "sealed True" in said
    written = {path.name for path in tmp_path.rglob("*") if path.is_dir()}
    assert {"gwapctl", "engines"} <= written
    assert not written & {"Microsoft", "intel"}  # where onnxruntime and OpenVINO note whom they watch


OLD_PROCESSOR = """
import torch
from tests.factories import make_classifier
from gwapctl.device import has_fast_bf16
from gwapctl.engines import ENGINES
from gwapctl.engines.choose import choose
from gwapctl.networks.inference import for_inference
torch.set_num_threads(1)
network = for_inference(make_classifier(), torch.device("cpu"))
images = torch.zeros(4, 3, 48, 64, dtype=torch.uint8)
measured, engine = choose(network, "auto", images, (64, 48))
vino = ENGINES["openvino"].build(network, "fp32")
vino.feature_map(images)
rates = measured.rates
print(has_fast_bf16(torch.device("cpu")), sorted(name for name in rates if "bf16" in name))
print(rates[str(measured.choice)] >= 0.9 * rates["torch fp32"], "512" in vino.instruction_set(), vino.instruction_set())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="limits of x86 processors")
def test_a_processor_without_bf16_never_computes_in_it(tmp_path: Path) -> None:
    said = in_a_process(OLD_PROCESSOR, tmp_path, ONEDNN_MAX_CPU_ISA="AVX2", ATEN_CPU_CAPABILITY="avx2").splitlines()
    assert said[0] == "False []"
    assert said[1].startswith("True "), said
