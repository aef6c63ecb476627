from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gwapctl.boxes import iou
from gwapctl.device import autocast, has_fast_bf16, resolve_device
from gwapctl.errors import MissingDependencyError, UsageError
from gwapctl.maps.localizer import Localizer
from gwapctl.maps.methods import minmax
from gwapctl.maps.reading import MapReading, split_options
from gwapctl.networks.classifier import Classifier
from gwapctl.networks.heads.averaging import GWAP
from gwapctl.networks.inference import fold_batch_norms, for_inference
from gwapctl.predict.threads import in_threads
from gwapctl.regions import map_to_boxes, parse_box_rule
from tests.factories import agree, make_classifier, make_images, network_input, own_values, stretched

PLAIN = ("weight", "class", "score", "fused")  # without gradients; those have a file of their own


def reference_maps(model: Classifier, image: np.ndarray, scale: int, classes: list[int]) -> dict[str, Tensor]:
    """Compute α, class and score maps, and the mean of α and class for one warped scale; no code of gwapctl.maps."""
    with torch.no_grad():
        features = model.feature_map(network_input(image, (scale, scale)))
        weight = model.head.weight_score.weight
        alpha = torch.sigmoid((features * weight).sum(1) + model.head.weight_score.bias).exp()
        alpha = (alpha / alpha.sum())[:, None]
        class_map = torch.einsum("ck,bkhw->bchw", model.head.classifier.weight[classes], features)
    low_high = [(m - m.amin((2, 3), True)) / (m.amax((2, 3), True) - m.amin((2, 3), True)) for m in (alpha, class_map)]
    fused = low_high[0] + low_high[1]
    fused = (fused - fused.amin((2, 3), True)) / (fused.amax((2, 3), True) - fused.amin((2, 3), True))
    score = class_map + model.head.classifier.bias[classes].detach()[:, None, None]
    return {"weight": alpha, "class": class_map, "score": score, "fused": fused}


# ---------------------------------------------------------------------------------------------------- map methods


@pytest.mark.parametrize("method", PLAIN)
def test_one_scale_is_the_resized_map(method: str) -> None:
    model, (image,) = make_classifier(), make_images((150, 90))
    (result,) = Localizer(model, MapReading(method=method, scales=(96,))).run([image], [(2, 0)], top_k=0)
    assert result.classes == (2, 0)
    assert result.shared == (method == "weight")
    agree(result, stretched(reference_maps(model, image, 96, [2, 0])[method], image), 2e-3)


@pytest.mark.parametrize("method", PLAIN)
def test_scales_are_averaged_with_equal_weights(method: str) -> None:
    model, (image,) = make_classifier(), make_images((70, 130))
    scales = (64, 96, 160)
    (result,) = Localizer(model, MapReading(method=method, scales=scales)).run([image], [(1, 3)], top_k=0)
    terms = [stretched(minmax(reference_maps(model, image, scale, [1, 3])[method]), image) for scale in scales]
    agree(result, minmax(torch.stack(terms).mean(0)))


def test_the_same_scale_twice_is_one_scale() -> None:
    model, images = make_classifier(), make_images((70, 130), (90, 60))
    once = Localizer(model, MapReading(scales=(96,))).run(images)
    twice = Localizer(model, MapReading(scales=(96, 96))).run(images)
    for one, two in zip(once, twice, strict=True):
        np.testing.assert_allclose(one.heatmaps, two.heatmaps, atol=1e-3)
        assert two.ranges.tolist() == [[0, 1]]


def test_a_nearly_uniform_map_keeps_its_levels() -> None:
    model, (image,) = make_classifier(), make_images((150, 90))
    with torch.no_grad():
        model.head.weight_score.weight.mul_(1e-4)
    alpha = stretched(reference_maps(model, image, 64, [0])["weight"], image)[0, 0].numpy()
    assert np.ptp(alpha) < 1e-3 * alpha.mean()
    assert len(np.unique(alpha.astype(np.float16))) < 10
    (result,) = Localizer(model, MapReading(method="weight", scales=(64,))).run([image])
    assert len(np.unique(result.heatmaps)) > 1000
    np.testing.assert_allclose(result.heatmap(0), alpha, atol=5e-3 * np.ptp(alpha))
    for rule in map(parse_box_rule, ("paper20", "otsu", "fixed:0.6")):
        assert iou(map_to_boxes(result.heatmap(0), rule)[0].box, map_to_boxes(alpha, rule)[0].box)[0, 0] > 0.98


def test_raw_values_are_kept_for_one_scale_only() -> None:
    model, (image,) = make_classifier(), make_images((150, 90))
    alpha = reference_maps(model, image, 64, [0])["weight"]
    plain = Localizer(model, MapReading(scales=(64,)))
    (raw,) = plain.run([image])
    assert plain.values == "minmax"
    assert raw.heatmap(0).max() == pytest.approx(float(alpha.max()), rel=1e-2)
    assert raw.ranges[0].tolist() == [raw.heatmap(0).min(), raw.heatmap(0).max()]
    for other in (Localizer(model, MapReading(scales=(64,), flip=True)), Localizer(model, MapReading(scales=(64, 96)))):
        (result,) = other.run([image])
        assert other.values == "minmax_mean"
        assert (result.heatmaps.min(), result.heatmaps.max()) == (0, 1)
    assert Localizer(model, MapReading(method="fused", scales=(64,))).values == "minmax_mean"


def test_fused_is_the_mean_of_both_maps() -> None:
    model, (image,) = make_classifier(), make_images((96, 96))
    maps = {
        method: torch.from_numpy(
            Localizer(model, MapReading(method=method, scales=(96,)))
            .run([image], [(1,)], 0)[0]
            .heatmaps.astype(np.float32)
        )
        for method in ("weight", "class", "fused")
    }
    coarse = {method: minmax(functional.adaptive_avg_pool2d(item[None], 96 // 8)) for method, item in maps.items()}
    mean = minmax((coarse["weight"] + coarse["class"]) / 2)
    assert float((mean - coarse["fused"]).abs().max()) < 0.08  # averaged cells, not the cells themselves


def test_fused_of_a_constant_weight_map_is_the_class_map() -> None:
    model, (image,) = make_classifier(), make_images((80, 50))
    nn.init.zeros_(model.head.weight_score.weight)
    (fused,) = Localizer(model, MapReading(method="fused", scales=(64,))).run([image])
    (single,) = Localizer(model, MapReading(method="class", scales=(64, 64))).run([image])
    agree(single, minmax(torch.from_numpy(fused.heatmaps.astype(np.float32))[None]), 2e-3)
    (constant,) = Localizer(model, MapReading(method="weight", scales=(64, 64))).run([image])
    assert not constant.heatmaps.any()
    assert map_to_boxes(constant.heatmap(0), parse_box_rule("paper20")) == []


def test_flip_of_a_mirrored_image_is_the_mirrored_map() -> None:
    model, (image,) = make_classifier(), make_images((120, 75))
    localizer = Localizer(model, MapReading(method="fused", scales=(64, 96), flip=True))
    (plain,) = localizer.run([image], [(1,)], top_k=0)
    (mirrored,) = localizer.run([np.ascontiguousarray(image[:, ::-1])], [(1,)], top_k=0)
    np.testing.assert_allclose(mirrored.heatmaps[..., ::-1], plain.heatmaps, atol=2e-2)
    (without,) = Localizer(model, MapReading(method="fused", scales=(64, 96))).run([image], [(1,)], top_k=0)
    assert np.abs(without.heatmaps - plain.heatmaps).max() > 0.05


@pytest.mark.parametrize("resize_name", ["warp", "keep"])
@pytest.mark.parametrize("method", ["weight", "class"])
def test_a_batch_gives_what_single_images_give(resize_name: str, method: str) -> None:
    model = make_classifier()
    images = make_images((150, 90), (60, 200), (64, 64), (90, 150), (150, 90))
    options = {"scales": (64, 96), "method": method, "resize": resize_name}
    together = Localizer(model, MapReading(**options), batch_size=5).run(images, top_k=2)
    alone = [Localizer(model, MapReading(**options), batch_size=1).run([image], top_k=2)[0] for image in images]
    for one, other, image in zip(together, alone, images, strict=True):
        assert one.classes == other.classes
        assert one.heatmaps.shape[1:] == image.shape[:2]
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
        np.testing.assert_allclose(one.heatmaps, other.heatmaps, atol=2e-3)


def test_keep_scales_the_shorter_side() -> None:
    model, (image,) = make_classifier(input_size=(48, 64)), make_images((160, 80))
    seen: list[tuple[int, int]] = []
    localizer = Localizer(model, MapReading(scales=(64, 96), resize="keep"))
    localizer.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    localizer.run([image])
    assert seen == [(64, 48), (64, 128), (96, 192)]


def test_class_is_decided_at_the_models_own_size() -> None:
    model, (image,) = make_classifier(), make_images((150, 90))
    with torch.no_grad():
        expected = torch.softmax(model(network_input(image, (64, 64))).logits, 1)[0].numpy()
    for scales in ((64,), (96,), (128, 96)):
        (result,) = Localizer(model, MapReading(scales=scales)).run([image])
        np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)
        assert result.classes == (int(expected.argmax()),)


@pytest.mark.parametrize(("scales", "passes"), [((64,), 1), ((64, 96), 2), ((96,), 2)])
def test_no_pass_is_wasted(scales: tuple[int, ...], passes: int) -> None:
    localizer = Localizer(make_classifier(), MapReading(method="class", scales=scales))
    count = []
    localizer.model.backbone.register_forward_pre_hook(lambda *_: count.append(1))
    localizer.run(make_images((150, 90), (90, 150)), top_k=3)
    assert len(count) == passes


def test_wanted_classes_follow_the_best_ones() -> None:
    model, images = make_classifier(), make_images((70, 50), (50, 70), (40, 40))
    localizer = Localizer(model, MapReading(method="class", scales=(64,)))
    best = [result.classes for result in localizer.run(images, top_k=4)]
    wanted = [(best[0][3],), (best[1][0], best[1][2]), ()]
    results = localizer.run(images, wanted, top_k=1)
    assert [result.classes for result in results] == [(best[0][0], best[0][3]), best[1][::2][:2], best[2][:1]]
    for result, image in zip(results, images, strict=True):
        for place, label in enumerate(result.classes):
            (single,) = localizer.run([image], [(label,)], top_k=0)
            np.testing.assert_allclose(result.heatmap(place), single.heatmap(0), atol=2e-3 * np.ptp(single.ranges))
    (nothing,) = localizer.run(images[:1], [()], top_k=0)
    assert nothing.heatmaps.shape == (0, 50, 70)


def test_class_map_averages_to_the_logit() -> None:
    model, (image,) = make_classifier("gap"), make_images((64, 64))
    localizer = Localizer(model, MapReading(scales=(64,)))
    assert localizer.reading.method == "class"  # GAP has no weight map
    (result,) = localizer.run([image], [(0, 1, 2, 3)], top_k=0)
    logits = torch.log(torch.from_numpy(result.probabilities))
    pooled = torch.from_numpy(own_values(result)).mean((1, 2)) + model.head.classifier.bias.detach()
    difference = logits - pooled
    assert float((difference - difference.mean()).abs().max()) < 5e-2  # softmax leaves a constant open


def test_canvas_is_at_most_512_pixels_long() -> None:
    model = make_classifier()
    shapes = [item.heatmaps.shape for item in Localizer(model).run(make_images((1030, 515), (512, 3), (20, 33)))]
    assert shapes == [(1, 256, 512), (1, 3, 512), (1, 33, 20)]


def test_opencv_resizes_like_torch() -> None:
    coarse = torch.rand(1, 1, 7, 11)
    for size in ((150, 90), (512, 384), (5, 9)):
        ours = cv2.resize(coarse[0, 0].numpy(), size, interpolation=cv2.INTER_LINEAR)
        theirs = functional.interpolate(coarse, size[::-1], mode="bilinear", align_corners=False)[0, 0].numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_float16_never_overflows() -> None:
    model, (image,) = make_classifier(), make_images((64, 64))
    with torch.no_grad():
        model.head.classifier.weight.mul_(1e6)
    (result,) = Localizer(model, MapReading(method="class", scales=(64,))).run([image])
    assert np.isfinite(result.heatmaps).all()


def test_non_square_input_size_is_the_default_scale() -> None:
    model, (image,) = make_classifier(input_size=(96, 64)), make_images((90, 50))
    localizer = Localizer(model)
    (result,) = localizer.run([image])
    assert localizer.reading.scales == ()
    with torch.no_grad():
        alpha = model(network_input(image, (96, 64))).weight_map
    agree(result, stretched(alpha, image), 5e-3)


def test_stored_settings_are_the_defaults() -> None:
    localizer = Localizer(make_classifier(map="fused", scales=(64, 80), resize="keep"))
    assert (localizer.reading.method, localizer.reading.scales, localizer.reading.resize) == ("fused", (64, 80), "keep")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"map": "wieght"}, UsageError, "Did you mean 'weight'"),
        ({"resize": "crop"}, UsageError, "keep, warp"),
        ({"scales": (0,)}, UsageError, "224, 448, 672"),
        ({"precision": "int8"}, UsageError, "engine='openvino'"),
        ({"device": "gpu"}, UsageError, "cuda"),
        ({"device": "cuda:99"}, MissingDependencyError, "device='cpu'"),
    ],
)
def test_wrong_settings(options: dict[str, object], error: type[Exception], message: str) -> None:
    def read() -> Localizer:
        reading, others = split_options(options)
        return Localizer(make_classifier(), reading, **others)

    with pytest.raises(error, match=message):
        read()


def test_gap_has_no_weight_map() -> None:
    for method in ("weight", "fused"):
        with pytest.raises(UsageError, match="map='class'"):
            Localizer(make_classifier("gap"), MapReading(method=method))


def test_scale_that_leaves_no_cell() -> None:
    class Strided(nn.Conv2d):
        channels, stride = 2, 16

    info = make_classifier().info
    model = Classifier(info, Strided(3, 2, 16), GWAP(2, 4)).eval()
    with pytest.raises(UsageError, match="scale 8 is too small"):
        Localizer(model, MapReading(scales=(8, 64)))


# ------------------------------------------------------------------------------------------------- fast inference


def test_folded_network_computes_the_same() -> None:
    model = make_classifier()
    images = torch.randint(0, 256, (2, 3, 70, 90), dtype=torch.uint8)
    fast = for_inference(model, torch.device("cpu"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())  # the given one is untouched
    with torch.inference_mode():
        expected, found = model(images), fast(images)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.weight_map, expected.weight_map, rtol=1e-4, atol=1e-7)


class Awkward(nn.Module):
    """A batch norm before its convolution, one whose input is read elsewhere, a shared convolution, a plain pair."""

    def __init__(self) -> None:
        super().__init__()
        self.bn0, self.conv0 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.shared, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.conv3, self.bn3 = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv0(self.bn0(images))
        convolved = self.conv1(features)
        features = self.bn1(convolved) + convolved
        features = self.bn2(self.shared(self.shared(features)))
        return self.bn3(self.conv3(features))


def test_only_safe_pairs_are_folded() -> None:
    torch.manual_seed(0)
    model = Awkward().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.weight, 0.5, 2)
    images = torch.randn(2, 3, 5, 7)
    expected = model(images)
    assert fold_batch_norms(model) == 1
    assert isinstance(model.bn3, nn.Identity)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_traced_is_left_alone() -> None:
    class Branching(Awkward):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) if float(images.mean()) > 0 else images

    assert fold_batch_norms(Branching().eval()) == 0


@pytest.mark.skipif(not has_fast_bf16(resolve_device("auto")), reason="no native bfloat16 here: auto means fp32")
def test_bf16_boxes_agree_with_fp32() -> None:
    model, images = make_classifier(), make_images(*[(150, 90)] * 50, *[(90, 150)] * 50)
    rule = parse_box_rule("paper20")
    boxes = []
    for precision in ("fp32", "bf16"):
        results = Localizer(model, MapReading(scales=(64, 96)), precision=precision).run(images)
        boxes.append([map_to_boxes(result.heatmap(0), rule)[0].box for result in results])
    assert np.mean([iou(first, second)[0, 0] for first, second in zip(*boxes, strict=True)]) >= 0.98


def test_auto_is_fp32_without_native_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    for native in (True, False):
        monkeypatch.setattr("gwapctl.device.has_fast_bf16", lambda _, native=native: native)
        with autocast(device, "auto"):
            assert torch.is_autocast_enabled("cpu") == native
    with autocast(device, "fp32"):
        assert not torch.is_autocast_enabled("cpu")


# -------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("workers", [None, 0, 1, 3])
def test_results_come_in_order(workers: int | None) -> None:
    def work(part: list[int]) -> list[int]:
        time.sleep(0.002 * (part[0] % 3))
        return [-item for item in part]

    assert list(in_threads(work, range(23), chunk=4, workers=workers)) == [-item for item in range(23)]
    assert list(in_threads(work, [], chunk=4, workers=workers)) == []


def test_only_a_window_of_the_items_is_taken() -> None:
    taken: list[int] = []

    def items() -> object:
        for item in range(1000):
            taken.append(item)
            yield item

    stream = in_threads(lambda part: part, items(), chunk=5, workers=2)
    for _ in range(50):
        next(stream)
    assert len(taken) <= 50 + 5 * 2 * 2
    stream.close()
    assert len(taken) < 100


def test_few_items_are_spread_over_all_threads() -> None:
    names, together = set(), threading.Barrier(2, timeout=10)

    def work(part: list[int]) -> list[int]:
        together.wait()
        names.add(threading.current_thread().name)
        return part

    assert list(in_threads(work, [1, 2], chunk=8, workers=2)) == [1, 2]
    assert len(names) == 2


def test_errors_pass_through_and_settings_come_back() -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()

    def work(part: list[int]) -> list[int]:
        if 7 in part:
            raise UsageError("seven")
        return part

    with pytest.raises(UsageError, match="seven"):
        list(in_threads(work, range(20), chunk=2, workers=3))
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before
